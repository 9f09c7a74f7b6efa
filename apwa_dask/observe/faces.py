"""Where progress is drawn: a terminal's line, a notebook's display, a plain log. No thread, no widget."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from html import escape
from typing import Any, Protocol, TextIO

from apwa_dask.observe.lines import live_line, live_lines, log_line, summary_lines
from apwa_dask.observe.state import ProgressState

__all__ = ["Face", "LogFace", "NotebookFace", "SilentFace", "TerminalFace"]

_CLEAR_LINE = "\r\x1b[2K"
_NOTEBOOK_COLUMNS = 160


class Face(Protocol):
    """Draws a state, and puts the last word in its place, at most once in ``interval_s``."""

    interval_s: float

    def draw(self, state: ProgressState, now_s: float) -> None:
        """Show `state` in the place of what was shown before."""

    def finish(self, state: ProgressState, now_s: float) -> None:
        """Replace the live display by the static summary."""

    def clear(self, state: ProgressState, now_s: float) -> None:
        """Take the live display away: somebody else says how the run ended."""


class SilentFace:
    """Shows nothing."""

    interval_s = float("inf")

    def draw(self, state: ProgressState, now_s: float) -> None:
        """Show nothing."""

    def finish(self, state: ProgressState, now_s: float) -> None:
        """Show nothing."""

    def clear(self, state: ProgressState, now_s: float) -> None:
        """Show nothing."""


class TerminalFace:
    """One line of a terminal, written over at most twice a second."""

    interval_s = 0.5

    def __init__(self, stream: TextIO, *, columns: Callable[[], int] | None = None) -> None:
        self._stream = stream
        self._columns = columns or (lambda: shutil.get_terminal_size().columns)
        self._ascii_only = not _can_encode(stream, "▕█▏…")

    def draw(self, state: ProgressState, now_s: float) -> None:
        """Write the line over the one before."""
        line = live_line(state, max(self._columns() - 1, 20), ascii_only=self._ascii_only)
        self._write(_CLEAR_LINE + line)

    def finish(self, state: ProgressState, now_s: float) -> None:
        """Clear the line and leave the summary."""
        self._write(_CLEAR_LINE + "\n".join(summary_lines(state, now_s)) + "\n")

    def clear(self, state: ProgressState, now_s: float) -> None:
        """Clear the line."""
        self._write(_CLEAR_LINE)

    def _write(self, text: str) -> None:
        encoding = self._stream.encoding or "utf-8"
        self._stream.write(text.encode(encoding, "replace").decode(encoding))
        self._stream.flush()


class LogFace:
    """A whole line at the start, every half minute, and the summary at the end: for files, CI and jobs."""

    interval_s = 30.0

    def __init__(self, write_line: Callable[[str], None]) -> None:
        self._write_line = write_line

    def draw(self, state: ProgressState, now_s: float) -> None:
        """Write one line."""
        self._write_line(log_line(state, now_s))

    def finish(self, state: ProgressState, now_s: float) -> None:
        """Write the summary."""
        for line in summary_lines(state, now_s):
            self._write_line(line)

    def clear(self, state: ProgressState, now_s: float) -> None:
        """Write one last line, for a log is not taken back."""
        self._write_line(log_line(state, now_s))


class NotebookFace:
    """One output of fixed height under the cell, updated through its display handle.

    Parameters
    ----------
    display : callable, optional
        ``IPython.display.display``, or its like: called with ``display_id=True`` it returns a handle with
        ``update``. The handle is taken here, in the thread of the cell, because the events may come from
        another thread, whose first output would land under whichever cell runs then.
    """

    interval_s = 0.5

    def __init__(self, display: Callable[..., Any] | None = None) -> None:
        start = _Live(["apwa: starting", "", "", ""])
        self._handle = (display or _ipython_display())(start, display_id=True)

    def draw(self, state: ProgressState, now_s: float) -> None:
        """Update the output in place."""
        self._handle.update(_Live(live_lines(state, _NOTEBOOK_COLUMNS)))

    def finish(self, state: ProgressState, now_s: float) -> None:
        """Put the summary in place, which a saved notebook keeps."""
        self._handle.update(_Summary(summary_lines(state, now_s)))

    def clear(self, state: ProgressState, now_s: float) -> None:
        """Leave an output of one line: frontends keep the place of an output that was shown."""
        self._handle.update(_Live([live_line(state, _NOTEBOOK_COLUMNS)]))


def _ipython_display() -> Callable[..., Any]:
    from IPython.display import display

    return display  # type: ignore[no-any-return]


class _Lines:
    """Text with an HTML form; no script, no outside style, readable on light and dark pages."""

    def __init__(self, lines: Sequence[str]) -> None:
        self._lines = list(lines)

    def __repr__(self) -> str:
        return "\n".join(self._lines)


class _Live(_Lines):
    """As high as it has lines, however long they are; an empty last line would be left out of both forms."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__([line or "\u00a0" for line in lines])

    def _repr_html_(self) -> str:
        style = (
            "margin:0;font-family:monospace;font-size:13px;line-height:1.45;white-space:pre;overflow:hidden"
        )
        return f'<pre style="{style}">{escape(repr(self))}</pre>'


class _Summary(_Lines):
    """What stays: the outcome in bold, and below it lines that break where the page is narrow."""

    def _repr_html_(self) -> str:
        first, *others = (escape(line.strip()) for line in self._lines)
        rest = "".join(f"<div>{line}</div>" for line in others)
        style = "font-family:system-ui,sans-serif;font-size:13px;line-height:1.45;max-width:100%"
        return f'<div style="{style}"><div style="font-weight:600">{first}</div>{rest}</div>'


def _can_encode(stream: TextIO, text: str) -> bool:
    try:
        text.encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
