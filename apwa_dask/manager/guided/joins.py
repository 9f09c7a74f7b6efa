"""Which tables a small model may join, and on which columns: only what their names and values speak for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from apwa_dask.manager.briefing import Tables
from apwa_dask.manager.guided.sketch import Sketch, quoted_name
from apwa_dask.plans.infer import is_text, output_schema, visible
from apwa_dask.plans.loading import OPERATIONS
from apwa_dask.tables.profile import ColumnProfile, Profile

__all__ = ["Keys", "join", "key_pairs", "partners", "ways"]

MOST_PAIRS = 8
_KEY_TOKENS = 12
"""Longer texts are no keys."""

_REASON = "the question is about both tables"
_ABSENT = re.compile(r"\b(?:no|never|not|without|none|neither|nobody|n't)\b", re.IGNORECASE)
_SOME = re.compile(r"\b(?:at least one|ever)\b", re.IGNORECASE)
_EVEN = re.compile(
    r"\b(?:even (?:if|those|where)|including|also those|whether or not|with or without)\b", re.IGNORECASE
)
_PLAIN = frozenset({"id", "key", "code", "name", "number", "nr"})


@dataclass(frozen=True, slots=True)
class Keys:
    """Columns of two tables that may hold the same values."""

    left: str
    right: str
    weight: int

    def words(self, left: str, right: str) -> str:
        """``sales.car_id = cars.id``"""
        return f"{left}.{self.left} = {right}.{self.right}"


def partners(tables: Tables) -> dict[str, list[str]]:
    """Tables that each table can be joined with."""
    return {
        left: [right for right in tables if right != left and key_pairs(left, right, tables)]
        for left in tables
    }


def key_pairs(left: str, right: str, tables: Tables) -> list[Keys]:
    """Pairs of columns of one type whose names or values belong together, the likeliest first."""
    found = [
        Keys(one.name, other.name, weight)
        for one in _keyed(*tables[left])
        for other in _keyed(*tables[right])
        if (weight := _weight(one, other, left, right))
    ]
    return sorted(found, key=lambda keys: -keys.weight)[:MOST_PAIRS]


def ways(left: str, right: str, question: str) -> dict[str, str]:
    """Which rows of the first table stay, in words, to the kind of join: one, where no word is unusual."""
    found = {f"rows of {left}, each beside its rows of {right}": "inner"}
    if _ABSENT.search(question):
        found[f"rows of {left} that have no row of {right}"] = "anti"
    if _SOME.search(question):
        found[f"rows of {left} that have any row of {right}, each once"] = "semi"
    if _EVEN.search(question):
        found[f"all rows of {left}, also those that have no row of {right}"] = "left"
    return found


def join(sketch: Sketch, right: str, keys: Keys, tables: Tables, how: str = "inner") -> Sketch:
    """The sketch with the columns of another table beside its own, or with the rows that have a partner, or none."""
    if how in ("semi", "anti"):
        return _picked(sketch, right, keys, tables, how)
    schema, profile = tables[right]
    step = _step("merge", "merge_1", sketch.head, tables, **_on(right, keys), how=how)
    merged = output_schema(step, [sketch.schema, visible(schema)])
    own = {column.name for column in sketch.profile.columns}
    added = [_under(column, own, step.suffix) for column in profile.columns if column.name != keys.right]
    columns = (*sketch.profile.columns, *(column for column in added if column.name in merged.names))
    known = (sketch.profile.rows, profile.rows)
    # a row that meets several comes several times
    rows = None if None in known else max(count for count in known if count is not None)
    return replace(
        sketch,
        schema=merged,
        profile=replace(sketch.profile, columns=columns, rows=rows, exact=False),
        steps=(*sketch.steps, step),
    )


def _picked(sketch: Sketch, right: str, keys: Keys, tables: Tables, how: str) -> Sketch:
    """Rows with a partner, or without one: each partner is taken once, so that no row is doubled."""
    own, mark = sketch.schema.names, sketch.new_name("has_partner")
    once = _step("distinct", "distinct_1", right, tables, columns=[keys.right])
    key = _step("select", "select_1", once.id, tables, columns=[keys.right])
    marked = _step("assign", "assign_1", key.id, tables, columns={mark: "true"})
    merge = _step("merge", "merge_1", sketch.head, tables, **_on(marked.id, keys), how="left")
    known = visible(tables[right][0])
    for step in (once, key, marked):
        known = output_schema(step, [known])
    joined = output_schema(merge, [sketch.schema, known])
    grown = replace(sketch, schema=joined, steps=(*sketch.steps, once, key, marked, merge))
    wanted = "IS NULL" if how == "anti" else "IS NOT NULL"
    return grown.with_step("where", condition=f"{quoted_name(mark)} {wanted}").with_step(
        "select", columns=own
    )


def _step(op: str, wanted: str, reads: str, tables: Tables, **fields: Any) -> Any:
    name = wanted if wanted not in tables else f"{wanted}_of_tables"
    return OPERATIONS[op].model_validate({"id": name, "input": reads, "reason": _REASON, **fields})


def _on(right: str, keys: Keys) -> dict[str, Any]:
    return {"right": right, "left_on": [keys.left], "right_on": [keys.right]}


@dataclass(frozen=True, slots=True)
class _Column:
    name: str
    family: str
    values: frozenset[str]


def _keyed(schema: pa.Schema, profile: Profile) -> list[_Column]:
    known: Mapping[str, ColumnProfile] = {column.name: column for column in profile.columns}
    columns = []
    for field in visible(schema):
        column, family = known.get(field.name), _family(field.type)
        if family and (column is None or column.tokens is None or column.tokens.median <= _KEY_TOKENS):
            columns.append(_Column(field.name, family, frozenset(column.samples if column else ())))
    return columns


def _family(of: pa.DataType) -> str:
    if is_text(of):
        return "text"
    if pa.types.is_integer(of):
        return "integer"
    return "date" if pa.types.is_date(of) else ""


def _weight(one: _Column, other: _Column, left: str, right: str) -> int:
    """0: nothing speaks for it."""
    if one.family != other.family:
        return 0
    first, second = one.name.lower(), other.name.lower()
    weight = 0
    if _refers(first, second, right) or _refers(second, first, left):
        weight = 4
    elif first == second:
        weight = 1 if first in _PLAIN else 3
    # Small whole numbers are the same everywhere; equal words are not.
    return weight + (2 if one.family == "text" and one.values & other.values else 0)


def _refers(name: str, key: str, table: str) -> bool:
    """``car_id`` is the ``id`` of ``cars``."""
    stem = table.lower()
    stems = {stem, stem.removesuffix("s"), stem.removesuffix("es"), f"{stem.removesuffix('ies')}y"}
    return key in _PLAIN and any(name in (f"{one}_{key}", f"{one}{key}", one) for one in stems)


def _under(column: ColumnProfile, own: set[str], suffix: str) -> ColumnProfile:
    return replace(column, name=f"{column.name}{suffix}") if column.name in own else column
