"""Grids of cells and lists of facts as text and HTML: bounded, escaped, without scripts, never computing.

Callers hand over rows they already have; nothing here touches a lazy frame or a store.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import islice
from typing import Any

from apwa_dask.observe.text import count_text, safe_text

__all__ = ["cell_text", "facts_html", "facts_text", "grid_html", "grid_text", "rows_of", "section_html"]

MAX_ROWS = 20
MAX_COLUMNS = 30
MAX_CELL_CHARS = 200
_TEXT_CELL_CHARS = 60

# Inline and neutral: it survives sanitising frontends, and reads on light and dark pages alike.
_BOX = "font-family:system-ui,sans-serif;font-size:13px;line-height:1.45;max-width:100%"
_RULE = "1px solid rgba(128,128,128,.35)"
_CELL = (
    f"padding:3px 10px 3px 0;text-align:left;vertical-align:top;white-space:pre-wrap;border-bottom:{_RULE}"
)
_MUTED = "opacity:.7"

Row = Sequence[Any] | Mapping[str, Any]


def cell_text(value: Any, max_chars: int = MAX_CELL_CHARS) -> str:
    """One cell for people: missing values empty, bytes by size, long text cut, control characters gone."""
    if _is_missing(value):
        return ""
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{count_text(len(value))} bytes>"
    if isinstance(value, float):
        return f"{value:g}" if abs(value) < 1e15 else repr(value)
    if isinstance(value, list | tuple | set | dict) and len(value) > max_chars:
        return f"{type(value).__name__} of {count_text(len(value))}"
    return safe_text(value, max_chars=max_chars)


def rows_of(frame: Any, max_rows: int = MAX_ROWS) -> list[list[Any]]:
    """The first rows of a pandas frame as lists (a Dask frame would have to compute: not accepted)."""
    if hasattr(frame, "dask"):
        raise TypeError("rows_of takes rows that are in memory; a lazy frame would compute")
    head = frame.iloc[:max_rows]
    return [list(row) for row in head.itertuples(index=False, name=None)]


def grid_html(
    columns: Sequence[object],
    rows: Iterable[Row],
    *,
    total_rows: int | None = None,
    caption: str = "",
    max_rows: int = MAX_ROWS,
    max_columns: int = MAX_COLUMNS,
    max_cell_chars: int = MAX_CELL_CHARS,
) -> str:
    """A table as HTML, safe for any cell text.

    Parameters
    ----------
    columns : sequence
        Column names, in order.
    rows : iterable of sequence or mapping
        Cells in the order of `columns`, or by name. At most ``max_rows + 1`` are taken from the iterable.
    total_rows : int, optional
        How many rows there are in all, where that is known.
    caption : str
        Plain text above the table.
    """
    shown, note = _bounded(columns, rows, total_rows, max_rows, max_columns)
    names = list(columns)[:max_columns]
    head = "".join(f'<th style="{_CELL};font-weight:600">{_cell_html(name, 80)}</th>' for name in names)
    body = "".join(
        "<tr>"
        + "".join(f'<td style="{_CELL}">{_cell_html(cell, max_cell_chars)}</td>' for cell in row)
        + "</tr>"
        for row in shown
    )
    title = f'<div style="font-weight:600">{escape(safe_text(caption))}</div>' if caption else ""
    foot = f'<div style="{_MUTED}">{escape(note)}</div>' if note else ""
    return (
        f'<div style="{_BOX}">{title}<div style="overflow-x:auto"><table style="border-collapse:collapse;margin:0">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{foot}</div>"
    )


def grid_text(
    columns: Sequence[object],
    rows: Iterable[Row],
    *,
    total_rows: int | None = None,
    width: int = 100,
    max_rows: int = MAX_ROWS,
    max_columns: int = MAX_COLUMNS,
    max_cell_chars: int = _TEXT_CELL_CHARS,
) -> str:
    """A table as plain text of at most `width` terminal cells a line; rows and rules as in `grid_html`."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as Grid
    from rich.text import Text

    shown, note = _bounded(columns, rows, total_rows, max_rows, max_columns)
    grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in list(columns)[:max_columns]:
        grid.add_column(Text(cell_text(name, 80)), overflow="fold")
    for row in shown:
        grid.add_row(*(Text(cell_text(cell, max_cell_chars)) for cell in row))
    out = io.StringIO()
    console = Console(
        file=out,
        width=width,
        color_system=None,
        force_terminal=False,
        force_jupyter=False,  # in a notebook it would show the grid by itself, and write nothing here
        legacy_windows=False,
    )
    console.print(grid)
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    return "\n".join([*lines, *([note] if note else [])])


def facts_html(title: str, facts: Mapping[str, Any], *, body: str = "") -> str:
    """A titled list of facts; `body` is HTML made by this module that comes below it."""
    rows = "".join(
        f'<tr><th style="{_CELL};{_MUTED};font-weight:400">{_cell_html(name, 80)}</th>'
        f'<td style="{_CELL}">{_cell_html(value, 500)}</td></tr>'
        for name, value in facts.items()
    )
    return (
        f'<div style="{_BOX}"><div style="font-weight:600;margin-bottom:2px">{_cell_html(title, 200)}</div>'
        f'<table style="border-collapse:collapse;margin:0"><tbody>{rows}</tbody></table>{body}</div>'
    )


def facts_text(title: str, facts: Mapping[str, Any]) -> str:
    """The same facts as text, names aligned."""
    width = max((len(safe_text(name)) for name in facts), default=0)
    lines = [
        f"  {safe_text(name):<{width}}  {cell_text(value, 500)}".rstrip() for name, value in facts.items()
    ]
    return "\n".join([safe_text(title, max_chars=200), *lines])


def section_html(title: str, body: str, *, is_open: bool = False) -> str:
    """A part that opens with a click, without a script; `body` is HTML made by this module."""
    state = " open" if is_open else ""
    return (
        f'<details{state} style="{_BOX};margin-top:4px"><summary style="cursor:pointer">'
        f"{_cell_html(title, 200)}</summary>{body}</details>"
    )


def _is_missing(value: Any) -> bool:
    """None, NaN, NaT or NA, without importing pandas."""
    is_nan = isinstance(value, float) and math.isnan(value)
    return value is None or is_nan or type(value).__name__ in ("NAType", "NaTType")


def _cell_html(value: Any, max_chars: int) -> str:
    return escape(cell_text(value, max_chars))


def _bounded(
    columns: Sequence[object], rows: Iterable[Row], total_rows: int | None, max_rows: int, max_columns: int
) -> tuple[list[list[Any]], str]:
    """The rows to show, cut to size, and a sentence about what is not shown."""
    taken = list(islice(rows, max_rows + 1))
    names = list(columns)[:max_columns]
    shown = [_cells(row, names) for row in taken[:max_rows]]
    notes = []
    if total_rows is not None and total_rows > len(shown):
        notes.append(f"{count_text(len(shown))} of {count_text(total_rows)} rows")
    elif len(taken) > max_rows:
        notes.append(f"the first {count_text(max_rows)} rows")
    if len(columns) > max_columns:
        notes.append(f"{max_columns} of {count_text(len(columns))} columns")
    return shown, ", ".join(notes)


def _cells(row: Row, names: Sequence[object]) -> list[Any]:
    if isinstance(row, Mapping):
        return [row.get(str(name)) for name in names]
    return list(row)[: len(names)]
