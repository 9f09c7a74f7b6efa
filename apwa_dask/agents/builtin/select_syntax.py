"""The grammar of a tool's SELECT: one statement, every node of its syntax tree on a closed list.

The first of two walls, as for expressions (`apwa_dask.plans.expression_syntax`): the locked DuckDB, which can
reach no file, network, setting or Python variable, is the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import orjson
import pyarrow as pa

from apwa_dask.errors import candidates
from apwa_dask.plans._sandbox import cursor
from apwa_dask.plans.expression_syntax import reworded
from apwa_dask.plans.functions import AGGREGATES, FUNCTIONS, REASONS, SIZED

__all__ = ["objects_of", "refusal"]

_NODES = frozenset({"SELECT_NODE", "SET_OPERATION_NODE", "BASE_TABLE", "JOIN", "SUBQUERY", "EMPTY"})
_MODIFIERS = frozenset(
    {"LIMIT_MODIFIER", "ORDER_MODIFIER", "DISTINCT_MODIFIER", "ORDER_DEFAULT", "ASCENDING", "DESCENDING"}
)
_CLASSES = frozenset(
    (
        *("COLUMN_REF", "CONSTANT", "FUNCTION", "OPERATOR", "COMPARISON", "CONJUNCTION", "CASE", "CAST"),
        *("BETWEEN", "LAMBDA", "TYPE", "SUBQUERY", "STAR", "WINDOW"),
    )
)
_FUNCTIONS = (FUNCTIONS | AGGREGATES | {"unnest"}) - frozenset(SIZED)


def refusal(query: str, tables: Mapping[str, pa.Schema]) -> tuple[str, tuple[str, ...]]:
    """Why `query` may not run (empty when it may), and the `tables` it reads."""
    import duckdb

    if "\0" in query:
        return "NUL is no character of a query", ()
    try:
        text = cursor().execute("SELECT json_serialize_sql(?)", [query]).fetchall()[0][0]
        tree = orjson.loads(text)
    except (duckdb.Error, orjson.JSONDecodeError, UnicodeError):
        return "the query cannot be parsed", ()
    if tree["error"]:
        return reworded(tree.get("error_message", "syntax error")), ()
    statements = tree["statements"]
    if len(statements) != 1:
        return "one statement, please", ()
    named = set(_common_tables(statements))
    used: dict[str, None] = {}
    for node in objects_of(statements):
        problem = _expression_refusal(node) if "class" in node else _table_refusal(node, tables, named)
        if problem:
            return problem, ()
        if node.get("type") == "BASE_TABLE" and node["table_name"] not in named:
            used[str(node["table_name"])] = None
    return "", tuple(used)


def objects_of(root: Any) -> Iterator[dict[str, Any]]:
    """Every object of a tree, without recursion: syntax trees can be deep."""
    stack = [root]
    while stack:
        node = stack.pop()
        if isinstance(node, dict):
            yield node
            stack.extend(node.values())
        elif isinstance(node, list):
            stack.extend(node)


def _common_tables(statements: Any) -> Iterator[str]:
    """Names that WITH gives."""
    for node in objects_of(statements):
        entries = node.get("map")
        if isinstance(entries, list):
            yield from (entry["key"] for entry in entries if isinstance(entry, dict) and "key" in entry)


def _table_refusal(node: Mapping[str, Any], tables: Mapping[str, pa.Schema], named: set[str]) -> str:
    kind = node.get("type")
    if not isinstance(kind, str) or kind in _MODIFIERS or kind.endswith("_TYPE_INFO"):
        return ""
    if kind not in _NODES:
        return f"{kind.lower().replace('_', ' ')} is not allowed in a query"
    if node.get("sample"):
        return "a sample gives other rows each time; use LIMIT"
    if kind != "BASE_TABLE":
        return ""
    name = node["table_name"]
    if node.get("schema_name") or node.get("catalog_name") or node.get("at_clause"):
        return "tables are named alone, without a schema or a time"
    if name in tables or name in named:
        return ""
    return f"no table {name!r}; {candidates(name, tables, noun='tables')}"


def _expression_refusal(node: Mapping[str, Any]) -> str:
    kind = node["class"]
    if kind not in _CLASSES:
        return f"{str(kind).lower()} is not allowed in a query"
    if node.get("schema") or node.get("catalog"):
        return "write functions as f(x), without a schema"
    name = str(node.get("function_name") or "").lower()
    if kind not in ("FUNCTION", "WINDOW") or not name or name in _FUNCTIONS:
        return ""
    return (
        f"{name}() is not offered: {REASONS[name]}" if name in REASONS else f"{name}() is not a function here"
    )
