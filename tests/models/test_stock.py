"""Permits of many processes under one limit, on a virtual clock: no debt, no bursts, no stop in a stall."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest

from apwa_dask.models.coordinator import Coordinator
from apwa_dask.models.gate import Gate
from apwa_dask.models.headers import Announced, Window
from apwa_dask.models.leases import Grant, LeaseFn, Notice, Report, Want

Virtual = Callable[..., Any]
KEY = "endpoint|key|model"


class Limit:
    """An endpoint with a bucket of one second, and the processes at it."""

    def __init__(
        self, per_s: float, *, announce: bool = True, level: float | None = None, hint_s: float | None = 1.0
    ) -> None:
        self.per_s, self.announce, self.hint_s = per_s, announce, hint_s
        self.level, self.at_s = max(1.0, per_s) if level is None else level, 0.0
        self.admitted: list[float] = []
        self.refused: list[float] = []
        self.answered: dict[str, list[float]] = {}
        self.coordinator = Coordinator(asyncio.get_running_loop().time, tell=self._tell)
        self.doors: dict[str, Gate] = {}
        self.questions: list[tuple[float, str]] = []
        self.stalled = False
        self.lost = 0
        self.most = 512
        self._rows: dict[str, list[asyncio.Task[None]]] = {}

    def _tell(self, notice: Notice, holders: list[str]) -> None:
        for name in holders:
            asyncio.get_running_loop().call_soon(self.doors[name].noticed, notice)

    def _way(self, name: str) -> LeaseFn:
        async def lease(gate_key: str, want: Want, report: Report) -> Grant:
            if self.stalled:
                raise TimeoutError
            self.questions.append((asyncio.get_running_loop().time(), name))
            grant = self.coordinator.lease(name, gate_key, want, report)
            if self.lost and len(self.questions) % self.lost == 0:
                await asyncio.sleep(2.0)
                raise TimeoutError
            return grant

        return lease

    def join(self, *names: str, rows: int = 5, latency_s: float = 0.2) -> None:
        """Processes begin, with so many rows that are sent again and again."""
        loop = asyncio.get_running_loop()
        for name in names:
            seed = random.Random(name)
            self.doors[name] = Gate(KEY, lease=self._way(name), rng=seed, max_concurrency=self.most)
            self._rows[name] = [loop.create_task(self._row(name, latency_s)) for _ in range(rows)]

    async def rest(self, name: str) -> None:
        """A process has nothing to send."""
        for row in self._rows[name]:
            row.cancel()
        await asyncio.gather(*self._rows[name], return_exceptions=True)

    async def _row(self, name: str, latency_s: float) -> None:
        door, loop = self.doors[name], asyncio.get_running_loop()
        while True:
            number = door.try_acquire() or await door.acquire()
            try:
                now = loop.time()
                self.level = min(max(1.0, self.per_s), self.level + (now - self.at_s) * self.per_s)
                self.at_s = now
                good = self.level >= 1 - 1e-9
                self.level -= good
                left = max(0.0, self.level)
                (self.admitted if good else self.refused).append(now)
                await asyncio.sleep(latency_s if good else 0.02)
                if self.announce:
                    door.heard(Announced(requests=Window(self.per_s * 60, left, 1.0)))
                if good:
                    self.answered.setdefault(name, []).append(now)
                    door.succeeded()
                else:
                    door.throttled(number, self.hint_s)
            finally:
                door.release()

    def used(self, start_s: float, end_s: float) -> float:
        """Share of the limit between two moments."""
        return sum(start_s <= at < end_s for at in self.admitted) / (self.per_s * (end_s - start_s))

    async def until(self, moment_s: float) -> None:
        await asyncio.sleep(moment_s - asyncio.get_running_loop().time())

    async def close(self) -> None:
        for name, door in self.doors.items():
            await self.rest(name)
            await door.close()


def processes(count: int) -> list[str]:
    return [f"p{k}" for k in range(count)]


@pytest.mark.parametrize(("count", "per_s"), [(8, 1.0), (50, 5.0), (50, 10.0)])
def test_a_low_limit_is_used_and_a_newcomer_does_not_wait_behind_promises(
    virtual_time: Virtual, count: int, per_s: float
) -> None:
    async def story() -> None:
        limit = Limit(per_s)
        limit.join(*processes(count))
        await limit.until(300.0)
        limit.join("newcomer")
        await limit.until(400.0)
        assert limit.used(100.0, 400.0) >= 0.97
        assert sum(at > 100.0 for at in limit.refused) <= 0.01 * 300 * per_s
        assert limit.answered["newcomer"][0] <= 300.0 + 2 * (count + 1) / per_s
        await limit.close()

    virtual_time(story())


@pytest.mark.parametrize(("count", "per_s"), [(8, 1.0), (4, 10.0)])
def test_a_limit_that_halves_and_doubles_while_permits_are_promised_is_followed(
    virtual_time: Virtual, count: int, per_s: float
) -> None:
    async def story() -> None:
        limit = Limit(per_s)
        limit.join(*processes(count))
        await limit.until(100.0)
        limit.per_s = per_s / 2
        await limit.until(300.0)
        assert limit.used(130.0, 300.0) >= 0.95
        limit.per_s = per_s
        await limit.until(500.0)
        assert limit.used(330.0, 500.0) >= 0.95
        assert len(limit.refused) <= 0.05 * len(limit.admitted) + count
        await limit.close()

    virtual_time(story())


@pytest.mark.parametrize(("count", "per_s"), [(8, 1.0), (8, 20.0)])
def test_permits_of_a_pause_do_not_burst_at_its_end(virtual_time: Virtual, count: int, per_s: float) -> None:
    async def story() -> None:
        limit = Limit(per_s)
        limit.join(*processes(count))
        await limit.until(60.0)
        before = len(limit.refused)
        for door in limit.doors.values():
            door.pause(20.0, "rate limit")
        await limit.until(80.0)
        assert not [at for at in limit.admitted if 60.0 < at < 80.0]
        await limit.until(200.0)
        assert len(limit.refused) - before <= 1
        assert limit.used(90.0, 200.0) >= 0.95
        await limit.close()

    virtual_time(story())


def test_a_stall_of_the_coordinator_costs_nothing_until_the_lease_ends(virtual_time: Virtual) -> None:
    async def story() -> None:
        limit = Limit(20.0)
        limit.join(*processes(4))
        await limit.until(30.0)
        limit.stalled = True
        await limit.until(80.0)
        assert 0.97 <= limit.used(30.0, 43.0) <= 1.03
        assert not [at for at in limit.admitted if at > 46.0]
        assert not [at for at in limit.refused if at > 30.0]
        limit.stalled = False
        await limit.until(100.0)
        assert limit.used(85.0, 100.0) >= 0.95
        await limit.close()

    virtual_time(story())


def test_answers_that_come_too_late_cost_few_permits(virtual_time: Virtual) -> None:
    """Each third answer is lost, after the coordinator gave it: nearly all of what it granted is granted again."""

    async def story() -> None:
        limit = Limit(1.0)
        limit.lost = 3
        limit.join(*processes(4))
        await limit.until(300.0)
        assert limit.used(50.0, 300.0) >= 0.8
        assert not [at for at in limit.refused if at > 50.0]
        await limit.close()

    virtual_time(story())


def test_an_idle_process_gives_its_pace_back_and_asks_no_more(virtual_time: Virtual) -> None:
    async def story() -> None:
        limit = Limit(20.0)
        limit.join("a", "b", rows=50)
        await limit.until(30.0)
        await limit.rest("a")
        await limit.until(32.5)
        asked = len([name for _, name in limit.questions if name == "a"])
        await limit.until(60.0)
        assert limit.used(32.5, 60.0) >= 0.97
        assert len([name for _, name in limit.questions if name == "a"]) == asked
        await limit.close()

    virtual_time(story())


def test_a_pace_costs_a_question_a_second_however_fast_it_is(virtual_time: Virtual) -> None:
    async def story() -> None:
        limit = Limit(100.0)
        limit.join(*processes(4), rows=50)
        await limit.until(30.0)
        before = len(limit.questions)
        await limit.until(60.0)
        assert len(limit.questions) - before <= 4 * 30 * 1.1
        assert limit.used(30.0, 60.0) >= 0.97
        await limit.close()

    virtual_time(story())


@pytest.mark.parametrize("hint_s", [None, 1.0])
@pytest.mark.parametrize("count", [1, 4, 8])
def test_a_limit_that_nobody_announces_is_used_and_hardly_refuses_however_many_processes(
    virtual_time: Virtual, count: int, hint_s: float | None
) -> None:
    async def story() -> None:
        limit = Limit(10.0, announce=False, hint_s=hint_s)
        limit.most = 64
        limit.join(*processes(count), rows=16, latency_s=0.5)
        await limit.until(185.0)
        assert limit.used(5.0, 185.0) >= 0.94
        assert len(limit.refused) <= 0.01 * len(limit.admitted)
        await limit.close()

    virtual_time(story())


def test_an_unannounced_limit_that_doubles_or_halves_is_found_again(virtual_time: Virtual) -> None:
    async def story() -> None:
        limit = Limit(10.0, announce=False, hint_s=None)
        limit.join(*processes(4), rows=30, latency_s=0.5)
        await limit.until(200.0)
        limit.per_s = 20.0
        await limit.until(320.0)
        assert limit.used(290.0, 320.0) >= 0.9
        limit.per_s = 10.0
        before = len(limit.refused)
        await limit.until(420.0)
        assert limit.used(240.0, 420.0) <= 1.7
        assert limit.used(350.0, 420.0) == pytest.approx(1.0, abs=0.07)
        assert len(limit.refused) - before <= 20
        await limit.close()

    virtual_time(story())


def test_a_first_call_waits_for_a_silent_coordinator_lest_each_process_sends_one(
    virtual_time: Virtual,
) -> None:
    async def story() -> None:
        limit = Limit(10.0)
        limit.stalled = True
        limit.join("a", "b")
        await limit.until(5.0)
        assert limit.admitted == []
        limit.stalled = False
        await limit.until(8.0)
        assert len(limit.admitted) > 5
        await limit.close()

    virtual_time(story())


def test_a_refusal_of_one_reaches_the_others_without_a_renewal(virtual_time: Virtual) -> None:
    async def story() -> None:
        limit = Limit(1e6, announce=False)
        limit.join(*processes(50), rows=20)
        await limit.until(20.0)
        door = limit.doors["p0"]
        number = door.try_acquire() or await door.acquire()
        now = asyncio.get_running_loop().time()
        limit.questions.clear()
        door.throttled(number, 10.0)
        door.release()
        await asyncio.sleep(0)
        await asyncio.sleep(0.001)
        assert [name for _, name in limit.questions] == ["p0"]
        assert all(each.paused for each in limit.doors.values())
        assert {each.pauses for each in limit.doors.values()} == {1}
        assert not [at for at in limit.admitted if now + 0.001 < at < now + 10.0]
        await limit.close()

    virtual_time(story())


def test_a_process_that_is_done_gives_its_share_back_within_a_second_or_two(virtual_time: Virtual) -> None:
    async def story() -> None:
        limit = Limit(1e6, announce=False)
        limit.most = 40
        limit.join("a", "b", rows=40)
        await limit.until(10.0)
        assert limit.coordinator.in_flight_share(KEY) == {"a": 20, "b": 20}
        await limit.rest("a")
        await limit.until(12.5)
        assert limit.coordinator.in_flight_share(KEY) == {"a": 0, "b": 40}
        assert limit.doors["b"].in_flight == 40
        asked = len([name for _, name in limit.questions if name == "a"])
        await limit.until(20.0)
        assert len([name for _, name in limit.questions if name == "a"]) == asked
        await limit.close()

    virtual_time(story())
