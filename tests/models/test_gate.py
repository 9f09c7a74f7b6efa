"""The gate on a virtual clock: who may send, when, and how many at once."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

from apwa_dask.errors import ProviderError, RunError
from apwa_dask.models.coordinator import Coordinator, LocalLease
from apwa_dask.models.gate import Gate
from apwa_dask.models.headers import Announced, Window
from apwa_dask.models.leases import Grant, LeaseFn, Report, Want

Virtual = Callable[..., Any]


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


# -- admission


def test_no_more_are_in_flight_than_allowed_and_all_are_served(virtual_time: Virtual) -> None:
    async def story() -> None:
        endpoint = Endpoint()
        await many(500, gate(max_concurrency=20), endpoint)
        assert len(endpoint.accepted) == 500
        assert endpoint.most_in_flight == 20

    virtual_time(story())


def test_waiters_are_served_in_the_order_in_which_they_came(virtual_time: Virtual) -> None:
    async def story() -> None:
        door, served = gate(max_concurrency=2, start=2), []

        async def call(name: int) -> None:
            await door.acquire()
            served.append(name)
            await asyncio.sleep(0.1 * (name % 3 + 1))
            door.release()

        await asyncio.gather(*[call(i) for i in range(30)])
        assert served == list(range(30))

    virtual_time(story())


def test_a_cancelled_waiter_leaves_its_place_to_the_next(virtual_time: Virtual) -> None:
    async def story() -> None:
        door = gate(max_concurrency=1, start=1)
        await door.acquire()
        waiters = [asyncio.create_task(door.acquire()) for _ in range(3)]
        await asyncio.sleep(0)
        waiters[0].cancel()
        await asyncio.sleep(0)
        door.release()
        waiters[1].cancel()  # it has just been given the slot and does not know yet
        await asyncio.sleep(0.01)
        assert waiters[2].done()
        assert (door.in_flight, door.waiting) == (1, 0)

    virtual_time(story())


# -- growing and shrinking


def test_the_window_grows_only_while_it_is_in_use(virtual_time: Virtual) -> None:
    async def story() -> None:
        door, endpoint = gate(start=8), Endpoint()
        for _ in range(100):
            await many(4, door, endpoint)
        assert door.limit == 8
        await many(100, door, endpoint)
        assert door.limit > 8

    virtual_time(story())


def test_it_shrinks_once_for_a_round_trip_however_many_are_refused(virtual_time: Virtual) -> None:
    async def story() -> None:
        door = gate(start=20)
        numbers = [door.try_acquire() for _ in range(20)]
        for number in numbers:
            door.overloaded(number)
            door.release()
        assert door.limit == int(20 * 0.7)

    virtual_time(story())


def test_after_a_shrink_the_window_grows_by_one_a_round_trip(virtual_time: Virtual) -> None:
    async def story() -> None:
        door, endpoint = gate(start=20), Endpoint(latency_s=1.0)
        door.overloaded(door.try_acquire())
        door.release()
        assert door.limit == 7
        small = door.limit
        await many(small * 4, door, endpoint)
        assert small + 2 <= door.limit <= small + 4

    virtual_time(story())


def test_all_waiters_are_served_when_the_window_grows(virtual_time: Virtual) -> None:
    async def story() -> None:
        door = gate(start=1, max_concurrency=64)
        await door.acquire()
        waiters = [asyncio.create_task(door.acquire()) for _ in range(20)]
        await asyncio.sleep(0)
        for _ in range(20):
            door.succeeded()
        await asyncio.sleep(0)
        assert sum(waiter.done() for waiter in waiters) == min(20, door.limit - 1)
        for waiter in waiters:
            waiter.cancel()

    virtual_time(story())


def test_slots_of_an_endpoint_are_found_and_kept(virtual_time: Virtual) -> None:
    async def story() -> None:
        door, endpoint = gate(max_concurrency=256), Endpoint(slots=30)
        seconds = await many(6000, door, endpoint)
        ideal_s = 6000 / 30 * endpoint.latency_s
        assert len(endpoint.accepted) == 6000
        assert ideal_s / seconds >= 0.7
        assert len(endpoint.refused) <= 0.05 * 6000

    virtual_time(story())


def test_a_429_storm_converges(virtual_time: Virtual) -> None:
    """Fault 1: asked for ten times the rate, the server announces it. No row fails."""

    async def story() -> None:
        lease = LocalLease(Coordinator(clock=asyncio.get_running_loop().time)).lease
        door, endpoint = gate(lease=lease), Endpoint(latency_s=0.05, per_s=10.0)
        seconds = await many(1200, door, endpoint, retry_after_s=1.0, announce=True)
        assert len(endpoint.accepted) == 1200
        assert 120 / seconds >= 0.85
        late = [at for at in endpoint.refused if at > 60]
        assert len(late) <= 0.05 * 600
        await door.close()

    virtual_time(story())


def test_a_429_storm_without_any_hint_converges(virtual_time: Virtual) -> None:
    """Fault 3: no header tells the rate."""

    async def story() -> None:
        lease = LocalLease(Coordinator(clock=asyncio.get_running_loop().time)).lease
        door, endpoint = gate(lease=lease), Endpoint(latency_s=0.05, per_s=10.0)
        seconds = await many(1200, door, endpoint)
        late = [at for at in endpoint.refused if at > 60]
        assert len(endpoint.accepted) == 1200
        assert 120 / seconds >= 0.7
        assert len(late) <= 0.05 * 1200
        await door.close()

    virtual_time(story())


def test_a_limit_that_halves_and_doubles_is_followed(virtual_time: Virtual) -> None:
    """Fault 4."""

    async def story() -> None:
        loop = asyncio.get_running_loop()
        lease = LocalLease(Coordinator(clock=loop.time)).lease
        door, endpoint = gate(lease=lease), Endpoint(latency_s=0.05, per_s=20.0)
        work = asyncio.gather(*[endpoint.call(door, retry_after_s=1.0, announce=True) for _ in range(6000)])

        async def rate_between(start_s: float, end_s: float) -> float:
            await asyncio.sleep(end_s - loop.time())
            return sum(start_s <= at < end_s for at in endpoint.accepted) / (end_s - start_s)

        assert await rate_between(10, 60) >= 0.85 * 20
        endpoint.per_s = 10.0
        assert 0.85 * 10 <= await rate_between(90, 120) <= 1.05 * 10
        endpoint.per_s = 20.0
        assert await rate_between(180, 200) >= 0.85 * 20
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        await door.close()

    virtual_time(story())


# -- pauses


def test_nothing_is_admitted_during_a_pause_and_then_it_starts_slowly(virtual_time: Virtual) -> None:
    async def story() -> None:
        loop = asyncio.get_running_loop()
        door, endpoint = gate(start=16), Endpoint()
        door.pause(30.0, "rate limit")
        await many(100, door, endpoint)
        assert min(endpoint.accepted) >= 30.0
        first = [at for at in endpoint.accepted if at == min(endpoint.accepted)]
        assert len(first) == 8
        assert loop.time() < 40

    virtual_time(story())


def test_two_processes_do_not_wake_at_the_same_moment(virtual_time: Virtual) -> None:
    async def story() -> None:
        wakes = []
        for seed in range(5):
            door, endpoint = gate(rng=random.Random(seed)), Endpoint()
            door.pause(10.0, "rate limit")
            started_s = asyncio.get_running_loop().time()
            await many(1, door, endpoint)
            wakes.append(endpoint.accepted[0] - started_s)
        assert len(set(wakes)) == 5
        assert all(10.0 <= wake <= 11.0 for wake in wakes)

    virtual_time(story())


def test_a_pause_is_told_in_words(virtual_time: Virtual) -> None:
    async def story() -> None:
        door = gate(wall_clock=lambda: 1_000_000.0)
        assert door.state_words == "0 of 16 in flight"
        door.pause(600.0, "rate limit")
        assert door.state_words.startswith("paused until ")
        assert door.state_words.endswith(": rate limit")
        await door.close()

    virtual_time(story())


@pytest.mark.parametrize("seconds", [float("inf"), 1e308, -5.0])
def test_a_senseless_pause_is_bounded(virtual_time: Virtual, seconds: float) -> None:
    async def story() -> None:
        door = gate()
        door.pause(seconds, "rate limit")
        await door.acquire()
        assert asyncio.get_running_loop().time() <= 3601

    virtual_time(story())


# -- probing


def test_one_call_flies_until_one_was_answered(virtual_time: Virtual) -> None:
    async def story() -> None:
        door, endpoint = gate(probe=True), Endpoint(latency_s=1.0)
        work = asyncio.gather(*[endpoint.call(door) for _ in range(50)])
        await asyncio.sleep(0.5)
        assert endpoint.in_flight == 1
        await asyncio.sleep(0.51)
        assert endpoint.in_flight == 8, "and few behind it, until they were not refused"
        await work

    virtual_time(story())


def test_behind_an_answered_probe_the_window_opens_before_the_first_answers(virtual_time: Virtual) -> None:
    async def story() -> None:
        door, endpoint = gate(probe=True), Endpoint(latency_s=1.0)
        work = asyncio.gather(*[endpoint.call(door) for _ in range(200)])
        await asyncio.sleep(1.5)
        assert endpoint.in_flight == door.max_concurrency
        assert len(endpoint.accepted) == 1 + door.max_concurrency
        await work

    virtual_time(story())


def test_the_first_refusal_ends_the_opening(virtual_time: Virtual) -> None:
    async def story() -> None:
        door, endpoint = gate(probe=True), Endpoint(latency_s=1.0, slots=20)
        work = asyncio.gather(*[endpoint.call(door, retry_after_s=5.0) for _ in range(200)])
        await asyncio.sleep(1.9)
        assert endpoint.in_flight == 20
        assert 1 <= len(endpoint.refused) <= door.max_concurrency / 4
        assert door.limit < 24
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        await door.close()

    virtual_time(story())


def test_an_opening_window_that_is_not_full_stays_as_it_is(virtual_time: Virtual) -> None:
    async def story() -> None:
        door, endpoint = gate(probe=True), Endpoint(latency_s=1.0)
        await many(10, door, endpoint)
        assert door.limit == 16

    virtual_time(story())


def test_all_who_wait_hear_that_the_endpoint_refuses_for_good(virtual_time: Virtual) -> None:
    async def story() -> None:
        door = gate(probe=True)
        await door.acquire()
        waiters = [asyncio.create_task(door.acquire()) for _ in range(10)]
        await asyncio.sleep(0)
        door.fail(ProviderError("the endpoint refuses the API key"))
        door.release()
        heard = await asyncio.gather(*waiters, return_exceptions=True)
        assert {type(error) for error in heard} == {ProviderError}
        assert len({id(error) for error in heard}) == 10, (
            "each gets its own, or their tracebacks would pile up"
        )
        assert (door.in_flight, door.waiting) == (0, 0)

    virtual_time(story())


def test_an_outage_is_probed_by_one_call_at_a_time_and_ends_with_an_answer(virtual_time: Virtual) -> None:
    async def story() -> None:
        loop = asyncio.get_running_loop()
        door = gate(start=8)
        back_at_s, sent = 600.0, deque[float]()

        async def call() -> None:
            while True:
                await door.acquire()
                try:
                    sent.append(loop.time())
                    await asyncio.sleep(0.01)
                    if 1.0 <= loop.time() < back_at_s:
                        door.failed()
                        continue
                    door.succeeded()
                    return
                finally:
                    door.release()

        await call()
        await asyncio.sleep(1.0)
        await asyncio.gather(*[call() for _ in range(50)])
        probes = [at for at in sent if 1.5 < at < back_at_s]
        assert len(probes) <= 40
        assert door.state_words == f"0 of {door.limit} in flight"
        assert loop.time() <= back_at_s + 90

    virtual_time(story())


# -- leases


class Recorder:
    """A coordinator that grants what it is told to."""

    def __init__(self, *grants: Grant) -> None:
        self.grants, self.asked = deque(grants), list[tuple[Want, Report]]()

    async def lease(self, gate_key: str, want: Want, report: Report) -> Grant:
        self.asked.append((want, report))
        return self.grants.popleft() if len(self.grants) > 1 else self.grants[0]


def test_permits_are_leased_in_blocks_and_not_one_by_one(virtual_time: Virtual) -> None:
    async def story() -> None:
        recorder = Recorder(Grant(concurrency=64, requests=50, renew_s=1e6, expires_s=1e6))
        door = gate(lease=recorder.lease)
        await many(1000, door, Endpoint())
        assert 20 <= len(recorder.asked) <= 45
        await door.close()

    virtual_time(story())


def test_a_block_for_later_is_not_used_before(virtual_time: Virtual) -> None:
    async def story() -> None:
        recorder = Recorder(
            Grant(concurrency=64, requests=5, start_in_s=7.0, renew_s=1e6, expires_s=1e6),
            Grant(concurrency=64, requests=0, renew_s=1e6, expires_s=1e6),
        )
        door, endpoint = gate(lease=recorder.lease), Endpoint()
        await many(5, door, endpoint)
        assert endpoint.accepted[0] >= 7.0
        await door.close()

    virtual_time(story())


def test_a_silent_coordinator_stops_nothing_until_the_lease_expires(virtual_time: Virtual) -> None:
    async def story() -> None:
        loop = asyncio.get_running_loop()

        async def lease(gate_key: str, want: Want, report: Report) -> Grant:
            if 1.0 < loop.time() < 30.0:
                raise ConnectionError("stalled")
            return Grant(concurrency=4, renew_s=2.0, expires_s=10.0)

        door, endpoint = gate(lease=lease), Endpoint(latency_s=0.5)
        await many(400, door, endpoint)
        gaps = [b - a for a, b in zip(endpoint.accepted, endpoint.accepted[1:], strict=False)]
        stall_starts = endpoint.accepted[gaps.index(max(gaps))]
        assert 9.0 <= stall_starts <= 13.0
        assert endpoint.accepted[gaps.index(max(gaps)) + 1] >= 30.0
        assert sum(gap > 5 for gap in gaps) == 1
        await door.close()

    virtual_time(story())


def test_a_defect_of_the_coordinator_reaches_those_who_wait(virtual_time: Virtual) -> None:
    async def story() -> None:
        async def lease(gate_key: str, want: Want, report: Report) -> Grant:
            raise KeyError("bug")

        door = gate(lease=lease)
        with pytest.raises(Exception, match="lease of capacity"):
            await door.acquire()
        await door.close()

    virtual_time(story())


def shared(doors: int) -> tuple[list[Gate], Coordinator]:
    coordinator = Coordinator(clock=asyncio.get_running_loop().time)
    leases: list[LeaseFn] = [LocalLease(coordinator, f"worker-{i}").lease for i in range(doors)]
    return [
        gate(lease=lease, rng=random.Random(i), probe=True) for i, lease in enumerate(leases)
    ], coordinator


def test_a_pause_reaches_all_processes_within_a_second(virtual_time: Virtual) -> None:
    async def story() -> None:
        loop = asyncio.get_running_loop()
        (first, second), _ = shared(2)
        endpoint = Endpoint(latency_s=0.1)
        work = asyncio.gather(*[endpoint.call(door) for door in (first, second) for _ in range(3000)])
        await asyncio.sleep(5.0)
        number = await first.acquire()
        first.throttled(number, 20.0)
        first.release()
        told_s = loop.time()
        await work
        assert not [at for at in endpoint.accepted if told_s + 1.1 < at < told_s + 20.0]
        for door in (first, second):
            await door.close()

    virtual_time(story())


def test_four_processes_share_one_rate(virtual_time: Virtual) -> None:
    """Fault 5: 600 a minute for all; nearly all of it is used, hardly any call is refused."""

    async def story() -> None:
        doors, _ = shared(4)
        endpoint = Endpoint(latency_s=0.2, per_s=10.0)
        work = [many(300, door, endpoint, retry_after_s=1.0, announce=True) for door in doors]
        await asyncio.gather(*work)
        seconds = asyncio.get_running_loop().time()
        assert len(endpoint.accepted) == 1200
        assert 120 / seconds >= 0.95
        assert len(endpoint.refused) <= 12
        for door in doors:
            await door.close()

    virtual_time(story())


def test_a_stop_of_the_coordinator_reaches_those_who_wait(virtual_time: Virtual) -> None:
    async def story() -> None:
        (door, _), coordinator = shared(2)
        await door.acquire()
        waiting = asyncio.create_task(door.acquire())
        await asyncio.sleep(0.5)
        coordinator.stop(door.key, "the run was stopped")
        with pytest.raises(RunError, match="the run was stopped"):
            await waiting
        assert asyncio.get_running_loop().time() <= 1.5
        await door.close()

    virtual_time(story())


def test_the_latest_ceiling_counts(virtual_time: Virtual) -> None:
    async def story() -> None:
        door, endpoint = gate(max_concurrency=64), Endpoint()
        door.resize(4)
        await many(100, door, endpoint)
        assert endpoint.most_in_flight == 4
        door.resize(64)
        await many(300, door, endpoint)
        assert endpoint.most_in_flight > 30

    virtual_time(story())


def test_what_one_process_has_proved_the_others_need_not_probe(virtual_time: Virtual) -> None:
    async def story() -> None:
        (first, second), _ = shared(2)
        endpoint = Endpoint(latency_s=0.1)
        await many(100, first, endpoint)
        await asyncio.sleep(1.5)
        await many(1, first, endpoint)  # reports what it saw
        started_s = asyncio.get_running_loop().time()
        work = asyncio.gather(*[endpoint.call(second) for _ in range(20)])
        await asyncio.sleep(2.0)
        assert second.answers > 0
        await work
        assert asyncio.get_running_loop().time() - started_s < 3.0
        assert not second.outage
        for door in (first, second):
            await door.close()

    virtual_time(story())
