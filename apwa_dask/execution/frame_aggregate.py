"""Exact aggregates by group, as a tree of partial results.

Counts, sums, extremes and moments are folded as a few numbers a group; medians and distinct counts are folded
as (group, value, occurrences), which is exact and no larger than the distinct values. Means and variances are
combined by the pairwise formulas of Chan, Golub and LeVeque (1983). The order of combination is that of the
partitions, so the last bit of a floating-point sum does not depend on timing.
"""

from __future__ import annotations

import itertools
from typing import Any

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from apwa_dask.execution.frame_exchange import fold, mapped
from apwa_dask.plans.steps import Aggregate, Aggregation
from apwa_dask.tables.dtypes import arrow_schema_of, empty_frame, to_arrow, to_pandas

__all__ = ["aggregate"]

_STATUS = "_apwa_status"
_ALL = "_apwa_all"
"""Key of the one group of a whole table."""
_ROWS = "_apwa_rows"
_VALUE, _TIMES = "_apwa_value", "_apwa_times"
_HOLISTIC = ("median", "count_distinct")


def aggregate(step: Aggregate, frame: dd.DataFrame, schema: pa.Schema) -> dd.DataFrame:
    """One row a group, ordered by the keys (nulls last); see `apwa_dask.execution.frame_steps.apply_barrier`.

    Rows that failed before are left out: what a model could not answer is not counted as an answer.
    """
    source = _source_schema(step, frame, schema)
    keys = list(step.by) or [_ALL]
    rules = list(step.aggregates.values())
    state = _state_schema(step, source)
    partial = mapped(_partial, frame, meta=empty_frame(state), source=source, step=step, state=state)
    folded = fold(partial, _merge_states, empty_frame(state), keys=keys, rules=rules, state=state)
    values = []
    for name in _holistic_columns(rules):
        kept = _values_schema(keys, name, source)
        counted = mapped(
            _count_values, frame, meta=empty_frame(kept), source=source, step=step, column=name, kept=kept
        )
        values.append(fold(counted, _merge_values, empty_frame(kept), keys=keys, kept=kept))
    return mapped(
        _finish,
        folded,
        *values,
        meta=empty_frame(schema),
        step=step,
        state=state,
        source=source,
        schema=schema,
    )


def _holistic_columns(rules: list[Aggregation]) -> list[str]:
    return list(
        dict.fromkeys(rule.column for rule in rules if rule.fn in _HOLISTIC and rule.column is not None)
    )


# --- schemas


def _plain(of: pa.DataType) -> pa.DataType:
    """Categories are grouped by their values: each partition may number them in its own way."""
    return of.value_type if pa.types.is_dictionary(of) else of


def _source_schema(step: Aggregate, frame: dd.DataFrame, schema: pa.Schema) -> pa.Schema:
    """The columns the step reads, with one type for all partitions."""
    found = arrow_schema_of(frame._meta)
    wanted = list(
        dict.fromkeys([*step.by, *(rule.column for rule in step.aggregates.values() if rule.column)])
    )
    fields = []
    for name in wanted:
        of = schema.field(name).type if name in step.by else found.field(name).type
        fields.append(pa.field(name, _plain(of)))
    return pa.schema(fields)


def _state_schema(step: Aggregate, source: pa.Schema) -> pa.Schema:
    fields = [pa.field(name, source.field(name).type) for name in step.by] or [pa.field(_ALL, pa.int8())]
    for i, rule in enumerate(step.aggregates.values()):
        fields += [pa.field(_state(i, part), of) for part, of in _parts(rule, source).items()]
    return pa.schema([*fields, pa.field(_ROWS, pa.int64())])


def _state(i: int, part: str) -> str:
    """Column of one number of aggregate `i`. No table has such a name, so keys cannot clash with it."""
    return f"_apwa_{i}_{part}"


def _is_state(name: str, *parts: str) -> bool:
    return name.startswith("_apwa_") and name.rsplit("_", 1)[-1] in parts


def _parts(rule: Aggregation, source: pa.Schema) -> dict[str, pa.DataType]:
    """Names and types of the numbers that are kept for one aggregate."""
    if rule.column is None or rule.fn in _HOLISTIC:
        return {}
    of = source.field(rule.column).type
    if rule.fn == "count":
        return {"n": pa.int64()}
    if rule.fn == "sum":
        return {"sum": pa.int64() if pa.types.is_integer(of) or pa.types.is_boolean(of) else pa.float64()}
    if rule.fn == "mean":
        return {"n": pa.int64(), "sum": pa.float64()}
    if rule.fn == "std":
        return {"n": pa.int64(), "mean": pa.float64(), "m2": pa.float64()}
    return {rule.fn: of}


def _values_schema(keys: list[str], column: str, source: pa.Schema) -> pa.Schema:
    by = [pa.field(k, source.field(k).type if k in source.names else pa.int8()) for k in keys]
    return pa.schema([*by, pa.field(_VALUE, source.field(column).type), pa.field(_TIMES, pa.int64())])


# --- one partition


