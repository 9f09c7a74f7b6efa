"""What happens in a run, as small frozen dataclasses. The engine emits them and draws nothing itself.

Progress, history, reports and dashboards are subscribers (`apwa_dask.observe`). Counts are deltas since the
last event of the same process, so that adding them up is all a subscriber has to do. No row text travels in
an event.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

__all__ = [
    "EndpointPulse",
    "Event",
    "Forecast",
    "PartitionDone",
    "Progress",
    "RunFinished",
    "RunStarted",
    "StageFinished",
    "StageStarted",
    "State",
    "StepPulse",
    "Subscriber",
    "open_all",
]


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened in a run, at ``time`` (Unix seconds)."""

    run_id: str
    time: float


@dataclass(frozen=True, slots=True)
class RunStarted(Event):
    """The run begins: its plan's hash, the number of stages, the ceiling in USD (None: no ceiling), and what it was
    thought to come to.
    """

    plan_hash: str = ""
    stages: int = 0
    budget_usd: float | None = None
    model: str = ""
    estimated: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    """Low, expected, high of ``calls``, ``input_tokens``, ``output_tokens``, ``cost_usd``, ``minutes``: those known."""


@dataclass(frozen=True, slots=True)
class StageStarted(Event):
    """A stage begins. ``rows`` is None where the source does not know its row count."""

    stage: int = 0
    name: str = ""
    partitions: int = 0
    rows: int | None = None


@dataclass(frozen=True, slots=True)
class Progress(Event):
    """Deltas of one process since its last report (at most two a second), and its gauges now."""

    stage: int = 0
    rows_done: int = 0
    rows_failed: int = 0
    rows_cached: int = 0
    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0
    cost_unknown: bool = False
    throttled_s: float = 0.0
    in_flight: int = 0
    worker: str = ""
    failures: dict[str, int] = field(default_factory=dict)
    """New failures by ``class: safe message``."""
    paid: dict[str, tuple[int, int, float]] = field(default_factory=dict)
    """New paid units, their tokens and their cost in USD, by step."""


@dataclass(frozen=True, slots=True)
class Forecast(Event):
    """What the run will come to, by what it has come to so far. Told when that changes by a tenth or more."""

    figure: str = "USD"
    """What is counted: ``USD``, or ``tokens`` where no price is known."""
    estimated: float = 0.0
    """What was expected before the first call."""
    forecast: float = 0.0
    rows_done: int = 0
    rows: int | None = None
    """Rows of the stages so far; None while unknown."""
    warning: str = ""
    """In words, once in a run: it will come to 1.5 times the estimate, or more."""


@dataclass(frozen=True, slots=True)
class StepPulse(Event):
    """One step in one process since its last pulse (one every two seconds at most), and its queue now."""

    step: str = ""
    worker: str = ""
    waiting: int = 0
    """Units that went out and have not come back."""
    outcomes: dict[str, int] = field(default_factory=dict)
    """Units by the class of their outcome."""
    reused: int = 0
    latency: dict[str, int] = field(default_factory=dict)
    """Calls answered, by bin of their time on the wire (`apwa_dask.execution.pulse.latency_bin`)."""
    took: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Of some units, by row id: seconds in calls, and seconds in which they waited for them (queue, pauses, retries,
    tools). The few that were longest in calls, and those of a sample of the run that its processes draw alike
    (`apwa_dask.execution.pulse.sample_rank`).
    """


@dataclass(frozen=True, slots=True)
class EndpointPulse(Event):
    """One endpoint as one process sees it: gauges now, and what was counted since the last pulse."""

    endpoint: str = ""
    worker: str = ""
    in_flight: int = 0
    waiting: int = 0
    limit: int = 0
    """Calls in flight that the process would allow itself."""
    share: int = 0
    """Calls in flight that were leased to it; 0 before the first lease."""
    most: int = 0
    """The user's ceiling over all processes."""
    answers: int = 0
    throttled: int = 0
    pauses: int = 0
    paused: str = ""
    """Until when and why nothing is sent; empty when calls may go."""
    requests_per_s: float | None = None
    tokens_per_s: float | None = None
    """Limits that the endpoint announced; None where it announces none."""

    def at(self, time_s: float) -> EndpointPulse:
        """The same at another moment."""
        return replace(self, time=time_s)


@dataclass(frozen=True, slots=True)
class State(Event):
    """The run's state in words: running, paused (with until-when and why), stopping, ..."""

    words: str = ""


@dataclass(frozen=True, slots=True)
class PartitionDone(Event):
    """A partition is committed. ``reused`` when an earlier attempt had committed it already."""

    stage: int = 0
    partition: int = 0
    rows_in: int = 0
    rows_out: int = 0
    reused: bool = False


@dataclass(frozen=True, slots=True)
class StageFinished(Event):
    """All partitions of a stage are committed."""

    stage: int = 0
    rows_out: int = 0


@dataclass(frozen=True, slots=True)
class RunFinished(Event):
    """The run ended: ``done``, ``stopped``, ``failed`` or ``budget``."""

    status: str = "done"
    message: str = ""


class Subscriber(Protocol):
    """Receives every event of a run, in the client's process, from one thread."""

    def __call__(self, event: Event) -> None: ...


@runtime_checkable
class Opening(Protocol):
    """A subscriber that is told when a run is about to start, or to go on, in the thread that starts it."""

    def open(self) -> None: ...


def open_all(subscribers: Iterable[object]) -> None:
    """Tell those who want to know that a run is about to start."""
    for subscriber in subscribers:
        if isinstance(subscriber, Opening):
            subscriber.open()
