"""What a run has come to so far: one pure reducer over its events, and the numbers every display needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from apwa_dask.execution.events import (
    EndpointPulse,
    Event,
    Forecast,
    PartitionDone,
    Progress,
    RunFinished,
    RunStarted,
    StageFinished,
    StageStarted,
    State,
)

__all__ = ["FailureGroup", "ProgressState", "StageProgress"]

_RATE_WINDOW_S = 30.0
_SAMPLE_EVERY_S = 0.5
_MAX_GROUPS = 100
_IN_SIGHT = 10.0
"""A ceiling so many times above what is spent leaves a plot with nothing but the ceiling."""
_OTHER_FAILURES = "other failures"
_FINAL_WORDS = {"done": "done", "stopped": "stopped", "failed": "failed", "budget": "stopped by the budget"}


@dataclass(frozen=True, slots=True)
class StageProgress:
    """One stage. ``rows_total`` is None while unknown; a stage's rows that ended in whatever way are done."""

    name: str = ""
    partitions: int = 0
    partitions_done: int = 0
    rows_total: int | None = None
    rows_done: int = 0
    finished: bool = False

    @property
    def rows_shown(self) -> int:
        """Rows done; a partition worked on again after its worker was lost does not count past the total."""
        return self.rows_done if self.rows_total is None else min(self.rows_done, self.rows_total)

    @property
    def rows_left(self) -> int | None:
        """Rows still to come, None while the stage's size is unknown."""
        if self.finished:
            return 0
        return None if self.rows_total is None else self.rows_total - self.rows_shown


@dataclass(frozen=True, slots=True)
class FailureGroup:
    """Failures that say the same: ``class: safe message``, and how many rows."""

    words: str
    rows: int


