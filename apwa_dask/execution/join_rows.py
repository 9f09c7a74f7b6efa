"""The rows of a join, put together by verdict: each table's partitions stay where they are, and verdicts travel.

A verdict is two positions. It is sent to the partition of its left row, picks up the row's columns there, and goes
on to the partition of its right row. A left row whose pairs could not all be judged, and that has no match, is
not said to be without one: it keeps its place with a status that says why.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from apwa_dask.execution.compile import ERROR, ROW_ID, STATUS
from apwa_dask.execution.frame_exchange import (
    ORDINAL_BITS,
    POSITION,
    exchange,
    fold,
    mapped,
    sorted_by,
    with_positions,
)
from apwa_dask.execution.join_pairs import plain
from apwa_dask.execution.opaque import opaque
from apwa_dask.plans.infer import joined_names, visible
from apwa_dask.plans.lowering import Joined, left_place, right_place, vector_of, without_vector
from apwa_dask.tables.dtypes import empty_frame, to_arrow, to_pandas

__all__ = ["joined_frame"]

_LEFT, _RIGHT, _BUCKET = "_apwa_left", "_apwa_right", "_apwa_bucket"
_EDGES = pa.schema([(_LEFT, pa.int64()), (_RIGHT, pa.int64()), (STATUS, pa.string()), (ERROR, pa.string())])
"""A pair that was judged to match (no status), or that could not be judged."""
_MIXED_UP = "invalid_output"
_PLACES = pa.schema([(_LEFT, pa.int64()), (_RIGHT, pa.int64())])


def joined_frame(
    step: Joined, frames: Sequence[dd.DataFrame], schemas: Sequence[pa.Schema], schema: pa.Schema
) -> dd.DataFrame:
    """The joined rows, in the order of the left table, then the right.

    Parameters
    ----------
    step : Joined
    frames : sequence of dask.dataframe.DataFrame
        Judged pairs, left table, right table; physical columns.
    schemas : sequence of pyarrow.Schema
        Their declared schemas.
    schema : pyarrow.Schema
        Declared schema of the result.

    Returns
    -------
    dask.dataframe.DataFrame
        Row ids are those of the left table (``semi``, ``anti``), else both ids with ``~`` between.
    """
    pairs, left, right = frames
    left, right = (frame.drop(columns=vector_of(step.of), errors="ignore") for frame in (left, right))
    schemas = [schemas[0], *(without_vector(each, step.of) for each in schemas[1:])]
    edges = opaque(mapped(_edges, pairs, meta=empty_frame(_EDGES), step=step, schema=schemas[0]))
    mine = _sent(edges, _LEFT, left.npartitions)
    if step.how in ("semi", "anti"):
        return mapped(_picked, with_positions(left), mine, meta=empty_frame(schema), step=step, schema=schema)
    theirs = pa.schema([f.with_name(_under(f.name)) for f in plain(schemas[1])])
    carried = pa.schema([*theirs, *_PLACES])
    placed = mapped(
        _with_left,
        with_positions(left),
        mine,
        meta=empty_frame(carried),
        step=step,
        side=schemas[1],
        schema=carried,
    )
    there = _sent(placed, _RIGHT, right.npartitions)
    failed = _sent(mapped(_unjudged, edges, meta=edges._meta), _RIGHT, right.npartitions)
    whole = pa.schema([*(f.remove_metadata() for f in plain(schema)), *_PLACES])
    joined = mapped(
        _with_right,
        with_positions(right),
        there,
        failed,
        meta=empty_frame(whole),
        step=step,
        sides=(carried, schemas[1], schemas[2]),
        schema=whole,
    )
    ordered = sorted_by(opaque(joined), [], tie=(_LEFT, _RIGHT))
    return mapped(_declared, ordered, meta=empty_frame(schema), between=plain(schema), schema=schema)


# --- verdicts


def _edges(part: pd.DataFrame, step: Joined, schema: pa.Schema) -> pd.DataFrame:
    """Pairs that match and pairs that failed; a verdict of no is no edge."""
    table = to_arrow(part, schema)
    status, error = table.column(STATUS), table.column(ERROR)
    left, right = table.column(left_place(step.of)), table.column(right_place(step.of))
    if step.is_listed:
        return _chosen(table, step)
    keep = pc.or_(pc.is_valid(status), pc.fill_null(table.column("match"), False))
    edges = pa.Table.from_arrays([left, right, status, error], schema=_EDGES)
    return to_pandas(edges.filter(keep))


def _chosen(table: pa.Table, step: Joined) -> pd.DataFrame:
    """Numbers of listed rows -> positions. A number that was not on the list spoils the whole choice."""
    rows: list[dict[str, Any]] = []
    columns = [
        table.column(name) for name in (left_place(step.of), right_place(step.of), "matches", STATUS, ERROR)
    ]
    for left, listed, numbers, status, error in zip(*(c.to_pylist() for c in columns), strict=True):
        chosen = list(dict.fromkeys(numbers or ()))
        if status is None and not all(n is not None and 1 <= n <= len(listed) for n in chosen):
            status, error = _MIXED_UP, f"a number is not one of the {len(listed)} candidates"
        places = listed if status is not None else [listed[n - 1] for n in chosen]
        rows += [{_LEFT: left, _RIGHT: place, STATUS: status, ERROR: error} for place in places]
    return to_pandas(pa.Table.from_pylist(rows, schema=_EDGES))


def _unjudged(edges: pd.DataFrame) -> pd.DataFrame:
    return edges[edges[STATUS].notna()]


def _sent(frame: dd.DataFrame, place: str, npartitions: int) -> dd.DataFrame:
    """Each row to the partition that holds the row of this position; rows without one are spread."""
    if npartitions == 1:
        return fold(frame, _as_is, frame._meta)
    meta = frame._meta.assign(**{_BUCKET: np.array([], dtype="int64")})
    placed = mapped(_with_bucket, frame, meta=meta, place=place, npartitions=npartitions)
    return exchange(placed, _BUCKET, npartitions)


def _as_is(part: pd.DataFrame) -> pd.DataFrame:
    return part


def _with_bucket(part: pd.DataFrame, place: str, npartitions: int) -> pd.DataFrame:
    position = part[place]
    if place == _RIGHT and _LEFT in part.columns:
        spread = part[_LEFT].fillna(0).astype("int64") % npartitions
        bucket = (position.fillna(0).astype("int64") // (1 << ORDINAL_BITS)).where(position.notna(), spread)
    else:
        bucket = position.astype("int64") // (1 << ORDINAL_BITS)
    return part.assign(**{_BUCKET: bucket.astype("int64").to_numpy()})


# --- left rows only


def _picked(part: pd.DataFrame, edges: pd.DataFrame, step: Joined, schema: pa.Schema) -> pd.DataFrame:
    position = part[POSITION]
    matched = position.isin(edges.loc[edges[STATUS].isna(), _LEFT])
    if step.how == "semi":
        return to_pandas(to_arrow(part[matched], schema))
    rows = part[~matched].reset_index(drop=True)
    return to_pandas(_with_reasons(to_arrow(rows, schema), rows[POSITION], edges, _LEFT))


def _with_reasons(table: pa.Table, position: pd.Series, edges: pd.DataFrame, place: str) -> pa.Table:
    """Rows without a match, some pair of which could not be judged: they get its status."""
    failed = edges[edges[STATUS].notna()].sort_values([_LEFT, _RIGHT], kind="stable").drop_duplicates(place)
    reasons = failed.set_index(place)
    for name in (STATUS, ERROR):
        found = pa.array(position.map(reasons[name]).astype("string[pyarrow]"), pa.string(), from_pandas=True)
        at = table.schema.get_field_index(name)
        table = table.set_column(at, table.schema.field(name), pc.coalesce(table.column(name), found))
    return table


# --- both


def _under(name: str) -> str:
    """Left columns travel under other names, so that none can be taken for a right one's."""
    return f"_apwa_l_{name}"


