"""A rate of requests or tokens, handed out in advance. Pure: time is given."""

from __future__ import annotations

import math
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

    def block(self, wanted: int, holders: int, now_s: float, least: int = 1) -> int:
        """How many units to grant at once: what is there, or a block's worth, shared among the holders, and not less
        than `least`.
        """
        self._refill(now_s)
        share = max(self.level, self.per_s * BLOCK_S) / max(holders, 1)
        return max(least, min(wanted, int(share)))

    def let_go(self, pause_s: float, now_s: float) -> None:
        """In a pause nothing of what was promised for it is used."""
        self._refill(now_s)
        self.level += min(max(0.0, -self.level), pause_s * self.per_s)

    def _refill(self, now_s: float) -> None:
        self.level = min(self.capacity, self.level + max(0.0, now_s - self.at_s) * self.per_s)
        self.at_s = now_s


@dataclass(slots=True)
class LearnedRate:
    """Guess a request limit that an endpoint enforces and does not announce.

    The first refusal starts a search: a low rate that doubles until the next refusal. From then on the rate follows the
    function of CUBIC (Ha, Rhee and Xu 2008; RFC 9438; the SDKs of AWS pace their retries so): a little below what
    was refused, flat where it was refused, and ever faster beyond, so that a limit that grew is found soon and one that
    did not costs a refusal a cycle. Between two refusals an endpoint lets through what refills, so what was admitted
    between them is its rate.
    """

    since_s: float
    """Of the last refusal."""
    admitted: int = 0
    """Since then."""
    per_s: float | None = None
    _most_per_s: float = 0.0
    """What was refused last; 0 while searching."""
    _cycle_s: float = 0.0
    """From a refusal to the middle of the flat part."""
    _age_s: float = 0.0
    """Since the last refusal, as far as the rate was used."""
    _recent: float = 0.0
    """Calls of the last seconds, older ones fading."""
    _looked_s: float = 0.0

    CYCLE_S, LONGEST_CYCLE_S = 20.0, 60.0
    CYCLE_CALLS = 200
    """A refusal among so many is cheap enough."""
    DIP, BACK, LOWEST, FAR = 0.05, 0.8, 0.7, 1.5
    DOUBLE_S, FADE_S = 1.0, 2.0
    STORM_S = 1.0
    """Refusals that follow within this time are of calls sent before the first was known."""
    ENOUGH = 20
    """Calls between two refusals from which their rate can be judged."""

    def observe(self, admitted: int, throttled: int, now_s: float) -> float | None:
        """Take in a report; return the rate to keep to, or None."""
        passed_s, self._looked_s = max(0.0, now_s - self._looked_s), now_s
        self.admitted += admitted
        self._recent = self._recent * math.exp(-passed_s / self.FADE_S) + admitted
        elapsed_s = now_s - self.since_s
        if throttled and self.per_s is None:
            self.per_s = max(MIN_RATE_PER_S, 0.5 * max(self.admitted, 1) / max(elapsed_s, 0.1))
            self._restart(now_s)
        elif throttled and elapsed_s >= self.STORM_S:
            self._refused(elapsed_s)
            self._restart(now_s)
        elif self.per_s is not None and elapsed_s >= self.STORM_S:
            self._grow(passed_s)
        return self.per_s

    def _refused(self, elapsed_s: float) -> None:
        assert self.per_s is not None
        was_per_s, seen_per_s = self.per_s, self.admitted / elapsed_s
        if not self._most_per_s:  # the end of the search: the last doubling went too far
            self._most_per_s = _between(was_per_s / 2, self._recent / self.FADE_S, 0.75 * was_per_s)
            self._cycle_s = self._longest_cycle_s() / 8
        elif self.admitted < self.ENOUGH:
            self._most_per_s = self.BACK * was_per_s
        else:
            is_another = was_per_s > self.FAR * self._most_per_s
            self._most_per_s = _between(self.LOWEST * was_per_s, seen_per_s, was_per_s)
            longest_s = self._longest_cycle_s()
            self._cycle_s = longest_s / 8 if is_another else min(2 * self._cycle_s, longest_s)
        self.per_s = max(MIN_RATE_PER_S, (1 - self.DIP) * self._most_per_s)

    def _longest_cycle_s(self) -> float:
        return _between(self.CYCLE_S, self.CYCLE_CALLS / self._most_per_s, self.LONGEST_CYCLE_S)

    def _grow(self, passed_s: float) -> None:
        """As far as the rate is used: calls that nobody wants to make test no limit."""
        assert self.per_s is not None
        used_per_s = self._recent / self.FADE_S
        if not self._most_per_s:
            wanted = self.per_s * 2.0 ** (passed_s / self.DOUBLE_S)
            self.per_s = max(self.per_s, min(wanted, 4.0 * used_per_s))
            return
        if used_per_s < 0.7 * self.per_s:
            return
        self._age_s += passed_s
        away = self._age_s / self._cycle_s - 1.0
        self.per_s = max(MIN_RATE_PER_S, self._most_per_s * (1.0 + self.DIP * away**3))

    def _restart(self, now_s: float) -> None:
        self.since_s, self.admitted, self._age_s = now_s, 0, 0.0


def _between(least: float, value: float, most: float) -> float:
    return max(least, min(value, most))
