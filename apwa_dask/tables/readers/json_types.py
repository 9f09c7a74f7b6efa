"""Types of JSON values: observed value by value, merged by one rule, and checked when they are read back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from ..schema import MAX_NESTED_LEAVES, json_text

__all__ = ["Observed", "fits", "to_arrow"]

_INT64 = range(-(1 << 63), 1 << 63)
_EXACT_IN_A_DOUBLE = 1 << 53
_MAX_DEPTH = 16
_MAX_NESTED_KEYS = 4 * MAX_NESTED_LEAVES  # an object used as a map of ids would otherwise fill the memory


@dataclass
class Observed:
    """What was seen at one place of a document: scalar kinds, keys, items.

    The rule of merging: integers and numbers are numbers; objects take the union of their keys; anything
    else that disagrees is text (scalars as written, nested values as JSON text).
    """

    kinds: set[str] = field(default_factory=set)
    keys: dict[str, Observed] = field(default_factory=dict)
    items: Observed | None = None

    def see(self, value: Any, depth: int = 0) -> None:
        """Take note of one parsed value."""
        if value is None:
            return
        if depth > _MAX_DEPTH:
            json_text(value)  # what it will be read as; raises now where it is nested too deeply for that
            self.kinds.add("text")
        elif isinstance(value, dict):
            self.kinds.add("struct")
            if depth > 0 and len(self.keys) + len(value) > _MAX_NESTED_KEYS:
                self.kinds.add("text")
                return
            for key, inner in value.items():
                self.keys.setdefault(key, Observed()).see(inner, depth + 1)
        elif isinstance(value, list):
            self.kinds.add("list")
            self.items = self.items or Observed()
            for inner in value:
                self.items.see(inner, depth + 1)
        else:
            self.kinds.add(_scalar(value))

    def type(self) -> pa.DataType:
        """Return the Arrow type: null where no value was seen, string (JSON text) for too many leaves."""
        if not self.kinds:
            return pa.null()
        kind = self._type()
        return pa.string() if kind is None or self.leaves() > MAX_NESTED_LEAVES else kind

    def leaves(self) -> int:
        """Count scalar places."""
        if self.kinds == {"struct"}:
            return sum(inner.leaves() for inner in self.keys.values())
        return self.items.leaves() if self.kinds == {"list"} and self.items else 1

    def _type(self) -> pa.DataType | None:
        if self.kinds == {"struct"}:
            if not self.keys or any(not key for key in self.keys):
                return None
            return pa.struct([(key, inner._type() or pa.string()) for key, inner in self.keys.items()])
        if self.kinds == {"list"} and self.items is not None:
            return pa.list_(self.items._type() or pa.string())
        if self.kinds == {"boolean"}:
            return pa.bool_()
        if self.kinds and self.kinds <= {"integer", "wide integer"}:
            return pa.int64()
        if self.kinds and self.kinds <= {"integer", "number"}:
            return pa.float64()
        return None


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        if abs(value) <= _EXACT_IN_A_DOUBLE:
            return "integer"
        return "wide integer" if value in _INT64 else "text"
    return "number" if isinstance(value, float) else "text"


def fits(value: Any, kind: pa.DataType) -> bool:
    """Whether `value` can be stored as `kind` with nothing lost, unknown keys included."""
    if value is None or pa.types.is_string(kind):
        return True
    if pa.types.is_struct(kind):
        known = {inner.name: inner.type for inner in kind}
        return isinstance(value, dict) and all(
            key in known and fits(inner, known[key]) for key, inner in value.items()
        )
    if pa.types.is_list(kind):
        return isinstance(value, list) and all(fits(inner, kind.value_type) for inner in value)
    if pa.types.is_boolean(kind):
        return isinstance(value, bool)
    if pa.types.is_integer(kind):
        return isinstance(value, int) and not isinstance(value, bool) and value in _INT64
    if pa.types.is_floating(kind):
        if isinstance(value, float):
            return True
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _EXACT_IN_A_DOUBLE
    return isinstance(value, str)


def shaped(value: Any, kind: pa.DataType) -> Any:
    """Prepare a value for `kind`: nested values and scalars under a string become text."""
    if value is None:
        return None
    if pa.types.is_string(kind):
        return json_text(value)
    if pa.types.is_struct(kind):
        known = {inner.name: inner.type for inner in kind}
        return {key: shaped(inner, known[key]) for key, inner in value.items() if key in known}
    if pa.types.is_list(kind):
        return [shaped(inner, kind.value_type) for inner in value]
    if pa.types.is_floating(kind):
        return float(value)
    return value


def to_arrow(values: list[Any], kind: pa.DataType) -> pa.Array:
    """Build a column; strings are parsed where the declared type is a date or a timestamp.

    Raises
    ------
    pyarrow.ArrowInvalid
        When a value does not fit; see `fits` to find which.
    """
    if pa.types.is_temporal(kind) or pa.types.is_decimal(kind):
        return pa.array([json_text(value) for value in values], pa.string()).cast(kind)
    if pa.types.is_binary(kind):
        return pa.array([json_text(value) for value in values], pa.string()).cast(kind)
    return pa.array([shaped(value, kind) for value in values], kind)
