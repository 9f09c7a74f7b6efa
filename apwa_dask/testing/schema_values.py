"""Values that fit a JSON schema and derive from the hash of a text: same text and schema, same value."""

from __future__ import annotations

import hashlib
import math
import re
import uuid
from itertools import zip_longest
from typing import Any

__all__ = ["SchemaNotScripted", "resolve", "row_property", "schema_value"]

ROW_NAMES = ("row", "row_id", "rowid", "id", "item", "index")
MAX_DEPTH = 8
_WORDS = ("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "harbor")


class SchemaNotScripted(ValueError):
    """The schema uses a keyword for which no value can be made; give the answer by a rule instead."""


def schema_value(schema: dict[str, Any], text: str, prompt: str, row_id: str) -> Any:
    """Make a JSON value for `schema`.

    Parameters
    ----------
    schema : dict
        JSON schema with local ``$ref`` only.
    text : str
        The text whose sha256 decides every value.
    prompt : str
        Searched for the numbers of rows when `text` lists none.
    row_id : str
        Regular expression whose first group is a row's number. An array whose items carry an integer property
        called row, id or alike gets one item a number; the item's values derive from that row's own text, so
        they do not depend on its neighbours.

    Raises
    ------
    SchemaNotScripted
        For ``pattern``, ``multipleOf`` of a float, remote references and unknown types.
    """
    rows = _rows(text, row_id) or _rows(prompt, row_id)
    return _Maker(schema, rows).value(schema, text, "$")


def resolve(schema: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    """Follow local references until a schema stands there."""
    while "$ref" in schema:
        path = schema["$ref"]
        if not path.startswith("#"):
            raise SchemaNotScripted(f"reference {path!r} is not local")
        target: Any = root
        for part in path.lstrip("#/").split("/"):
            target = target[part] if part else target
        schema = target
    return schema


def row_property(items: dict[str, Any], root: dict[str, Any]) -> str | None:
    """Name of the integer property that numbers a row, if these items have one."""
    properties = items.get("properties", {})
    for name in ROW_NAMES:
        if name in properties and resolve(properties[name], root).get("type") == "integer":
            return name
    return None


def _rows(text: str, row_id: str) -> dict[int, str]:
    marks = list(re.finditer(row_id, text))
    rows: dict[int, str] = {}
    for mark, following in zip_longest(marks, marks[1:]):
        end = len(text) if following is None else following.start()
        rows.setdefault(int(mark.group(1)), text[mark.end() : end].strip())
    return rows


class _Maker:
    def __init__(self, root: dict[str, Any], rows: dict[int, str]) -> None:
        self.root, self.rows = root, rows

    def value(self, schema: dict[str, Any], seed: str, path: str) -> Any:
        schema = resolve(schema, self.root)
        if "const" in schema:
            return schema["const"]
        pick = _hash(seed, path)
        if "enum" in schema:
            return schema["enum"][pick % len(schema["enum"])]
        branches = schema.get("anyOf") or schema.get("oneOf")
        if branches:
            branches = self._scripted(branches, path)
            return self.value(branches[pick % len(branches)], seed, path + "|")
        if "allOf" in schema:
            merged: dict[str, Any] = {k: v for k, v in schema.items() if k != "allOf"}
            for part in schema["allOf"]:
                merged = {**merged, **resolve(part, self.root)}
            return self.value(merged, seed, path)
        kind = schema.get("type", "object" if "properties" in schema else "string")
        if isinstance(kind, list):
            kind = kind[pick % len(kind)]
        return self._typed(kind, schema, seed, path, pick)

    def _scripted(self, branches: list[dict[str, Any]], path: str) -> list[dict[str, Any]]:
        """The branches for which a value can be made; below MAX_DEPTH only those that end a recursion."""
        resolved = [resolve(branch, self.root) for branch in branches]
        fit = [branch for branch in resolved if "pattern" not in branch]
        if _depth(path) > MAX_DEPTH:
            fit = [branch for branch in fit if branch.get("type") not in ("object", "array")] or fit
        return fit or resolved

    def _typed(self, kind: str, schema: dict[str, Any], seed: str, path: str, pick: int) -> Any:
        if kind == "object":
            properties = schema.get("properties", {})
            return {name: self.value(part, seed, f"{path}.{name}") for name, part in properties.items()}
        if kind == "array":
            return self._array(schema, seed, path, pick)
        if kind == "integer":
            return _integer(schema, pick)
        if kind == "number":
            return _number(schema, pick)
        if kind == "boolean":
            return bool(pick % 2)
        if kind == "null":
            return None
        if kind == "string":
            return _string(schema, pick)
        raise SchemaNotScripted(f"type {kind!r} at {path}")

    def _array(self, schema: dict[str, Any], seed: str, path: str, pick: int) -> list[Any]:
        items = resolve(schema.get("items", {"type": "string"}), self.root)
        numbered = row_property(items, self.root)
        if numbered is not None and self.rows:
            made = []
            for number, text in self.rows.items():
                item = self.value(items, text, "$row")
                item[numbered] = number
                made.append(item)
            return made
        deep = _depth(path) > MAX_DEPTH
        least = schema.get("minItems", 0 if deep else min(1, schema.get("maxItems", 1)))
        most = least if deep else min(schema.get("maxItems", least + 2), least + 2)
        return [self.value(items, seed, f"{path}[{i}]") for i in range(least + pick % (most - least + 1))]


def _depth(path: str) -> int:
    return path.count(".") + path.count("[")


def _hash(seed: str, path: str) -> int:
    digest = hashlib.sha256(f"{seed}\0{path}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big")


def _integer(schema: dict[str, Any], pick: int) -> int:
    low, high = _bounds(schema, default_span=99.0, step=1.0)
    step = int(schema.get("multipleOf", 1))
    first, last = math.ceil(low / step), math.floor(high / step)
    if first > last:
        raise SchemaNotScripted(f"no integer fits {schema}")
    return (first + pick % (last - first + 1)) * step


def _number(schema: dict[str, Any], pick: int) -> float:
    if "multipleOf" in schema:
        raise SchemaNotScripted("multipleOf of a number that is not an integer: give the answer by a rule")
    low, high = _bounds(schema, default_span=1.0, step=1e-3)
    return min(high, max(low, round(low + (high - low) * (pick % 1001) / 1000, 3)))


def _bounds(schema: dict[str, Any], *, default_span: float, step: float) -> tuple[float, float]:
    low, high = schema.get("minimum"), schema.get("maximum")
    if (above := schema.get("exclusiveMinimum")) is not None:
        low = above + step if low is None else max(low, above + step)
    if (below := schema.get("exclusiveMaximum")) is not None:
        high = below - step if high is None else min(high, below - step)
    if low is None:
        low = 0.0 if high is None or high >= 0 else high - default_span
    return low, low + default_span if high is None else high


def _string(schema: dict[str, Any], pick: int) -> str:
    if "pattern" in schema:
        raise SchemaNotScripted(f"pattern {schema['pattern']!r}: give the answer by a rule")
    day = f"20{pick % 30:02d}-{pick % 12 + 1:02d}-{pick % 28 + 1:02d}"
    clock = f"{pick % 24:02d}:{pick % 60:02d}:00"
    hexadecimal = f"{pick:016x}"
    formats: dict[str, str] = {
        "date": day,
        "time": f"{clock}Z",
        "date-time": f"{day}T{clock}Z",
        "email": f"{hexadecimal[:8]}@example.com",
        "uri": f"https://example.com/{hexadecimal[:8]}",
        "uuid": str(uuid.UUID(int=pick, version=4)),
        "duration": f"PT{pick % 60 + 1}M",
    }
    text: str = formats.get(schema.get("format", ""), f"{_WORDS[pick % len(_WORDS)]}-{hexadecimal[:6]}")
    least: int = schema.get("minLength", 0)
    most: int | None = schema.get("maxLength")
    text = text + "x" * (least - len(text))
    return text if most is None else text[:most]
