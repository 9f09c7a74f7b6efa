"""One worker process: a real `Gate` and a real `Wallet`, and rows that go through both until the money is gone."""

from __future__ import annotations

import asyncio
import random

from apwa_dask.errors import BudgetError
from apwa_dask.models.budget import Budget, Wallet
from apwa_dask.models.endpoints import LIMITS_EVERY_S
from apwa_dask.models.gate import Gate
from apwa_dask.models.headers import announced
from apwa_dask.models.leases import Funds, Grant, Money, MoneyReport, Report, Want
from benchmarks.scaling.endpoint import Answer, SimEndpoint
from benchmarks.scaling.scheduler import SimScheduler

__all__ = ["ACCOUNT", "GATE_KEY", "RESERVED_USD", "SPENT_OF_RESERVED", "SimWorker"]

GATE_KEY = "https://endpoint.example/v1|0123456789abcdef|model"
ACCOUNT = "run"
RESERVED_USD = 0.01
SPENT_OF_RESERVED = 0.4, 1.0
"""What a call comes to, of what is reserved for it: anything between these."""
RESERVED = Money(RESERVED_USD, 1000, 1)


class SimWorker:
    """Holds `rows` calls at a time, in flight or waiting: the window of its partitions.

    Parameters
    ----------
    most : int
        The user's ceiling over all processes.
    budget : Budget
        Of the run that all workers work on.
    """

    def __init__(
        self,
        name: str,
        scheduler: SimScheduler,
        endpoint: SimEndpoint,
        *,
        most: int,
        rows: int,
        budget: Budget,
        seed: int,
    ) -> None:
        self.name = name
        self._scheduler, self._endpoint = scheduler, endpoint
        self._loop = asyncio.get_running_loop()
        self.gate = Gate(GATE_KEY, max_concurrency=most, lease=self._lease, rng=random.Random(seed))
        self.wallet = Wallet(budget, account=ACCOUNT, fund=self._fund)
        self.rows_left = rows
        """Rows that still have money."""
        self._prices = random.Random(seed + 1)
        scheduler.listeners[name] = self.gate.noticed
        self.paused_at_s = float("inf")
        self.booked_ahead_s = 0.0
        """Until its last permits may be used; 0 where it has a pace of its own, or need not wait."""
        self._pauses = 0
        self._limits_read_s = float("-inf")
        self._rows = [self._loop.create_task(self._row()) for _ in range(rows)]

    async def _lease(self, gate_key: str, want: Want, report: Report) -> Grant:
        grant = await self._scheduler.lease(self.name, gate_key, want, report)
        self.booked_ahead_s = grant.start_in_s if grant.requests else 0.0
        return grant

    async def _fund(self, account: str, least: Money, wanted: Money, report: MoneyReport) -> Funds:
        if self.name not in self._scheduler.listeners:
            raise ConnectionError(self.name)  # a process that has ended asks nothing
        return await self._scheduler.fund(self.name, account, least, wanted, report)

    async def _row(self) -> None:
        try:
            while True:
                await self._call()
        except BudgetError:
            self.rows_left -= 1

    async def _call(self) -> None:
        """As `models.client.Client` makes it: money first, then a slot."""
        gate, wallet, endpoint, time_s = self.gate, self.wallet, self._endpoint, self._loop.time
        if not wallet.try_reserve(RESERVED):
            await wallet.reserve(RESERVED)
        spent = Money()
        try:
            number = gate.try_acquire() or await gate.acquire()
            try:
                answer = endpoint.call(self.name, time_s())
                await asyncio.sleep(answer.latency_s)
                if answer.headers:
                    self._hear(answer)
                if answer.retry_after_s is None:
                    gate.succeeded()
                    spent = Money(RESERVED_USD * self._prices.uniform(*SPENT_OF_RESERVED), 700, 1)
                else:
                    gate.throttled(number, answer.retry_after_s)
            finally:
                gate.release()
        finally:
            wallet.settle(RESERVED, spent)

    def _hear(self, answer: Answer) -> None:
        """As `models.endpoints.Lane.observe` does: headers of every refusal, of other answers now and then."""
        now_s = self._loop.time()
        if answer.retry_after_s is None and now_s - self._limits_read_s < LIMITS_EVERY_S:
            return
        self._limits_read_s = now_s
        limits = announced(answer.headers)
        if limits:
            self.gate.heard(limits)

    def look_for_pause(self) -> bool:
        """Note when the gate was first seen paused since the last `forget_pauses`; whether it was."""
        if self.gate.pauses > self._pauses and self.paused_at_s == float("inf"):
            self.paused_at_s = self._loop.time()
        return self.paused_at_s < float("inf")

    def forget_pauses(self) -> None:
        """Watch anew."""
        self._pauses, self.paused_at_s = self.gate.pauses, float("inf")

    async def leave(self) -> None:
        """The process ends: its calls in flight are gone, and what it has not told of its money."""
        self._scheduler.leave(self.name)
        for row in self._rows:
            row.cancel()
        await asyncio.gather(*self._rows, return_exceptions=True)
        await self.gate.close()
