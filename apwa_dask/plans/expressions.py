"""SQL scalar expressions over the columns of one row: checked at plan time, run by a locked DuckDB.

An expression is what stands between ``SELECT`` and ``FROM``: operators, ``CASE``, casts and the functions of
`apwa_dask.plans.functions`. It is parsed, and refused unless every node of its syntax tree is on a closed list;
so there are no subqueries, tables, aggregates, windows, settings or parameters in it. The sandbox
(`apwa_dask.plans._sandbox`) is the second wall.

Rules
-----
- Columns are written by their exact name, in double quotes where the name has odd characters: ``"order no" > 3``.
- Times are in UTC.
- The type of a result depends on the types of the columns only, never on the values. Whole numbers become
  int64, other numbers float64, JSON, UUID and enumerations text, timestamps microseconds (with UTC where the
  expression reads a column with a time zone). Maps, intervals and times of day cannot be columns.
- Missing values follow SQL: comparing with NULL gives NULL, and a NULL condition is false.
- Regular expressions are RE2: no look-around, no back-references, time linear in the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from apwa_dask.errors import PlanError, candidates
from apwa_dask.plans._sandbox import cursor
from apwa_dask.plans.functions import AGGREGATES, FUNCTIONS, MAX_SIZE, REASONS, SIZED

__all__ = ["HIDDEN", "check", "columns_of", "evaluate", "failed_rows", "mask", "problem_of"]

HIDDEN = "_apwa"
"""Names that start so are the engine's bookkeeping: no plan can name them."""

MAX_CHARS = 20_000

_CLASSES = frozenset(
    "COLUMN_REF CONSTANT FUNCTION OPERATOR COMPARISON CONJUNCTION CASE CAST BETWEEN LAMBDA TYPE".split()
)
_OPERATORS = frozenset(
    "OPERATOR_IS_NULL OPERATOR_IS_NOT_NULL OPERATOR_NOT OPERATOR_TRY OPERATOR_COALESCE OPERATOR_NULLIF COMPARE_IN"
    " COMPARE_NOT_IN ARRAY_EXTRACT ARRAY_SLICE STRUCT_EXTRACT ARRAY_CONSTRUCTOR OPERATOR_CAST".split()
)
_REFUSED = {
    "SUBQUERY": "subqueries are not allowed; an expression sees one row (write `x IN (1, 2)` with a plain list)",
    "WINDOW": "window functions are not allowed; an expression sees one row",
    "STAR": "* and COLUMNS() are not allowed; name the columns",
    "PARAMETER": "parameters (? and $1) are not allowed; write the value",
    "COLLATE": "COLLATE is not allowed; compare lower(...) of both sides",
    "DEFAULT": "DEFAULT is not a value here",
    "POSITIONAL_REFERENCE": "columns are named, not numbered",
}


@dataclass(frozen=True, slots=True)
class _Parsed:
    columns: tuple[str, ...]
    problem: str = ""


@dataclass(frozen=True, slots=True)
class _Typed:
    """A checked expression: the SQL that runs and the Arrow type that comes out."""

    sql: str
    columns: tuple[str, ...]
    type: pa.DataType


# --- syntax


def _wrapped(text: str) -> str:
    # The newline ends a trailing "--" comment; the parentheses hold one expression and no more.
    return f"(\n{text}\n)"


def _serialize(text: str) -> dict[str, Any]:
    # fetchall, not fetchone: an unfinished result would block the cursor for the next statement.
    rows = cursor().execute("SELECT json_serialize_sql(?)", [f"SELECT {_wrapped(text)}"]).fetchall()
    parsed: dict[str, Any] = orjson.loads(rows[0][0])
    return parsed


@lru_cache(maxsize=1)
def _plain_select() -> dict[str, Any]:
    """Every part of a SELECT but its list, as it looks when nothing is written there."""
    return _frame_of(_serialize("1")["statements"][0])


def _frame_of(statement: dict[str, Any]) -> dict[str, Any]:
    node = {key: part for key, part in statement["node"].items() if key != "select_list"}
    return {**statement, "node": node}


