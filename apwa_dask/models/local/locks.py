"""Advisory file locks that die with their process, and folders that only their owner can enter.

`flock` belongs to an open file: the kernel drops it when the last holder is gone, also after kill -9, so no
pid file can go stale. The lock files are never deleted while in use; deleting one would let two processes
hold "the same" lock on two inodes.
"""

from __future__ import annotations

import errno
import os
import stat
import tempfile
import time
import weakref
from pathlib import Path

from apwa_dask.errors import LocalModelError

try:
    import fcntl
except ImportError:
    raise LocalModelError(
        "the embedded model runs on Linux and macOS only",
        why="one server is shared by all worker processes through POSIX file locks",
        fix="use another endpoint: set OPENAI_BASE_URL and OPENAI_API_KEY",
        code="LOCAL-SYSTEM",
    ) from None

__all__ = ["FileLock", "private_folder", "runtime_folder"]

_POLL_S = 0.1


class FileLock:
    """One open lock file, exclusive or shared. A child made by fork holds none of its parent's locks.

    Parameters
    ----------
    path : Path
        Created with mode 0600 if absent.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        _open_locks.add(self)

    def try_exclusive(self) -> bool:
        """Take the lock alone, or return False at once if anybody else holds it."""
        return self._try(fcntl.LOCK_EX)

    def try_shared(self) -> bool:
        """Take the lock together with others, or return False at once if somebody holds it alone."""
        return self._try(fcntl.LOCK_SH)

    def wait_exclusive(self, deadline_s: float) -> bool:
        """Take the lock alone, waiting until ``time.monotonic()`` reaches `deadline_s`."""
        return self._wait(fcntl.LOCK_EX, deadline_s)

    def wait_shared(self, deadline_s: float) -> bool:
        """Take the lock together with others, waiting until ``time.monotonic()`` reaches `deadline_s`."""
        return self._wait(fcntl.LOCK_SH, deadline_s)

    def unlock(self) -> None:
        """Give the lock back and keep the file open."""
        fcntl.flock(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Give the lock back, for good; closing again does nothing."""
        if self._fd >= 0:
            self.unlock()  # closing alone would leave it to a child that was forked meanwhile
            self.abandon()

    def abandon(self) -> None:
        """Close the file and leave the lock to the process that this one was forked from."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _wait(self, kind: int, deadline_s: float) -> bool:
        # Polling, not a blocking flock: a blocking one cannot be given up at a deadline.
        while not self._try(kind):
            if time.monotonic() >= deadline_s:
                return False
            time.sleep(_POLL_S)
        return True

    def _try(self, kind: int) -> bool:
        try:
            fcntl.flock(self._fd, kind | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                return False
            raise
        return True

    def __enter__(self) -> FileLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"FileLock({str(self._path)!r})"


_open_locks: weakref.WeakSet[FileLock] = weakref.WeakSet()


def _abandon_all() -> None:
    for lock in list(_open_locks):
        lock.abandon()
    _open_locks.clear()


os.register_at_fork(after_in_child=_abandon_all)


def private_folder(path: Path) -> Path:
    """Make `path` with mode 0700, or check that it already is ours and nobody else's.

    Raises
    ------
    LocalModelError
        The folder belongs to somebody else, is a link, or others may write to it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        _check_owner(path)
    return path


def _check_owner(path: Path) -> None:
    found = path.lstat()
    if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077:
        return
    raise LocalModelError(
        "the folder for running embedded models is not private",
        where=str(path),
        why="it must be a folder of your own with mode 0700, or others could pose as the model server",
        fix=f"remove it, or choose another: APWA_RUNTIME_DIR=/a/folder/of/yours (now mode {found.st_mode:o})",
        code="LOCAL-RUNTIME",
    )


def runtime_folder() -> Path:
    """Return the private folder, on this machine's own disk, where running servers are registered.

    ``APWA_RUNTIME_DIR`` names another one. A home folder would not do: it may be shared by many machines.
    """
    named = os.environ.get("APWA_RUNTIME_DIR")
    if named:
        return private_folder(Path(named).absolute())
    session = os.environ.get("XDG_RUNTIME_DIR")
    if session and os.access(session, os.W_OK | os.X_OK):
        return private_folder(Path(session) / "apwa_dask")
    return private_folder(Path(tempfile.gettempdir()) / f"apwa_dask-{os.getuid()}")
