"""The runs that a scheduler hears of: a history for each of the latest few."""

from __future__ import annotations

import threading
from dataclasses import replace

from apwa_dask.execution.events import Event
from apwa_dask.observe.history import History, Picture

__all__ = ["MAX_RUNS", "Board"]

MAX_RUNS = 8


class Board:
    """Subscriber of the events of all runs. The oldest runs are forgotten."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs: dict[str, History] = {}

    def __call__(self, event: Event) -> None:
        with self._lock:
            history = self._runs.get(event.run_id)
            if history is None:
                history = self._runs[event.run_id] = History()
                while len(self._runs) > MAX_RUNS:
                    del self._runs[next(iter(self._runs))]
        history(event)

    def pictures(self) -> list[Picture]:
        """The runs as they are now, the latest last."""
        with self._lock:
            runs = dict(self._runs)
        return [_named(run_id, history.picture()) for run_id, history in runs.items()]


def _named(run_id: str, picture: Picture) -> Picture:
    return picture if picture.state.run_id else replace(picture, state=replace(picture.state, run_id=run_id))
