"""Tasks of one stopped computation end together.

Dask raises with the first task that fails, while others of the same computation still end. Whoever computes
again at once must not meet them: so each waits for the rest, and what they shared is dropped before any goes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Together"]

ENDING_S = 30.0
"""Tasks wait for each other at most so long."""


class Together:
    """Tasks at work in one process on one thing.

    Parameters
    ----------
    stopping : callable
        Whether what they work on is to end.
    drop : callable
        Called by tasks that end with it, when no other works on; more than once.
    """

    def __init__(self, stopping: Callable[[], bool], drop: Callable[[], None]) -> None:
        self._stopping, self._drop = stopping, drop
        self._change = threading.Condition()
        self._working = self._ending = 0

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Around one task."""
        with self._change:
            self._working += 1
        try:
            yield
            if self._stopping():
                self._end()
        except BaseException:
            self._end()
            raise
        finally:
            with self._change:
                self._working -= 1
                self._change.notify_all()

    def drop_if_idle(self) -> None:
        """Drop what is shared where nobody is at work on it: whoever begins again begins anew."""
        with self._change:
            idle = not self._working
        if idle:
            self._drop()

    def _end(self) -> None:
        with self._change:
            self._ending += 1
            self._change.notify_all()
            self._change.wait_for(lambda: self._ending >= self._working, timeout=ENDING_S)
            self._ending -= 1
        self._drop()
