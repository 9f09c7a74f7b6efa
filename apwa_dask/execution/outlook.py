"""What a run under way will come to, and what is left of it when it stops: counted in the process that submitted it,
from the progress reports that travel there anyway.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from apwa_dask.errors import BudgetError
from apwa_dask.execution.compile import Stage
from apwa_dask.execution.events import Event, Forecast, Progress, StageStarted
from apwa_dask.optimize.forecast import WARN_RATIO, Estimate, Observed, Reforecast, reforecast
from apwa_dask.plans.plan import Plan
from apwa_dask.plans.steps import LLMStep, Reduce

__all__ = ["WARNED", "Left", "Outlook", "with_left"]

WARNED = "forecast"
"""Name of the history's entry that keeps the warning."""
_TELL_CHANGE = 0.1
"""A forecast that moves by less is not told again."""


@dataclass(frozen=True, slots=True)
class Left:
    """What a stopped run has still to do.

    Parameters
    ----------
    rows : int or None
        Rows of the stage at work without a kept answer; None where its number of rows is unknown.
    rows_total : int or None
    is_exact : bool
        False: no more than that. Answers that had come in when the run stopped, and that no row was given yet, are
        only counted where each row is one call.
    cost_usd : float or None
        What it will probably cost; None where a price is unknown.
    more_stages : bool
        Stages with calls follow, whose rows are not counted; their cost is, as far as it was estimated.
    """

    rows: int | None
    rows_total: int | None
    is_exact: bool
    cost_usd: float | None
    more_stages: bool = False

    def __str__(self) -> str:
        if self.rows is None:
            rows = "how many rows are left is unknown"
        else:
            about = "" if self.is_exact else "at most "
            rows = f"{about}{self.rows} of {self.rows_total} rows are left"
        later = ", and later steps" if self.more_stages else ""
        cost = "cost unknown" if self.cost_usd is None else f"about {_dollars(self.cost_usd)} more"
        return f"{rows}{later}; {cost}"

    def as_dict(self) -> dict[str, Any]:
        """Plain data for the run's history and status."""
        return {
            "rows_left": self.rows,
            "rows_left_exact": self.is_exact,
            "cost_left_usd": self.cost_usd,
        }


def with_left(error: BudgetError, left: Left) -> BudgetError:
    """The budget's error with what is left."""
    return BudgetError(
        f"{error.what}: {left}",
        where=error.where,
        why=error.why,
        fix=error.fix,
        saved=error.saved,
        code=error.code,
    )


