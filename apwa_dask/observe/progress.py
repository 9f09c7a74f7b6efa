"""The progress display: a subscriber that reduces events to a state and lets one face draw it."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Literal, TextIO

from apwa_dask import config
from apwa_dask.execution.events import Event, Forecast, RunFinished, RunStarted, State
from apwa_dask.observe.faces import Face, LogFace, NotebookFace, SilentFace, TerminalFace
from apwa_dask.observe.state import ProgressState

__all__ = ["ProgressDisplay", "ProgressMode", "ProgressOfRun", "progress_for_environment"]

ProgressMode = Literal["auto", "terminal", "notebook", "plain", "logging", "silent"]

_logger = logging.getLogger("apwa_dask.progress")


class ProgressDisplay:
    """Subscriber of one run's events; use it as a context manager, or call `close` in a ``finally``.

    Parameters
    ----------
    face : Face
        Where to draw.
    summary : bool
        Leave a summary at the end; otherwise the display goes without a trace.
    clock : callable
        Unix seconds; injected by tests.

    Notes
    -----
    Drawing happens in the thread that brings the events: there is no thread or timer to leak. A display that
    cannot be written to any more (closed pipe) goes silent, for a run is worth more than its progress line.
    """

    def __init__(self, face: Face, *, summary: bool = True, clock: Callable[[], float] = time.time) -> None:
        self._face = face
        self._summary = summary
        self._clock = clock
        self._state = ProgressState()
        self._drawn_s = float("-inf")
        self._closed = False
        self._guard = threading.Lock()  # close() comes from the user's thread, events from the run's

    @property
    def state(self) -> ProgressState:
        """What the run has come to so far."""
        return self._state

    def __call__(self, event: Event) -> None:
        with self._guard:
            if self._closed:
                return
            self._state = self._state.apply(event)
            now_s = self._clock()
            # The start is drawn at once, and what was not expected; a pause also, unless the face counts its lines
            # by the half minute.
            urgent = (
                isinstance(event, RunStarted)
                or (isinstance(event, Forecast) and event.warning != "")
                or (isinstance(event, State) and self._face.interval_s < 1)
            )
            if urgent or now_s - self._drawn_s >= self._face.interval_s:
                self._drawn_s = now_s
                self._draw(self._face.draw, now_s)
            if isinstance(event, RunFinished):
                self._finish(now_s)

    def close(self) -> None:
        """Replace the live display by the static summary. Closing again changes nothing."""
        with self._guard:
            if not self._closed:
                self._finish(self._clock())

    def __enter__(self) -> ProgressDisplay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _finish(self, now_s: float) -> None:
        self._closed = True
        self._draw(self._face.finish if self._summary else self._face.clear, now_s)

    def _draw(self, drawing: Callable[[ProgressState, float], None], now_s: float) -> None:
        try:
            drawing(self._state, now_s)
        except (OSError, ValueError) as error:
            _logger.debug("the progress display is gone: %s", error)
            self._face = SilentFace()


class ProgressOfRun:
    """Subscriber with a fresh display each time the run starts or goes on, under the cell that says so.

    A run that is found again and only looked at shows none.
    """

    def __init__(self, make: Callable[[], ProgressDisplay] | None = None) -> None:
        self._make = make or progress_for_environment
        self._display: ProgressDisplay | None = None

    def open(self) -> None:
        """Show a display; called in the thread that starts the run."""
        self._display = self._make()

    def __call__(self, event: Event) -> None:
        if self._display is not None:
            self._display(event)


def progress_for_environment(
    stream: TextIO | None = None,
    *,
    mode: ProgressMode | None = None,
    clock: Callable[[], float] = time.time,
) -> ProgressDisplay:
    """The display that fits where we are: a notebook's output, a terminal's line, or plain lines.

    Parameters
    ----------
    stream : file, optional
        Where lines go; standard error when omitted.
    mode : str, optional
        Default: the setting ``apwa.progress``. ``auto`` looks around; ``logging`` writes through the logger
        ``apwa_dask.progress``; ``silent`` shows nothing.
    """
    chosen = config.get("progress", mode)
    target = sys.stderr if stream is None else stream
    if chosen == "auto":
        chosen = _mode_here(target, asked_for_stream=stream is not None)
    return ProgressDisplay(_face(chosen, target), summary=config.get("progress-summary"), clock=clock)


def _mode_here(stream: TextIO | None, *, asked_for_stream: bool) -> ProgressMode:
    if not asked_for_stream and _in_notebook():
        return "notebook"
    if stream is None:  # pythonw and some services have no standard error
        return "logging"
    return "terminal" if stream.isatty() else "plain"


def _in_notebook() -> bool:
    """A Jupyter kernel runs this code; a terminal's IPython is a terminal. Imports nothing."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and bool(shell.has_trait("kernel"))


def _face(mode: str, stream: TextIO | None) -> Face:
    if mode == "silent":
        return SilentFace()
    if mode == "notebook":
        return NotebookFace()
    if mode == "logging" or stream is None:
        return LogFace(lambda line: _logger.info("%s", line))
    if mode == "terminal":
        return TerminalFace(stream)

    def write_line(line: str) -> None:
        encoding = stream.encoding or "utf-8"
        stream.write(line.encode(encoding, "replace").decode(encoding) + "\n")
        stream.flush()

    return LogFace(write_line)
