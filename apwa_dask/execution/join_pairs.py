"""Candidate pairs of two tables, as a lazy frame: rows meet by keys, by a condition, or by likeness.

With keys, both tables are shuffled by a hash of them, so that a task holds one bucket of each side. Without, the
right table's few needed columns are gathered and every left partition meets them. Pairs are first found as places
(two numbers), counted over the whole run, and only then filled with cells: a block that explodes is told of
before any memory or money goes into it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from apwa_dask.errors import RunError
from apwa_dask.execution.compile import ERROR, ROW_ID, STATUS
from apwa_dask.execution.frame_exchange import POSITION, exchange, fold, mapped, with_positions
from apwa_dask.execution.frame_merge import key_texts
from apwa_dask.execution.join_find import Found, found_in
from apwa_dask.execution.opaque import opaque
from apwa_dask.plans.expressions import columns_of
from apwa_dask.plans.infer import joined_names, visible
from apwa_dask.plans.lowering import Pairs, left_place, right_place, vector_of
from apwa_dask.plans.steps import CANDIDATES, LABELS_AT_MOST
from apwa_dask.tables.dtypes import empty_frame, to_arrow, to_pandas

__all__ = ["Side", "pairs_frame", "plain"]

_BUCKET = "_apwa_bucket"
_COUNTS = pd.DataFrame({"pairs": pd.Series([], dtype="int64")})
_FOUND = pd.DataFrame({"left": pd.Series([], dtype="int64"), "right": pd.Series([], dtype="int64")})
GATHERED_ROWS = 200_000
"""Right rows that every left partition can meet where no keys send them apart."""


@dataclass(frozen=True)
class Side:
    """One table of the join: the columns that finding and judging pairs takes, and its keys."""

    schema: pa.Schema
    on: tuple[str, ...]
    shown: tuple[str, ...]
    """Columns that the model sees: a row without a value in any of them is in no pair."""

    @property
    def moved(self) -> pa.Schema:
        """What travels: the columns and the row's position."""
        return pa.schema([*self.schema, (POSITION, pa.int64())])


def pairs_frame(
    step: Pairs, left: dd.DataFrame, right: dd.DataFrame, schemas: Sequence[pa.Schema], schema: pa.Schema
) -> dd.DataFrame:
    """The candidate pairs.

    Parameters
    ----------
    step : Pairs
    left, right : dask.dataframe.DataFrame
        Physical columns of both tables.
    schemas : sequence of pyarrow.Schema
        Their declared schemas.
    schema : pyarrow.Schema
        Declared schema of the result.

    Returns
    -------
    dask.dataframe.DataFrame
        Row ids are both ids with ``~`` between. Rows that failed before are in no pair.

    Raises
    ------
    RunError
        When it is computed: a row, or the run, has more pairs than allowed (``RUN-BLOCK``).
    """
    sides = _sides(step, schemas)
    if step.is_listed:
        frames = [
            _good(with_positions(frame), side) for frame, side in zip((left, right), sides, strict=True)
        ]
        rows = fold(mapped(_cut, frames[1], meta=frames[1]._meta), _cut, frames[1]._meta)
        settings = {"step": step, "sides": sides, "schema": schema}
        return mapped(_listed, frames[0], rows, meta=empty_frame(schema), **settings)
    if step.left_on:
        npartitions = max(left.npartitions, right.npartitions)
        both = [
            _bucketed(with_positions(frame), side, npartitions)
            for frame, side in zip((left, right), sides, strict=True)
        ]
    else:
        both = [_good(with_positions(frame), side) for frame, side in zip((left, right), sides, strict=True)]
        both[1] = fold(mapped(_gathered, both[1], meta=both[1]._meta), _gathered, both[1]._meta)
    both = [opaque(frame) for frame in both]
    found = opaque(mapped(_find, both[0], both[1], meta=_FOUND, step=step, sides=sides))
    counts = fold(mapped(_count, found, meta=_COUNTS), _summed, _COUNTS)
    return mapped(
        _filled,
        both[0],
        both[1],
        found,
        counts,
        meta=empty_frame(schema),
        step=step,
        sides=sides,
        schema=schema,
    )


def plain(schema: pa.Schema) -> pa.Schema:
    """The same columns with categories by their values, and no memory of a frame's dtypes."""
    return pa.schema(
        [pa.field(f.name, f.type.value_type if pa.types.is_dictionary(f.type) else f.type) for f in schema]
    )


