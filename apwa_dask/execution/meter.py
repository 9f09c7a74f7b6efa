"""Counts of one process, turned into `Progress` events at most twice a second."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass, field

from apwa_dask.agents.outcome import Outcome
from apwa_dask.execution.events import Progress
from apwa_dask.models.types import OutcomeClass

__all__ = ["Flights", "Meter"]


@dataclass(slots=True)
class Flights:
    """Calls in flight, counted by who makes them."""

    now: int = 0


@dataclass
class _Counts:
    rows_done: int = 0
    rows_failed: int = 0
    rows_cached: int = 0
    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0
    cost_unknown: bool = False
    failures: Counter[str] = field(default_factory=Counter)
    paid: dict[str, tuple[int, int, float]] = field(default_factory=dict)


class Meter:
    """Adds up what happens in one stage of a run in this process. Any thread may count.

    Parameters
    ----------
    flights : Flights, optional
        The calls to report with this stage.
    """

    def __init__(self, run_id: str, stage: int, flights: Flights | None = None) -> None:
        self.run_id, self.stage = run_id, stage
        self._flights = flights or Flights()
        self._lock = threading.Lock()
        self._counts = _Counts()
        self._reported_in_flight = 0
        self._rows = self._failed = 0
        self._told_failed = 0

    def note(
        self,
        *,
        rows: int = 0,
        failed: int = 0,
        cached: int = 0,
        outcome: Outcome | None = None,
        step: str = "",
    ) -> None:
        """Count finished rows, or the outcome of one unit of a step."""
        with self._lock:
            counts = self._counts
            counts.rows_done += rows
            counts.rows_failed += failed
            counts.rows_cached += cached
            self._rows += rows
            self._failed += failed
            if outcome is None:
                return
            if outcome.outcome is not OutcomeClass.OK:
                counts.failures[f"{outcome.outcome}: {outcome.message}"[:200]] += 1
            if outcome.source != "live":
                return
            counts.calls += outcome.attempts
            counts.input_tokens += outcome.usage.input
            counts.output_tokens += outcome.usage.output
            if outcome.cost_usd is None:
                counts.cost_unknown = True
            else:
                counts.cost_usd += outcome.cost_usd
            if step:
                units, tokens, cost_usd = counts.paid.get(step, (0, 0, 0.0))
                used = outcome.usage.input + outcome.usage.output
                counts.paid[step] = (units + 1, tokens + used, cost_usd + (outcome.cost_usd or 0.0))

    def passes(self, share: float, least_rows: int) -> tuple[int, int] | None:
        """Rows and failed rows here so far, when more than `share` of them failed; not at every row.

        The next time when half as many again have failed, so that a process which is alone in its failures
        does not report each of them.
        """
        with self._lock:
            rows, failed = self._rows, self._failed
            if rows < least_rows or failed <= share * rows or 2 * failed < 3 * self._told_failed:
                return None
            self._told_failed = failed
            return rows, failed

    def take(self, worker: str = "") -> Progress | None:
        """The deltas since the last call, or None when nothing happened."""
        with self._lock:
            counts, self._counts = self._counts, _Counts()
        in_flight = self._flights.now
        if counts == _Counts() and in_flight == self._reported_in_flight:
            return None
        self._reported_in_flight = in_flight
        return Progress(
            self.run_id,
            time.time(),
            stage=self.stage,
            rows_done=counts.rows_done,
            rows_failed=counts.rows_failed,
            rows_cached=counts.rows_cached,
            calls=counts.calls,
            input_tokens=counts.input_tokens,
            output_tokens=counts.output_tokens,
            cost_usd=counts.cost_usd,
            cost_unknown=counts.cost_unknown,
            in_flight=in_flight,
            worker=worker,
            failures=dict(counts.failures),
            paid=counts.paid,
        )
