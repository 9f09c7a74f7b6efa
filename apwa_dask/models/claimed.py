"""Who works on which request, over all processes of a cluster: pure, synchronous, bounded, and only an economy.

Requests are known by digests of `DIGEST_BYTES`; a process asks for a whole window of them at once. What the
book forgets (too many, or a holder that fell silent) is at worst paid twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["ANSWERED", "DIGEST_BYTES", "ELSEWHERE", "YOURS", "ClaimBook", "digests_in"]

DIGEST_BYTES = 12
YOURS, ELSEWHERE, ANSWERED = 0, 1, 2
"""States of a request: call it; another process is calling it; its answer is in the journal."""

_ANSWERED = ""


class ClaimBook:
    """Claims of requests in flight, by room (one journal is one room).

    Parameters
    ----------
    clock : callable
        Monotonic seconds.
    expires_s : float
        A holder that says nothing for so long loses its claims.
    most : int
        Claims kept for each room; the oldest are forgotten first. One takes about 150 bytes.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, expires_s: float = 30.0, most: int = 1_000_000
    ) -> None:
        self._clock, self._expires_s, self._most = clock, expires_s, most
        self._rooms: dict[str, dict[bytes, str]] = {}
        self._heard: dict[str, float] = {}

    def exchange(self, holder: str, room: str, asked: bytes, answered: bytes, dropped: bytes) -> bytes:
        """Enter what a holder has done, and tell the state of each request it asks for; free ones become its own.

        Parameters
        ----------
        asked, answered, dropped : bytes
            Digests, one after the other: those it wants to call, those whose answers it has made durable, and
            those it gave up.

        Returns
        -------
        bytes
            One state for each digest in `asked`.
        """
        now = self._clock()
        self._heard[holder] = now
        claims = self._rooms.setdefault(room, {})
        for digest in digests_in(answered):
            claims[digest] = _ANSWERED
        for digest in digests_in(dropped):
            if claims.get(digest) == holder:
                del claims[digest]
        states = bytes(self._state(claims, digest, holder, now) for digest in digests_in(asked))
        while len(claims) > self._most:
            del claims[next(iter(claims))]
        return states

    def release_holder(self, holder: str) -> None:
        """A process is gone: what it was calling is free."""
        self._heard.pop(holder, None)
        for claims in self._rooms.values():
            for digest in [digest for digest, name in claims.items() if name == holder]:
                del claims[digest]

    def __len__(self) -> int:
        return sum(map(len, self._rooms.values()))

    def _state(self, claims: dict[bytes, str], digest: bytes, holder: str, now: float) -> int:
        owner = claims.get(digest)
        if owner == _ANSWERED:
            return ANSWERED
        if owner is None or owner == holder or now - self._heard.get(owner, 0.0) > self._expires_s:
            claims[digest] = holder
            return YOURS
        return ELSEWHERE


def digests_in(joined: bytes) -> list[bytes]:
    """The digests of which `joined` is made."""
    return [joined[k : k + DIGEST_BYTES] for k in range(0, len(joined), DIGEST_BYTES)]
