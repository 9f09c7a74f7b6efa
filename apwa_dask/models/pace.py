"""A rate of requests or tokens, handed out in advance. Pure: time is given."""

from __future__ import annotations

from dataclasses import dataclass

from apwa_dask.models.headers import Window

__all__ = ["BLOCK_S", "Bucket", "LearnedRate"]

BLOCK_S = 0.25
"""A block of permits is at most so much of the rate, and so is what is lost with its holder."""

MIN_RATE_PER_S = 1 / 60


@dataclass(slots=True)
class Bucket:
    """A token bucket that grants ahead of time: a grant says how long to wait before it may be used.

    The level may be negative: that is what was promised for later. One grant so costs one question, with no
    polling (virtual time reservation).
    """

    per_s: float
    capacity: float
    level: float
    at_s: float

    @classmethod
    def announced(cls, window: Window, now_s: float) -> Bucket:
        """A bucket for a limit just heard of. Its size is what we have seen, not the limit: a limit of 600 a
        minute
        is often enforced as ten a second."""
        return cls(window.per_s, max(window.remaining, 1.0), window.remaining, now_s)

    def heard(self, window: Window, now_s: float) -> None:
        """Correct by a response's words. They are older than our latest grants, so they only lower it."""
        self._refill(now_s)
        self.per_s = window.per_s
        self.capacity = max(self.capacity, window.remaining)
        self.level = min(self.level, window.remaining)

    def take(self, units: float, now_s: float) -> float:
        """Take units, and say in how many seconds they may be used."""
        self._refill(now_s)
        self.level -= units
        return max(0.0, -self.level / self.per_s)

    def spare(self, kept: float, wanted: int, now_s: float) -> int:
        """Take what is there beyond `kept`, while all that refills is handed out as a pace."""
        self.at_s = now_s
        units = max(0, min(wanted, int(self.level - kept)))
        self.level = max(0.0, min(self.level - units, kept))
        return units

    def block(self, wanted: int, holders: int, now_s: float) -> int:
        """How many units to grant at once: what is there, or a block's worth, shared among the holders."""
        self._refill(now_s)
        share = max(self.level, self.per_s * BLOCK_S) / max(holders, 1)
        return max(1, min(wanted, int(share)))

    def _refill(self, now_s: float) -> None:
        self.level = min(self.capacity, self.level + max(0.0, now_s - self.at_s) * self.per_s)
        self.at_s = now_s


@dataclass(slots=True)
class LearnedRate:
    """Guess a request limit that an endpoint enforces and does not announce.

    A refusal sets the rate to nine tenths of what was admitted over the last seconds, pauses included, once there
    is enough to judge by. Without refusals it grows every two seconds while used: by a quarter until a refusal
    confirms it, then by a twentieth.
    """

    since_s: float
    admitted: int = 0
    per_s: float | None = None
    grown_at_s: float = 0.0
    growth: float = 1.25

    WINDOW_S = 5.0
    ENOUGH = 5

    def observe(self, admitted: int, throttled: int, now_s: float) -> float | None:
        """Take in a report; return the rate to keep to, or None."""
        self.admitted += admitted
        elapsed = now_s - self.since_s
        enough = self.admitted >= self.ENOUGH or elapsed >= self.WINDOW_S
        if throttled and elapsed >= 0.5 and enough:
            self.growth = 1.25 if self.per_s is None else 1.05
            seen = self.admitted / elapsed
            self.per_s = max(MIN_RATE_PER_S, 0.9 * (seen if self.per_s is None else min(seen, self.per_s)))
            self._restart(now_s)
        elif self.per_s is not None and now_s - self.grown_at_s >= 2.0:
            if elapsed > 0 and self.admitted / elapsed >= 0.7 * self.per_s:
                self.per_s *= self.growth
            self.grown_at_s = now_s
        if elapsed > self.WINDOW_S and not throttled:
            self._restart(now_s)
        return self.per_s

    def _restart(self, now_s: float) -> None:
        self.since_s, self.admitted, self.grown_at_s = now_s, 0, now_s