def _rows(part: pd.DataFrame, source: pa.Schema, step: Aggregate) -> pa.Table:
    if _STATUS in part.columns:
        part = part[part[_STATUS].isna()]
    columns = {field.name: _typed(part[field.name], field.type) for field in source}
    if not step.by:
        columns[_ALL] = pa.array(np.zeros(len(part), dtype="int8"))
    return pa.table(columns)


def _typed(column: pd.Series, of: pa.DataType) -> pa.Array:
    # A caller's object column may hold anything; its meta says text, and as text its values are told apart.
    if column.dtype == object and pa.types.is_string(of):
        return pa.Array.from_pandas(column).cast(of)
    return pa.Array.from_pandas(column, type=of)


def _partial(part: pd.DataFrame, source: pa.Schema, step: Aggregate, state: pa.Schema) -> pd.DataFrame:
    rows = _rows(part, source, step)
    keys = list(step.by) or [_ALL]
    wanted: list[tuple[Any, ...]] = [([], "count_all")]
    columns: dict[str, pa.ChunkedArray] = {key: rows.column(key) for key in keys}
    for i, rule in enumerate(step.aggregates.values()):
        for name in _parts(rule, source):
            assert rule.column is not None
            of = rows.column(rule.column)
            # Moments are taken in floating point from the start: an integer sum of squares would overflow.
            floating = rule.fn in ("mean", "std") or (rule.fn == "sum" and pa.types.is_decimal(of.type))
            columns[_state(i, name)] = of.cast(pa.float64()) if floating and name != "n" else of
            wanted.append((_state(i, name), *_FIRST[name]))
    grouped = pa.table(columns).group_by(keys, use_threads=False).aggregate(wanted)
    found = {key: grouped.column(key) for key in keys} | {_ROWS: grouped.column("count_all")}
    for name, function, *_ in wanted[1:]:
        found[name] = grouped.column(f"{name}_{function}")
    for name in [name for name in found if _is_state(name, "m2")]:
        found[name] = pc.multiply(found[name], found[name.removesuffix("m2") + "n"].cast(pa.float64()))
    return _framed(found, state)


_FIRST: dict[str, tuple[Any, ...]] = {
    "n": ("count",),
    "sum": ("sum",),
    "mean": ("mean",),
    "m2": ("variance",),  # population variance; times n it is the sum of squared deviations
    "min": ("min",),
    "max": ("max",),
    "any": ("any",),
    "all": ("all",),
}


def _framed(columns: dict[str, Any], schema: pa.Schema) -> pd.DataFrame:
    arrays = [pa.chunked_array(_chunks(columns[f.name])).cast(f.type) for f in schema]
    return to_pandas(pa.Table.from_arrays(arrays, schema=schema))


def _chunks(values: Any) -> list[pa.Array]:
    if isinstance(values, pa.ChunkedArray):
        return values.chunks or [pa.array([], values.type)]
    return [values]


# --- combining


def _merge_states(
    part: pd.DataFrame, keys: list[str], rules: list[Aggregation], state: pa.Schema
) -> pd.DataFrame:
    table = to_arrow(part, state)
    plain = [f.name for f in state if f.name not in keys and not _is_state(f.name, "mean", "m2")]
    functions = {name: _SECOND[name.rsplit("_", 1)[-1]] for name in plain}
    grouped = table.group_by(keys, use_threads=False).aggregate(
        [*((name, function) for name, function in functions.items()), ([], "count_all")]
    )
    found: dict[str, Any] = {key: grouped.column(key) for key in keys}
    found |= {name: grouped.column(f"{name}_{function}") for name, function in functions.items()}
    spread = [i for i, rule in enumerate(rules) if _state(i, "m2") in state.names]
    if spread:
        group = _group_of_row(table, keys)
        for i in spread:
            found |= _merge_moments(table, group, grouped.num_rows, i)
    return _framed(found, state)


_SECOND = {"n": "sum", "sum": "sum", "rows": "sum", "min": "min", "max": "max", "any": "any", "all": "all"}


def _group_of_row(table: pa.Table, keys: list[str]) -> np.ndarray[Any, Any]:
    """Number of each row's group, in the order that `group_by` gives them."""
    numbered = table.select(keys).append_column("_apwa_at", pa.array(np.arange(table.num_rows)))
    lists = (
        numbered.group_by(keys, use_threads=False).aggregate([("_apwa_at", "list")]).column("_apwa_at_list")
    )
    groups = np.empty(table.num_rows, dtype=np.int64)
    sizes = pc.list_value_length(lists).to_numpy()
    groups[pc.list_flatten(lists).to_numpy()] = np.repeat(np.arange(len(sizes)), sizes)
    return groups


def _merge_moments(table: pa.Table, group: np.ndarray[Any, Any], groups: int, i: int) -> dict[str, pa.Array]:
    n, mean, m2 = (
        table.column(_state(i, part)).cast(pa.float64()).fill_null(0.0).to_numpy()
        for part in ("n", "mean", "m2")
    )
    total = np.bincount(group, n, groups)
    with np.errstate(invalid="ignore", divide="ignore"):
        center = np.bincount(group, n * mean, groups) / total
        squares = np.bincount(group, m2 + n * np.square(mean - np.nan_to_num(center)[group]), groups)
    empty = total == 0
    return {
        _state(i, "mean"): pa.array(center, mask=empty),
        _state(i, "m2"): pa.array(squares, mask=empty),
    }


