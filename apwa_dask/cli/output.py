"""What commands write: one JSON document or a table on standard output, everything else on standard error."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click
import orjson

from apwa_dask.observe.grids import grid_text, rows_of
from apwa_dask.observe.text import safe_text

__all__ = ["emit_json", "frame_rows", "note", "show_frame", "show_rows", "show_text"]

_PIPE_COLUMNS = 200
"""Width of tables that go to a file or a pipe."""


def emit_json(data: Mapping[str, Any] | Sequence[Any]) -> None:
    """Write one JSON document; not-a-number becomes null."""
    option = orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY
    click.echo(orjson.dumps(data, default=_plain, option=option).decode())


def frame_rows(frame: Any) -> list[dict[str, Any]]:
    """The rows of a pandas frame as JSON data (ISO times, nulls for missing values)."""
    text = frame.to_json(orient="records", date_format="iso", double_precision=15, default_handler=str)
    return list(orjson.loads(text))


def show_frame(frame: Any, *, max_rows: int, total_rows: int | None = None) -> None:
    """Write the first rows of a pandas frame as a table."""
    total = len(frame) if total_rows is None else total_rows
    show_rows(
        [str(name) for name in frame.columns], rows_of(frame, max_rows), max_rows=max_rows, total_rows=total
    )


def show_rows(
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    max_rows: int = 200,
    total_rows: int | None = None,
) -> None:
    """Write rows as a table that fits the terminal, free of control characters."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else _PIPE_COLUMNS
    click.echo(grid_text(columns, rows, max_rows=max_rows, total_rows=total_rows, width=width))


def show_text(text: object) -> None:
    """Write text that may hold words of a model or of the data."""
    click.echo(safe_text(text, keep_lines=True))


def note(text: object) -> None:
    """Write a line for people on standard error."""
    click.echo(safe_text(text, keep_lines=True), err=True)


def _plain(value: Any) -> Any:
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, set | frozenset | tuple):
        return list(value)
    return str(value)
