"""What a run will come to, told while it goes on: forecast again from what it costs, one warning, and what is left."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from typing import TYPE_CHECKING

from apwa_dask.errors import StoreError
from apwa_dask.execution.events import Event, Forecast
from apwa_dask.execution.manifest import estimate_of
from apwa_dask.execution.outlook import WARNED, Left, Outlook

if TYPE_CHECKING:
    from apwa_dask.execution.kept import KeptRun

__all__ = ["Foresight", "LazyForesight"]

_logger = logging.getLogger(__name__)


class Foresight:
    """Of one life of a run, in the process that submitted it.

    Parameters
    ----------
    run : KeptRun
        Before the first call of this life: what its journal holds now was answered in earlier ones.
    """

    def __init__(self, run: KeptRun) -> None:
        past = run.folder.history()
        has_warned = any(entry["event"] == WARNED for entry in past)
        self._run = run
        self._outlook = Outlook(run.spec.plan, run.stages, estimate_of(run), has_warned=has_warned)
        self._answers_before = run.good_answers() if past else Counter()
        self._noting: threading.Thread | None = None

    def see(self, event: Event) -> Forecast | None:
        """Take an event; a new forecast where it changes the old one. A warning is logged and kept once."""
        forecast = self._outlook.see(event)
        if forecast is not None and forecast.warning:
            _logger.warning("run %s: %s", self._run.id, forecast.warning)
            # the store may be far away, and this may be the thread that all calls in flight need
            self._noting = threading.Thread(target=self._note, args=(forecast,), daemon=True)
            self._noting.start()
        return forecast

    def left(self, *, exactly: bool) -> Left:
        """What a stopped run has left; `exactly` by the journal, where nobody else still writes to it."""
        return self._outlook.left(self._run.good_answers() - self._answers_before if exactly else None)

    def close(self) -> None:
        """Wait until the warning is kept."""
        if self._noting is not None:
            self._noting.join()

    def _note(self, forecast: Forecast) -> None:
        figures = {name: getattr(forecast, name) for name in ("figure", "estimated", "forecast")}
        try:
            self._run.folder.append_history(
                WARNED, words=forecast.warning, rows_done=forecast.rows_done, rows=forecast.rows, **figures
            )
        except StoreError as error:
            _logger.warning("the forecast of run %s is not kept: %s", self._run.id, error.what)


class LazyForesight:
    """Of a lazy frame, whose graph is computed when and where the user says: one warning, as a line of the log.

    Parameters
    ----------
    run_id : str
    outlook : Outlook
        Its stages are never announced: the graph is Dask's.
    """

    def __init__(self, run_id: str, outlook: Outlook) -> None:
        self._run_id, self._outlook = run_id, outlook

    def __call__(self, event: Event) -> None:
        forecast = self._outlook.see(event)
        if forecast is not None and forecast.warning:
            _logger.warning("lazy frame %s: %s", self._run_id, forecast.warning)
