"""Columns that folder names state: ``year=2024/month=5/part-0.parquet``. Pure functions."""

from __future__ import annotations

from urllib.parse import unquote

import pyarrow as pa

from .scalars import ColumnGuess

__all__ = ["folder_fields", "folder_values"]

_NULL = "__HIVE_DEFAULT_PARTITION__"


def folder_values(path: str) -> dict[str, str]:
    """Return the ``key=value`` folders of a file's path, outermost first; "" stands for null."""
    values = {}
    for part in path.replace("\\", "/").split("/")[:-1]:
        key, equals, value = part.partition("=")
        if key and equals:
            values[unquote(key)] = "" if value == _NULL else unquote(value)
    return values


def folder_fields(path: str) -> list[pa.Field]:
    """Return those columns with the type that each value reads as; files that differ are unified later."""
    fields = []
    for name, value in folder_values(path).items():
        guess = ColumnGuess()
        guess.see([value])
        fields.append(pa.field(name, guess.type))
    return fields
