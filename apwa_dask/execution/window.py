"""How many rows, and bytes of them, the partitions of one process may have with the loop at once.

Rows under way are held as Python values, prompts and requests: several times their size in the partition's
Arrow table, which waits beside them. One window for the process keeps that bounded whatever the number of
threads; partitions that work at the same time share it evenly.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["PROCESS_BYTES", "PROCESS_ROWS", "Seat", "Window"]

PROCESS_ROWS = 4096
"""Well above what one process can have in flight: the gate decides how many of them fly."""
PROCESS_BYTES = 128 * 2**20
_LEAST_ROWS = 64


class Seat:
    """One partition's share of a window, and what it has under way. Used by one thread."""

    __slots__ = ("_window", "rows", "size_bytes")

    def __init__(self, window: Window) -> None:
        self._window = window
        self.rows = 0
        self.size_bytes = 0

    def enter(self, size_bytes: int) -> None:
        """A row begins."""
        self.rows += 1
        self.size_bytes += size_bytes

    def leave(self, size_bytes: int) -> None:
        """A row has ended."""
        self.rows -= 1
        self.size_bytes -= size_bytes

    @property
    def room_rows(self) -> int:
        """Rows that may begin now."""
        return self._window.share_rows - self.rows

    @property
    def room_bytes(self) -> int:
        """Bytes of rows that may begin now. A row larger than the whole share goes alone."""
        return self._window.share_bytes - self.size_bytes


class Window:
    """Shared by the partitions of a process.

    Parameters
    ----------
    rows : int
        At most so many under way, but never fewer than 64 for each partition.
    size_bytes : int
        At most so many bytes of rows, as their Arrow table counts them.
    """

    def __init__(self, rows: int = PROCESS_ROWS, size_bytes: int = PROCESS_BYTES) -> None:
        self._rows, self._bytes = rows, size_bytes
        self._lock = threading.Lock()
        self._seats = 0

    @contextmanager
    def seat(self) -> Iterator[Seat]:
        """A place for one partition while it is worked on."""
        with self._lock:
            self._seats += 1
        try:
            yield Seat(self)
        finally:
            with self._lock:
                self._seats -= 1

    @property
    def share_rows(self) -> int:
        """Rows of each partition."""
        return max(_LEAST_ROWS, self._rows // max(self._seats, 1))

    @property
    def share_bytes(self) -> int:
        """Bytes of each partition."""
        return self._bytes // max(self._seats, 1)
