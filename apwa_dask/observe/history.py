"""What a run was like over time: a subscriber that reduces its events to bounded pictures.

It holds counts, names of steps, endpoints and workers, and ids of rows; never what a row says.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from apwa_dask.execution.events import EndpointPulse, Event, Progress, RunFinished, StepPulse
from apwa_dask.observe.latency import added, counts_of
from apwa_dask.observe.sample import Sample, Took
from apwa_dask.observe.series import Series, SeriesData
from apwa_dask.observe.state import ProgressState

__all__ = ["EndpointPicture", "History", "Picture", "StepPicture", "WorkerPicture", "in_flight_at_once"]

MAX_STEPS = 100
MAX_ENDPOINTS = 12
MAX_WORKERS = 2000
MAX_SLOWEST = 12
SPREAD_S = 10.0
"""A report is about what happened since the last one of its process, and at most so long."""
SILENT_S = 60.0
"""A worker that has said nothing for so long holds nothing any more."""


@dataclass(frozen=True, slots=True)
class StepPicture:
    """One step so far. ``latency`` counts calls by bin; see `apwa_dask.observe.latency`."""

    step: str
    waiting: int = 0
    reused: int = 0
    outcomes: Mapping[str, int] = field(default_factory=dict)
    latency: Mapping[int, float] = field(default_factory=dict)
    sample: Mapping[str, Took] = field(default_factory=dict)
    """Some of its rows, which stand for all: seconds in calls, and of waiting, by row id."""


@dataclass(frozen=True, slots=True)
class WorkerPicture:
    """One process at one endpoint, as it last said at ``at_s`` (Unix seconds)."""

    worker: str
    endpoint: str
    at_s: float
    in_flight: int = 0
    waiting: int = 0
    limit: int = 0
    share: int = 0


@dataclass(frozen=True, slots=True)
class EndpointPicture:
    """One endpoint over all processes. ``most`` is the user's ceiling, the rates what the endpoint announced."""

    endpoint: str
    most: int = 0
    requests_per_s: float | None = None
    tokens_per_s: float | None = None
    answers: int = 0
    throttled: int = 0
    pauses: int = 0
    paused: str = ""
    series: SeriesData = field(default_factory=SeriesData)


@dataclass(frozen=True, slots=True)
class Picture:
    """A run at one moment: everything that a dashboard or a report draws."""

    state: ProgressState = field(default_factory=ProgressState)
    series: SeriesData = field(default_factory=SeriesData)
    endpoints: tuple[EndpointPicture, ...] = ()
    steps: tuple[StepPicture, ...] = ()
    workers: tuple[WorkerPicture, ...] = ()
    slowest: tuple[tuple[str, str, float, float], ...] = ()
    """(row id, step, seconds in calls, seconds of waiting for them), the longest in calls first."""


class History:
    """Subscriber of one run's events. Any thread may tell; any thread may ask for the picture.

    Parameters
    ----------
    past : Picture, optional
        What an earlier part of the run was like: a resume goes on with it.
    """

    def __init__(self, past: Picture | None = None) -> None:
        known = past or Picture()
        self._lock = threading.Lock()
        self._state = known.state
        self._series = Series(known.series)
        self._steps = {step.step: step for step in known.steps}
        self._samples = {step.step: Sample(step.sample) for step in known.steps}
        self._queues: dict[str, dict[str, int]] = {}
        self._told_s: dict[tuple[str, str], float] = {}
        self._endpoints = {one.endpoint: _Endpoint(one) for one in known.endpoints}
        self._swept_s = 0.0
        self._slowest = list(known.slowest)

    def __call__(self, event: Event) -> None:
        with self._lock:
            self._take(event)

    def picture(self) -> Picture:
        """A copy that later events do not change."""
        with self._lock:
            return Picture(
                self._state,
                self._series.data(),
                tuple(one.picture() for one in self._endpoints.values()),
                tuple(replace(step, sample=self._samples[step.step].rows()) for step in self._steps.values()),
                tuple(worker for one in self._endpoints.values() for worker in one.workers.values()),
                tuple(self._slowest),
            )

    def _take(self, event: Event) -> None:
        match event:
            case StepPulse():
                self._step(event)
            case EndpointPulse():
                self._endpoint(event)
            case _:
                self._state = self._state.apply(event)
        if isinstance(event, Progress):
            self._progress(event)
        if isinstance(event, RunFinished):
            self._queues.clear()
            self._steps = {name: replace(step, waiting=0) for name, step in self._steps.items()}
            for one in self._endpoints.values():
                one.end(event.time)

    def _progress(self, event: Progress) -> None:
        counts = {
            "rows": event.rows_done,
            "failed": event.rows_failed,
            "cached": event.rows_cached,
            "calls": event.calls,
            "input_tokens": event.input_tokens,
            "output_tokens": event.output_tokens,
            "cost_usd": event.cost_usd,
        }
        since_s = self._since_s("", event.worker, event.time)
        self._series.add(event.time, counts, since_s=since_s, in_flight=float(self._state.in_flight))

    def _since_s(self, subject: str, worker: str, now_s: float) -> float:
        """When this worker last spoke of the subject; its first word is about the time since the run began."""
        before_s = self._told_s.get((subject, worker), self._state.started_s or now_s)
        self._told_s[subject, worker] = now_s
        return min(max(before_s, now_s - SPREAD_S), now_s)

    def _step(self, event: StepPulse) -> None:
        step = self._steps.get(event.step)
        if step is None:
            if len(self._steps) >= MAX_STEPS:
                return
            step = StepPicture(event.step)
            self._samples[event.step] = Sample()
        outcomes = dict(step.outcomes)
        for outcome, units in event.outcomes.items():
            outcomes[outcome] = outcomes.get(outcome, 0) + units
        queue = self._queues.setdefault(event.step, {})
        before, queue[event.worker] = queue.get(event.worker, 0), event.waiting
        self._steps[event.step] = replace(
            step,
            waiting=max(step.waiting + event.waiting - before, 0),
            reused=step.reused + event.reused,
            outcomes=outcomes,
            latency=added(step.latency, event.latency),
        )
        since_s = self._since_s(event.step, event.worker, event.time)
        self._series.add(event.time, counts_of(event.latency), since_s=since_s)
        self._samples[event.step].add(event.took)
        named = [(row, event.step, calls_s, waited_s) for row, (calls_s, waited_s) in event.took.items()]
        self._slowest = sorted({*self._slowest, *named}, key=lambda slow: -slow[2])[:MAX_SLOWEST]

    def _endpoint(self, event: EndpointPulse) -> None:
        known = self._endpoints.get(event.endpoint)
        if known is None:
            if len(self._endpoints) >= MAX_ENDPOINTS:
                return
            known = self._endpoints[event.endpoint] = _Endpoint(EndpointPicture(event.endpoint))
        known.take(event, self._state.started_s or event.time)
        if event.time - self._swept_s > SILENT_S / 4:
            self._swept_s = event.time
            self._sweep(event.time)

    def _sweep(self, now_s: float) -> None:
        """Forget workers that fell silent while others spoke: they are gone."""
        for worker in {name for one in self._endpoints.values() for name in one.sweep(now_s)}:
            self._told_s = {key: at_s for key, at_s in self._told_s.items() if key[1] != worker}
            for step, queue in self._queues.items():
                left = queue.pop(worker, 0)
                picture = self._steps[step]
                self._steps[step] = replace(picture, waiting=max(picture.waiting - left, 0))