def _sides(step: Pairs, schemas: Sequence[pa.Schema]) -> tuple[Side, Side]:
    names = [list(visible(schema).names) for schema in schemas]
    renamed = joined_names(step.left_names, names[1], step.suffix)
    wanted = {*step.shown, *(columns_of(step.condition) if step.condition else ())}
    # vectors travel in place of the texts that they were made of
    near = ((vector_of(step.of),),) * 2 if step.embeds else (step.similar_left, step.similar_right)
    kept = (
        {*step.left_on, *near[0], *(name for name in names[0] if name in wanted)},
        {*step.right_on, *near[1], *(old for old, new in renamed.items() if new in wanted)},
    )
    if step.is_within:
        kept = (kept[0] | kept[1], kept[0] | kept[1])
    shown = (
        tuple(name for name in names[0] if name in step.shown),
        tuple(old for old, new in renamed.items() if new in step.shown),
    )
    left, right = (
        Side(plain(pa.schema([schema.field(ROW_ID), *(f for f in schema if f.name in mine)])), on, seen)
        for schema, mine, on, seen in zip(schemas, kept, (step.left_on, step.right_on), shown, strict=True)
    )
    return left, right


# --- rows on their way


def _good(frame: dd.DataFrame, side: Side) -> dd.DataFrame:
    return mapped(_good_rows, frame, meta=empty_frame(side.moved), side=side)


def _good_rows(part: pd.DataFrame, side: Side) -> pd.DataFrame:
    return to_pandas(_good_table(part, side))


def _good_table(part: pd.DataFrame, side: Side) -> pa.Table:
    """Rows that did not fail and have all keys, with the columns that travel."""
    table = to_arrow(part, side.schema).append_column(POSITION, pa.array(part[POSITION].to_numpy("int64")))
    keep = np.array(part[STATUS].isna(), dtype=bool)
    if side.shown:
        keep &= ~np.logical_and.reduce([np.asarray(pc.is_null(table.column(name))) for name in side.shown])
    if side.on:
        keep &= ~key_texts(table, list(side.on))[1]
    return table.filter(pa.array(keep))


def _bucketed(frame: dd.DataFrame, side: Side, npartitions: int) -> dd.DataFrame:
    meta = empty_frame(pa.schema([*side.moved, (_BUCKET, pa.int64())]))
    meta[_BUCKET] = meta[_BUCKET].astype("int64")
    placed = mapped(_with_bucket, frame, meta=meta, side=side, npartitions=npartitions)
    return exchange(placed, _BUCKET, npartitions) if npartitions > 1 else placed


def _with_bucket(part: pd.DataFrame, side: Side, npartitions: int) -> pd.DataFrame:
    table = _good_table(part, side)
    texts, _ = key_texts(table, list(side.on))
    hashes = pd.util.hash_array(np.asarray(texts, dtype=object), categorize=False)
    frame = to_pandas(table)
    frame[_BUCKET] = (hashes % np.uint64(npartitions)).astype("int64")
    return frame


def _gathered(part: pd.DataFrame) -> pd.DataFrame:
    if len(part) <= GATHERED_ROWS:
        return part
    raise RunError(
        f"the right table has more than {GATHERED_ROWS:,} rows, and the block has no keys",
        why="without keys every left row would have to meet every right row",
        fix="give left_on and right_on: columns that are equal in rows that belong together, such as a year or "
        "the first letters of a name, made by assign",
        code="RUN-BLOCK",
    )


def _tables(left: pd.DataFrame, right: pd.DataFrame, sides: tuple[Side, Side]) -> tuple[pa.Table, pa.Table]:
    """Both parts as tables, in the order of their rows, whatever order the exchange gave them."""
    parts = (to_arrow(part, side.moved) for part, side in zip((left, right), sides, strict=True))
    one, other = (table.sort_by(POSITION) for table in parts)
    return one, other


# --- pairs


def _find(left: pd.DataFrame, right: pd.DataFrame, step: Pairs, sides: tuple[Side, Side]) -> pd.DataFrame:
    tables = _tables(left, right, sides)
    found: Found = found_in(step, *tables)
    return pd.DataFrame({"left": found.left, "right": found.right}).astype("int64")


def _count(found: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"pairs": np.array([len(found)], dtype="int64")})


def _summed(counts: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"pairs": np.array([counts["pairs"].sum()], dtype="int64")})