def _with_left(
    part: pd.DataFrame, edges: pd.DataFrame, step: Joined, side: pa.Schema, schema: pa.Schema
) -> pd.DataFrame:
    """One row a match, with the left row's columns; rows without a match too, where the join keeps them."""
    table = to_arrow(part, plain(side))
    position = pa.array(part[POSITION].to_numpy("int64"))
    row_of = pd.Series(np.arange(len(part)), index=part[POSITION].to_numpy("int64"))
    matches = edges[edges[STATUS].isna()]
    at = row_of.reindex(matches[_LEFT].to_numpy("int64")).to_numpy("int64")
    pieces = [_placed(table.take(pa.array(at)), position.take(pa.array(at)), matches[_RIGHT], schema)]
    if step.how in ("left", "outer"):
        alone = np.setdiff1d(np.arange(len(part)), at)
        rows = table.take(pa.array(alone))
        rows = _with_reasons(rows, part[POSITION].iloc[alone].reset_index(drop=True), edges, _LEFT)
        nowhere = pd.Series([None] * len(alone), dtype="Int64")
        pieces.append(_placed(rows, position.take(pa.array(alone)), nowhere, schema))
    return to_pandas(pa.concat_tables(pieces))


def _placed(rows: pa.Table, left: pa.Array, right: pd.Series, schema: pa.Schema) -> pa.Table:
    places = [left, pa.array(right.astype("Int64"), pa.int64(), from_pandas=True)]
    return pa.Table.from_arrays([*rows.columns, *(pa.chunked_array([p]) for p in places)], schema=schema)


