"""One stage as a Dask frame: the eager form computes commit records, the lazy form computes rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import dask.dataframe as dd
import pyarrow as pa

from apwa_dask.errors import RunError
from apwa_dask.execution.compile import INDEX_PREFIX, Stage, physical_schema
from apwa_dask.execution.frame_exchange import mapped
from apwa_dask.execution.frame_steps import apply_barrier
from apwa_dask.execution.frames import RECORD, from_partitions, over_frame
from apwa_dask.execution.join_steps import apply_lowered
from apwa_dask.execution.partition import (
    load_committed,
    load_source,
    physical_of_frame,
    record_frame_partition,
    record_partition,
    record_written,
    run_frame_partition,
    run_partition,
)
from apwa_dask.execution.rank_tree import play
from apwa_dask.execution.reduce import NOTES_COLUMN, reduce_frame
from apwa_dask.execution.reduce_groups import grouped_frame
from apwa_dask.execution.spec import RunSpec, StageRef
from apwa_dask.plans.lowering import Tournament
from apwa_dask.plans.steps import LoweredStep
from apwa_dask.store.commit import CommitRecord
from apwa_dask.tables.dtypes import empty_frame

__all__ = ["StageGraphs", "check_consumed"]


class StageGraphs:
    """Builds the graphs of one run.

    Parameters
    ----------
    spec : RunSpec
    stages : sequence of Stage
    store, run_id : str
        Where the run's folder is.
    frames : mapping of str to dask.dataframe.DataFrame
        The callers' own frames, by source alias.
    partitions_of : callable
        Number of partitions a finished stage has.
    """

    def __init__(
        self,
        spec: RunSpec,
        stages: Sequence[Stage],
        store: str,
        run_id: str,
        frames: Mapping[str, dd.DataFrame],
        partitions_of: Callable[[int], int],
    ) -> None:
        self.spec, self.stages, self.store, self.run_id = spec, stages, store, run_id
        self.frames, self.partitions_of = frames, partitions_of
        self.round = 0
        """Of a run in batches."""

    def ref(self, stage: Stage) -> StageRef:
        """Where a task of this stage finds its settings."""
        return StageRef(self.store, self.run_id, stage.index, self.round)

    def records(self, stage: Stage) -> dd.DataFrame:
        """Eager: one commit record a partition, the inputs being committed already."""
        ref = self.ref(stage)
        if stage.kind == "rows":
            (source,) = stage.inputs
            if isinstance(source, str) and source in self.frames:
                return over_frame(
                    record_frame_partition, self._source(source, ref), RECORD, "apwa-rows", ref=ref
                )
            return from_partitions(record_partition, self._partitions(source), RECORD, "apwa-rows", ref=ref)
        rows = self._combined(stage, [self._finished(name, ref) for name in stage.inputs], ref)
        return over_frame(record_written, rows, RECORD, "apwa-write", ref=ref)

    def rows(self, stage: Stage) -> dd.DataFrame:
        """Lazy: the rows themselves (physical columns), with all stages before in the same graph."""
        ref = self.ref(stage)
        if stage.kind != "rows":
            made = self._combined(stage, [self._pending(name, ref) for name in stage.inputs], ref)
            return made.drop(columns=[NOTES_COLUMN]) if NOTES_COLUMN in made.columns else made
        (source,) = stage.inputs
        if isinstance(source, str) and source not in self.frames:
            return from_partitions(
                run_partition, self._partitions(source), stage.schema, "apwa-rows", ref=ref
            )
        before = self._pending(source, ref)
        return over_frame(run_frame_partition, before, empty_frame(stage.schema), "apwa-rows", ref=ref)

    def _partitions(self, source: str | int) -> int:
        if isinstance(source, str):
            return self.spec.sources[source].npartitions
        return self.partitions_of(source)

    def _source(self, alias: str, ref: StageRef) -> dd.DataFrame:
        schema = self._schema(alias)
        if alias in self.frames:
            return over_frame(
                physical_of_frame, self.frames[alias], empty_frame(schema), "apwa-frame", ref=ref, alias=alias
            )
        return from_partitions(
            load_source, self._partitions(alias), schema, "apwa-read", ref=ref, alias=alias
        )

    def _finished(self, source: str | int, ref: StageRef) -> dd.DataFrame:
        if isinstance(source, str):
            return self._source(source, ref)
        before = self.stages[source]
        return from_partitions(
            load_committed, self.partitions_of(source), before.schema, "apwa-load", ref=self.ref(before)
        )

    def _pending(self, source: str | int, ref: StageRef) -> dd.DataFrame:
        return self._source(source, ref) if isinstance(source, str) else self.rows(self.stages[source])

    def _schema(self, source: str | int) -> pa.Schema:
        if isinstance(source, int):
            return self.stages[source].schema
        spec = self.spec.sources[source]
        return physical_schema(spec.schema, spec.index)

    def _combined(self, stage: Stage, inputs: Sequence[dd.DataFrame], ref: StageRef) -> dd.DataFrame:
        step: Any
        (step,) = stage.steps
        kept = set(stage.schema.names)
        inputs = [_without_index(frame, kept) for frame in inputs]
        if isinstance(step, Tournament):
            meta = empty_frame(pa.schema([*stage.schema, pa.field(NOTES_COLUMN, pa.string())]))
            return mapped(play, inputs[0], meta=meta, ref=ref)
        if stage.kind == "reduce" and step.by and inputs[0].npartitions > 1:
            return grouped_frame(inputs[0], stage, ref)
        if stage.kind == "reduce":
            return reduce_frame(inputs[0], stage, ref)
        if isinstance(step, LoweredStep):
            schemas = [self._schema(name) for name in stage.inputs]
            return apply_lowered(step, inputs, schemas, stage.schema)
        return apply_barrier(step, inputs[0], inputs[1:], stage.schema)


def _without_index(frame: dd.DataFrame, kept: set[str]) -> dd.DataFrame:
    """Drop index columns where the step begins a new index."""
    gone = [name for name in frame.columns if name.startswith(INDEX_PREFIX) and name not in kept]
    return frame.drop(columns=gone) if gone else frame


def check_consumed(stage: Stage, rows: int | None, records: Iterable[CommitRecord]) -> None:
    """Every input row of a stage that works row by row was read exactly once.

    Raises
    ------
    RunError
        It was not: a source has changed.
    """
    if stage.kind != "rows" or rows is None:
        return
    read = sum(record.rows_in for record in records)
    if read != rows:
        raise RunError(
            f"stage {stage.name!r} read {read} rows of {rows}",
            why="a source changed while the run was reading it",
            fix="run again over the source as it is now: paid answers are kept",
            code="RUN-ROWS",
        )
