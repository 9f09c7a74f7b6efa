"""Which tables a small model may join, and on which columns: only what their names and values speak for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import pyarrow as pa

from apwa_dask.manager.briefing import Tables
from apwa_dask.manager.guided.sketch import Sketch
from apwa_dask.plans.infer import is_text, output_schema, visible
from apwa_dask.plans.steps import Merge
from apwa_dask.tables.profile import ColumnProfile, Profile

__all__ = ["Keys", "join", "key_pairs", "partners"]

MOST_PAIRS = 8
_KEY_TOKENS = 12
"""Longer texts are no keys."""

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


def join(sketch: Sketch, right: str, keys: Keys, tables: Tables) -> Sketch:
    """The sketch with the columns of another table beside its own."""
    schema, profile = tables[right]
    step = Merge(
        id="merge_1" if "merge_1" not in tables else "merge_of_tables",
        input=sketch.head,
        right=right,
        left_on=(keys.left,),
        right_on=(keys.right,),
        reason="the question is about both tables",
    )
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
