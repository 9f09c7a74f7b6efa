"""The grammar of expressions: one scalar SQL expression, every node of its syntax tree on a closed list.

DuckDB's own parser makes the tree, so what is checked here is what runs. Nothing is bound or computed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import orjson

from apwa_dask.errors import candidates
from apwa_dask.plans._sandbox import cursor
from apwa_dask.plans.functions import AGGREGATES, FUNCTIONS, MAX_SIZE, REASONS, SIZED

__all__ = [
    "MAX_CHARS",
    "Parsed",
    "canonical",
    "columns_in",
    "parse",
    "reworded",
    "source_of",
    "tree_of",
    "wrapped",
]

MAX_CHARS = 20_000
_NOWHERE = 2**64 - 1
"""DuckDB's mark for a part that has no place in the text."""

_CLASSES = frozenset(
    (
        *("COLUMN_REF", "CONSTANT", "FUNCTION", "OPERATOR", "COMPARISON", "CONJUNCTION"),
        *("CASE", "CAST", "BETWEEN", "LAMBDA", "TYPE"),
    )
)
_OPERATORS = frozenset(
    (
        *("OPERATOR_IS_NULL", "OPERATOR_IS_NOT_NULL", "OPERATOR_NOT", "OPERATOR_TRY", "OPERATOR_COALESCE"),
        *("OPERATOR_NULLIF", "OPERATOR_CAST", "COMPARE_IN", "COMPARE_NOT_IN", "ARRAY_EXTRACT", "ARRAY_SLICE"),
        *("STRUCT_EXTRACT", "ARRAY_CONSTRUCTOR"),
    )
)
_REFUSED = {
    "SUBQUERY": "subqueries are not allowed; an expression sees one row (x IN (1, 2) is fine)",
    "WINDOW": "window functions are not allowed; an expression sees one row",
    "STAR": "* and COLUMNS() are not allowed; name the columns",
    "PARAMETER": "parameters (? and $1) are not allowed; write the value",
    "COLLATE": "COLLATE is not allowed; compare lower(...) of both sides",
    "DEFAULT": "DEFAULT is not a value here",
    "POSITIONAL_REFERENCE": "columns are named, not numbered",
}


@dataclass(frozen=True, slots=True)
class Parsed:
    columns: tuple[str, ...]
    problem: str = ""


def wrapped(text: str) -> str:
    # The newline ends a trailing "--" comment; the parentheses hold one expression and no more.
    return f"(\n{text}\n)"


def _serialize(text: str) -> dict[str, Any]:
    # fetchall, not fetchone: an unfinished result would block the cursor for the next statement.
    rows = cursor().execute("SELECT json_serialize_sql(?)", [f"SELECT {wrapped(text)}"]).fetchall()
    parsed: dict[str, Any] = orjson.loads(rows[0][0])
    return parsed


@lru_cache(maxsize=1)
def _plain_select() -> dict[str, Any]:
    """Every part of a SELECT but its list, as it looks when nothing is written there."""
    return _frame_of(_serialize("1")["statements"][0])


def _frame_of(statement: dict[str, Any]) -> dict[str, Any]:
    node = {key: part for key, part in statement["node"].items() if key != "select_list"}
    return {**statement, "node": node}


def tree_of(text: str) -> dict[str, Any]:
    """Syntax tree of an expression that `parse` takes."""
    tree: dict[str, Any] = _serialize(text)["statements"][0]["node"]["select_list"][0]
    return tree


def columns_in(tree: dict[str, Any]) -> tuple[str, ...]:
    """Columns that a part of a checked tree reads, each once."""
    return tuple(dict.fromkeys(value for kind, value in _walk(tree) if kind == "column"))


def canonical(tree: dict[str, Any]) -> str:
    """A part of a checked tree as DuckDB writes it."""
    plain = _plain_select()
    statement = {**plain, "node": {**plain["node"], "select_list": [tree]}}
    document = orjson.dumps({"error": False, "statements": [statement]}).decode()
    rows = cursor().execute("SELECT json_deserialize_sql(?::JSON)", [document]).fetchall()
    return str(rows[0][0]).removeprefix("SELECT ")


