"""The tables in words for a planner: bounded, of one size whatever the number of rows, values as data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import orjson
import pyarrow as pa

from apwa_dask.plans.infer import visible
from apwa_dask.tables.profile import ColumnProfile, Profile
from apwa_dask.tables.schema import type_name

__all__ = ["Tables", "describe_tables", "magnitude", "shows_samples"]

Tables = Mapping[str, tuple[pa.Schema, Profile]]
"""Alias to schema and profile."""

MOST_CHARACTERS = 48_000
_FEW = 100
_NAMES_SHOWN = 200


def describe_tables(tables: Tables, most_characters: int = MOST_CHARACTERS) -> str:
    """One JSON line a table. Details are dropped, sample values first, to stay below the bound.

    JSON quoting keeps every value on its line: a value cannot end its string or look like a line of ours.
    """
    text = ""
    for level in _LEVELS:
        text = "\n".join(_line(alias, schema, profile, level) for alias, (schema, profile) in tables.items())
        if len(text) <= most_characters:
            break
    return text


def shows_samples(tables: Tables) -> bool:
    """Whether any value of the data is part of the description."""
    return any(
        column.samples or column.low is not None
        for _, profile in tables.values()
        for column in profile.columns
    )


def magnitude(count: int | None) -> str:
    """A count in five characters, so that a table of a thousand rows and one of a billion look alike."""
    return "?" if count is None else f"{count:.0e}"


def _line(alias: str, schema: pa.Schema, profile: Profile, level: Callable[[ColumnProfile], Any]) -> str:
    known = {column.name: column for column in profile.columns}
    names = [field.name for field in visible(schema)]
    columns = [level(known.get(name) or _bare(schema.field(name))) for name in names[:_NAMES_SHOWN]]
    entry: dict[str, Any] = {"table": alias, "rows": magnitude(profile.rows), "columns": columns}
    if len(names) > _NAMES_SHOWN:
        entry["further_columns"] = len(names) - _NAMES_SHOWN
    return orjson.dumps(entry).decode()


def _bare(field: pa.Field) -> ColumnProfile:
    return ColumnProfile(field.name, type_name(field.type))


def _full(column: ColumnProfile) -> dict[str, Any]:
    return dict(_entries(column))


def _one_sample(column: ColumnProfile) -> dict[str, Any]:
    return _full(dataclasses.replace(column, samples=column.samples[:1]))


def _no_values(column: ColumnProfile) -> dict[str, Any]:
    return _full(dataclasses.replace(column, samples=(), low=None, high=None, detail=column.detail[:60]))


def _name_and_type(column: ColumnProfile) -> str:
    return f"{column.name}: {column.type}"


def _entries(column: ColumnProfile) -> Iterator[tuple[str, Any]]:
    yield "name", column.name
    yield "type", column.type
    if column.detail:
        yield "detail", column.detail
    if column.null_share:
        yield "missing", f"{column.null_share:.0%}"
    if column.distinct is not None:
        yield "distinct", str(column.distinct) if column.distinct <= _FEW else magnitude(column.distinct)
    if column.tokens is not None:
        yield (
            "tokens",
            f"median {magnitude(column.tokens.median)}, longest {magnitude(column.tokens.longest)}",
        )
    if column.low is not None:
        yield "range", [column.low, column.high]
    if column.samples:
        yield "samples", list(column.samples)


_LEVELS: tuple[Callable[[ColumnProfile], Any], ...] = (_full, _one_sample, _no_values, _name_and_type)