class Outlook:
    """Sees the events of one life of a run. Any thread may call.

    Parameters
    ----------
    plan : Plan
    stages : sequence of Stage
    estimate : mapping or None
        What the run was thought to come to (`Estimate.to_dict`); None where that is unknown.
    has_warned : bool
        It was said before, in an earlier life.
    """

    def __init__(
        self,
        plan: Plan,
        stages: Sequence[Stage],
        estimate: Mapping[str, Any] | None,
        *,
        has_warned: bool = False,
    ) -> None:
        self._plan, self._stages = plan, stages
        self._estimate = None if estimate is None else Estimate.from_dict(estimate)
        self._lock = threading.Lock()
        self._has_warned = has_warned
        self._told = 0.0
        self._seen: dict[str, Observed] = {}
        self._rows: dict[int, int | None] = {}
        self._done: Counter[int] = Counter()
        self._cached: Counter[int] = Counter()
        self._failed = 0

    def see(self, event: Event) -> Forecast | None:
        """The forecast, where this event changed it."""
        with self._lock:
            if isinstance(event, StageStarted):
                self._rows[event.stage] = event.rows
                self._done[event.stage] = self._cached[event.stage] = 0
            if not isinstance(event, Progress):
                return None
            self._count(event)
            return self._changed(event) if event.paid else None

    def left(self, kept: Mapping[str, int] | None) -> Left:
        """What is still to do.

        Parameters
        ----------
        kept : mapping of str to int, optional
            Good answers that were kept in this life, by step, when no call is in flight any more: those of which
            no row was told are not left. None where nobody knows yet.
        """
        with self._lock:
            begun = [stage for stage in self._stages if stage.index in self._rows and stage.calls_model]
            later = [stage for stage in self._stages if stage.index not in self._rows and stage.calls_model]
            if not begun:
                whole = self._cost_of(later, {})
                return Left(None, None, is_exact=False, cost_usd=whole, more_stages=bool(later))
            stage = begun[-1]
            total = self._rows[stage.index]
            if total is None:
                return Left(None, None, is_exact=False, cost_usd=None, more_stages=bool(later))
            asking = [step for step in stage.steps if isinstance(step, LLMStep)]
            answered = self._done[stage.index]
            is_plain = not self._failed and len(stage.steps) == 1 and _is_one_call(asking[0])
            is_exact = kept is not None and is_plain
            if kept is not None and is_plain:
                # a row that was under way is not told of, though its answer is kept
                answered = max(answered, self._cached[stage.index] + kept.get(asking[0].id, 0))
            rows = max(total - answered, 0)
            share = rows / total if total else 0.0
            cost_usd = self._cost_of([stage, *later], {stage.index: share})
            if cost_usd is None and not later:
                cost_usd = self._by_the_row(stage, rows)
            return Left(rows, total, is_exact, cost_usd, bool(later))

    def _count(self, event: Progress) -> None:
        self._done[event.stage] += event.rows_done
        self._cached[event.stage] += event.rows_cached
        self._failed += event.rows_failed
        for step, (units, tokens, cost_usd) in event.paid.items():
            one = Observed(units, tokens, None if event.cost_unknown else cost_usd)
            self._seen[step] = self._seen.get(step, Observed()) + one

    def _again(self) -> Reforecast | None:
        return None if self._estimate is None else reforecast(self._plan, self._estimate, self._seen)

    def _changed(self, event: Progress) -> Forecast | None:
        again = self._again()
        if again is None:
            return None
        warning = ""
        if again.ratio >= WARN_RATIO and not self._has_warned:
            self._has_warned, warning = True, _warning(again)
        if not warning and abs(again.forecast - self._told) <= _TELL_CHANGE * again.estimated:
            return None
        self._told = again.forecast
        known = [rows for rows in self._rows.values() if rows is not None]
        return Forecast(
            event.run_id,
            event.time,
            figure=again.figure,
            estimated=again.estimated,
            forecast=again.forecast,
            rows_done=sum(self._done.values()),
            rows=sum(known) if len(known) == len(self._rows) else None,
            warning=warning,
        )

    def _cost_of(self, stages: Sequence[Stage], shares: Mapping[int, float]) -> float | None:
        """What these stages, or the share of them that is left, will cost by the forecast."""
        again = self._again()
        if again is None or again.figure != "USD":
            return None
        ids = {step.id: shares.get(stage.index, 1.0) for stage in stages for step in stage.steps}
        return sum(usd * ids[step] for step, usd in again.by_step.items() if step in ids)

    def _by_the_row(self, stage: Stage, rows: int) -> float | None:
        """Without an estimate: as much a row as the paid ones so far."""
        costs = [self._seen.get(step.id, Observed()).cost_usd for step in stage.steps]
        paid_rows = self._done[stage.index] - self._cached[stage.index]
        if None in costs or paid_rows <= 0:
            return None
        return rows * sum(cost or 0.0 for cost in costs) / paid_rows


def _is_one_call(step: LLMStep) -> bool:
    return not isinstance(step, Reduce) and step.contract.unit == "row" and not step.contract.tools


def _warning(again: Reforecast) -> str:
    before, now = (
        (_dollars(again.estimated), _dollars(again.forecast))
        if again.figure == "USD"
        else (f"{again.estimated:,.0f} tokens", f"{again.forecast:,.0f} tokens")
    )
    return (
        f"this run will come to about {now}, {again.ratio:.1f} times the estimate of {before}: "
        "prompts or answers are longer than was thought"
    )


def _dollars(usd: float) -> str:
    return f"${usd:,.2f}" if usd >= 1 else f"${usd:,.4f}"
