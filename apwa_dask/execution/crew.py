"""Few tasks for many units: each takes the next when it has ended one.

A task for every row would be made, queued at the gate and woken; with these, a row whose turn has come is sent at
once, by the task that has just brought an answer back.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

__all__ = ["Crew", "Crews", "Job", "resting"]

Job = Callable[[], Coroutine[Any, Any, None]]
"""Works on one unit. What it raises ends nothing else: it is the job's own to report."""

_crew: ContextVar[Crew | None] = ContextVar("crew", default=None)


class Crew:
    """Works on jobs in the order of their coming, on the running event loop.

    Parameters
    ----------
    most : int
        Jobs at a time: as many as may be in flight. Those that rest do not count, so that no slot at the endpoint
        is idle while rows wait.
    tasks : set of asyncio.Task
        Members enter themselves here while they live, for whoever wants to cancel them. A job that is cancelled
        takes its member along; the others go on with what is left.
    """

    def __init__(self, most: int, tasks: set[asyncio.Task[None]]) -> None:
        self.most = most
        self._tasks = tasks
        self._jobs: deque[Job] = deque()
        self._awake = 0

    def __len__(self) -> int:
        """Jobs that nobody has begun."""
        return len(self._jobs)

    def take_on(self, jobs: Iterable[Job]) -> None:
        """Work on these too."""
        self._jobs.extend(jobs)
        self._call_up()

    def _call_up(self) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(min(self.most - self._awake, len(self._jobs))):
            self._awake += 1
            member = loop.create_task(self._work())
            self._tasks.add(member)
            member.add_done_callback(self._gone)

    async def _work(self) -> None:
        _crew.set(self)
        while self._jobs and self._awake <= self.most:
            await self._jobs.popleft()()

    def _gone(self, member: asyncio.Task[None]) -> None:
        """A member has ended, or was cancelled before it began."""
        self._tasks.discard(member)
        self._awake -= 1
        self._call_up()

    @contextmanager
    def rest(self) -> Iterator[None]:
        """The current job waits for something else than the endpoint: another may begin."""
        self._awake -= 1
        self._call_up()
        try:
            yield
        finally:
            self._awake += 1


class Crews:
    """One for each step, so that no step waits behind all rows of another. Both parameters as of `Crew`."""

    def __init__(self, most: int, tasks: set[asyncio.Task[None]]) -> None:
        self._most, self._tasks = most, tasks
        self._crews: dict[str, Crew] = {}

    def of(self, step_id: str) -> Crew:
        """On the loop: who works on this step."""
        if step_id not in self._crews:
            self._crews[step_id] = Crew(self._most, self._tasks)
        return self._crews[step_id]


@contextmanager
def resting() -> Iterator[None]:
    """`Crew.rest` of the crew that the current task belongs to, if any."""
    crew = _crew.get()
    if crew is None:
        yield
        return
    with crew.rest():
        yield
