"""Row-local frame steps on one Arrow table: each output row comes from one input row.

Bookkeeping columns (``_apwa*``) pass through. A step that makes several rows of one appends ``.{k}`` to the
row id, so that ids stay unique. A row on which an expression fails keeps its place: its new columns are null,
and its status says why (a filter keeps it, because it could not be judged).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from apwa_dask.errors import PlanError
from apwa_dask.execution.cutting import Span, cut, heading_starts, headings_at
from apwa_dask.plans.expressions import HIDDEN, evaluate, failed_rows
from apwa_dask.plans.infer import visible
from apwa_dask.plans.steps import Assign, Chunk, Explode, Select, Where

__all__ = ["apply_local"]

_ROW, _STATUS, _ERROR = "_apwa_row", "_apwa_status", "_apwa_error"
_BAD_INPUT = "bad_input"
"""The outcome class of a row that does not fit an expression (`apwa_dask.models.types.OutcomeClass`)."""


def apply_local(step: Any, table: pa.Table) -> pa.Table:
    """Apply a row-local frame step (where, assign, select, explode, chunk) to some rows.

    Parameters
    ----------
    step : Where, Assign, Select, Explode or Chunk
        Valid for the table.
    table : pyarrow.Table
        Any number of rows; columns that start with ``_apwa`` are bookkeeping.

    Returns
    -------
    pyarrow.Table
        Rows in the order of their parents. Column types are those of `apwa_dask.plans.infer`, whatever the
        rows.

    Raises
    ------
    PlanError
        The step is not valid for the table.
    """
    return _APPLY[type(step)](step, table)


def _where(step: Where, table: pa.Table) -> pa.Table:
    columns, failed = _evaluate({"condition": step.condition}, table)
    if not pa.types.is_boolean(columns["condition"].type):
        raise PlanError(
            f"the condition of step {step.id!r} is not boolean", where=step.condition, code="PLAN-TYPE"
        )
    keep = pc.fill_null(columns["condition"], False)
    if failed is None:
        return table.filter(keep)
    flagged = _flag(table, failed, f"the condition of {step.id} fails on this row")
    return flagged.filter(pc.or_(keep, failed))


def _assign(step: Assign, table: pa.Table) -> pa.Table:
    columns, failed = _evaluate(step.columns, table)
    for name, values in columns.items():
        field = pa.field(name, values.type)
        if name in table.column_names:
            table = table.set_column(table.column_names.index(name), field, values)
        else:
            table = table.append_column(field, values)
    if failed is None:
        return table
    return _flag(table, failed, f"an expression of {step.id} fails on this row")


def _evaluate(
    expressions: Mapping[str, str], table: pa.Table
) -> tuple[dict[str, pa.ChunkedArray], pa.BooleanArray | None]:
    """Values (null for rows that fail) and which rows fail; None for the usual "no row"."""
    readable = table.select(visible(table.schema).names) if table.num_columns else table
    try:
        return evaluate(expressions, readable), None
    except PlanError as error:
        if error.code != "PLAN-EXPRESSION-ROW" or _STATUS not in table.column_names:
            raise
    failed = pa.array(np.zeros(table.num_rows, dtype=bool))
    for expression in expressions.values():
        failed = pc.or_(failed, failed_rows(expression, readable))
    sound = evaluate(expressions, readable.filter(pc.invert(failed)))
    # Row i of the table is row place[i] of the sound ones; null where it failed.
    bad = failed.to_numpy(zero_copy_only=False)
    place = pa.array(np.cumsum(~bad) - 1, mask=bad)
    return {name: values.take(place) for name, values in sound.items()}, failed


def _flag(table: pa.Table, failed: pa.BooleanArray, message: str) -> pa.Table:
    """Set status and error of the rows that failed here, and not before."""
    fresh = pc.and_(failed, pc.is_null(table.column(_STATUS)))
    for name, text in ((_STATUS, _BAD_INPUT), (_ERROR, message)):
        if name in table.column_names:
            values = pc.if_else(fresh, pa.scalar(text), table.column(name))
            table = table.set_column(table.column_names.index(name), pa.field(name, pa.string()), values)
    return table


def _select(step: Select, table: pa.Table) -> pa.Table:
    hidden = [name for name in table.column_names if name.startswith(HIDDEN)]
    names = [*hidden, *(step.rename.get(name, name) for name in step.columns)]
    return table.select([*hidden, *step.columns]).rename_columns(names)


def _explode(step: Explode, table: pa.Table) -> pa.Table:
    lists = _one_array(table.column(step.column))
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    parents, ordinals = _repeated(np.maximum(lengths, 1))
    starts = np.cumsum(lengths) - lengths
    empty = lengths[parents] == 0
    places = pa.array(np.where(empty, 0, starts[parents] + ordinals), mask=empty)
    elements = pc.list_flatten(lists).take(places)
    return _grown(table, parents, ordinals, {step.column: elements})


def _chunk(step: Chunk, table: pa.Table) -> pa.Table:
    pieces: list[str | None] = []
    headings: list[str | None] = []
    counts: list[int] = []
    for text in table.column(step.column).to_pylist():
        spans = [] if text is None else _spans(step, text)
        pieces.extend([text[start:end] for start, end in spans] or [None])
        if step.headings:
            headings.extend([None] if text is None else headings_at(text, spans))
        counts.append(max(len(spans), 1))
    parents, ordinals = _repeated(np.array(counts, dtype=np.int64))
    texts = pa.array(pieces, table.schema.field(step.column).type)
    grown = _grown(table, parents, ordinals, {step.column: texts})
    values = [pa.array(ordinals, pa.int64()), pa.array(headings, pa.string())]
    for name, column in zip(step.added, values, strict=False):  # headings only where they are asked for
        grown = grown.append_column(name, column)
    return grown


def _spans(step: Chunk, text: str) -> list[Span]:
    before = heading_starts(text) if step.headings else ()
    return cut(text, step.tokens, step.overlap_tokens, before)


def _repeated(counts: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """For each output row its parent's position and its own number among the parent's rows."""
    parents = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
    ordinals = np.arange(len(parents), dtype=np.int64) - np.repeat(np.cumsum(counts) - counts, counts)
    return parents, ordinals


def _grown(
    table: pa.Table,
    parents: np.ndarray[Any, Any],
    ordinals: np.ndarray[Any, Any],
    replaced: Mapping[str, pa.Array],
) -> pa.Table:
    """The parents' rows, once for each child, with some columns replaced and ids made unique."""
    grown = table.drop_columns(list(replaced)).take(pa.array(parents))
    columns = {name: grown.column(name) for name in grown.column_names} | dict(replaced)
    fields = []
    for field in table.schema:
        same = field.name not in replaced or columns[field.name].type == field.type
        fields.append(field if same else pa.field(field.name, columns[field.name].type))
    if _ROW in columns:
        number = pc.cast(pa.array(ordinals), pa.string())
        columns[_ROW] = pc.binary_join_element_wise(columns[_ROW], number, ".")
    return pa.Table.from_arrays([columns[field.name] for field in fields], schema=pa.schema(fields))


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    if column.num_chunks == 1:
        return column.chunk(0)
    return column.combine_chunks() if column.num_chunks else pa.array([], column.type)


_APPLY: dict[type, Callable[[Any, pa.Table], pa.Table]] = {
    Where: _where,
    Assign: _assign,
    Select: _select,
    Explode: _explode,
    Chunk: _chunk,
}
