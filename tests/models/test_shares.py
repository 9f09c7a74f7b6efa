"""One ceiling of calls in flight over all processes: never more, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apwa_dask.models.coordinator import Coordinator
from apwa_dask.models.gate import Gate
from apwa_dask.models.leases import Grant, LeaseFn, Notice, Report, Want

Virtual = Callable[..., Any]
KEY = "endpoint|key|model"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Process:
    """What a gate does, as far as shares go: it keeps to the last share that it heard of."""

    share: int = 0
    in_flight: int = 0
    rows: int = 0

    def sends(self) -> None:
        begun = min(self.rows, max(0, self.share - self.in_flight))
        self.in_flight += begun
        self.rows -= begun

    def want(self, most: int) -> Want:
        if not self.in_flight and not self.rows:
            self.share = 0
        return Want(
            self.in_flight + self.rows, max_concurrency=most, in_flight=self.in_flight, share=self.share
        )


event = st.tuples(
    st.integers(0, 6),
    st.sampled_from(["ask", "ask", "lost", "late", "rows", "answers", "told", "dies"]),
    st.integers(1, 40),
    st.floats(0, 2),
)


@settings(max_examples=300, deadline=None)
@given(events=st.lists(event, max_size=80), most=st.integers(1, 30))
def test_neither_shares_nor_calls_in_flight_are_ever_more_than_the_ceiling(
    events: list[tuple[int, str, int, float]], most: int
) -> None:
    """Whatever is lost or late, and whoever sends while its question is under way."""
    clock = Clock()
    told: list[tuple[str, int]] = []
    coordinator = Coordinator(
        clock,
        expires_s=1e9,
        tell=lambda notice, names: told.extend((name, notice.share) for name in names),
    )
    processes: dict[str, Process] = {}

    def asks(name: str, *, answer: str) -> None:
        process = processes.setdefault(name, Process())
        want = process.want(most)
        if answer == "late":
            process.sends()
        grant = coordinator.lease(name, KEY, want, Report())
        if answer == "late":
            process.sends()
        if answer != "lost":
            process.share = grant.concurrency

    for number, what, count, passed_s in events:
        clock.now += passed_s
        name = str(number)
        process = processes.setdefault(name, Process())
        if what in ("ask", "lost", "late"):
            asks(name, answer=what)
        elif what == "rows":
            process.rows += count
        elif what == "answers":
            process.in_flight -= min(process.in_flight, count)
        elif what == "told" and told:
            name, share = told.pop(0)
            if name in processes:
                processes[name].share = min(processes[name].share, share)
                asks(name, answer="ask")
        elif what == "dies":
            coordinator.release_holder(name)
            del processes[name]
        for each in processes.values():
            each.sends()
        assert sum(coordinator.in_flight_share(KEY).values()) <= most
        assert sum(each.in_flight for each in processes.values()) <= most


@dataclass
class Crowd:
    """Real gates at one ceiling, on a virtual clock, with a wire of a millisecond a hop."""

    most: int
    latency_s: float = 0.2
    in_flight: int = 0
    highest: int = 0
    leases: int = 0
    doors: dict[str, Gate] = field(default_factory=dict)
    sent: dict[str, list[float]] = field(default_factory=dict)
    rows: dict[str, list[asyncio.Task[None]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.coordinator = Coordinator(self.loop.time, tell=self._tell)

    def _tell(self, notice: Notice, holders: list[str]) -> None:
        for name in holders:
            if name in self.doors:
                self.loop.call_later(0.001, self.doors[name].noticed, notice)

    def _way(self, name: str) -> LeaseFn:
        async def lease(gate_key: str, want: Want, report: Report) -> Grant:
            await asyncio.sleep(0.001)
            self.leases += 1
            grant = self.coordinator.lease(name, gate_key, want, report)
            await asyncio.sleep(0.001)
            return grant

        return lease

    def join(self, *names: str, rows: int) -> None:
        for name in names:
            self.doors[name] = Gate(
                KEY, max_concurrency=self.most, lease=self._way(name), rng=random.Random(name)
            )
            self.sent[name] = []
            self.rows[name] = []
            self.works(name, rows=rows)

    def works(self, name: str, *, rows: int) -> None:
        self.rows[name] = [self.loop.create_task(self._row(name, k)) for k in range(rows)]

    async def _row(self, name: str, k: int) -> None:
        door, rng = self.doors[name], random.Random(f"{name}, {k}")
        while True:
            door.try_acquire() or await door.acquire()
            self.in_flight += 1
            self.highest = max(self.highest, self.in_flight)
            self.sent[name].append(self.loop.time())
            try:
                await asyncio.sleep(self.latency_s * rng.uniform(0.5, 1.5))
                door.succeeded()
            finally:
                self.in_flight -= 1
                door.release()

    async def rest(self, name: str) -> None:
        for row in self.rows[name]:
            row.cancel()
        await asyncio.gather(*self.rows[name], return_exceptions=True)

    async def dies(self, name: str) -> None:
        await self.rest(name)
        await self.doors.pop(name).close()
        self.coordinator.release_holder(name)

    async def until(self, moment_s: float) -> None:
        await asyncio.sleep(moment_s - self.loop.time())

    def calls(self, start_s: float, end_s: float) -> int:
        return sum(start_s <= at < end_s for times in self.sent.values() for at in times)

    def longest_wait_s(self, start_s: float, end_s: float) -> float:
        """Between two calls of any process that has work."""
        waits = []
        for name in self.doors:
            moments = [start_s, *(at for at in self.sent[name] if start_s <= at < end_s), end_s]
            waits.append(max(later - sooner for sooner, later in pairwise(moments)))
        return max(waits)

    async def close(self) -> None:
        for name in list(self.doors):
            await self.dies(name)


@pytest.mark.parametrize("most", [2, 8, 32])
def test_a_newcomer_waits_well_below_a_second_and_the_ceiling_holds(virtual_time: Virtual, most: int) -> None:
    async def story() -> None:
        crowd = Crowd(most)
        crowd.join("a", rows=100)
        await crowd.until(10.0)
        assert crowd.doors["a"].in_flight == most
        crowd.join("b", rows=100)
        await crowd.until(11.0)
        assert crowd.sent["b"][0] <= 10.5
        assert crowd.coordinator.in_flight_share(KEY) == {"a": most // 2, "b": most // 2}
        await crowd.until(20.0)
        assert crowd.highest == most
        assert crowd.calls(11.0, 20.0) >= 0.95 * most * 9.0 / 0.2
        await crowd.close()

    virtual_time(story())


@pytest.mark.parametrize(("count", "most"), [(3, 1), (12, 5), (100, 64)])
def test_where_processes_are_more_than_calls_they_take_turns(
    virtual_time: Virtual, count: int, most: int
) -> None:
    async def story() -> None:
        crowd = Crowd(most)
        crowd.join(*(f"p{k}" for k in range(count)), rows=5)
        await crowd.until(40.0)
        assert crowd.highest == most
        assert crowd.longest_wait_s(5.0, 40.0) <= 2.0 * -(-count // most) + 1.0
        assert crowd.calls(5.0, 40.0) >= 0.85 * most * 35.0 / 0.2
        assert crowd.leases / 40.0 <= 6.0 * count, "no message a call"
        await crowd.close()

    virtual_time(story())


@pytest.mark.parametrize("seed", range(5))
def test_the_ceiling_holds_while_processes_come_go_rest_and_die(virtual_time: Virtual, seed: int) -> None:
    async def story() -> None:
        rng, most = random.Random(seed), 16
        crowd, born = Crowd(most, latency_s=0.5), 0
        for moment in range(1, 60):
            names = list(crowd.doors)
            if len(names) < 30 and rng.random() < 0.7:
                crowd.join(f"p{born}", rows=rng.choice([0, 1, 3, 40]))
                born += 1
            elif names and rng.random() < 0.5:
                await crowd.dies(rng.choice(names))
            elif names:
                await crowd.rest(rng.choice(names))
            await crowd.until(moment / 2)
        assert crowd.highest <= most
        assert all(
            crowd.sent[name] for name in crowd.doors if any(not row.done() for row in crowd.rows[name])
        )
        await crowd.close()

    virtual_time(story())


def test_a_process_that_rests_is_served_again_when_it_has_work(virtual_time: Virtual) -> None:
    async def story() -> None:
        crowd = Crowd(8)
        crowd.join("a", "b", rows=20)
        await crowd.until(5.0)
        await crowd.rest("a")
        await crowd.until(8.0)
        assert crowd.coordinator.in_flight_share(KEY) == {"a": 0, "b": 8}
        crowd.works("a", rows=20)
        await crowd.until(8.5)
        assert max(crowd.sent["a"]) > 8.0
        await crowd.until(10.0)
        assert crowd.highest == 8
        await crowd.close()

    virtual_time(story())
