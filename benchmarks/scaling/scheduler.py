"""The scheduler's side: the real `Coordinator` behind one queue, a service time a message, and a wire."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass

from distributed.protocol import dumps

from apwa_dask.models.coordinator import Coordinator
from apwa_dask.models.leases import Grant, Notice, Report, Want

__all__ = ["Cost", "SimScheduler"]

SIZE_EVERY = 97
"""One message in so many is serialised to learn its size."""


@dataclass(frozen=True)
class Cost:
    """Scheduler CPU of one lease, seconds.

    Parameters
    ----------
    rpc_s : float
        Reading, dispatching and answering an RPC, whatever it does.
    handler_s, holder_s : float
        Of the handler: once, and for each holder of the gate.
    message_s : float
        Of a message that is sent unasked, by the stream that each worker has.

    Notes
    -----
    The defaults are what `benchmarks.scaling.calibrate` found on the two-core machine of docs/scaling.md.
    """

    rpc_s: float = 125e-6
    handler_s: float = 19e-6
    holder_s: float = 0.0
    message_s: float = 20e-6

    def lease_s(self, holders: int) -> float:
        """Of one lease at a gate with so many holders."""
        return self.rpc_s + self.handler_s + self.holder_s * holders


@dataclass
class _Question:
    holder: str
    gate_key: str
    want: Want
    report: Report
    answered: asyncio.Future[Grant]
    asked_s: float


class SimScheduler:
    """Answers leases one after the other, as the scheduler's one event loop does.

    Parameters
    ----------
    cost : Cost
        Service time.
    hop_s : float
        One way over the network.
    timeout_s : float
        After so long a worker gives up on an answer; the question is served all the same.

    Attributes
    ----------
    leases, timeouts, wasted : int
        Messages served, given up on by their worker, and served after that.
    busy_s : float
        Modelled CPU.
    coordinator_cpu_s : float
        CPU that `Coordinator.lease` really took here; the only figure that differs from run to run.
    """

    def __init__(self, cost: Cost, *, hop_s: float = 0.0005, timeout_s: float = 10.0) -> None:
        self._loop = asyncio.get_running_loop()
        self.coordinator = Coordinator(clock=self._loop.time, tell=self._tell)
        self.listeners: dict[str, Callable[[Notice], None]] = {}
        self.cost, self._hop_s, self._timeout_s = cost, hop_s, timeout_s
        self._queue: deque[_Question] = deque()
        self._serving = False
        self._stalled_until_s = 0.0
        self.leases = self.timeouts = self.wasted = 0
        self.busy_s = self.coordinator_cpu_s = self.longest_wait_s = 0.0
        self._bytes = self._sized = 0

    async def lease(self, holder: str, gate_key: str, want: Want, report: Report) -> Grant:
        """One RPC.

        Raises
        ------
        TimeoutError
            As on a cluster: an `OSError`, after which a gate goes on with what it holds.
        """
        question = _Question(holder, gate_key, want, report, self._loop.create_future(), self._loop.time())
        self._loop.call_later(self._hop_s, self._arrived, question)
        try:
            return await asyncio.wait_for(question.answered, self._timeout_s)
        except TimeoutError:
            self.timeouts += 1
            raise

    def stall(self, seconds: float) -> None:
        """Serve nothing for so long: a large graph arrives, the collector runs, the machine swaps."""
        self._stalled_until_s = self._loop.time() + seconds

    def leave(self, holder: str) -> None:
        """A worker's connection broke."""
        self.listeners.pop(holder, None)
        self.coordinator.release_holder(holder)

    @property
    def message_bytes(self) -> float:
        """Mean size of a question and its answer together, as the cluster's protocol encodes them."""
        return self._bytes / max(1, self._sized)

    def _tell(self, notice: Notice, holders: list[str]) -> None:
        """A message to each holder, one after the other, as the scheduler's streams to its workers send it."""
        for k, holder in enumerate(holders, 1):
            listener = self.listeners.get(holder)
            if listener is not None:
                self._loop.call_later(self._hop_s + k * self.cost.message_s, listener, notice)
        self.busy_s += len(holders) * self.cost.message_s

    def _arrived(self, question: _Question) -> None:
        self._queue.append(question)
        if not self._serving:
            self._serving = True
            self._next()

    def _next(self) -> None:
        wait_s = self._stalled_until_s - self._loop.time()
        if wait_s > 0:
            self._loop.call_later(wait_s, self._next)
            return
        if not self._queue:
            self._serving = False
            return
        question = self._queue.popleft()
        holders = len(self.coordinator.in_flight_share(question.gate_key))
        service_s = self.cost.lease_s(holders)
        self.busy_s += service_s
        self._loop.call_later(service_s, self._served, question)

    def _served(self, question: _Question) -> None:
        before = time.thread_time()
        grant = self.coordinator.lease(question.holder, question.gate_key, question.want, question.report)
        self.coordinator_cpu_s += time.thread_time() - before
        self.leases += 1
        self.longest_wait_s = max(self.longest_wait_s, self._loop.time() - question.asked_s)
        if self.leases % SIZE_EVERY == 1:
            self._size(question, grant)
        if question.answered.done():
            self.wasted += 1
        else:
            self._loop.call_later(self._hop_s, _answer, question.answered, grant)
        self._next()

    def _size(self, question: _Question, grant: Grant) -> None:
        asked = {
            "op": "apwa_lease",
            "holder": question.holder,
            "gate_key": question.gate_key,
            "want": asdict(question.want),
            "report": asdict(question.report),
            "reply": True,
        }
        self._bytes += sum(len(frame) for message in (asked, asdict(grant)) for frame in dumps(message))
        self._sized += 1


def _answer(answered: asyncio.Future[Grant], grant: Grant) -> None:
    if not answered.done():
        answered.set_result(grant)
