"""A gate on a virtual clock, and a simulated endpoint behind it."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from apwa_dask.models.gate import Gate
from apwa_dask.models.headers import Announced, Window


def gate(**settings: Any) -> Gate:
    given: dict[str, Any] = {"rng": random.Random(0), "probe": False, "max_concurrency": 64, **settings}
    return Gate("endpoint|key|model", **given)


class Endpoint:
    """A simulated endpoint: so many seconds for a call, so many calls at once, so many a second."""

    def __init__(
        self, *, latency_s: float = 0.2, slots: int | None = None, per_s: float | None = None
    ) -> None:
        self.latency_s, self.slots, self.per_s = latency_s, slots, per_s
        self.in_flight = self.most_in_flight = 0
        self.accepted: list[float] = []
        self.refused: list[float] = []
        self._level, self._at = 1.0, 0.0

    @property
    def burst(self) -> float:
        return max(1.0, self.per_s or 1.0)

    def admits(self) -> bool:
        now = asyncio.get_running_loop().time()
        if self.slots is not None and self.in_flight >= self.slots:
            return False
        if self.per_s is not None:
            self._level = min(self.burst, self._level + (now - self._at) * self.per_s)
            self._at = now
            if self._level < 1:
                return False
            self._level -= 1
        return True

    async def call(self, door: Gate, *, retry_after_s: float | None = None, announce: bool = False) -> None:
        """One call, tried until it is accepted."""
        while True:
            number = await door.acquire()
            try:
                admitted = self.admits()
                (self.accepted if admitted else self.refused).append(asyncio.get_running_loop().time())
                if admitted:
                    self.in_flight += 1
                    self.most_in_flight = max(self.most_in_flight, self.in_flight)
                    try:
                        await asyncio.sleep(self.latency_s)
                    finally:
                        self.in_flight -= 1
                else:
                    await asyncio.sleep(0.02)
                if announce and self.per_s is not None:
                    door.heard(Announced(requests=Window(self.per_s * 60, max(0.0, self._level), 1.0)))
                if admitted:
                    door.succeeded()
                    return
                door.throttled(number, retry_after_s)
            finally:
                door.release()


async def many(calls: int, door: Gate, endpoint: Endpoint, **settings: Any) -> float:
    """All calls at once; the virtual seconds they took."""
    started_s = asyncio.get_running_loop().time()
    await asyncio.gather(*[endpoint.call(door, **settings) for _ in range(calls)])
    return asyncio.get_running_loop().time() - started_s
