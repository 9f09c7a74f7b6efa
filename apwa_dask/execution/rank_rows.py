"""Candidates of a ranking, gathered from all partitions, and the rows that came out best, put in order."""

from __future__ import annotations

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa

from apwa_dask.errors import RunError
from apwa_dask.execution.compile import ERROR, STATUS
from apwa_dask.execution.frame_exchange import POSITION, fold, mapped, sorted_by, with_positions
from apwa_dask.execution.join_pairs import plain
from apwa_dask.plans.lowering import Pool, Ranked, place_of
from apwa_dask.plans.steps import CANDIDATE, RANK
from apwa_dask.tables.dtypes import empty_frame, to_arrow, to_pandas

__all__ = ["pool_frame", "ranked_frame"]

POOL_ROWS = 200_000
"""Candidates that one process can hold."""


def pool_frame(step: Pool, frame: dd.DataFrame, schema: pa.Schema) -> dd.DataFrame:
    """One partition with the cells of all rows that did not fail, and their positions.

    Raises
    ------
    RunError
        When it is computed: there are too many rows (``RUN-RANK``).
    """
    meta = empty_frame(schema)
    candidates = mapped(_candidates, with_positions(frame), meta=meta, step=step, schema=schema)
    return fold(mapped(_gathered, candidates, meta=meta, step=step), _gathered, meta, step=step)


def _candidates(part: pd.DataFrame, step: Pool, schema: pa.Schema) -> pd.DataFrame:
    good = part[part[STATUS].isna()]
    columns = {CANDIDATE: np.zeros(len(good), "int64"), place_of(step.of): good[POSITION].to_numpy("int64")}
    return to_pandas(to_arrow(good.assign(**columns), plain(schema)))


def _gathered(part: pd.DataFrame, step: Pool) -> pd.DataFrame:
    if len(part) <= POOL_ROWS:
        return part.reset_index(drop=True)
    raise RunError(
        f"{step.of!r} would have to rank more than {POOL_ROWS:,} rows",
        why="the candidates of a ranking meet in one process",
        fix="keep fewer rows before it: where, filter, distinct or sample",
        code="RUN-RANK",
    )


def ranked_frame(
    step: Ranked, ranks: dd.DataFrame, rows: dd.DataFrame, schemas: list[pa.Schema], schema: pa.Schema
) -> dd.DataFrame:
    """The ranked rows, best first."""
    meta = empty_frame(schema)
    settings = {"step": step, "side": schemas[1], "schema": schema}
    picked = mapped(_picked, with_positions(rows), ranks, meta=meta, **settings)
    return sorted_by(fold(picked, _as_is, meta), [(RANK, False)])


def _as_is(part: pd.DataFrame) -> pd.DataFrame:
    return part


def _picked(
    part: pd.DataFrame, ranks: pd.DataFrame, step: Ranked, side: pa.Schema, schema: pa.Schema
) -> pd.DataFrame:
    by_place = ranks.set_index(ranks[place_of(step.of)].astype("int64"))
    kept = part[part[POSITION].isin(by_place.index)].reset_index(drop=True)
    table = to_arrow(kept, side)
    found = by_place.loc[kept[POSITION].to_numpy("int64")]
    for name in (STATUS, ERROR):
        at = table.schema.get_field_index(name)
        cells = pa.array(found[name].astype("string[pyarrow]"), pa.string(), from_pandas=True)
        table = table.set_column(at, table.schema.field(name), cells)
    table = table.append_column(RANK, pa.array(found[RANK].to_numpy("int64")))
    return to_pandas(pa.Table.from_arrays([table.column(f.name) for f in schema], schema=schema))
