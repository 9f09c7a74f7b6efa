"""The JSON schema of a whole plan, narrowed to one catalogue: a table or column that is not there cannot be
written.

Only keywords that strict decoders accept are used: every property is required, nothing else is allowed, and
mappings with free keys are lists of entries. Columns of the tables are an enumeration; a column that a step
makes is written ``{"made": "name"}``, so a source column cannot be invented by a slip.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from apwa_dask.manager.reference import UNITS, planned_fields
from apwa_dask.plans.infer import visible
from apwa_dask.plans.loading import OPERATIONS
from apwa_dask.plans.steps import Aggregation

__all__ = ["FIELD_KINDS", "MOST_STEPS", "Json", "plan_schema", "step_number"]

Json = dict[str, Any]

MOST_STEPS = 12
_MOST_ENUMERATED = 400
"""Strict decoders take some hundred enumerated values; columns of wider tables are checked afterwards."""

_LENDS = ("map", "filter", "flat_map")
"""Operations whose agents may have tools: those that read one row at a time."""

_IDENTIFIER = "^[A-Za-z][A-Za-z0-9_]{0,62}$"
_SCALARS = ["string", "integer", "number", "boolean", "date", "datetime"]
FIELD_KINDS = [*_SCALARS, *(f"list of {kind}" for kind in _SCALARS), "object", "list of object"]


def plan_schema(schemas: dict[str, pa.Schema], tools: Sequence[str] = ()) -> Json:
    """JSON Schema of the planner's answer: ``refusal`` or ``steps``.

    Parameters
    ----------
    schemas : dict of str to pyarrow.Schema
        Tables by alias.
    tools : sequence of str
        Registered capabilities that steps may use.
    """
    operations = [_operation(op) for op in OPERATIONS if op in _offered(schemas)]
    if tools:
        operations += [_with_tools(op, list(tools), list(schemas)) for op in _LENDS]
    root = _object(
        refusal=_nullable("string"),
        steps={"type": "array", "maxItems": MOST_STEPS, "items": {"anyOf": operations}},
    )
    return {**root, "$defs": _definitions(schemas)}


def step_number(reference: str) -> int | None:
    """``#3`` is the third step; None for the name of a table."""
    return int(reference[1:]) if reference[:1] == "#" and reference[1:].isdigit() else None


def _offered(schemas: dict[str, pa.Schema]) -> set[str]:
    several = len(schemas) > 1
    return {op for op in OPERATIONS if several or op != "concat"}


def _definitions(schemas: dict[str, pa.Schema]) -> Json:
    tables = list(schemas)
    columns = list(dict.fromkeys(f.name for schema in schemas.values() for f in visible(schema)))
    few = len(columns) <= _MOST_ENUMERATED
    existing: Json = {"type": "string", "enum": columns} if few and columns else {"type": "string"}
    return {
        "input": {"type": "string", "enum": [*tables, *(f"#{n}" for n in range(1, MOST_STEPS))]},
        "column": {"anyOf": [existing, _object(made={"type": "string", "pattern": _IDENTIFIER})]},
        "leaf": _field(members=None),
        "field": _field(members="leaf"),
        "output": _field(members="field"),
    }


def _field(members: str | None) -> Json:
    kinds = FIELD_KINDS if members else [kind for kind in FIELD_KINDS if "object" not in kind]
    properties: Json = {
        "name": {"type": "string", "pattern": _IDENTIFIER},
        "type": {"type": "string", "enum": kinds},
        "description": {"type": "string"},
        "nullable": {"type": "boolean"},
        "labels": {
            "anyOf": [
                _list(_object(label={"type": "string"}, meaning={"type": "string"})),
                {"type": "null"},
            ]
        },
    }
    if members:
        properties["fields"] = {"anyOf": [_list(_ref(members)), {"type": "null"}]}
    return _object(**properties)


