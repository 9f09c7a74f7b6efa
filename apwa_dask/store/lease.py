"""One owner at a time, on stores that only offer put-if-absent: a chain of numbered claims.

The highest claim holds the lease, and its number is the fence: it only grows. The holder renews a heartbeat
file beside it. A claim that was released, whose process is known to be dead, or whose heartbeat stands still
for longer than its time to live can be superseded by the next number; the old holder learns it at its next
heartbeat.
"""

from __future__ import annotations

import os
import secrets
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import orjson

from apwa_dask.errors import StoreError
from apwa_dask.store.folder import Folder

__all__ = ["Claim", "Lease", "LeaseKeeper", "Process", "this_process"]


@dataclass(frozen=True, slots=True)
class Process:
    """A process, told apart from all that ever had its number."""

    machine: str
    pid: int
    started: str
    """Start time in the kernel's own unit; empty where it cannot be known."""

    @property
    def is_dead(self) -> bool:
        """True only where it surely is: on this machine, since its boot, and no longer there."""
        if self.machine != _machine() or not self.started:
            return False
        try:
            os.kill(self.pid, 0)  # signal 0 only asks
        except ProcessLookupError:
            return True
        except PermissionError:
            return False  # alive, and another user's
        return _start_time(self.pid) not in (self.started, _UNKNOWN)


def this_process() -> Process:
    """The calling process."""
    pid = os.getpid()
    return Process(_machine(), pid, _start_time(pid))


@lru_cache(maxsize=1)
def _machine() -> str:
    """Host, boot and process-number space: only within one of them can process ids be compared."""
    parts = [socket.gethostname()]
    if sys.platform == "linux":
        try:
            parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8])
            parts.append(os.readlink("/proc/self/ns/pid"))
        except OSError:
            parts.append(secrets.token_hex(4))  # not comparable: rely on heartbeats alone
    return "/".join(parts)


_UNKNOWN = ""
_ENDED = "ended"


def _start_time(pid: int) -> str:
    if sys.platform != "linux":
        return _UNKNOWN
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return _UNKNOWN
    # The command in parentheses may hold spaces; after it come state (field 3) ... start time (field 22).
    fields = stat.rpartition(")")[2].split()
    return _ENDED if fields[0] in "ZX" else fields[19]


@dataclass(frozen=True, slots=True)
class Claim:
    """Who holds, or held, a lease."""

    fence: int
    owner: str
    process: Process
    ttl_s: float
    claimed_s: float
    token: str

    def encode(self) -> bytes:
        return orjson.dumps(asdict(self))

    @classmethod
    def decode(cls, data: bytes) -> Claim | None:
        """None where `data` is damaged: such a claim is nobody's."""
        try:
            fields = orjson.loads(data)
            return cls(**{**fields, "process": Process(**fields["process"])})
        except (ValueError, TypeError, KeyError):
            return None


_HELD: set[str] = set()
"""Tokens of the claims that this process holds."""


class Lease:
    """A held lease. Renew it well within its time to live, and release it when done."""

    def __init__(self, folder: Folder, claim: Claim, clock: Callable[[], float]) -> None:
        self._folder, self.claim, self._clock = folder, claim, clock

    @property
    def fence(self) -> int:
        """Grows with every owner: what the store has seen a higher number for is stale."""
        return self.claim.fence

    def heartbeat(self) -> None:
        """Say that the owner is alive.

        Raises
        ------
        StoreError
            Where another owner has taken over: stop writing.
        """
        self.check()
        self._folder.write(f"{self.fence:08d}.beat", repr(self._clock()).encode(), point="lease")

    def check(self) -> None:
        """Raise `StoreError` where another owner has taken over."""
        newest = _newest(self._folder)
        if newest is not None and newest.fence > self.fence:
            raise StoreError(
                "another process has taken over",
                where=self._folder.url,
                why=f"{newest.owner!r} (process {newest.process.pid} on {_host(newest)}) claimed it since",
                fix="let that one go on; attach to the run to follow it",
                saved="everything committed before",
                code="STORE-FENCED",
            )

    def release(self) -> None:
        """Let the next owner in at once; in this process also where the store refuses to hear of it."""
        _HELD.discard(self.claim.token)
        self._folder.write(f"{self.fence:08d}.released", b"", point="lease")

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.release()