@lru_cache(maxsize=4096)
def _parse(text: str) -> _Parsed:
    """Columns that `text` reads, or why it is refused. Never raises for the text's sake."""
    import duckdb

    if not text.strip():
        return _Parsed((), "the expression is empty")
    if len(text) > MAX_CHARS or "\0" in text:
        return _Parsed((), f"an expression has at most {MAX_CHARS:,} characters, none of them NUL")
    try:
        tree = _serialize(text)
    except (duckdb.Error, orjson.JSONDecodeError, UnicodeError):
        return _Parsed((), "the expression cannot be parsed: it is nested too deeply or has unpaired surrogates")
    if tree["error"]:
        return _Parsed((), _reworded(tree.get("error_message", "syntax error")))
    statements = tree["statements"]
    if len(statements) != 1 or _frame_of(statements[0]) != _plain_select():
        return _Parsed((), "only one scalar expression is allowed: no FROM, WHERE, WITH, UNION or second statement")
    items = statements[0]["node"]["select_list"]
    if len(items) != 1:
        return _Parsed((), "only one expression is allowed here, not a list of them")
    found: dict[str, None] = {}
    for kind, value in _walk(items[0]):
        if kind == "problem":
            return _Parsed((), value)
        found[value] = None
    return _Parsed(tuple(found))


def _walk(root: Any) -> Iterator[tuple[str, str]]:
    """Yield ("column", name) and ("problem", text) over a syntax tree, without recursion: trees can be deep."""
    stack: list[tuple[Any, frozenset[str]]] = [(root, frozenset())]
    while stack:
        node, bound = stack.pop()
        if isinstance(node, list):
            stack.extend((part, bound) for part in reversed(node))
            continue
        if not isinstance(node, dict):
            continue
        kind = node.get("class")
        if kind is None:
            stack.extend((part, bound) for part in reversed(list(node.values())))
            continue
        problem = _refusal(node, kind)
        if problem:
            yield "problem", problem
            continue
        if kind == "COLUMN_REF":
            name = node["column_names"][0]
            if name not in bound:
                yield "column", name
            continue
        if kind == "LAMBDA":
            names = _lambda_names(node)
            if names is None:
                yield "problem", "write lambdas as `lambda x: ...`"
                continue
            stack.append((node["expr"], bound | names))
            continue
        stack.extend((part, bound) for part in reversed(list(node.values())) if isinstance(part, (dict, list)))


def _lambda_names(node: dict[str, Any]) -> frozenset[str] | None:
    """Parameter names of a lambda; None for the deprecated arrow, which is also a JSON operator."""
    if node.get("syntax_type", "LAMBDA_KEYWORD") != "LAMBDA_KEYWORD":
        return None
    left = node["lhs"]
    parts = [left]
    if left["class"] == "FUNCTION":
        parts = [part.get("expression", part) for part in left.get("arguments") or left.get("children") or []]
    if any(part["class"] != "COLUMN_REF" for part in parts):
        return None
    return frozenset(part["column_names"][0] for part in parts)


def _refusal(node: dict[str, Any], kind: str) -> str:
    if kind not in _CLASSES:
        return _REFUSED.get(kind, f"{kind.lower()} is not allowed in an expression")
    if node.get("schema") or node.get("catalog"):
        return f"{node['schema'] or node['catalog']}.{node.get('function_name', '')}: write functions as f(x), not x.f()"
    if kind == "OPERATOR" and node["type"] not in _OPERATORS:
        return f"{node['type'].lower()} is not allowed in an expression"
    if kind == "FUNCTION":
        return _function_refusal(node)
    return ""


def _function_refusal(node: dict[str, Any]) -> str:
    name = node["function_name"].lower()
    if name in AGGREGATES:
        shown = "count" if name == "count_star" else name
        return f"{shown}() is over many rows; use an aggregate step (over the elements of a list: list_{shown})"
    if name in REASONS:
        return f"{name}() is not offered: {REASONS[name]}"
    if name not in FUNCTIONS:
        return f"{name}() is not a function here; {_near(name)}"
    if node.get("filter") or node.get("distinct") or node.get("order_bys", {}).get("orders"):
        return f"{name}() takes no FILTER, DISTINCT or ORDER BY here"
    if name in SIZED:
        return _size_refusal(name, node)
    return ""


