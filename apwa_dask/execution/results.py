"""What a finished run has stored, as the frame its user expects: columns, dtypes, index, order."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from typing import TYPE_CHECKING

import dask.dataframe as dd
import pandas as pd
import pyarrow as pa

from apwa_dask.execution.compile import BOOKKEEPING, ERROR, INDEX_PREFIX, STATUS, Stage
from apwa_dask.execution.frames import from_partitions, over_frame
from apwa_dask.execution.partition import load_committed
from apwa_dask.execution.runtime import context_of
from apwa_dask.execution.spec import RunSpec, StageRef
from apwa_dask.tables.dtypes import empty_frame, to_pandas

if TYPE_CHECKING:
    from apwa_dask.execution.run import Run

__all__ = ["answered_by", "index_names", "result_frame", "user_frame", "whole_result"]

PARTS_AT_ONCE = 8
"""Read side by side: a store far away answers each after some time."""


def result_frame(run: Run, *, status: bool) -> dd.DataFrame:
    """Dask frame over the committed parts of a run's last stage.

    The index is the input frame's where each row still has one, else a range over the whole result with known
    divisions.
    """
    stage = run.stages[-1]
    records = run.folder.committed(stage.index)
    ordinals = sorted(records)
    ref = StageRef(run.store, run.id, stage.index)
    names = index_names(run.spec, stage)
    counts = [records[k].rows_out for k in ordinals]
    starts = [0, *accumulate(counts)]
    divisions = (*starts[:-1], starts[-1] - 1) if names is None and counts and all(counts) else None
    meta = user_frame(empty_frame(stage.schema), names, status=status, start=0)
    return from_partitions(
        load_result,
        len(ordinals),
        meta,
        "apwa-result",
        starts[:-1],
        divisions=divisions,
        ref=ref,
        names=names,
        status=status,
    )


def whole_result(run: Run, *, status: bool) -> pd.DataFrame:
    """The rows of `result_frame` in memory.

    The parts meet as Arrow tables and become a frame once: of many small partitions, making a frame of each and
    putting the frames together costs more than all else.
    """
    stage = run.stages[-1]
    records = run.folder.committed(stage.index)
    context = context_of(StageRef(run.store, run.id, stage.index))
    parts = [records[k] for k in sorted(records)]
    if len(parts) == 1:
        tables = [context.read(parts[0])]
    else:
        with ThreadPoolExecutor(PARTS_AT_ONCE) as pool:
            tables = list(pool.map(context.read, parts))
    rows = to_pandas(pa.concat_tables(tables) if tables else stage.schema.empty_table())
    return user_frame(rows, index_names(run.spec, stage), status=status, start=0)


def load_result(
    ordinal: int, start: int, ref: StageRef, names: tuple[str | None, ...] | None, status: bool
) -> pd.DataFrame:
    """One committed partition as the user sees it; its first row is number `start` of the result."""
    return user_frame(load_committed(ordinal, ref), names, status=status, start=start)


def present(
    frame: pd.DataFrame, ordinals: pd.DataFrame, names: tuple[str | None, ...] | None, status: bool
) -> pd.DataFrame:
    """One partition of a lazy frame as the user sees it."""
    return user_frame(frame, names, status=status, start=0)


def lazy_frame(rows: dd.DataFrame, spec: RunSpec, stage: Stage, *, status: bool) -> dd.DataFrame:
    """The lazy rows of a plan's last stage as the user sees them."""
    names = index_names(spec, stage)
    meta = user_frame(empty_frame(stage.schema), names, status=status, start=0)
    return over_frame(present, rows, meta, "apwa-present", names=names, status=status)


def answered_by(spec: RunSpec) -> list[str]:
    """Who answered, as results are labelled: the embedded model is always called so."""
    return [f"embedded model {m.name}" if m.is_local else m.name for m in spec.models.values()]


def index_names(spec: RunSpec, stage: Stage) -> tuple[str | None, ...] | None:
    """Names of the index levels that the rows of this stage still carry, None for none."""
    levels = [field for field in stage.schema if field.name.startswith(INDEX_PREFIX)]
    if not levels:
        return None
    for source in spec.sources.values():
        if len(source.index) == len(levels):
            return source.index_names
    return (None,) * len(levels)


def user_frame(
    frame: pd.DataFrame, names: tuple[str | None, ...] | None, *, status: bool, start: int
) -> pd.DataFrame:
    """Physical columns -> what the user sees."""
    levels = [name for name in frame.columns if name.startswith(INDEX_PREFIX)]
    if levels:
        if len(levels) == 1:
            level = frame[levels[0]]
            frame.index = pd.Index(level, dtype=level.dtype).rename(names[0] if names else None)
        else:
            frame.index = pd.MultiIndex.from_frame(frame[levels], names=names)
    else:
        frame.index = pd.RangeIndex(start, start + len(frame))
    visible = frame.drop(columns=[*BOOKKEEPING.names, *levels])
    if status:
        visible[STATUS] = frame[STATUS].fillna("ok")
        visible[ERROR] = frame[ERROR]
    return visible
