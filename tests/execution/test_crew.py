"""Few tasks for many units: none waits while there is room, and none is lost whatever happens to a member."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from hypothesis import given, settings
from hypothesis import strategies as st

from apwa_dask.execution.crew import Crew, Crews, resting


def crew_of(most: int) -> tuple[Crew, set[asyncio.Task[None]]]:
    tasks: set[asyncio.Task[None]] = set()
    return Crew(most, tasks), tasks


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("still waiting")


def test_jobs_begin_in_their_order_and_at_most_so_many_are_under_way() -> None:
    async def story() -> None:
        crew, tasks = crew_of(3)
        begun: list[int] = []
        gates = [asyncio.Event() for _ in range(8)]

        async def job(n: int) -> None:
            begun.append(n)
            await gates[n].wait()

        crew.take_on(partial(job, n) for n in range(8))
        await until(lambda: begun == [0, 1, 2])
        assert len(tasks) == 3
        assert len(crew) == 5
        gates[1].set()
        await until(lambda: begun == [0, 1, 2, 3])
        assert len(tasks) == 3, "the task that had ended its job took the next"
        for gate in gates:
            gate.set()
        await until(lambda: not tasks)
        assert begun == list(range(8))

    asyncio.run(story())


def test_a_job_that_rests_leaves_its_place_and_there_is_one_task_too_many_for_no_longer_than_needed() -> None:
    async def story() -> None:
        crew, tasks = crew_of(1)
        begun: list[str] = []
        rested, worked = asyncio.Event(), asyncio.Event()

        async def rests() -> None:
            begun.append("rests")
            with resting():
                await rested.wait()
            begun.append("rested")

        async def works(name: str) -> None:
            begun.append(name)
            await worked.wait()

        crew.take_on([rests, partial(works, "a"), partial(works, "b")])
        await until(lambda: begun == ["rests", "a"])
        rested.set()
        await until(lambda: begun == ["rests", "a", "rested"])
        assert len(crew) == 1, "the place is taken: who comes back from a rest begins no other job"
        worked.set()
        await until(lambda: not tasks)
        assert begun[-1] == "b"

    asyncio.run(story())


def test_members_that_are_cancelled_before_they_began_leave_their_jobs_to_others() -> None:
    async def story() -> None:
        crew, tasks = crew_of(4)
        done: list[int] = []

        async def job(n: int) -> None:
            done.append(n)

        crew.take_on(partial(job, n) for n in range(10))
        for task in list(tasks):
            task.cancel()
        await until(lambda: not tasks)
        assert sorted(done) == list(range(10))

    asyncio.run(story())


def test_a_job_that_breaks_stops_no_other() -> None:
    async def story() -> None:
        crew, tasks = crew_of(1)
        done: list[str] = []
        unheard: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context))

        async def breaks() -> None:
            raise ValueError

        async def works() -> None:
            done.append("works")

        crew.take_on([breaks, works])
        await until(lambda: done == ["works"] and not tasks)

    asyncio.run(story())


def test_steps_do_not_wait_for_each_other() -> None:
    async def story() -> None:
        crews = Crews(1, set())
        assert crews.of("a") is crews.of("a")
        forever, done = asyncio.Event(), asyncio.Event()

        async def waits() -> None:
            await forever.wait()

        async def ends() -> None:
            done.set()

        crews.of("a").take_on([waits])
        crews.of("b").take_on([ends])
        await asyncio.wait_for(done.wait(), 1)
        forever.set()

    asyncio.run(story())


def test_outside_a_crew_a_rest_is_nothing() -> None:
    with resting():
        pass


@given(st.lists(st.lists(st.booleans(), max_size=3), max_size=30), st.integers(1, 5), st.randoms())
@settings(max_examples=60, deadline=None)
def test_all_jobs_end_and_no_more_are_awake_than_may_be(
    stories: list[list[bool]], most: int, rng: object
) -> None:
    """Each job alternates between the endpoint (False) and rests (True) of random lengths."""

    async def story() -> None:
        crew, tasks = crew_of(most)
        awake = peak = ended = 0

        async def job(turns: list[bool]) -> None:
            nonlocal awake, peak, ended
            for rests in turns:
                pause = rng.randint(0, 5)  # type: ignore[attr-defined]
                if rests:
                    with resting():
                        for _ in range(pause):
                            await asyncio.sleep(0)
                    continue
                awake += 1
                peak = max(peak, awake)
                for _ in range(pause):
                    await asyncio.sleep(0)
                awake -= 1
            ended += 1

        crew.take_on(partial(job, turns) for turns in stories)
        await until(lambda: not tasks)
        assert ended == len(stories)
        assert len(crew) == 0
        rests = sum(any(turns) for turns in stories)
        assert peak <= most + rests, "only those that came back from a rest are too many"

    asyncio.run(story())
