"""What a process sees of steps and endpoints, told in a few small events: the ground of dashboards and reports.

Nothing is sent for a call. Counting costs an integer or two where a unit of work ends; endpoints are looked at
when a report goes out, and the coordinator's words are taken from the leases that pass by anyway.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from math import log2
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from apwa_dask.execution.events import EndpointPulse, StepPulse

if TYPE_CHECKING:
    from apwa_dask.models.gate import Gate
    from apwa_dask.models.leases import Grant, LeaseFn, Report, Want

__all__ = [
    "LATENCY_BINS",
    "EndpointMeter",
    "LeaseMeter",
    "Pulses",
    "StepMeter",
    "endpoint_label",
    "latency_bin",
    "sample_rank",
]

LATENCY_BINS = 88
"""Bins of four to the octave from 1 ms up: the last one holds all above an hour."""

SLOWEST = 12
"""Units named in one report of a process because no others were so long in calls."""

COUNTED_TOGETHER = 256
"""Answers that are noted, and then counted at once: one by one, on the loop, each would cost several times as much."""

SAMPLED = 200
"""Units of a step whose times are a sample of all of them; of a preview of fewer rows, every one."""

PULSE_S = 2.0
"""Seconds between two reports of a process; more where many processes report."""

PULSES_PER_S = 100.0
"""Reports that all processes of a cluster together send to the scheduler."""

SIGN_OF_LIFE_S = 15.0
"""So often an endpoint is told of though nothing has changed, while calls are in flight."""


def latency_bin(seconds: float) -> int:
    """The bin of a latency: bin k holds ``2**(k/4)`` to ``2**((k+1)/4)`` milliseconds, so to within 19 %."""
    milliseconds = seconds * 1000.0
    return min(int(4.0 * log2(milliseconds)), LATENCY_BINS - 1) if milliseconds > 1.0 else 0


def sample_rank(row_id: str) -> int:
    """Where a row stands in an order by lot: the first `SAMPLED` of a run are a fair sample of it.

    Every process and every step gives a row the same place, so samples join by taking the first of both, and the
    sampled rows of two steps are the same ones (bottom-k sampling: Cohen and Kaplan, PODC 2007).
    """
    return int.from_bytes(blake2b(row_id.encode(), digest_size=8).digest(), "big")


@dataclass(slots=True)
class _Step:
    """One step since the last report; `waiting`, `told` and `ranks` outlive it."""

    outcomes: dict[str, int] = field(default_factory=dict)
    reused: int = 0
    latency: dict[int, int] = field(default_factory=dict)
    slowest: list[tuple[float, float, str]] = field(default_factory=list)
    sampled: dict[str, tuple[float, float]] = field(default_factory=dict)
    waiting: int = 0
    told: int = 0
    ranks: list[int] = field(default_factory=list)
    """A heap of the sample's ranks, negative: the last one is at its head."""


