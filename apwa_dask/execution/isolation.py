"""Many partitions at once, or one suspect by itself: so that a death can be blamed on who was there."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Isolation"]

_LOOK_S = 0.2
"""How often a thread that waits for its turn looks whether it still should."""


class Isolation:
    """A lock of a process: shared by partitions at work as usual, held alone by one under suspicion.

    Who waits to be alone lets nobody else begin, so that he is not waiting for ever.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._together = 0
        self._alone = False
        self._waiting = 0

    @contextmanager
    def shared(self, check: Callable[[], None]) -> Iterator[None]:
        """Work beside others. `check` may raise while this waits."""
        with self._changed:
            while self._alone or self._waiting:
                check()
                self._changed.wait(_LOOK_S)
            self._together += 1
        try:
            yield
        finally:
            with self._changed:
                self._together -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self, check: Callable[[], None]) -> Iterator[None]:
        """Work when nobody else does. `check` may raise while this waits."""
        with self._changed:
            self._waiting += 1
            try:
                while self._alone or self._together:
                    check()
                    self._changed.wait(_LOOK_S)
                self._alone = True
            finally:
                self._waiting -= 1
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._alone = False
                self._changed.notify_all()
