"""What every room's tests share: the scripted server, a store, a clock of their own, our one background loop.

The loop's thread is started before any test, so that a check for leaked threads (``distributed.utils_test``)
does not take it for a leak.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest

from apwa_dask.execution import loop

pytest_plugins = ["apwa_dask.testing.fixtures"]

T = TypeVar("T")


class VirtualLoop(asyncio.SelectorEventLoop):
    """Waiting takes no time on this event loop: when nothing is ready, the clock jumps to the next timer."""

    def __init__(self) -> None:
        super().__init__()
        self._now_s = 0.0

    def time(self) -> float:
        return self._now_s

    def _run_once(self) -> None:
        scheduled = self._scheduled  # type: ignore[attr-defined]
        while scheduled and scheduled[0]._cancelled:
            heapq.heappop(scheduled)._scheduled = False
        if not self._ready:  # type: ignore[attr-defined]
            if not scheduled:
                raise RuntimeError("everything waits and no timer is set: a deadlock")
            self._now_s = max(self._now_s, scheduled[0]._when)
        super()._run_once()  # type: ignore[misc]


def in_virtual_time(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end on a fresh virtual clock that starts at 0."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(coroutine)


@pytest.fixture(scope="session", autouse=True)
def _private_loop() -> None:
    loop.loop()


@pytest.fixture
def store(tmp_path: Path) -> str:
    """A store for journal and runs that only this test knows."""
    return str(tmp_path / "store")


@pytest.fixture(scope="session")
def virtual_time() -> Callable[[Coroutine[Any, Any, T]], T]:
    """Runs a coroutine to its end on a clock that only waiting moves."""
    return in_virtual_time
