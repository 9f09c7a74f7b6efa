"""The tables that the stages of a run read and wrote, one partition at a time, for whoever looks at single rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd
import pyarrow as pa

from apwa_dask.errors import RunError
from apwa_dask.execution.compile import physical_schema
from apwa_dask.execution.partition import load_source, physical_of_frame
from apwa_dask.execution.spec import StageRef
from apwa_dask.tables.dtypes import to_arrow

if TYPE_CHECKING:
    from apwa_dask.execution.kept import KeptRun

__all__ = ["input_partitions", "input_table"]


def input_partitions(run: KeptRun, source: int | str) -> int:
    """How many partitions a source (by alias) or a finished stage (by number) has."""
    if isinstance(source, str):
        return max(run.spec.sources[source].npartitions, 1)
    return max(len(run.folder.committed(source)), 1)


def input_table(run: KeptRun, source: int | str, partition: int, columns: Sequence[str] | None) -> pa.Table:
    """One partition with its bookkeeping columns; of a caller's frame only in the session that made it.

    Raises
    ------
    RunError
        The partition is not committed, or is of a frame whose session is gone.
    """
    if isinstance(source, int):
        schema = run.stages[source].schema
        if columns is not None:
            schema = pa.schema([schema.field(name) for name in columns])
        record = run.folder.commit_of(source, partition)
        if record is None:
            raise _not_committed(run, source, partition)
        return run.folder.read_part(record, columns).cast(schema)
    spec = run.spec.sources[source]
    schema = physical_schema(spec.schema, spec.index)
    found = to_arrow(_source_frame(run, source, partition), schema)
    return found if columns is None else found.select(list(columns))


def _not_committed(run: KeptRun, stage: int, partition: int) -> RunError:
    return RunError(
        f"partition {partition} of stage {run.stages[stage].name!r} is not committed",
        fix=f"resume the run: apwa resume {run.id}",
        code="RUN-PART",
    )


def _source_frame(run: KeptRun, alias: str, partition: int) -> pd.DataFrame:
    ref = StageRef(run.store, run.id, 0)
    if run.spec.sources[alias].kind == "manifest":
        return load_source(partition, ref, alias)
    frame = run.frames.get(alias)
    if frame is None:
        raise RunError(
            f"source {alias!r} of run {run.id} is a Dask frame that only the session which made it holds",
            fix="ask the run that this session started; or save the frame to files and run over them",
            code="RUN-SOURCE",
        )
    rows = frame.partitions[partition].compute(scheduler="threads")
    return physical_of_frame(rows, pd.DataFrame({"ordinal": [partition]}), ref, alias)