def _with_tools(op: str, tools: list[str], tables: list[str]) -> Json:
    """The operation for agents with tools, one row at a time; tables that they may look into are lent."""
    shape = _operation(op)
    fields = {**shape["properties"], "unit": _choices(["row"])}
    fields["tools"] = _list({"type": "string", "enum": tools}, at_least=1)
    if len(tables) > 1:
        fields["tables"] = _list({"type": "string", "enum": tables})
    return _object(**fields)


def _operation(op: str) -> Json:
    fields = {
        name: _NODES.get((op, name)) or _NODES.get(name) or _shape(op, name) for name in planned_fields(op)
    }
    if "unit" in fields:
        fields["unit"] = _choices(UNITS[op])
    return _object(
        reason={"type": "string"},
        op={"type": "string", "enum": [op]},
        input=_ref("input"),
        **fields,
    )


def _shape(op: str, name: str) -> Json:
    """Of a field that has no shape of its own: by its type; a list of texts is one of columns."""
    annotation = OPERATIONS[op].model_fields[name].annotation
    parts = typing.get_args(annotation)
    if typing.get_origin(annotation) is typing.Literal:
        return _choices(parts)
    if typing.get_origin(annotation) is tuple and parts[0] is str:
        return _COLUMNS
    if typing.get_origin(annotation) in (types.UnionType, typing.Union) and type(None) in parts:
        (kind,) = [part for part in parts if part is not type(None)]
        return _nullable(_KINDS[kind])
    return {"type": _KINDS[annotation]}


def _object(**properties: Json) -> Json:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _ref(name: str) -> Json:
    return {"$ref": f"#/$defs/{name}"}


def _list(items: Json, at_least: int = 0) -> Json:
    return {"type": "array", "items": items, **({"minItems": at_least} if at_least else {})}


def _nullable(kind: str) -> Json:
    return {"anyOf": [{"type": kind}, {"type": "null"}]}


def _choices(values: Any) -> Json:
    return {"type": "string", "enum": list(values)}


_KINDS: dict[Any, str] = {str: "string", int: "integer", float: "number", bool: "boolean"}
_TEXT: Json = {"type": "string"}
_NAME: Json = {"type": "string", "pattern": _IDENTIFIER}
_COLUMN = _ref("column")
_COLUMNS = _list(_COLUMN)
_FUNCTIONS = Aggregation.model_fields["fn"].annotation.__args__  # type: ignore[union-attr]

_NODES: dict[Any, Json] = {
    "instruction": _TEXT,
    "unit": _TEXT,
    "inputs": _list(_COLUMN, at_least=1),
    "condition": _TEXT,
    ("join", "condition"): _nullable("string"),
    ("resolve", "condition"): _nullable("string"),
    ("join", "left_on"): _COLUMNS,
    ("join", "right_on"): _COLUMNS,
    "output": _list(_ref("output"), at_least=1),
    "by": _COLUMNS,
    "max_rows": {"type": "integer"},
    ("assign", "columns"): _list(_object(name=_NAME, expression=_TEXT), at_least=1),
    ("select", "columns"): _list(_COLUMN, at_least=1),
    ("select", "rename"): _list(_object(column=_COLUMN, name=_NAME)),
    ("distinct", "columns"): _COLUMNS,
    "column": _COLUMN,
    "tokens": {"type": "integer"},
    "overlap_tokens": {"type": "integer"},
    "aggregates": _list(
        _object(
            name=_NAME,
            fn=_choices(_FUNCTIONS),
            column={"anyOf": [_COLUMN, {"type": "null"}]},
        ),
        at_least=1,
    ),
    ("sort", "by"): _list(_object(column=_COLUMN, descending={"type": "boolean"}), at_least=1),
    "n": {"type": "integer"},
    ("sample", "n"): _nullable("integer"),
    "max_levels": _nullable("integer"),
    "right": _ref("input"),
    "left_on": _list(_COLUMN, at_least=1),
    "right_on": _list(_COLUMN, at_least=1),
    "others": _list(_ref("input"), at_least=1),
}
"""Shape of each field, by its name or by operation and name; others have the shape of their type."""
