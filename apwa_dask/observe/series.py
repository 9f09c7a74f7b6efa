"""Numbers over time in bounded memory: a ring of slots that grows coarser instead of forgetting."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import isnan, nan

__all__ = ["SLOTS", "Series", "SeriesData"]

SLOTS = 400
"""Points of a series: more than a plot is wide enough to show, and 60 kB for a run of any length."""


@dataclass(frozen=True, slots=True)
class SeriesData:
    """Numbers over time. Slot k covers ``start_s + k * width_s`` to one width later.

    Parameters
    ----------
    start_s : float
        Unix seconds.
    width_s : float
    counts : mapping of str to tuple of float
        What happened within each slot.
    gauges : mapping of str to tuple of float
        What stood at its most within each slot; where nobody looked, what stood before.
    """

    start_s: float = 0.0
    width_s: float = 1.0
    counts: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    gauges: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    @property
    def slots(self) -> int:
        """How many slots there are, the same for all names."""
        return max((len(values) for values in (*self.counts.values(), *self.gauges.values())), default=0)

    def times_s(self) -> list[float]:
        """The middle of each slot, in Unix seconds."""
        return [self.start_s + (slot + 0.5) * self.width_s for slot in range(self.slots)]

    def count(self, name: str) -> list[float]:
        """A count by slot; zeros for a name that nobody counted."""
        return list(self.counts.get(name, (0.0,) * self.slots))

    def per_s(self, name: str) -> list[float]:
        """A count as a rate."""
        return [value / self.width_s for value in self.count(name)]

    def summed(self, name: str) -> list[float]:
        """A count added up from the start."""
        total, sums = 0.0, []
        for value in self.count(name):
            total += value
            sums.append(total)
        return sums

    def gauge(self, name: str) -> list[float]:
        """A gauge by slot; zeros for a name that nobody looked at."""
        return list(self.gauges.get(name, (0.0,) * self.slots))


class Series:
    """Adds up events into slots; when they are all used, neighbours are joined and each covers twice the time.

    Parameters
    ----------
    past : SeriesData, optional
        Goes on from there.
    slots : int
        At most so many; even.
    width_s : float
        Of a slot at first.
    """

    def __init__(self, past: SeriesData | None = None, *, slots: int = SLOTS, width_s: float = 0.25) -> None:
        if slots < 2 or slots % 2:
            raise ValueError("slots must be an even number")
        self._most = slots
        known = past if past is not None and past.slots else SeriesData(width_s=width_s)
        self._start_s, self._width_s = known.start_s, known.width_s
        self._used = known.slots
        self._counts = {name: list(values) for name, values in known.counts.items()}
        self._gauges = {name: list(values) for name, values in known.gauges.items()}

    def add(
        self,
        time_s: float,
        counts: Mapping[str, float] | None = None,
        *,
        since_s: float | None = None,
        **gauges: float,
    ) -> None:
        """Count what happened up to a moment, and note gauges as they stand then.

        Counts are spread evenly from `since_s` on, lest the rhythm of reports look like one of the endpoint. What
        precedes the start is put there.
        """
        slot = self._slot(time_s)
        shares = self._shares(time_s if since_s is None else since_s, time_s, slot)
        for name, value in (counts or {}).items():
            if value:
                values = self._of(self._counts, name, 0.0)
                for at, share in shares:
                    values[at] += value * share
        for name, value in gauges.items():
            seen = self._of(self._gauges, name, nan)
            seen[slot] = value if isnan(seen[slot]) else max(seen[slot], value)

    def data(self) -> SeriesData:
        """A copy of what there is."""
        return SeriesData(
            self._start_s,
            self._width_s,
            {name: tuple(self._padded(values, 0.0)) for name, values in self._counts.items()},
            {name: tuple(_carried(self._padded(values, nan))) for name, values in self._gauges.items()},
        )

    def _shares(self, since_s: float, time_s: float, last: int) -> list[tuple[int, float]]:
        """The slots that a span of time touches, and which part of it lies in each. The parts add up to one."""
        begun = max((since_s - self._start_s) / self._width_s, 0.0)
        ended = (time_s - self._start_s) / self._width_s
        if ended - begun <= 0:
            return [(last, 1.0)]
        spans = [(at, min(at + 1, ended) - max(at, begun)) for at in range(min(int(begun), last), last + 1)]
        return [(at, span / (ended - begun)) for at, span in spans if span > 0]

    def _slot(self, time_s: float) -> int:
        if not self._used:
            self._start_s = time_s
        while (slot := max(int((time_s - self._start_s) / self._width_s), 0)) >= self._most:
            self._join()
        self._used = max(self._used, slot + 1)
        return slot

    def _of(self, series: dict[str, list[float]], name: str, empty: float) -> list[float]:
        values = series.setdefault(name, [])
        values.extend([empty] * (self._used - len(values)))
        return values

    def _padded(self, values: list[float], empty: float) -> list[float]:
        return values + [empty] * (self._used - len(values))

    def _join(self) -> None:
        """Each two slots become one; after a long silence more than once."""
        self._width_s *= 2
        self._used = -(-self._used // 2)
        self._counts = {name: [sum(pair) for pair in _pairs(values)] for name, values in self._counts.items()}
        self._gauges = {
            name: [_most(pair) for pair in _pairs(values)] for name, values in self._gauges.items()
        }


def _pairs(values: list[float]) -> Iterator[list[float]]:
    return (values[at : at + 2] for at in range(0, len(values), 2))


def _most(values: list[float]) -> float:
    return max((value for value in values if not isnan(value)), default=nan)


def _carried(values: list[float]) -> Iterator[float]:
    """Where nobody looked, what stood before; 0 before the first look."""
    last = 0.0
    for value in values:
        last = last if isnan(value) else value
        yield last
