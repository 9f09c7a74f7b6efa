"""A gate that waits: pauses, the probe before the first answer, and outages. On a virtual clock."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
from tests_models_doors import Endpoint, gate, many

from apwa_dask.errors import ProviderError

Virtual = Callable[..., Any]


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
        assert 8 <= endpoint.in_flight <= 12, "and few behind it, until they were not refused"
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
        back_at_s, sent, together = 600.0, deque[float](), 0

        async def call() -> None:
            nonlocal together
            while True:
                await door.acquire()
                try:
                    sent.append(loop.time())
                    if 1.5 < loop.time() < back_at_s:
                        together = max(together, door.in_flight)
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
        assert 10 <= len(probes) <= 40
        assert together == 1
        assert door.state_words == f"0 of {door.limit} in flight"
        assert loop.time() <= back_at_s + 90

    virtual_time(story())
