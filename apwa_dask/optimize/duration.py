"""How long a plan's calls will take: their number and latency against the calls in flight and the endpoint's limits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from apwa_dask.optimize.ranges import times
from apwa_dask.plans.explain import Range, StepEstimate

__all__ = ["Pace", "StepWork", "minutes_of"]

_LATENCY = Range(1 / 1.5, 1.0, 2.0)
"""An endpoint answers faster at night than at noon, and slower when it is asked more at once."""

_OPENING_ROUNDS = 3
"""Answers that the window of calls in flight takes to open, at most: it triples with each (`models.gate`)."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How an endpoint was seen to answer. None is unknown.

    Parameters
    ----------
    latency_s : float, optional
        Mean time of a call on the wire.
    requests_per_s, tokens_per_s : float, optional
        The limits that it announced; None where it announced none.
    """

    latency_s: float | None = None
    requests_per_s: float | None = None
    tokens_per_s: float | None = None


@dataclass(frozen=True, slots=True)
class StepWork:
    """The calls of one step: how many, at which endpoint, how many of them at once, and how fast."""

    endpoint: str
    estimate: StepEstimate
    max_concurrency: int
    pace: Pace


def minutes_of(steps: Iterable[StepWork]) -> Range | None:
    """Minutes of all steps at the current limits; None where a step's calls or their latency are unknown.

    The calls of an endpoint take their latency over the calls in flight, and no less than its announced limits of
    requests and tokens allow; no step is shorter than one call. Steps of one endpoint share its slots, so their times
    add up. Endpoints work side by side where steps do (the low figure), or one after the other (the others).

    Examples
    --------
    >>> work = StepEstimate(calls=Range.exactly(1200))
    >>> minutes_of([StepWork("m", work, 10, Pace(latency_s=1.0))]).expected
    2.0
    """
    by_endpoint: dict[str, list[StepWork]] = {}
    for step in steps:
        by_endpoint.setdefault(step.endpoint, []).append(step)
    spans = [_span_s(group) for group in by_endpoint.values()]
    known = [span for span in spans if span is not None]
    if len(known) < len(spans):
        return None
    low = max((span.low for span in known), default=0.0)
    expected, high = sum(span.expected for span in known), sum(span.high for span in known)
    return Range(low / 60, expected / 60, high / 60)


def _span_s(steps: Sequence[StepWork]) -> Range | None:
    total = Range.exactly(0)
    for step in steps:
        one = _in_slots_s(step)
        if one is None:
            return None
        total += one
    for limit in (_by_requests_s(steps), _by_tokens_s(steps)):
        if limit is not None:
            total = Range(
                *(max(getattr(total, at), getattr(limit, at)) for at in ("low", "expected", "high"))
            )
    return total


def _in_slots_s(step: StepWork) -> Range | None:
    calls, latency_s = step.estimate.calls, step.pace.latency_s
    if calls is None:
        return None
    if calls.high <= 0:
        return Range.exactly(0)
    if latency_s is None:
        return None
    one = times(Range.exactly(latency_s), _LATENCY)
    all_ = times(calls, one, Range.exactly(1 / step.max_concurrency))
    least = one.low if calls.low > 0 else 0.0
    return Range(
        max(all_.low, least),
        max(all_.expected, latency_s if calls.expected > 0 else 0.0),
        max(all_.high, one.high) + _OPENING_ROUNDS * one.high,
    )


def _by_requests_s(steps: Sequence[StepWork]) -> Range | None:
    limits = [step.pace.requests_per_s for step in steps if step.pace.requests_per_s]
    total = _sum(step.estimate.calls for step in steps)
    return None if not limits or total is None else times(total, Range.exactly(1 / min(limits)))


def _by_tokens_s(steps: Sequence[StepWork]) -> Range | None:
    limits = [step.pace.tokens_per_s for step in steps if step.pace.tokens_per_s]
    total = _sum(of for step in steps for of in (step.estimate.input_tokens, step.estimate.output_tokens))
    return None if not limits or total is None else times(total, Range.exactly(1 / min(limits)))


def _sum(figures: Iterable[Range | None]) -> Range | None:
    total = Range.exactly(0)
    for figure in figures:
        if figure is None:
            return None
        total += figure
    return total
