"""Less work for the cyclic garbage collector while rows are under way.

Rows in flight are many short-lived objects without cycles, and the heap of a process with Dask and pandas
is large: measured, almost half of the CPU of a call went into walking it again and again. While partitions
are worked on, what was there before is set aside (`gc.freeze`), and young objects are looked at less often.
Reference counts free nearly everything as before; cycles are found a little later.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["spared_collector"]

YOUNG_OBJECTS = 20_000
"""Container objects made before the collector looks at them (CPython's default is 700 to 2,000)."""


class _Sparing:
    """Counts who asks for it: the first sets aside, the last restores."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._found: tuple[int, int, int] | None = None
        self._froze = False

    def begin(self) -> None:
        with self._lock:
            self._users += 1
            if self._users > 1:
                return
            found = gc.get_threshold()
            self._found = found if 0 < found[0] < YOUNG_OBJECTS else None
            if self._found is not None:
                gc.set_threshold(YOUNG_OBJECTS, *found[1:])
            # Somebody else's frozen objects must not be thawed by us.
            self._froze = gc.get_freeze_count() == 0
            if self._froze:
                gc.freeze()

    def end(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users:
                return
            if self._froze:
                gc.unfreeze()
            if self._found is not None and gc.get_threshold()[0] == YOUNG_OBJECTS:
                gc.set_threshold(*self._found)


_sparing = _Sparing()


@contextmanager
def spared_collector() -> Iterator[None]:
    """Spare the collector while the block runs, in any number of threads at once; then all is as it was."""
    _sparing.begin()
    try:
        yield
    finally:
        _sparing.end()