def source_of(tree: dict[str, Any], text: str) -> str:
    """A part as the user wrote it in `text`; as DuckDB would write it where that cannot be told."""
    written = canonical(tree)
    places = list(_places(tree))
    start, end = min((low for low, _ in places), default=0), max((high for _, high in places), default=0)
    cut = f"SELECT {wrapped(text)}".encode()[start:end].decode(errors="replace").strip()
    if cut and not parse(cut).problem and canonical(tree_of(cut)) == written:
        return " ".join(cut.split()) if "'" not in cut else cut
    return written[1:-1] if written[:1] == "(" and not parse(written[1:-1]).problem else written


def _places(root: Any) -> Iterator[tuple[int, int]]:
    """Where the parts of a tree stand in the statement, in bytes."""
    stack = [root]
    while stack:
        node = stack.pop()
        if isinstance(node, dict):
            start, length = node.get("query_location", _NOWHERE), node.get("query_location_length", 0)
            if "class" in node and start < _NOWHERE:
                yield start, start + length
            stack.extend(node.values())
        elif isinstance(node, list):
            stack.extend(node)


@lru_cache(maxsize=4096)
def parse(text: str) -> Parsed:
    """Columns that `text` reads, or why it is refused. Never raises for the text's sake."""
    import duckdb

    if not text.strip():
        return Parsed((), "the expression is empty")
    if len(text) > MAX_CHARS or "\0" in text:
        return Parsed((), f"an expression has at most {MAX_CHARS:,} characters, none of them NUL")
    try:
        tree = _serialize(text)
    except (duckdb.Error, orjson.JSONDecodeError, UnicodeError):
        return Parsed(
            (), "the expression cannot be parsed: it is nested too deeply or has unpaired surrogates"
        )
    if tree["error"]:
        return Parsed((), reworded(tree.get("error_message", "syntax error")))
    statements = tree["statements"]
    if len(statements) != 1 or _frame_of(statements[0]) != _plain_select():
        return Parsed(
            (), "only one scalar expression is allowed: no FROM, WHERE, WITH, UNION or second statement"
        )
    items = statements[0]["node"]["select_list"]
    if len(items) != 1:
        return Parsed((), "only one expression is allowed here, not a list of them")
    found: dict[str, None] = {}
    for kind, value in _walk(items[0]):
        if kind == "problem":
            return Parsed((), value)
        found[value] = None
    return Parsed(tuple(found))


def _walk(root: Any) -> Iterator[tuple[str, str]]:
    """Yield ("column", name) and ("problem", text), without recursion: syntax trees can be deep."""
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
        stack.extend(
            (part, bound) for part in reversed(list(node.values())) if isinstance(part, (dict, list))
        )


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
        prefix = node.get("schema") or node.get("catalog")
        return f"{prefix}.{node.get('function_name', '')}: write functions as f(x), not x.f()"
    if kind == "OPERATOR" and node["type"] not in _OPERATORS:
        return f"{node['type'].lower()} is not allowed in an expression"
    if kind == "FUNCTION":
        return _function_refusal(node)
    return ""


def _function_refusal(node: dict[str, Any]) -> str:
    name = node["function_name"].lower()
    if name in AGGREGATES:
        shown = "count" if name == "count_star" else name
        return (
            f"{shown}() is over many rows; use an aggregate step (over the elements of a list: list_{shown})"
        )
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
    return (
        hint.split("functions:")[0].strip()
        or "scalar functions of DuckDB that read no file, setting or clock"
    )


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


def reworded(message: str) -> str:
    """DuckDB's message without its position marks and class prefix. Only for errors found without rows."""
    text = message.split("\n\nLINE")[0].split("\nLINE")[0]
    text = re.split(r"Candidate (?:functions|bindings|Entries):|Use \"SET |Please transition", text)[0]
    text = re.sub(r"^(\w+ )+Error: ", "", text.strip())
    text = re.sub(r"\s+", " ", text)
    text = text.strip()
    return text if len(text) <= 300 else text[:297] + "..."
