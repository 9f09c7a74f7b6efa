"""Calls in flight: fair shares of one ceiling that hold at every moment, without a message a call. Pure: time is given.

A share is what a process may have in flight; what it *holds* is what it may still have in flight for all that the
coordinator knows: the most of its share, of the share that it kept to when it last asked, and of its calls then. The
sum of what is held is never more than the ceiling, so a newcomer waits until enough has come back; those who hold too
much are told at once. Where there are more processes than calls, they take turns.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from apwa_dask.models.leases import Want

__all__ = ["Part", "Shares"]

TURN_S = 1.0
"""Where processes take turns, one that has had a call for so long passes it on."""

CALLS_PER_S, CALLS_AT_ONCE = 200.0, 100.0
"""Holders that are told to ask at once: each costs a message and a lease. Others hear at their renewal."""

SOON_S, HOLDERS_PER_SOON_S = 0.25, 200
"""Who is short of calls asks again so soon, and later where many hold."""


@dataclass(slots=True)
class Part:
    """What one process has of the ceiling."""

    want: int = 0
    fair: int = 0
    share: int = 0
    held: int = 0
    since_s: float = 0.0
    """When its turn began, or its wait."""

    @property
    def is_short(self) -> bool:
        return self.share < min(self.want, self.fair) or (self.share == 0 < self.want)


@dataclass(slots=True)
class Shares:
    """All processes at one gate. Sums are kept up to date: a lease costs the same however many hold one."""

    parts: dict[str, Part] = field(default_factory=dict)
    _held: int = 0
    _busy: int = 0
    _most: int = 0
    _changes: int = 0
    _reckoned_s: float = float("-inf")
    _short: dict[str, None] = field(default_factory=dict)
    _over: deque[str] = field(default_factory=deque)
    _lacking: int = 0
    _calls: float = CALLS_AT_ONCE
    _called_s: float = float("-inf")

    def join(self, name: str, now: float) -> None:
        """A process comes, with nothing yet."""
        self.parts[name] = Part(since_s=now)
        self._changes += 1

    def leave(self, name: str) -> None:
        """What it held returns."""
        gone = self.parts.pop(name, None)
        if gone is None:
            return
        self._held -= gone.held
        self._busy -= gone.want > 0
        self._short.pop(name, None)
        self._changes += 1

    def lease(self, name: str, want: Want, now: float) -> int:
        """Max-min fair: small wants are met in full, the others share the rest, and what nobody wants, alike.

        What is fair is reckoned anew only after a sixteenth of the holders changed their wants, or after a while.
        """
        part, wanted, most = self.parts[name], want.concurrency, want.max_concurrency
        begins = wanted > 0 == part.want
        self._changes += part.want != wanted
        self._busy += (wanted > 0) - (part.want > 0)
        part.want = wanted
        if self._is_stale(most, now):
            self._reckon(most, now)
        elif begins and part.fair == 0 and self._busy <= most:
            part.fair = 1
        share = max(0, min(part.fair, most - (self._held - part.held)))
        if (share > 0) != (part.share > 0) or (begins and not share):
            part.since_s = now
        held = max(share, want.in_flight, want.share)
        self._held += held - part.held
        part.share, part.held = share, held
        if not part.is_short:
            self._short.pop(name, None)
        elif name not in self._short:
            self._short[name] = None
        return share

    def ask_in_s(self, name: str) -> float | None:
        """When to ask again, sooner than usual: who is short, and who has yet to give back what others wait for."""
        part = self.parts[name]
        if part.is_short or (self._short and part.held > part.share):
            return max(SOON_S, len(self.parts) / HOLDERS_PER_SOON_S)
        return None

    def calls(self, asking: str, now: float) -> list[tuple[str, int]]:
        """Who should ask at once, but for `asking`, and how many calls it may have meanwhile at most.

        Those who hold more than is fair, while others are short; and those who are short, when enough has come back.
        """
        passed_s = max(0.0, now - self._called_s)
        self._calls, self._called_s = min(CALLS_AT_ONCE, self._calls + passed_s * CALLS_PER_S), now
        called: list[tuple[str, int]] = []
        while self._lacking > 0 and self._over and len(called) < self._calls:
            name = self._over.popleft()
            part = self.parts.get(name)
            if part is None or part.held <= part.fair:
                continue
            self._lacking -= part.held - part.fair
            if name != asking:
                called.append((name, part.fair))
        free = self._most - self._held
        for name in list(self._short)[: int(self._calls)] if free > 0 else ():
            if free <= 0 or len(called) >= self._calls:
                break
            part = self.parts[name]
            if name == asking or part.fair <= part.share:
                continue
            free -= part.fair - part.share
            del self._short[name]
            called.append((name, part.fair))
        self._calls -= len(called)
        return called

    def _is_stale(self, most: int, now: float) -> bool:
        count, passed_s = len(self.parts), now - self._reckoned_s
        if self._changes * 16 >= count or most != self._most:
            return True
        if self._changes and passed_s >= max(SOON_S, count / 1000):
            return True
        return self._busy > most and passed_s >= TURN_S

    def _reckon(self, most: int, now: float) -> None:
        self._changes, self._most, self._reckoned_s = 0, most, now
        if self._busy > most:
            self._take_turns(most, now)
        else:
            self._divide(most)
        over = [(part.held - part.fair, name) for name, part in self.parts.items() if part.held > part.fair]
        self._over = deque(name for _, name in sorted(over, reverse=True))
        self._lacking = sum(max(0, min(part.fair, part.want) - part.held) for part in self.parts.values())

    def _divide(self, most: int) -> None:
        left = most
        parts = sorted(self.parts.items(), key=lambda item: (item[1].want, item[0]))
        for k, (_, part) in enumerate(parts):
            part.fair = min(part.want, left // (len(parts) - k))
            left -= part.fair
        busy = [part for _, part in parts if part.want]
        for part in busy:
            part.fair += left // len(busy)

    def _take_turns(self, most: int, now: float) -> None:
        """One call each, for as many as there are: who is at it, then who waits longest, then who had its turn."""
        turns = []
        for name, part in self.parts.items():
            part.fair = 0
            if part.want and part.share and now - part.since_s < TURN_S:
                turns.append((0, part.since_s, name))
            elif part.want and not part.share:
                turns.append((1, part.since_s, name))
            elif part.want:
                turns.append((2, -part.since_s, name))
        for _, _, name in sorted(turns)[:most]:
            self.parts[name].fair = 1