class LeaseKeeper:
    """Grants the lease of one folder.

    Parameters
    ----------
    folder : Folder
        Holds nothing but this lease's files.
    clock, monotonic, sleep : callable
        Time, for tests.
    """

    def __init__(
        self,
        folder: Folder,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._folder, self._clock, self._monotonic, self._sleep = folder, clock, monotonic, sleep

    def holder(self) -> Claim | None:
        """Who holds it now, by heartbeat; None where it is free."""
        newest = _newest(self._folder)
        return None if newest is None or self._is_over(newest) else newest

    def claim(self, owner: str, ttl_s: float = 30.0, *, wait_s: float = 0.0) -> Lease:
        """Take the lease.

        Parameters
        ----------
        owner : str
            Shown to those who come later.
        ttl_s : float
            A heartbeat older than this means that the owner is gone.
        wait_s : float
            Wait so long for a holder to release or to fall silent. A heartbeat seen unchanged for its whole
            time to live is silent whatever the clocks of the two machines say.

        Raises
        ------
        StoreError
            ``STORE-CLAIMED``: someone else holds it.
        """
        deadline = self._monotonic() + wait_s
        watched: tuple[int, bytes] | None = None
        since = self._monotonic()
        while True:
            newest = _newest(self._folder)
            if newest is None or self._is_over(newest):
                lease = self._succeed(newest.fence + 1 if newest else 1, owner, ttl_s)
                if lease is not None:
                    return lease
                continue
            seen = (newest.fence, self._beat(newest) or b"")
            if seen != watched:
                watched, since = seen, self._monotonic()
            elif self._monotonic() - since > newest.ttl_s:
                lease = self._succeed(newest.fence + 1, owner, ttl_s)
                if lease is not None:
                    return lease
                continue
            if self._monotonic() >= deadline:
                raise StoreError(
                    "it is in use by another process",
                    where=self._folder.url,
                    why=f"{newest.owner!r} (process {newest.process.pid} on {_host(newest)}) holds it",
                    fix=f"attach to it, stop that process, or wait {newest.ttl_s:g} s after its end",
                    code="STORE-CLAIMED",
                )
            self._sleep(min(0.2, newest.ttl_s / 4))

    def _succeed(self, fence: int, owner: str, ttl_s: float) -> Lease | None:
        claim = Claim(fence, owner, this_process(), ttl_s, self._clock(), secrets.token_hex(8))
        _HELD.add(claim.token)  # before others can see it
        try:
            stands = self._folder.put_if_absent(f"{fence:08d}.claim", claim.encode(), point="lease")
            newest = _newest(self._folder)
        except BaseException:
            _HELD.discard(claim.token)
            raise
        # Not ours where a slow claimer used a number that others had passed and cleaned up meanwhile.
        if stands != claim.encode() or newest is None or newest.fence > fence:
            _HELD.discard(claim.token)
            return None
        self._forget_before(fence)
        return Lease(self._folder, claim, self._clock)

    def _is_over(self, claim: Claim) -> bool:
        if claim.ttl_s < 0 or self._folder.exists(f"{claim.fence:08d}.released"):
            return True
        if claim.process.is_dead:
            return True
        if claim.process == this_process() and claim.token not in _HELD:
            return True  # let go of here, though the store could not be told
        beat = self._beat(claim)
        try:
            last_s = max(claim.claimed_s, float(beat)) if beat else claim.claimed_s
        except ValueError:
            last_s = claim.claimed_s
        return self._clock() - last_s > claim.ttl_s

    def _beat(self, claim: Claim) -> bytes | None:
        try:
            return self._folder.read(f"{claim.fence:08d}.beat")
        except FileNotFoundError:
            return None

    def _forget_before(self, fence: int) -> None:
        for entry in self._folder.entries():
            number = entry.name.split(".", 1)[0]
            if number.isdigit() and int(number) < fence:
                self._folder.delete(entry.name)


def _newest(folder: Folder) -> Claim | None:
    fences = [
        int(entry.name.split(".", 1)[0])
        for entry in folder.entries()
        if entry.name.endswith(".claim") and entry.name.split(".", 1)[0].isdigit()
    ]
    if not fences:
        return None
    fence = max(fences)
    try:
        claim = Claim.decode(folder.read(f"{fence:08d}.claim"))
    except FileNotFoundError:
        claim = None
    # A damaged claim keeps its number, so that the fence never goes back, but holds nothing.
    return claim or Claim(fence, "", Process("", 0, ""), -1.0, 0.0, "")


def _host(claim: Claim) -> str:
    return claim.process.machine.split("/", 1)[0]