@dataclass(frozen=True)
class ProgressState:
    """Counts, gauges and words of one run, as far as its events have told.

    `apply` gives the state after one more event; nothing here looks at a clock. ``rows_done`` of an event
    counts every row that got its outcome, failed and cached ones included.
    """

    run_id: str = ""
    model: str = ""
    words: str = "starting"
    status: str = ""
    message: str = ""
    started_s: float | None = None
    ended_s: float | None = None
    budget_usd: float | None = None
    stages_planned: int = 0
    stages: Mapping[int, StageProgress] = field(default_factory=dict)
    rows_failed: int = 0
    rows_cached: int = 0
    rows_reused: int = 0
    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0
    cost_unknown: bool = False
    throttled_s: float = 0.0
    in_flight_by_worker: Mapping[str, int] = field(default_factory=dict)
    """Calls begun and not ended, in the queue of an endpoint or on the wire."""
    on_wire_by_endpoint: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Of all runs of a process, by worker and endpoint."""
    ceilings: Mapping[str, int] = field(default_factory=dict)
    """Calls that may be in flight over all processes, by endpoint: the user's word."""
    announced_per_s: Mapping[str, float] = field(default_factory=dict)
    """Requests a second that an endpoint announced as its limit, where it announced one."""
    failures: Mapping[str, int] = field(default_factory=dict)
    last_failure: str = ""
    forecast_usd: float | None = None
    """What the run is thought to come to, by what it has come to so far; None where nothing is known."""
    estimated: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    """What it was thought to come to before its first call, as in `RunStarted`."""
    warning: str = ""
    """It will come to far more than was estimated, in words."""
    samples: tuple[tuple[float, int], ...] = ()
    """(Unix seconds, rows worked on so far): the recent past, for the rate."""

    @property
    def rows_done(self) -> int:
        """Rows done in the stages so far."""
        return sum(stage.rows_shown for stage in self.stages.values())

    @property
    def rows_total(self) -> int | None:
        """Rows of the stages so far; None while one of them does not know."""
        total = 0
        for stage in self.stages.values():
            if stage.rows_total is None and not stage.finished:
                return None
            total += stage.rows_shown if stage.rows_total is None else stage.rows_total
        return total if self.stages else None

    @property
    def in_flight(self) -> int:
        """Calls in flight over all processes, as last reported; those that wait for a slot are not."""
        on_wire: dict[str, int] = {}
        for (worker, _), calls in self.on_wire_by_endpoint.items():
            on_wire[worker] = on_wire.get(worker, 0) + calls
        return sum(
            min(calls, on_wire.get(worker, calls)) for worker, calls in self.in_flight_by_worker.items()
        )

    @property
    def ceiling_in_sight_usd(self) -> float | None:
        """The ceiling, where a plot of the money can have both; None where there is none, or it is far above."""
        if self.budget_usd is None:
            return None
        most_usd = max(self.cost_usd, self.forecast_usd or 0.0)
        return self.budget_usd if self.budget_usd <= _IN_SIGHT * most_usd else None

    @property
    def rows_waiting(self) -> int | None:
        """Rows of the stages so far that no call is out for; None while their number is unknown."""
        total = self.rows_total
        return None if total is None else max(total - self.rows_done - self.in_flight, 0)

    @property
    def is_over(self) -> bool:
        """The run has ended, one way or another."""
        return self.ended_s is not None

    @property
    def failure_groups(self) -> tuple[FailureGroup, ...]:
        """Failures, the most frequent group first."""
        ordered = sorted(self.failures.items(), key=lambda item: (-item[1], item[0]))
        return tuple(FailureGroup(words, rows) for words, rows in ordered)

    @property
    def rate_per_s(self) -> float | None:
        """Rows a second over the last half minute; None before there is a past to measure."""
        if len(self.samples) < 2:
            return None
        (first_s, first_rows), (last_s, last_rows) = self.samples[0], self.samples[-1]
        return (last_rows - first_rows) / (last_s - first_s) if last_s > first_s else None

    @property
    def eta_s(self) -> tuple[float, float] | None:
        """Seconds left, low and high: at the recent and the mean rate. None while there is nothing to say.

        It speaks of the stages that have begun; `stages_planned` says whether more follow.
        """
        left = [stage.rows_left for stage in self.stages.values()]
        if self.is_over or not left or None in left or self.started_s is None or not self.samples:
            return None
        rows_left = sum(rows for rows in left if rows is not None)
        elapsed_s = self.samples[-1][0] - self.started_s
        mean = self.samples[-1][1] / elapsed_s if elapsed_s > 0 else 0.0
        rates = [rate for rate in (self.rate_per_s, mean) if rate]
        return (rows_left / max(rates), rows_left / min(rates)) if rates else None

    def elapsed_s(self, now_s: float) -> float:
        """Seconds since the start, up to the end."""
        end_s = now_s if self.ended_s is None else self.ended_s
        return 0.0 if self.started_s is None else max(end_s - self.started_s, 0.0)

    def apply(self, event: Event) -> ProgressState:
        """The state after `event`. Events this version does not know change nothing."""
        match event:
            case Progress():
                return self._progressed(event)
            case EndpointPulse():
                return self._pulsed(event)
            case PartitionDone():
                return self._partition_done(event)
            case StageStarted():
                stage = StageProgress(event.name, event.partitions, rows_total=event.rows)
                return self._with_stage(event.stage, stage)
            case StageFinished():
                stage = self._stage(event.stage)
                return self._with_stage(event.stage, replace(stage, finished=True))
            case Forecast():
                forecast_usd = event.forecast if event.figure == "USD" else None
                return replace(self, forecast_usd=forecast_usd, warning=event.warning or self.warning)
            case State():
                return replace(self, words=event.words)
            case RunStarted():
                return replace(
                    self,
                    run_id=event.run_id,
                    model=event.model,
                    words="running",
                    started_s=event.time,
                    budget_usd=event.budget_usd,
                    estimated=event.estimated,
                    stages_planned=event.stages,
                    samples=((event.time, 0),),
                )
            case RunFinished():
                return replace(
                    self,
                    words=_FINAL_WORDS.get(event.status, event.status),
                    status=event.status,
                    message=event.message,
                    ended_s=event.time,
                    in_flight_by_worker={},
                )
        return self

    def _pulsed(self, event: EndpointPulse) -> ProgressState:
        place = (event.worker, event.endpoint)
        per_s = event.requests_per_s
        known = self.announced_per_s
        return replace(
            self,
            on_wire_by_endpoint={**self.on_wire_by_endpoint, place: event.in_flight},
            ceilings={**self.ceilings, event.endpoint: event.most} if event.most else self.ceilings,
            announced_per_s=known if per_s is None else {**known, event.endpoint: per_s},
        )

    def _progressed(self, event: Progress) -> ProgressState:
        stage = self._stage(event.stage)
        worked = (self.samples[-1][1] if self.samples else 0) + event.rows_done
        return replace(
            self._with_stage(event.stage, replace(stage, rows_done=stage.rows_done + event.rows_done)),
            rows_failed=self.rows_failed + event.rows_failed,
            rows_cached=self.rows_cached + event.rows_cached,
            calls=self.calls + event.calls,
            input_tokens=self.input_tokens + event.input_tokens,
            output_tokens=self.output_tokens + event.output_tokens,
            cost_usd=self.cost_usd + event.cost_usd,
            cost_unknown=self.cost_unknown or event.cost_unknown,
            throttled_s=self.throttled_s + event.throttled_s,
            in_flight_by_worker={**self.in_flight_by_worker, event.worker: event.in_flight},
            failures=_added(self.failures, event.failures),
            last_failure=next(reversed(event.failures), self.last_failure),
            samples=_sampled(self.samples, event.time, worked),
        )

    def _partition_done(self, event: PartitionDone) -> ProgressState:
        stage = self._stage(event.stage)
        stage = replace(stage, partitions_done=stage.partitions_done + 1)
        if not event.reused:
            return self._with_stage(event.stage, stage)
        # An earlier attempt committed it: no Progress event will speak of its rows.
        stage = replace(stage, rows_done=stage.rows_done + event.rows_in)
        return replace(self._with_stage(event.stage, stage), rows_reused=self.rows_reused + event.rows_in)

    def _stage(self, number: int) -> StageProgress:
        return self.stages.get(number, StageProgress())

    def _with_stage(self, number: int, stage: StageProgress) -> ProgressState:
        return replace(self, stages={**self.stages, number: stage})


def _added(failures: Mapping[str, int], more: Mapping[str, int]) -> Mapping[str, int]:
    """Both counts together; past a hundred different messages, new ones are counted under one heading."""
    if not more:
        return failures
    total = dict(failures)
    for words, rows in more.items():
        key = words if words in total or len(total) < _MAX_GROUPS else _OTHER_FAILURES
        total[key] = total.get(key, 0) + rows
    return total


def _sampled(
    samples: tuple[tuple[float, int], ...], time_s: float, rows: int
) -> tuple[tuple[float, int], ...]:
    """The recent past with one more sample, two a second at most; never empty."""
    recent = tuple(sample for sample in samples if sample[0] >= time_s - _RATE_WINDOW_S)
    kept = recent or samples[-1:]
    latest = (max(time_s, kept[-1][0]) if kept else time_s, rows)
    crowded = len(kept) >= 2 and latest[0] - kept[-2][0] < _SAMPLE_EVERY_S
    return (*(kept[:-1] if crowded else kept), latest)