class StepMeter:
    """Counts units of work by step, in one run of one process. Any thread may count."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._steps: dict[str, _Step] = {}
        self._answers: deque[tuple[str, float]] = deque()
        """Step and latency of calls that are not in `_steps` yet."""

    def begun(self, step_id: str, units: int) -> None:
        """Units go out; with a negative number, they have come back."""
        with self._lock:
            self._of(step_id).waiting += units

    def settled(self, step_id: str, outcome: str, *, reused: bool) -> None:
        """A unit has its outcome."""
        with self._lock:
            step = self._of(step_id)
            step.outcomes[outcome] = step.outcomes.get(outcome, 0) + 1
            step.reused += reused

    def answered(self, step_id: str, latency_s: float) -> None:
        """A call was answered after so long on the wire."""
        self._answers.append((step_id, latency_s))
        if len(self._answers) >= COUNTED_TOGETHER:
            with self._lock:
                self._count()

    def lasted(self, step_id: str, row_id: str, calls_s: float, waited_s: float) -> None:
        """A unit has come back: so long it was in calls, so long it waited for them."""
        rank = sample_rank(row_id)
        with self._lock:
            step = self._of(step_id)
            if len(step.slowest) < SLOWEST:
                heapq.heappush(step.slowest, (calls_s, waited_s, row_id))
            elif calls_s > step.slowest[0][0]:
                heapq.heapreplace(step.slowest, (calls_s, waited_s, row_id))
            if len(step.ranks) < SAMPLED:
                heapq.heappush(step.ranks, -rank)
            elif rank < -step.ranks[0]:
                heapq.heapreplace(step.ranks, -rank)
            else:
                return
            step.sampled[row_id] = (round(calls_s, 3), round(waited_s, 3))

    def take(self, run_id: str, worker: str) -> list[StepPulse]:
        """What has happened since the last call, a pulse for each step of which there is news."""
        with self._lock:
            self._count()
            taken = dict(self._steps)
            self._steps = {
                name: _Step(waiting=step.waiting, told=step.waiting, ranks=step.ranks)
                for name, step in taken.items()
            }
        return [
            StepPulse(
                run_id,
                time.time(),
                step=name,
                worker=worker,
                waiting=step.waiting,
                outcomes=step.outcomes,
                reused=step.reused,
                latency={str(place): n for place, n in step.latency.items()},
                took=step.sampled | {row: (round(c, 3), round(w, 3)) for c, w, row in step.slowest},
            )
            for name, step in taken.items()
            if step.outcomes or step.latency or step.waiting != step.told
        ]

    def _count(self) -> None:
        while self._answers:
            step_id, latency_s = self._answers.popleft()
            latency, place = self._of(step_id).latency, latency_bin(latency_s)
            latency[place] = latency.get(place, 0) + 1

    def _of(self, step_id: str) -> _Step:
        step = self._steps.get(step_id)
        if step is None:
            step = self._steps[step_id] = _Step()
        return step


@dataclass(slots=True)
class _Lease:
    share: int = 0
    throttled: int = 0
    requests_per_s: float | None = None
    tokens_per_s: float | None = None


class LeaseMeter:
    """Stands in the way to the coordinator and remembers what passes: shares, refusals, announced limits."""

    def __init__(self) -> None:
        self._leases: dict[str, _Lease] = {}

    def watching(self, ask: LeaseFn) -> LeaseFn:
        """The same way to the coordinator, with what passes on it noted."""

        async def lease(gate_key: str, want: Want, report: Report) -> Grant:
            grant = await ask(gate_key, want, report)
            self._note(gate_key, report, grant)  # a report that did not arrive is told again later
            return grant

        return lease

    def _note(self, gate_key: str, report: Report, grant: Grant) -> None:
        seen = self._leases.setdefault(gate_key, _Lease())
        seen.share = grant.concurrency
        seen.throttled += report.throttled
        if report.limits.requests is not None:
            seen.requests_per_s = report.limits.requests.per_s
        if report.limits.tokens is not None:
            seen.tokens_per_s = report.limits.tokens.per_s

    def seen(self, gate_key: str) -> _Lease:
        """What was last heard of a gate; zeros where nothing was."""
        return self._leases.get(gate_key, _Lease())


class EndpointMeter:
    """Looks at the gates of this process for one run, and tells what changed since it last looked.

    What gates had counted before the run is not the run's.
    """

    def __init__(self, gates: Sequence[Gate], leases: LeaseMeter) -> None:
        self._leases = leases
        self._lock = threading.Lock()
        self._counted = {gate.key: self._counts(gate) for gate in gates}
        self._told: dict[str, EndpointPulse] = {}
        self._told_s: dict[str, float] = {}

    def take(self, gates: Sequence[Gate], run_id: str, worker: str) -> list[EndpointPulse]:
        """A pulse for each gate of which there is news."""
        with self._lock:
            return list(self._news(gates, run_id, worker))

    def _news(self, gates: Sequence[Gate], run_id: str, worker: str) -> Iterator[EndpointPulse]:
        for gate in gates:
            now, before = self._counts(gate), self._counted.get(gate.key, (0, 0, 0))
            self._counted[gate.key] = now
            lease = self._leases.seen(gate.key)
            pulse = EndpointPulse(
                run_id,
                0.0,
                endpoint=endpoint_label(gate.key),
                worker=worker,
                in_flight=gate.in_flight,
                waiting=gate.waiting,
                limit=gate.limit,
                share=lease.share,
                most=gate.max_concurrency,
                answers=now[0] - before[0],
                throttled=now[1] - before[1],
                pauses=now[2] - before[2],
                paused=gate.pause_words,
                requests_per_s=lease.requests_per_s,
                tokens_per_s=lease.tokens_per_s,
            )
            if not self._is_news(gate.key, pulse):
                continue
            self._told[gate.key] = replace(pulse, answers=0, throttled=0, pauses=0)
            self._told_s[gate.key] = time.monotonic()
            yield pulse.at(time.time())

    def _is_news(self, key: str, pulse: EndpointPulse) -> bool:
        busy = bool(pulse.in_flight or pulse.waiting)
        if pulse.answers or pulse.throttled or pulse.pauses:
            return True
        if key not in self._told and not busy:
            return False  # an endpoint of other runs in this process
        if pulse != self._told.get(key):
            return True
        return busy and time.monotonic() - self._told_s[key] > SIGN_OF_LIFE_S

    def _counts(self, gate: Gate) -> tuple[int, int, int]:
        return gate.answers, self._leases.seen(gate.key).throttled, gate.pauses


class Pulses:
    """The steps and endpoints of one run in this process, and when to tell of them.

    Parameters
    ----------
    gates : callable
        Gives the gates of this process.
    leases : LeaseMeter
    """

    def __init__(self, gates: Callable[[], Sequence[Gate]], leases: LeaseMeter) -> None:
        self.steps = StepMeter()
        self._gates = gates
        self._endpoints = EndpointMeter(gates(), leases)
        self._told_s = float("-inf")

    def take(self, run_id: str, worker: str, *, last: bool) -> list[StepPulse | EndpointPulse]:
        """What there is to tell, if it is time to; in any case when it is the `last` word for now."""
        gates, now_s = self._gates(), time.monotonic()
        processes = max((gate.retries.holders for gate in gates), default=1)
        if not last and now_s - self._told_s < max(PULSE_S, processes / PULSES_PER_S):
            return []
        self._told_s = now_s
        return [*self.steps.take(run_id, worker), *self._endpoints.take(gates, run_id, worker)]


def endpoint_label(gate_key: str) -> str:
    """Model and host of a gate, for people: no key, no credentials of an address.

    Examples
    --------
    >>> endpoint_label("http://me:secret@127.0.0.1:9/v1|5f0c|gpt-test")
    'gpt-test at 127.0.0.1:9'
    """
    address, _, rest = gate_key.partition("|")
    model = rest.partition("|")[2]
    place = urlsplit(address).netloc.rpartition("@")[2] or address.rstrip(":/")
    return f"{model} at {place}"[:120]
