"""One table in few words, for a model with a small window."""

from __future__ import annotations

from collections.abc import Iterator

import orjson
import pyarrow as pa

from apwa_dask.plans.infer import visible
from apwa_dask.tables.profile import ColumnProfile, Profile
from apwa_dask.tables.schema import type_name

__all__ = ["COLUMNS_SHOWN", "table_words"]

COLUMNS_SHOWN = 24
_VALUE_CHARACTERS = 48
_LISTED = 3
"""A column of so few distinct values is described by all of them."""


def table_words(alias: str, schema: pa.Schema, profile: Profile, most_columns: int = COLUMNS_SHOWN) -> str:
    """One line a column: name, type and values in JSON quotes, so that a value cannot leave its line."""
    known = {column.name: column for column in profile.columns}
    fields = list(visible(schema))
    lines = [f"Table {alias}:"]
    lines += [_column(field, known.get(field.name)) for field in fields[:most_columns]]
    if len(fields) > most_columns:
        lines.append(f"- and {len(fields) - most_columns} more columns")
    return "\n".join(lines)


def _column(field: pa.Field, profile: ColumnProfile | None) -> str:
    line = f"- {orjson.dumps(field.name).decode()} ({type_name(field.type)})"
    if profile is None:
        return line
    about = ", ".join(_about(profile))
    return f"{line}: {about}" if about else line


def _about(profile: ColumnProfile) -> Iterator[str]:
    if profile.low is not None:
        yield f"{_quoted(str(profile.low))} to {_quoted(str(profile.high))}"
    elif profile.samples:
        complete = profile.distinct is not None and profile.distinct <= min(_LISTED, len(profile.samples))
        shown = profile.samples[:_LISTED] if complete else profile.samples[:2]
        yield ("one of " if complete else "such as ") + ", ".join(map(_quoted, shown))


def _quoted(value: str) -> str:
    flat = " ".join(value.split())
    return orjson.dumps(flat if len(flat) <= _VALUE_CHARACTERS else f"{flat[:_VALUE_CHARACTERS]}...").decode()