def in_flight_at_once(told: int, workers: int, most: int) -> int:
    """Calls in flight at one endpoint, where so many workers told of so many in all.

    They speak at different moments: slots that one has given back and another has taken are in both of their words. No
    more than the ceiling are in flight, which the coordinator keeps to the call, so that more is not shown where
    several spoke. What a process alone says is shown as it is.
    """
    return min(told, most) if workers > 1 and most else told


class _Endpoint:
    """One endpoint: sums over its workers are kept, lest each pulse cost as much as there are workers."""

    def __init__(self, picture: EndpointPicture) -> None:
        self._picture, self._series = picture, Series(picture.series)
        self.workers: dict[str, WorkerPicture] = {}
        self._in_flight = self._waiting = self._limit = 0

    def picture(self) -> EndpointPicture:
        return replace(self._picture, series=self._series.data())

    def take(self, event: EndpointPulse, begun_s: float) -> None:
        if event.worker not in self.workers and len(self.workers) >= MAX_WORKERS:
            return
        known = self.workers.get(event.worker)
        before_s = begun_s if known is None else known.at_s
        self._hold(event)
        since_s = min(max(before_s, event.time - SPREAD_S), event.time)
        self._series.add(event.time, {"answers": event.answers}, since_s=since_s)
        self._series.add(
            event.time,
            {"throttled": event.throttled},
            in_flight=float(in_flight_at_once(self._in_flight, len(self.workers), event.most)),
            waiting=float(self._waiting),
            limit=float(min(self._limit, event.most)),
            paused=float(bool(event.paused)),
        )
        one = self._picture
        self._picture = replace(
            one,
            most=event.most,
            requests_per_s=event.requests_per_s or one.requests_per_s,
            tokens_per_s=event.tokens_per_s or one.tokens_per_s,
            answers=one.answers + event.answers,
            throttled=one.throttled + event.throttled,
            pauses=one.pauses + event.pauses,
            paused=event.paused,
        )

    def _hold(self, event: EndpointPulse) -> None:
        self._drop(event.worker)
        names = ("worker", "endpoint", "in_flight", "waiting", "limit", "share")
        told = {name: getattr(event, name) for name in names}
        self.workers[event.worker] = WorkerPicture(at_s=event.time, **told)
        self._in_flight += event.in_flight
        self._waiting += event.waiting
        self._limit += event.limit

    def _drop(self, worker: str) -> None:
        gone = self.workers.pop(worker, None)
        if gone is not None:
            self._in_flight -= gone.in_flight
            self._waiting -= gone.waiting
            self._limit -= gone.limit

    def sweep(self, now_s: float) -> list[str]:
        """Drop the silent, and name them."""
        silent = [name for name, worker in self.workers.items() if now_s - worker.at_s > SILENT_S]
        for name in silent:
            self._drop(name)
        return silent

    def end(self, time_s: float) -> None:
        """The run has ended: nothing is held or awaited any more."""
        for name in list(self.workers):
            self._drop(name)
        self._series.add(time_s, in_flight=0.0, waiting=0.0, paused=0.0)
        self._picture = replace(self._picture, paused="")
