"""One worker process: a real `Gate`, and rows that go through it for ever."""

from __future__ import annotations

import asyncio
import random

from apwa_dask.models.endpoints import LIMITS_EVERY_S
from apwa_dask.models.gate import Gate
from apwa_dask.models.headers import announced
from apwa_dask.models.leases import Grant, Report, Want
from benchmarks.scaling.endpoint import Answer, SimEndpoint
from benchmarks.scaling.scheduler import SimScheduler

__all__ = ["GATE_KEY", "SimWorker"]

GATE_KEY = "https://endpoint.example/v1|0123456789abcdef|model"


class SimWorker:
    """Holds `rows` calls at a time, in flight or waiting: the window of its partitions.

    Parameters
    ----------
    most : int
        The user's ceiling over all processes.
    """

    def __init__(
        self, name: str, scheduler: SimScheduler, endpoint: SimEndpoint, *, most: int, rows: int, seed: int
    ) -> None:
        self.name = name
        self._scheduler, self._endpoint = scheduler, endpoint
        self._loop = asyncio.get_running_loop()
        self.gate = Gate(GATE_KEY, max_concurrency=most, lease=self._lease, rng=random.Random(seed))
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

    async def _row(self) -> None:
        gate, endpoint, time_s = self.gate, self._endpoint, self._loop.time
        while True:
            number = gate.try_acquire() or await gate.acquire()
            try:
                answer = endpoint.call(self.name, time_s())
                await asyncio.sleep(answer.latency_s)
                if answer.headers:
                    self._hear(answer)
                if answer.retry_after_s is None:
                    gate.succeeded()
                else:
                    gate.throttled(number, answer.retry_after_s)
            finally:
                gate.release()

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
        """The process ends: its calls in flight are gone."""
        for row in self._rows:
            row.cancel()
        await asyncio.gather(*self._rows, return_exceptions=True)
        await self.gate.close()
        self._scheduler.leave(self.name)
