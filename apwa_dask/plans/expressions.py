"""SQL scalar expressions over the columns of one row: checked at plan time, run by a locked DuckDB.

An expression is what stands between ``SELECT`` and ``FROM``: operators, ``CASE``, casts and the functions of
`apwa_dask.plans.functions`. It is parsed, and refused unless every node of its syntax tree is on a closed
list; so there are no subqueries, tables, aggregates, windows, settings or parameters in it. The sandbox
(`apwa_dask.plans._sandbox`) is the second wall.

Rules
-----
- Columns are written by their exact name, in double quotes where the name has odd characters: ``"order no" >
  3``.
- Times are in UTC.
- The type of a result depends on the types of the columns only, never on the values. Whole numbers become
  int64, other numbers float64, JSON, UUID and enumerations text, timestamps microseconds (with UTC where the
  expression reads a column with a time zone). Maps, intervals and times of day cannot be columns.
- Missing values follow SQL: comparing with NULL gives NULL, and a NULL condition is false.
- Regular expressions are RE2: no look-around, no back-references, time linear in the text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import pyarrow as pa
import pyarrow.compute as pc

from apwa_dask.errors import PlanError, candidates
from apwa_dask.plans._sandbox import cursor
from apwa_dask.plans.expression_syntax import parse, wrapped
from apwa_dask.plans.type_clash import clash_of, probe, readable

__all__ = ["HIDDEN", "check", "columns_of", "evaluate", "failed_rows", "mask", "problem_of"]

HIDDEN = "_apwa"
"""Names that start so are the engine's bookkeeping: no plan can name them."""


@dataclass(frozen=True, slots=True)
class _Typed:
    """A checked expression: the SQL that runs and the Arrow type that comes out."""

    sql: str
    columns: tuple[str, ...]
    type: pa.DataType


# --- types


def _settled(of: pa.DataType, *, utc: bool) -> pa.DataType | None:
    """The column type that a DuckDB result type becomes; None where it cannot be a column."""
    if pa.types.is_boolean(of) or pa.types.is_date32(of) or pa.types.is_binary(of):
        return of
    if pa.types.is_integer(of):
        return pa.int64()
    if pa.types.is_floating(of):
        return pa.float64()
    if pa.types.is_decimal(of):
        return pa.int64() if of.scale == 0 else pa.float64()
    if pa.types.is_string(of) or pa.types.is_large_string(of) or pa.types.is_null(of):
        return pa.string()
    if pa.types.is_dictionary(of):
        return pa.string()
    if pa.types.is_timestamp(of):
        return pa.timestamp("us", tz="UTC" if utc or of.tz else None)
    if pa.types.is_list(of) or pa.types.is_large_list(of) or pa.types.is_fixed_size_list(of):
        item = _settled(of.value_type, utc=utc)
        return None if item is None else pa.list_(item)
    if pa.types.is_struct(of):
        members = [(of.field(i).name, _settled(of.field(i).type, utc=utc)) for i in range(of.num_fields)]
        return None if any(t is None for _, t in members) else pa.struct(members)
    return None


def _cast(sql: str, of: pa.DataType) -> str:
    """Let DuckDB narrow wide numbers, so that one that does not fit fails on its own row."""
    if pa.types.is_decimal(of):
        return f"CAST({sql} AS {'BIGINT' if of.scale == 0 else 'DOUBLE'})"
    if pa.types.is_uint64(of):
        return f"CAST({sql} AS BIGINT)"
    return sql


def _visible(schema: pa.Schema) -> list[str]:
    return [name for name in schema.names if not name.startswith(HIDDEN)]


def _quoting_hint(text: str, columns: list[str]) -> str:
    """Columns in an unreadable expression that would have to be quoted: SQL words, odd characters."""
    bare = [n for n in columns if n in text and f'"{n}"' not in text and parse(n).columns != (n,)]
    if not bare:
        return ""
    quoted = ", ".join(f'"{name}"' for name in bare[:5])
    return f"; write in double quotes: {quoted}"


@lru_cache(maxsize=4096)
def _check_one(text: str, schema: pa.Schema) -> _Typed | str:
    """The typed expression, or what is wrong with it."""
    import duckdb

    parsed = parse(text)
    visible = _visible(schema)
    if parsed.problem:
        return parsed.problem + _quoting_hint(text, visible)
    for name in parsed.columns:
        if name not in visible:
            return f"no column {name!r}; {candidates(name, visible, noun='columns')}"
    folded = {name.lower() for name in parsed.columns}
    if len(folded) < len(parsed.columns):
        return (
            "two of its columns differ only in upper and lower case, which SQL cannot tell apart; rename one"
        )
    if any(schema.names.count(name) > 1 for name in parsed.columns):
        return "one of its columns occurs twice in the table"
    used = [schema.field(name) for name in parsed.columns]
    try:
        raw = probe(wrapped(text), used)
    except duckdb.Error as error:
        return clash_of(text, pa.schema([field for field in schema if field.name in visible]), error)
    settled = _settled(raw, utc=any(pa.types.is_timestamp(f.type) and f.type.tz for f in used))
    if settled is None:
        return f"its result has the type {raw}, which cannot be a column; cast it to text or a number"
    return _Typed(_cast(wrapped(text), raw), parsed.columns, settled)


