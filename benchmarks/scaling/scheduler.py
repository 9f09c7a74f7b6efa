"""The scheduler's side: the real `Coordinator` behind one queue, a service time a message, and a wire."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from distributed.protocol import dumps

from apwa_dask.models.coordinator import Coordinator
from apwa_dask.models.leases import Funds, Grant, Money, MoneyReport, Notice, Report, Want

__all__ = ["Cost", "SimScheduler"]

SIZE_EVERY = 97
"""One message in so many is serialised to learn its size."""


@dataclass(frozen=True)
class Cost:
    """Scheduler CPU of one question, seconds.

    Parameters
    ----------
    rpc_s : float
        Reading, dispatching and answering an RPC, whatever it does.
    handler_s, holder_s : float
        Of the handler of leases: once, and for each holder of the gate.
    fund_s : float
        Of the handler of money.
    message_s : float
        Of a message that is sent unasked, by the stream that each worker has.

    Notes
    -----
    The defaults are what `benchmarks.scaling.calibrate` found on the two-core machine of docs/scaling.md.
    """

    rpc_s: float = 125e-6
    handler_s: float = 19e-6
    holder_s: float = 0.0
    fund_s: float = 45e-6
    message_s: float = 20e-6

    def lease_s(self, holders: int) -> float:
        """Of one lease at a gate with so many holders."""
        return self.rpc_s + self.handler_s + self.holder_s * holders


@dataclass
class _Question:
    """One RPC: its fields as they travel, its handler, and what both cost."""

    words: dict[str, Any]
    answer: Callable[[], Any]
    service_s: Callable[[], float]
    answered: asyncio.Future[Any]
    asked_s: float


class SimScheduler:
    """Answers questions one after the other, as the scheduler's one event loop does.

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
    leases, funds : int
        Questions served: about calls, and about money.
    timeouts, wasted : int
        Those given up on by their worker, and those served after that.
    busy_s : float
        Modelled CPU.
    coordinator_cpu_s : float
        CPU that the `Coordinator` really took here; the only figure that differs from run to run.
    """

    def __init__(self, cost: Cost, *, hop_s: float = 0.0005, timeout_s: float = 10.0) -> None:
        self._loop = asyncio.get_running_loop()
        self.coordinator = Coordinator(clock=self._loop.time, tell=self._tell)
        self.listeners: dict[str, Callable[[Notice], None]] = {}
        self.cost, self._hop_s, self._timeout_s = cost, hop_s, timeout_s
        self._queue: deque[_Question] = deque()
        self._serving = False
        self._stalled_until_s = 0.0
        self.leases = self.funds = self.timeouts = self.wasted = 0
        self.busy_s = self.coordinator_cpu_s = self.longest_wait_s = 0.0
        self._bytes = self._sized = 0

    async def lease(self, holder: str, gate_key: str, want: Want, report: Report) -> Grant:
        """One RPC about calls.

        Raises
        ------
        TimeoutError
            As on a cluster: an `OSError`, after which a gate goes on with what it holds.
        """

        def answer() -> Grant:
            self.leases += 1
            return self.coordinator.lease(holder, gate_key, want, report)

        def service_s() -> float:
            return self.cost.lease_s(len(self.coordinator.in_flight_share(gate_key)))

        words = {"op": "apwa_lease", "holder": holder, "gate_key": gate_key, "want": want, "report": report}
        grant: Grant = await self._asked(words, answer, service_s)
        return grant

    async def fund(
        self, holder: str, account: str, least: Money, wanted: Money, report: MoneyReport
    ) -> Funds:
        """One RPC about money; see `lease`."""

        def answer() -> Funds:
            self.funds += 1
            return self.coordinator.fund(holder, account, least, wanted, report)

        def service_s() -> float:
            return self.cost.rpc_s + self.cost.fund_s

        words = {
            "op": "apwa_fund",
            "holder": holder,
            "account": account,
            "least": least,
            "wanted": wanted,
            "report": report,
        }
        funds: Funds = await self._asked(words, answer, service_s)
        return funds

    async def _asked(
        self, words: dict[str, Any], answer: Callable[[], Any], service_s: Callable[[], float]
    ) -> Any:
        question = _Question(words, answer, service_s, self._loop.create_future(), self._loop.time())
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
        service_s = question.service_s()
        self.busy_s += service_s
        self._loop.call_later(service_s, self._served, question)

    def _served(self, question: _Question) -> None:
        before = time.thread_time()
        answer = question.answer()
        self.coordinator_cpu_s += time.thread_time() - before
        self.longest_wait_s = max(self.longest_wait_s, self._loop.time() - question.asked_s)
        if (self.leases + self.funds) % SIZE_EVERY == 1:
            self._size(question, answer)
        if question.answered.done():
            self.wasted += 1
        else:
            self._loop.call_later(self._hop_s, _answer, question.answered, answer)
        self._next()

    def _size(self, question: _Question, answer: Grant | Funds) -> None:
        fields = {
            name: word if isinstance(word, str) else asdict(word) for name, word in question.words.items()
        }
        asked = {**fields, "reply": True}
        self._bytes += sum(len(frame) for message in (asked, asdict(answer)) for frame in dumps(message))
        self._sized += 1


def _answer(answered: asyncio.Future[Any], answer: Grant | Funds) -> None:
    if not answered.done():
        answered.set_result(answer)
