"""Equality joins: rows meet by a hash of their keys; they come out in left order, then right order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from apwa_dask.execution.frame_exchange import POSITION, exchange, mapped, sorted_by, with_positions
from apwa_dask.plans.infer import merged_names
from apwa_dask.plans.steps import Merge
from apwa_dask.tables.dtypes import arrow_schema_of, empty_frame, to_arrow, to_pandas

__all__ = ["key_texts", "merge"]

_BUCKET = "_apwa_bucket"
_LEFT, _RIGHT = "_apwa_left", "_apwa_right"
_HIDDEN = ("_apwa_row", "_apwa_status", "_apwa_error")


def merge(step: Merge, left: dd.DataFrame, right: dd.DataFrame, schema: pa.Schema) -> dd.DataFrame:
    """Join two tables; see `apwa_dask.execution.frame_steps.apply_barrier`. NULL (and NaN) never joins."""
    visible = [name for name in left.columns if not name.startswith("_apwa")]
    renamed = merged_names(step, visible, list(right.columns))
    # An object column does not say what it holds; one that is a key holds what its partner holds.
    renamed |= {name: name for name in step.right_on if name not in renamed and right[name].dtype == object}
    sides = (
        _side_schema(left, schema, {name: name for name in left.columns}),
        _side_schema(right, schema, renamed),
    )
    npartitions = max(left.npartitions, right.npartitions)
    placed = [
        _bucketed(frame, side, list(on), npartitions)
        for frame, side, on in zip((left, right), sides, (step.left_on, step.right_on), strict=True)
    ]
    joined_schema = pa.schema(
        [*(f.remove_metadata() for f in schema), (_LEFT, pa.int64()), (_RIGHT, pa.int64())]
    )
    joined = mapped(
        _join,
        placed[0],
        placed[1],
        meta=empty_frame(joined_schema),
        step=step,
        sides=sides,
        schema=joined_schema,
    )
    ordered = sorted_by(joined, [], tie=(_LEFT, _RIGHT))
    return mapped(_declared, ordered, meta=empty_frame(schema), schema=schema)


def _side_schema(frame: dd.DataFrame, schema: pa.Schema, renamed: Mapping[str, str]) -> pa.Schema:
    """One side's columns: types as the result declares those it takes over, categories by value."""
    found = arrow_schema_of(frame._meta)
    fields = []
    for name in found.names:
        target = renamed.get(name)
        declared = schema.field(target).type if target in schema.names else found.field(name).type
        fields.append(pa.field(name, declared.value_type if pa.types.is_dictionary(declared) else declared))
    return pa.schema(fields)


def _bucketed(frame: dd.DataFrame, side: pa.Schema, on: list[str], npartitions: int) -> dd.DataFrame:
    meta = empty_frame(side).assign(**{POSITION: np.array([], "int64"), _BUCKET: np.array([], "int64")})
    placed = mapped(_with_bucket, with_positions(frame), meta=meta, side=side, on=on, npartitions=npartitions)
    return exchange(placed, _BUCKET, npartitions) if npartitions > 1 else placed


def _with_bucket(part: pd.DataFrame, side: pa.Schema, on: list[str], npartitions: int) -> pd.DataFrame:
    table = to_arrow(part, side)
    texts, _ = key_texts(table, on)
    hashes = pd.util.hash_array(np.asarray(texts, dtype=object), categorize=False)
    frame = to_pandas(table)
    frame[POSITION] = part[POSITION].to_numpy()
    frame[_BUCKET] = (hashes % np.uint64(npartitions)).astype("int64")
    return frame


def key_texts(table: pa.Table, on: list[str]) -> tuple[list[str], np.ndarray[Any, Any]]:
    """One text for each row's keys, equal where the keys are equal; and whether a key is missing."""
    missing = np.zeros(table.num_rows, dtype=bool)
    parts = []
    for name in on:
        column = table.column(name)
        missing |= pc.is_null(column, nan_is_null=True).to_numpy()
        if pa.types.is_floating(column.type):
            column = pc.add(column, 0.0)  # -0.0 equals 0.0
        text = column.cast(pa.string()).fill_null("")
        # The length in front keeps ("a", "bc") and ("ab", "c") apart.
        parts.append(pc.binary_join_element_wise(pc.binary_length(text).cast(pa.string()), text, ":"))
    joined = pc.binary_join_element_wise(*parts, "|") if len(parts) > 1 else parts[0]
    return joined.to_pylist(), missing


def _join(
    left: pd.DataFrame,
    right: pd.DataFrame,
    step: Merge,
    sides: tuple[pa.Schema, pa.Schema],
    schema: pa.Schema,
) -> pd.DataFrame:
    tables = [to_arrow(part, side) for part, side in zip((left, right), sides, strict=True)]
    pairs = _pairs(tables[0], tables[1], step)
    places = [pa.array(pairs[side], from_pandas=True).cast(pa.int64()) for side in ("left", "right")]
    taken = [table.take(place) for table, place in zip(tables, places, strict=True)]
    positions = [
        pa.array(part[POSITION].to_numpy(dtype="int64")).take(place)
        for part, place in zip((left, right), places, strict=True)
    ]
    columns = _assemble(taken[0], taken[1], step) | {_LEFT: positions[0], _RIGHT: positions[1]}
    arrays = [_one(columns.get(f.name, pa.nulls(len(places[0]), f.type))).cast(f.type) for f in schema]
    return to_pandas(pa.Table.from_arrays(arrays, schema=schema))


def _one(values: Any) -> pa.ChunkedArray:
    return values if isinstance(values, pa.ChunkedArray) else pa.chunked_array([values])


def _pairs(left: pa.Table, right: pa.Table, step: Merge) -> pd.DataFrame:
    """Row numbers that belong together; missing on the side without a partner."""
    frames = []
    for name, table, on, flag in (("left", left, step.left_on, 1), ("right", right, step.right_on, 2)):
        texts, missing = key_texts(table, list(on))
        # Rows with a missing key get a flag that the other side never has.
        frames.append(
            pd.DataFrame(
                {
                    "key": pd.Series(texts, dtype=object),
                    "flag": np.where(missing, flag, 0),
                    name: pd.array(np.arange(table.num_rows), dtype="Int64"),
                }
            )
        )
    return frames[0].merge(frames[1], on=["key", "flag"], how=step.how)


def _assemble(left: pa.Table, right: pa.Table, step: Merge) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    visible = [n for n in left.column_names if not n.startswith("_apwa")]
    for name in visible:
        columns[name] = left.column(name)
    for left_key, right_key in zip(step.left_on, step.right_on, strict=True):
        if left_key == right_key:
            columns[left_key] = pc.coalesce(
                left.column(left_key), right.column(right_key).cast(left.column(left_key).type)
            )
    for old, new in merged_names(step, visible, right.column_names).items():
        columns[new] = right.column(old)
    for name in _HIDDEN[1:]:
        both = [table.column(name) for table in (left, right) if name in table.column_names]
        if both:
            columns[name] = pc.coalesce(*both)
    ids = [
        table.column(_HIDDEN[0]).fill_null("") for table in (left, right) if _HIDDEN[0] in table.column_names
    ]
    if len(ids) == 2:
        columns[_HIDDEN[0]] = pc.binary_join_element_wise(ids[0], ids[1], "~")
    return columns


def _declared(part: pd.DataFrame, schema: pa.Schema) -> pd.DataFrame:
    return to_pandas(to_arrow(part, schema))