def _operand(table: pa.Table) -> pa.Table:
    """The table as DuckDB reads it; one that has no column gets a row counter."""
    table = table.cast(pa.schema([readable(field) for field in table.schema]), safe=False)
    if table.num_columns == 0:
        return pa.table({"_apwa_n": pa.nulls(table.num_rows, pa.int8())})
    return table


def _typed(name: str, text: str, schema: pa.Schema) -> _Typed:
    found = _check_one(text, schema)
    if isinstance(found, str):
        raise PlanError(
            f"the expression for {name!r} is not valid: {found}",
            where=text if len(text) <= 200 else text[:197] + "...",
            fix="write one SQL scalar expression over the columns of the table",
            code="PLAN-EXPRESSION",
        )
    return found


# --- public


def problem_of(expression: str, schema: pa.Schema) -> str:
    """What is wrong with `expression` over a table of `schema`; empty when nothing is."""
    found = _check_one(expression, schema.remove_metadata())
    return found if isinstance(found, str) else ""


def check(expressions: Mapping[str, str], schema: pa.Schema) -> dict[str, pa.DataType]:
    """Type of each expression over a table of `schema`, found without any row.

    Parameters
    ----------
    expressions : mapping of str to str
        Result name to SQL scalar expression.
    schema : pyarrow.Schema
        Columns of the table.

    Raises
    ------
    PlanError
        The first expression that is refused, names no column of the table, or does not fit its types.
    """
    bare = schema.remove_metadata()
    return {name: _typed(name, text, bare).type for name, text in expressions.items()}


def columns_of(expression: str) -> set[str]:
    """Columns that the expression reads.

    Raises
    ------
    PlanError
        The expression is refused or cannot be parsed.
    """
    parsed = parse(expression)
    if parsed.problem:
        raise PlanError(
            f"the expression is not valid: {parsed.problem}", where=expression[:200], code="PLAN-EXPRESSION"
        )
    return set(parsed.columns)


def evaluate(expressions: Mapping[str, str], table: pa.Table) -> dict[str, pa.ChunkedArray]:
    """Values of the expressions for each row of `table`, with exactly the types that `check` promises.

    Safe to call from several threads.

    Raises
    ------
    PlanError
        An expression is not valid for the table, or fails on a row (a cast of text that is no number). The
        message names the expression and never the value.
    """
    if not expressions:
        return {}
    bare = table.schema.remove_metadata()
    typed = {name: _typed(name, text, bare) for name, text in expressions.items()}
    raw = _run([item.sql for item in typed.values()], typed, table)
    return {name: _as_type(raw.column(i), item.type) for i, (name, item) in enumerate(typed.items())}


def mask(condition: str, table: pa.Table) -> pa.BooleanArray:
    """For each row whether `condition` is true; NULL counts as false.

    Raises
    ------
    PlanError
        As `evaluate`, or the condition is not boolean.
    """
    kind = check({"condition": condition}, table.schema)["condition"]
    if not pa.types.is_boolean(kind):
        raise PlanError(
            f"the condition has the type {kind}, not boolean",
            where=condition[:200],
            fix="compare with something: x > 0, x = 'yes', x IS NOT NULL",
            code="PLAN-EXPRESSION",
        )
    found = evaluate({"condition": condition}, table)["condition"]
    return pc.fill_null(_one_chunk(found), False)


def failed_rows(expression: str, table: pa.Table) -> pa.BooleanArray:
    """For each row whether `expression` raises an error on it (NULL is no error).

    For naming the rows after `evaluate` has raised: it costs a second evaluation.
    """
    typed = _typed("expression", expression, table.schema.remove_metadata())
    # TRY gives NULL for a row that fails; the struct around it tells that NULL from an honest one.
    sql = f"TRY(struct_pack(v := {typed.sql})) IS NULL"
    return _one_chunk(_run([sql], {"expression": typed}, table).column(0))


def _run(sqls: list[str], typed: Mapping[str, _Typed], table: pa.Table) -> pa.Table:
    import duckdb

    used = list(dict.fromkeys(column for item in typed.values() for column in item.columns))
    operand = (
        _operand(table.select(used)) if used else pa.table({"_apwa_n": pa.nulls(table.num_rows, pa.int8())})
    )
    projection = ", ".join(f"{sql} AS _apwa_{i}" for i, sql in enumerate(sqls))
    try:
        return cursor().from_arrow(operand).project(projection).to_arrow_table()
    except duckdb.Error as error:
        kind = type(error).__name__.removesuffix("Exception")
    # Raised outside the handler: DuckDB's message quotes the row, and must not travel as a cause.
    raise PlanError(
        f"the expression for {', '.join(repr(name) for name in typed)} fails on some row ({kind} error)",
        fix="use TRY_CAST(x AS type) or TRY(...) to get NULL where a value does not fit",
        code="PLAN-EXPRESSION-ROW",
    )


def _as_type(column: pa.ChunkedArray, wanted: pa.DataType) -> pa.ChunkedArray:
    if column.type == wanted:
        return column
    # safe=False: nanoseconds are cut to microseconds; integers that could overflow were cast by DuckDB.
    return column.cast(wanted, safe=False)


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
