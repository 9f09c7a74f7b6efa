"""`Estimate`: what a plan will probably cost, as low, expected and high. Unknown stays unknown.

`reforecast` says it again while the plan runs, from what its units have come to so far.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from apwa_dask.optimize.lessons import units_expected
from apwa_dask.plans.explain import Range, StepEstimate, total_range
from apwa_dask.plans.plan import Plan

__all__ = ["LEAST_UNITS", "WARN_RATIO", "Estimate", "Observed", "Reforecast", "reforecast"]

LEAST_UNITS = 10
"""Fewer answers of a step say nothing about the others."""
WARN_RATIO = 1.5
"""A run that will come to so many times its estimate is worth a word."""


@dataclass(frozen=True)
class Estimate:
    """Expected work of a plan's model steps, made without any call.

    Parameters
    ----------
    steps : mapping of str to StepEstimate
        By step id.
    minutes : Range, optional
        From the first call to the last, at the limits and the latency that were seen; None when unknown.
    """

    steps: Mapping[str, StepEstimate]
    minutes: Range | None = None

    @property
    def calls(self) -> Range | None:
        """Requests, retries not included; None when unknown."""
        return self._sum("calls")

    @property
    def input_tokens(self) -> Range | None:
        """Tokens sent; None when unknown."""
        return self._sum("input_tokens")

    @property
    def output_tokens(self) -> Range | None:
        """Tokens answered; None when unknown."""
        return self._sum("output_tokens")

    @property
    def cost_usd(self) -> Range | None:
        """US dollars; None when a price or a row count is unknown."""
        return self._sum("cost_usd")

    def _sum(self, figure: str) -> Range | None:
        return total_range([getattr(step, figure) for step in self.steps.values()])

    def to_dict(self) -> dict[str, Any]:
        """Plain data: totals and steps, null for unknown."""
        totals = {
            name: getattr(self, name)
            for name in ("calls", "input_tokens", "output_tokens", "cost_usd", "minutes")
        }
        return {
            **{name: None if figure is None else asdict(figure) for name, figure in totals.items()},
            "steps": {step_id: asdict(step) for step_id, step in self.steps.items()},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Estimate:
        """Inverse of `to_dict`."""
        minutes = data.get("minutes")
        steps = {step_id: _step_of(figures) for step_id, figures in data["steps"].items()}
        return cls(steps, None if minutes is None else Range(**minutes))

    def __str__(self) -> str:
        if not self.steps:
            return "no model calls, no cost"
        tokens = f"{_words(self.input_tokens)} in, {_words(self.output_tokens)} out"
        return f"calls {_words(self.calls)}; tokens {tokens}; cost {_dollars(self.cost_usd)}; {_time(self.minutes)}"

    __repr__ = __str__


@dataclass(frozen=True, slots=True)
class Observed:
    """What the paid units of one step have come to so far. ``cost_usd`` is None where a price is unknown."""

    units: int = 0
    tokens: int = 0
    cost_usd: float | None = 0.0

    def __add__(self, other: Observed) -> Observed:
        known = self.cost_usd is not None and other.cost_usd is not None
        cost_usd = (self.cost_usd or 0.0) + (other.cost_usd or 0.0) if known else None
        return Observed(self.units + other.units, self.tokens + other.tokens, cost_usd)


@dataclass(frozen=True, slots=True)
class Reforecast:
    """An estimate corrected by what was seen: ``figure`` is ``USD``, or ``tokens`` where no price is known.

    ``by_step`` is the whole of each step, what it has come to already included.
    """

    figure: str
    estimated: float
    by_step: Mapping[str, float]

    @property
    def forecast(self) -> float:
        """What the whole run is now thought to come to."""
        return sum(self.by_step.values())

    @property
    def ratio(self) -> float:
        """Times the estimate."""
        return self.forecast / self.estimated if self.estimated else 1.0


def reforecast(plan: Plan, estimate: Estimate, seen: Mapping[str, Observed]) -> Reforecast | None:
    """The estimate again, each step scaled by what its units cost against what they were thought to cost.

    The number of units is the estimate's, so rows that cost nothing (equal ones, kept answers) neither raise nor
    lower the forecast; a step that has done more than was thought comes to at least what it has cost.

    Parameters
    ----------
    plan : Plan
        The plan that was estimated.
    estimate : Estimate
    seen : mapping of str to Observed
        By step id; steps with fewer than `LEAST_UNITS` units keep their estimate.

    Returns
    -------
    Reforecast or None
        None where the estimate says nothing to compare with.
    """
    has_prices = bool(estimate.cost_usd and estimate.cost_usd.expected) and all(
        one.cost_usd is not None for one in seen.values()
    )
    expected: dict[str, float] = {}
    forecast: dict[str, float] = {}
    for step in plan.llm_steps:
        known = estimate.steps.get(step.id, StepEstimate())
        figure = known.cost_usd if has_prices else _tokens(known)
        units = units_expected(step, known)
        if figure is None or units is None:
            return None
        one = seen.get(step.id, Observed())
        spent = (one.cost_usd or 0.0) if has_prices else float(one.tokens)
        expected[step.id] = forecast[step.id] = figure.expected
        if one.units >= LEAST_UNITS:
            forecast[step.id] = max(spent / one.units * units, spent)
    if not sum(expected.values()):
        return None
    return Reforecast("USD" if has_prices else "tokens", sum(expected.values()), forecast)


def _tokens(known: StepEstimate) -> Range | None:
    if known.input_tokens is None or known.output_tokens is None:
        return None
    return known.input_tokens + known.output_tokens


def _step_of(figures: Mapping[str, Any]) -> StepEstimate:
    return StepEstimate(
        **{name: None if figure is None else Range(**figure) for name, figure in figures.items()}
    )


def _words(figure: Range | None) -> str:
    if figure is None:
        return "unknown"
    if figure.low == figure.high:
        return f"{figure.expected:,.0f}"
    return f"{figure.expected:,.0f} ({figure.low:,.0f} to {figure.high:,.0f})"


def _time(minutes: Range | None) -> str:
    if minutes is None:
        return "time unknown (no call was timed: preview)"
    digits = 0 if minutes.high >= 10 else 1 if minutes.high >= 1 else 2
    low, expected, high = (f"{each:,.{digits}f}" for each in (minutes.low, minutes.expected, minutes.high))
    return f"about {expected} min ({low} to {high})"


def _dollars(figure: Range | None) -> str:
    if figure is None:
        return "unknown (no price is known for the model)"
    digits = 2 if figure.high >= 1 or figure.high == 0 else 4
    if figure.low == figure.high:
        return f"${figure.expected:,.{digits}f}"
    return f"${figure.expected:,.{digits}f} (${figure.low:,.{digits}f} to ${figure.high:,.{digits}f})"