def _with_right(
    part: pd.DataFrame,
    placed: pd.DataFrame,
    failed: pd.DataFrame,
    step: Joined,
    sides: tuple[pa.Schema, pa.Schema, pa.Schema],
    schema: pa.Schema,
) -> pd.DataFrame:
    carried, left_side, right_side = sides
    ours = to_arrow(placed, carried)
    table = to_arrow(part, plain(right_side))
    row_of = pd.Series(np.arange(len(part)), index=part[POSITION].to_numpy("int64"), dtype="Int64")
    at = row_of.reindex(pd.Index(placed[_RIGHT].astype("Int64"))).reset_index(drop=True)
    there = table.take(pa.array(at, pa.int64(), from_pandas=True))
    pieces = [_assembled(step, ours, there, left_side, schema)]
    if step.how in ("right", "outer"):
        alone = np.setdiff1d(np.arange(len(part)), at.dropna().to_numpy("int64"))
        rows = table.take(pa.array(alone))
        position = part[POSITION].iloc[alone].reset_index(drop=True)
        rows = _with_reasons(rows, position, failed, _RIGHT)
        nothing = pa.Table.from_arrays([pa.nulls(len(alone), f.type) for f in carried], schema=carried)
        places = pa.array(position.to_numpy("int64"))
        nothing = nothing.set_column(carried.get_field_index(_RIGHT), carried.field(_RIGHT), places)
        pieces.append(_assembled(step, nothing, rows, left_side, schema))
    return to_pandas(pa.concat_tables(pieces))


def _assembled(
    step: Joined, left: pa.Table, right: pa.Table, left_side: pa.Schema, schema: pa.Schema
) -> pa.Table:
    names = list(visible(left_side).names)
    columns: dict[str, Any] = {name: left.column(_under(name)) for name in names}
    renamed = joined_names(names, right.column_names, step.suffix)
    columns |= {new: right.column(old) for old, new in renamed.items()}
    columns |= {name: pc.coalesce(left.column(_under(name)), right.column(name)) for name in (STATUS, ERROR)}
    ids = (left.column(_under(ROW_ID)), right.column(ROW_ID))
    columns[ROW_ID] = pc.binary_join_element_wise(*(each.fill_null("") for each in ids), "~")
    columns |= {name: left.column(name) for name in (_LEFT, _RIGHT)}
    return pa.Table.from_arrays([columns[f.name].cast(f.type) for f in schema], schema=schema)


def _declared(part: pd.DataFrame, between: pa.Schema, schema: pa.Schema) -> pd.DataFrame:
    table = to_arrow(part, between)
    return to_pandas(pa.Table.from_arrays([table.column(f.name).cast(f.type) for f in schema], schema=schema))