def _count_values(
    part: pd.DataFrame, source: pa.Schema, step: Aggregate, column: str, kept: pa.Schema
) -> pd.DataFrame:
    rows = _rows(part, source, step)
    keys = list(step.by) or [_ALL]
    table = pa.table({**{key: rows.column(key) for key in keys}, _VALUE: rows.column(column)})
    grouped = table.group_by([*keys, _VALUE], use_threads=False).aggregate([([], "count_all")])
    return _framed(
        {name: grouped.column(name) for name in [*keys, _VALUE]} | {_TIMES: grouped.column("count_all")}, kept
    )


def _merge_values(part: pd.DataFrame, keys: list[str], kept: pa.Schema) -> pd.DataFrame:
    grouped = to_arrow(part, kept).group_by([*keys, _VALUE], use_threads=False).aggregate([(_TIMES, "sum")])
    return _framed(
        {name: grouped.column(name) for name in [*keys, _VALUE]} | {_TIMES: grouped.column(f"{_TIMES}_sum")},
        kept,
    )


# --- the result


def _finish(
    states: pd.DataFrame,
    *values: pd.DataFrame,
    step: Aggregate,
    state: pa.Schema,
    source: pa.Schema,
    schema: pa.Schema,
) -> pd.DataFrame:
    keys = list(step.by) or [_ALL]
    rules = list(step.aggregates.values())
    table = _in_key_order(to_arrow(states, state), keys)
    if not step.by and table.num_rows == 0:
        table = _nothing(state)
    counted = {
        name: _in_key_order(to_arrow(frame, _values_schema(keys, name, source)), [*keys, _VALUE])
        for name, frame in zip(_holistic_columns(rules), values, strict=True)
    }
    columns: dict[str, Any] = {key: table.column(key) for key in step.by}
    for i, (name, rule) in enumerate(step.aggregates.items()):
        if rule.fn in _HOLISTIC:
            assert rule.column is not None
            columns[name] = _holistic(rule, counted[rule.column], table, keys)
        else:
            columns[name] = _final(rule, table, i)
    columns["_apwa_row"] = pa.array([f"g{k}" for k in range(table.num_rows)], pa.string())
    for field in schema:
        if field.name not in columns:
            columns[field.name] = pa.nulls(table.num_rows, field.type)
    return _framed(columns, schema)


def _in_key_order(table: pa.Table, keys: list[str]) -> pa.Table:
    # Arrow puts nulls last by default.
    order = pc.sort_indices(table, sort_keys=[(key, "ascending") for key in keys])
    return table.take(order)


def _nothing(state: pa.Schema) -> pa.Table:
    """State of a whole table without rows: counts are 0, all else is null."""
    columns = [
        pa.array([0], f.type) if _is_state(f.name, "n", "rows") else pa.nulls(1, f.type) for f in state
    ]
    return pa.Table.from_arrays(columns, schema=state)


def _final(rule: Aggregation, table: pa.Table, i: int) -> pa.ChunkedArray:
    if rule.fn == "count":
        return table.column(_state(i, "n") if rule.column is not None else _ROWS)
    if rule.fn == "mean":
        n = table.column(_state(i, "n")).cast(pa.float64())
        return pc.divide(table.column(_state(i, "sum")), pc.if_else(pc.greater(n, 0), n, None))
    if rule.fn == "std":
        n = table.column(_state(i, "n")).cast(pa.float64())
        return pc.sqrt(
            pc.divide(table.column(_state(i, "m2")), pc.if_else(pc.greater(n, 1), pc.subtract(n, 1.0), None))
        )
    return table.column(_state(i, rule.fn))


def _holistic(rule: Aggregation, counted: pa.Table, table: pa.Table, keys: list[str]) -> pa.Array:
    """Median or distinct count of each group of `table`; both are in the order of the keys."""
    group = _group_of_row(counted, keys)
    known = pc.is_valid(counted.column(_VALUE)).to_numpy()
    if rule.fn == "count_distinct":
        return pa.array(
            np.bincount(group, known, max(table.num_rows, 1))[: max(table.num_rows, 0)].astype(np.int64)
        )
    values = counted.column(_VALUE).cast(pa.float64()).to_numpy()
    times = np.where(known, counted.column(_TIMES).to_numpy(), 0)
    cuts = np.searchsorted(
        group, np.arange(table.num_rows + 1)
    )  # groups are in order, so each is one stretch
    medians = [_median(values[low:high], times[low:high]) for low, high in itertools.pairwise(cuts)]
    return pa.array(medians, pa.float64())


def _median(values: np.ndarray[Any, Any], times: np.ndarray[Any, Any]) -> float | None:
    """Median of values that occur `times` times each; `values` ascend."""
    upto = np.cumsum(times)
    total = int(upto[-1]) if len(upto) else 0
    if total == 0:
        return None
    low, high = (values[np.searchsorted(upto, at, side="right")] for at in ((total - 1) // 2, total // 2))
    return float((low + high) / 2)
