"""Row-local frame steps on one Arrow table: each output row comes from one input row.

Bookkeeping columns (``_apwa*``) pass through. A step that makes several rows of one appends ``.{k}`` to the
row id, so that ids stay unique. A row on which an expression fails keeps its place: its new columns are null,
and its status says why (a filter keeps it, because it could not be judged).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from apwa_dask.errors import PlanError
from apwa_dask.plans.expressions import HIDDEN, evaluate, failed_rows
from apwa_dask.plans.infer import visible
from apwa_dask.plans.steps import Assign, Chunk, Explode, Select, Where

__all__ = ["apply_local", "chunk_text"]

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
    counts: list[int] = []
    for text in table.column(step.column).to_pylist():
        cut: list[str] | list[None] = (
            [None] if text is None else chunk_text(text, step.tokens, step.overlap_tokens)
        )
        pieces.extend(cut)
        counts.append(len(cut))
    parents, ordinals = _repeated(np.array(counts, dtype=np.int64))
    texts = pa.array(pieces, table.schema.field(step.column).type)
    grown = _grown(table, parents, ordinals, {step.column: texts})
    return grown.append_column(pa.field(f"{step.column}_chunk", pa.int64()), pa.array(ordinals, pa.int64()))


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


# --- cutting text

_SENTENCE_END = re.compile(r"(?:[.!?\u3002\uff01\uff1f]['\")\]]*\s+|[\u3002\uff01\uff1f]|\n\s*)")
_SPACE = re.compile(r"\s+")


def chunk_text(text: str, tokens: int, overlap_tokens: int) -> list[str]:
    """Cut text into pieces of about `tokens` tokens that overlap by about `overlap_tokens`.

    A cut falls after the last sentence that ends in the second half of a piece, else at white space, else at
    the limit. Every character is in at least one piece. Sizes use four UTF-8 bytes for a token, so that
    scripts with long encodings get shorter pieces. The same text is always cut at the same places.

    Parameters
    ----------
    text : str
    tokens, overlap_tokens : int
        ``overlap_tokens < tokens``.

    Returns
    -------
    list of str
        At least one piece.
    """
    chars_per_token = 4 * len(text) / max(len(text.encode("utf-8", "surrogatepass")), 1)
    size = max(int(tokens * chars_per_token), 1)
    overlap = min(int(overlap_tokens * chars_per_token), size // 2)
    pieces: list[str] = []
    start = 0
    while len(text) - start > size:
        end = _cut(text, start + size // 2 + 1, start + size)
        pieces.append(text[start:end])
        start = _begin(text, end - overlap, end) if overlap else end
    pieces.append(text[start:])
    return pieces


def _cut(text: str, low: int, high: int) -> int:
    """The best place to end a piece in ``(low, high]``."""
    for pattern in (_SENTENCE_END, _SPACE):
        ends = [match.end() for match in pattern.finditer(text, low, high)]
        if ends:
            return ends[-1]
    return high


def _begin(text: str, low: int, end: int) -> int:
    """Begin the next piece at the first word that starts in the overlap."""
    match = _SPACE.search(text, low, end)
    return match.end() if match and match.end() < end else low


_APPLY: dict[type, Callable[[Any, pa.Table], pa.Table]] = {
    Where: _where,
    Assign: _assign,
    Select: _select,
    Explode: _explode,
    Chunk: _chunk,
}