def _filled(
    left: pd.DataFrame,
    right: pd.DataFrame,
    found: pd.DataFrame,
    counts: pd.DataFrame,
    step: Pairs,
    sides: tuple[Side, Side],
    schema: pa.Schema,
) -> pd.DataFrame:
    total = int(counts["pairs"].sum())
    if total > step.max_pairs:
        raise RunError(
            f"the block of {step.of!r} has {total:,} pairs, more than max_pairs={step.max_pairs:,}",
            why="each pair is one question to a model; none has been asked",
            fix="narrow the block (more keys, a condition, fewer nearest), or raise max_pairs",
            code="RUN-BLOCK",
        )
    tables = _tables(left, right, sides)
    one, other = (
        table.take(pa.array(found[name].to_numpy("int64")))
        for table, name in zip(tables, ("left", "right"), strict=True)
    )
    if step.is_within:
        one, other = _by_content(step, one, other)
    columns: dict[str, Any] = {name: one.column(name) for name in visible(sides[0].schema).names}
    renamed = joined_names(step.left_names, visible(sides[1].schema).names, step.suffix)
    columns |= {new: other.column(old) for old, new in renamed.items()}
    columns |= {left_place(step.of): one.column(POSITION), right_place(step.of): other.column(POSITION)}
    columns[ROW_ID] = pc.binary_join_element_wise(
        one.column(ROW_ID).cast(pa.string()), other.column(ROW_ID).cast(pa.string()), "~"
    )
    return _declared(columns, len(found), schema)


def _by_content(step: Pairs, one: pa.Table, other: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Both rows of each pair in an order that their cells decide: the same two are one question, however they met."""
    shown = [name for name in one.column_names if name in step.shown]
    texts = [[str(list(row.values())) for row in table.select(shown).to_pylist()] for table in (one, other)]
    count = one.num_rows
    swapped = np.array([a > b for a, b in zip(*texts, strict=True)], dtype=bool)
    both = pa.concat_tables([one, other])
    here, there = np.arange(count), np.arange(count, 2 * count)
    return both.take(pa.array(np.where(swapped, there, here))), both.take(
        pa.array(np.where(swapped, here, there))
    )


def _declared(columns: dict[str, Any], rows: int, schema: pa.Schema) -> pd.DataFrame:
    nothing = {name: pa.nulls(rows, pa.string()) for name in (STATUS, ERROR)}
    arrays = [_one({**nothing, **columns}[f.name]).cast(f.type) for f in schema]
    return to_pandas(pa.Table.from_arrays(arrays, schema=schema))


def _one(values: Any) -> pa.ChunkedArray:
    return values if isinstance(values, pa.ChunkedArray) else pa.chunked_array([values])


# --- a short right table


def _cut(part: pd.DataFrame) -> pd.DataFrame:
    """Enough to tell that there are too many."""
    return part.iloc[: LABELS_AT_MOST + 1]


def _listed(
    left: pd.DataFrame, rows: pd.DataFrame, step: Pairs, sides: tuple[Side, Side], schema: pa.Schema
) -> pd.DataFrame:
    if len(rows) > LABELS_AT_MOST:
        raise RunError(
            f"the right table of {step.of!r} has more than {LABELS_AT_MOST} rows, and the join has no block",
            why="a model can choose from a short list only",
            fix="give a block: left_on and right_on, a condition, or similar_left and similar_right",
            code="RUN-BLOCK",
        )
    one, other = (to_arrow(part, side.moved) for part, side in zip((left, rows), sides, strict=True))
    count = one.num_rows if other.num_rows else 0
    one = one.slice(0, count)
    columns: dict[str, Any] = {name: one.column(name) for name in visible(sides[0].schema).names}
    columns[CANDIDATES] = pa.array([_lines(step, other)] * count, pa.string())
    columns[left_place(step.of)] = one.column(POSITION)
    columns[right_place(step.of)] = pa.array(
        [other.column(POSITION).to_pylist()] * count, pa.list_(pa.int64())
    )
    columns[ROW_ID] = one.column(ROW_ID)
    return _declared(columns, count, schema)


def _lines(step: Pairs, rows: pa.Table) -> str:
    """``1. name: ..., year: ...``, a line a row: a cell's text cannot begin a line of its own."""
    renamed = joined_names(step.left_names, rows.column_names, step.suffix)
    shown = [name for name, new in renamed.items() if new in step.shown]
    lines = []
    for number, row in enumerate(rows.select(shown).to_pylist(), start=1):
        cells = (f"{name}: {' '.join(str(row[name]).split())}" for name in shown if row[name] is not None)
        lines.append(f"{number}. {', '.join(cells)}")
    return "\n".join(lines)
