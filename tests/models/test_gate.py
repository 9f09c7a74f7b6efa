"""The window of a gate, on a virtual clock: how many at once, and how it grows and shrinks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from tests_models_doors import Endpoint, gate, many

from apwa_dask.models.coordinator import Coordinator, LocalLease

Virtual = Callable[..., Any]


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
