"""Output schemas: what a model must answer, in one small language with four faces.

A `Schema` is an ordered set of named `Field`s. It has one meaning in JSON Schema (what the endpoint decodes
under), Arrow (what is stored), pandas (what the user gets) and YAML (what the user writes).
"""

from __future__ import annotations

import datetime as dt
import enum
import types
import typing
from collections.abc import Hashable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, model_serializer, model_validator

from apwa_dask.errors import PlanError, candidates

__all__ = ["FIELD_TYPES", "Field", "FieldType", "Schema"]

FieldType = Literal["string", "integer", "number", "boolean", "date", "datetime", "list", "object"]
FIELD_TYPES: tuple[str, ...] = typing.get_args(FieldType)

_PYTHON_TYPES: dict[Any, FieldType] = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    dt.date: "date",
    dt.datetime: "datetime",
}
_ARROW_TYPES: dict[str, pa.DataType] = {
    "string": pa.string(),
    "integer": pa.int64(),
    "number": pa.float64(),
    "boolean": pa.bool_(),
    "date": pa.date32(),
    "datetime": pa.timestamp("us", tz="UTC"),
}


class Field(BaseModel):
    """One named value of an answer.

    Parameters
    ----------
    name : str
        Column name; a Python identifier that does not start with ``_apwa``.
    type : str
        One of ``FIELD_TYPES``.
    description : str
        Shown to the model.
    labels : dict of str to str, optional
        Closed set of answers with a description each (strings only); small models need the descriptions.
    items : Field, optional
        Element of a ``list``.
    fields : tuple of Field
        Members of an ``object``.
    minimum, maximum : float, optional
        Bounds of a number, inclusive.
    nullable : bool
        The model may answer null ("not in the text").
    """

    model_config = ConfigDict(extra="forbid", frozen=True, ignored_types=(cached_property,))

    name: str
    type: FieldType = "string"
    description: str = ""
    labels: dict[str, str] | None = None
    items: Field | None = None
    fields: tuple[Field, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    nullable: bool = False

    @model_validator(mode="before")
    @classmethod
    def _read_shorthand(cls, spec: Any) -> Any:
        if not isinstance(spec, Mapping):
            return spec
        spec = dict(spec)
        name = spec.get("name", "")
        if isinstance(spec.get("labels"), (list, tuple)):
            spec["labels"] = {str(label): "" for label in spec["labels"]}
        if spec.get("items") is not None and not isinstance(spec["items"], Field):
            spec["items"] = _field("item", spec["items"])
        members = spec.get("fields")
        if isinstance(members, Mapping):
            spec["fields"] = tuple(_field(member, of) for member, of in members.items())
        kind = spec.get("type", "string")
        if not isinstance(kind, str):
            return {**_from_python(name, kind), **{k: v for k, v in spec.items() if k != "type"}}
        if kind.endswith("?"):
            spec |= {"type": kind[:-1], "nullable": True}
        elif kind.startswith("list[") and kind.endswith("]"):
            spec |= {"type": "list", "items": _field("item", kind[5:-1])}
        return spec

    @model_validator(mode="after")
    def _check(self) -> Field:
        if not self.name.isidentifier() or self.name.startswith("_apwa"):
            raise ValueError(
                f"{self.name!r} is not a usable column name: letters, digits and _, not starting with _apwa"
            )
        if self.type == "list" and self.items is None:
            raise ValueError(f"list field {self.name!r} needs items")
        if self.type == "object" and not self.fields:
            raise ValueError(f"object field {self.name!r} needs fields")
        if self.labels is not None and (self.type != "string" or not self.labels):
            raise ValueError(f"labels of {self.name!r} need type string and at least one label")
        return self

    @model_serializer
    def _write_shorthand(self) -> dict[str, Any]:
        spec: dict[str, Any] = {"name": self.name, "type": self.type}
        if self.description:
            spec["description"] = self.description
        if self.labels is not None:
            spec["labels"] = dict(self.labels)
        if self.items is not None:
            spec["items"] = {k: v for k, v in self.items.model_dump().items() if k != "name"}
        if self.fields:
            spec["fields"] = {
                f.name: {k: v for k, v in f.model_dump().items() if k != "name"} for f in self.fields
            }
        if self.minimum is not None:
            spec["minimum"] = self.minimum
        if self.maximum is not None:
            spec["maximum"] = self.maximum
        if self.nullable:
            spec["nullable"] = True
        return spec

    def json_schema(self) -> dict[str, Any]:
        """JSON Schema of this value, in the subset that strict decoders accept."""
        node: dict[str, Any]
        if self.type == "list":
            assert self.items is not None
            node = {"type": "array", "items": self.items.json_schema()}
        elif self.type == "object":
            node = _object_schema(self.fields)
        elif self.labels is not None:
            node = {"type": "string", "enum": list(self.labels)}
        elif self.type in ("date", "datetime"):
            node = {"type": "string", "format": "date" if self.type == "date" else "date-time"}
        else:
            node = {"type": self.type}
        if self.type in ("integer", "number"):
            if self.minimum is not None:
                node["minimum"] = int(self.minimum) if self.type == "integer" else self.minimum
            if self.maximum is not None:
                node["maximum"] = int(self.maximum) if self.type == "integer" else self.maximum
        if self.description:
            node["description"] = self.description
        if not self.nullable:
            return node
        if "enum" in node:
            return {**node, "type": ["string", "null"], "enum": [*node["enum"], None]}
        return {**node, "type": [node["type"], "null"]}

    def arrow_type(self) -> pa.DataType:
        """The stored Arrow type."""
        if self.type == "list":
            assert self.items is not None
            return pa.list_(self.items.arrow_type())
        if self.type == "object":
            return pa.struct([pa.field(f.name, f.arrow_type()) for f in self.fields])
        return _ARROW_TYPES[self.type]


class Schema(BaseModel):
    """Ordered fields; written in YAML and in Python as a mapping of name to type or field.

    Examples
    --------
    >>> Schema.of({"severity": int, "product": "string?"}).names
    ('severity', 'product')
    """

    model_config = ConfigDict(extra="forbid", frozen=True, ignored_types=(cached_property,))

    fields: tuple[Field, ...]

    @classmethod
    def of(cls, spec: Schema | Mapping[str, Any] | type[BaseModel]) -> Schema:
        """Read a schema from a mapping, a pydantic model class, or a Schema.

        Raises
        ------
        PlanError
            A field has no meaning here; the message names it and the known types.
        """
        if isinstance(spec, Schema):
            return spec
        if isinstance(spec, type) and issubclass(spec, BaseModel):
            return cls(fields=tuple(_from_pydantic(spec)))
        if isinstance(spec, Mapping):
            return cls(fields=tuple(_field(name, of) for name, of in spec.items()))
        raise PlanError(
            f"an output schema cannot be made from {type(spec).__name__}",
            fix='give a mapping such as {"severity": int} or a pydantic model class',
            code="PLAN-SCHEMA",
        )

    @model_validator(mode="before")
    @classmethod
    def _read_mapping(cls, spec: Any) -> Any:
        if isinstance(spec, Mapping) and not (
            set(spec) == {"fields"} and isinstance(spec["fields"], (list, tuple))
        ):
            return {"fields": tuple(_field(name, of) for name, of in spec.items())}
        return spec

    @model_validator(mode="after")
    def _check(self) -> Schema:
        if not self.fields:
            raise ValueError("an output schema needs at least one field")
        if len(set(self.names)) < len(self.fields):
            raise ValueError(f"a field name occurs twice: {', '.join(self.names)}")
        return self

    @model_serializer
    def _write_mapping(self) -> dict[str, Any]:
        return {f.name: {k: v for k, v in f.model_dump().items() if k != "name"} for f in self.fields}

    def __iter__(self) -> Iterator[Field]:  # type: ignore[override]
        return iter(self.fields)

    def __len__(self) -> int:
        return len(self.fields)

    @property
    def names(self) -> tuple[str, ...]:
        """Field names in order."""
        return tuple(f.name for f in self.fields)

    def json_schema(self) -> dict[str, Any]:
        """The strict JSON Schema of one answer: an object with exactly these fields."""
        return _object_schema(self.fields)

    def arrow(self) -> pa.Schema:
        """The stored Arrow schema, one nullable column a field."""
        return pa.schema([pa.field(f.name, f.arrow_type()) for f in self.fields])


def _object_schema(fields: tuple[Field, ...]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {f.name: f.json_schema() for f in fields},
        "required": [f.name for f in fields],
        "additionalProperties": False,
    }


def _field(name: str, spec: Any) -> Field:
    if isinstance(spec, Field):
        return spec if spec.name == name else spec.model_copy(update={"name": name})
    if isinstance(spec, Mapping):
        return Field.model_validate({**spec, "name": name})
    if isinstance(spec, str):
        known = spec.rstrip("?")
        if known not in FIELD_TYPES and not known.startswith("list["):
            raise PlanError(
                f"{spec!r} is no type for field {name!r}",
                fix=candidates(known, FIELD_TYPES, noun="types"),
                code="PLAN-SCHEMA",
            )
        return Field.model_validate({"name": name, "type": spec})
    return Field.model_validate(_from_python(name, spec))


def _from_python(name: str, annotation: Any) -> dict[str, Any]:
    """Field of a Python annotation: str, int, Optional, list[...], Literal, Enum, pydantic model; or of the
    labels themselves, ``["low", "high"]``, which mean the same as their Literal.
    """
    if isinstance(annotation, (list, tuple)):
        return {"name": name, "type": "string", "labels": _labels(name, annotation)}
    if not isinstance(annotation, Hashable):
        raise _no_type(name, annotation)
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in _PYTHON_TYPES:
        return {"name": name, "type": _PYTHON_TYPES[annotation]}
    if origin in (typing.Union, types.UnionType):
        inner = [a for a in args if a is not type(None)]
        if len(inner) == 1:
            return {**_from_python(name, inner[0]), "nullable": len(inner) < len(args)}
    if origin is Literal and all(isinstance(a, str) for a in args):
        return {"name": name, "type": "string", "labels": dict.fromkeys(args, "")}
    if origin in (list, tuple, set) and args:
        return {"name": name, "type": "list", "items": Field.model_validate(_from_python("item", args[0]))}
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return {"name": name, "type": "string", "labels": {str(m.value): "" for m in annotation}}
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {"name": name, "type": "object", "fields": tuple(_from_pydantic(annotation))}
    raise _no_type(name, annotation)


def _no_type(name: str, annotation: Any) -> PlanError:
    return PlanError(
        f"field {name!r} has the type {annotation!r}, which a model's answer cannot have",
        fix=f"use one of {', '.join(FIELD_TYPES)}, a list of labels, a Literal, an Enum, list[...] "
        "or a pydantic model",
        code="PLAN-SCHEMA",
    )


def _labels(name: str, spec: Sequence[Any]) -> dict[str, str]:
    if spec and all(isinstance(label, str) for label in spec):
        return dict.fromkeys(spec, "")
    raise PlanError(
        f"the labels of field {name!r} are {spec!r}",
        why="a list stands for a closed set of answers, each a text",
        fix=f'give texts, such as {{"{name}": ["low", "high"]}} (in YAML quote "yes", "no" and numbers); '
        'a list of values is list[str] or "list[string]"',
        code="PLAN-SCHEMA",
    )


def _from_pydantic(model: type[BaseModel]) -> Iterator[Field]:
    for name, info in model.model_fields.items():
        spec = _from_python(name, info.annotation)
        bounds: dict[str, float] = {}
        for rule in info.metadata:
            for attribute, bound in (("ge", "minimum"), ("le", "maximum")):
                if getattr(rule, attribute, None) is not None:
                    bounds[bound] = float(getattr(rule, attribute))
        yield Field.model_validate({**spec, **bounds, "description": info.description or ""})