def _near(name: str) -> str:
    words = sorted(known for known in FUNCTIONS if known[0].isalpha())
    hint = candidates(name, words, noun="functions")
    return hint.split("functions:")[0].strip() or "scalar functions of DuckDB that read no file, setting or clock"


def _size_refusal(name: str, node: dict[str, Any]) -> str:
    arguments = [part.get("expression", part) for part in node.get("arguments") or node.get("children") or []]
    position = SIZED[name]
    if len(arguments) <= position:
        return ""  # DuckDB says what is missing
    literal = arguments[position].get("literal") or arguments[position].get("value") or {}
    text = str(literal.get("text", literal.get("value", "")))
    if arguments[position]["class"] == "CONSTANT" and text.isdigit() and int(text) <= MAX_SIZE:
        return ""
    return f"the size given to {name}() must be a whole number written out, at most {MAX_SIZE:,}"


def _reworded(message: str) -> str:
    """DuckDB's message without its position marks and class prefix. Only for errors found without rows."""
    text = message.split("\n\nLINE")[0].split("\nLINE")[0]
    text = re.split(r"Candidate (?:functions|bindings|Entries):|Use \"SET |Please transition", text)[0]
    text = re.sub(r"^(\w+ )+Error: ", "", text.strip())
    text = re.sub(r"\s+", " ", text)
    text = text.strip()
    return text if len(text) <= 300 else text[:297] + "..."


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
    """Let DuckDB narrow wide numbers, so that one that does not fit fails on its row and not in a batch cast."""
    if pa.types.is_decimal(of):
        return f"CAST({sql} AS {'BIGINT' if of.scale == 0 else 'DOUBLE'})"
    if pa.types.is_uint64(of):
        return f"CAST({sql} AS BIGINT)"
    return sql


def _readable(field: pa.Field) -> pa.Field:
    """Instants are handed to DuckDB as plain UTC timestamps: no session time zone can change a result."""
    if pa.types.is_timestamp(field.type):
        return pa.field(field.name, pa.timestamp("us"))
    return pa.field(field.name, field.type)


def _visible(schema: pa.Schema) -> list[str]:
    return [name for name in schema.names if not name.startswith(HIDDEN)]


@lru_cache(maxsize=4096)
def _check_one(text: str, schema: pa.Schema) -> _Typed | str:
    """The typed expression, or what is wrong with it."""
    import duckdb

    parsed = _parse(text)
    if parsed.problem:
        return parsed.problem
    visible = _visible(schema)
    for name in parsed.columns:
        if name not in visible:
            return f"no column {name!r}; {candidates(name, visible, noun='columns')}"
    folded = {name.lower() for name in parsed.columns}
    if len(folded) < len(parsed.columns):
        return "two of its columns differ only in upper and lower case, which SQL cannot tell apart; rename one"
    if any(schema.names.count(name) > 1 for name in parsed.columns):
        return "one of its columns occurs twice in the table"
    used = [schema.field(name) for name in parsed.columns]
    empty = _operand(pa.schema(used).empty_table())
    try:
        found = cursor().from_arrow(empty).project(f"{_wrapped(text)} AS _apwa_0").to_arrow_table()
    except duckdb.Error as error:
        return _reworded(str(error))
    raw = found.schema.field(0).type
    settled = _settled(raw, utc=any(pa.types.is_timestamp(f.type) and f.type.tz for f in used))
    if settled is None:
        return f"its result has the type {raw}, which cannot be a column; cast it to text or a number"
    return _Typed(_cast(_wrapped(text), raw), parsed.columns, settled)


def _operand(table: pa.Table) -> pa.Table:
    """The table as DuckDB reads it; one that has no column gets a row counter."""
    table = table.cast(pa.schema([_readable(field) for field in table.schema]), safe=False)
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
    parsed = _parse(expression)
    if parsed.problem:
        raise PlanError(f"the expression is not valid: {parsed.problem}", where=expression[:200], code="PLAN-EXPRESSION")
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
    operand = _operand(table.select(used)) if used else pa.table({"_apwa_n": pa.nulls(table.num_rows, pa.int8())})
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
