"""Times of some rows that stand for all of them: the first in an order by lot, whoever told of them."""

from __future__ import annotations

import heapq
from collections.abc import Mapping

from apwa_dask.execution.pulse import SAMPLED, sample_rank

__all__ = ["Sample", "Took", "median_and_most"]

Took = tuple[float, float]
"""Seconds in calls, and seconds of waiting for them."""


class Sample:
    """A sample of at most `SAMPLED` rows, drawn without knowing how many there will be.

    Processes tell of the rows that come first in their part; the first of all of these are the first of all rows.

    Parameters
    ----------
    known : mapping of str to tuple of float
        Rows that were drawn before, by id.
    """

    def __init__(self, known: Mapping[str, Took] | None = None) -> None:
        self._rows: dict[str, Took] = {}
        self._drawn: list[tuple[int, str]] = []
        """A heap of negative ranks: the row that gives way to the next is at its head."""
        self.add(known or {})

    def add(self, told: Mapping[str, Took]) -> None:
        """Rows that ended; a row that is told again counts as told last."""
        for row_id, took in told.items():
            if row_id in self._rows or self._draws(-sample_rank(row_id), row_id):
                self._rows[row_id] = took

    def _draws(self, place: int, row_id: str) -> bool:
        if len(self._drawn) < SAMPLED:
            heapq.heappush(self._drawn, (place, row_id))
            return True
        _, gone = heapq.heappushpop(self._drawn, (place, row_id))
        if gone == row_id:
            return False
        del self._rows[gone]
        return True

    def rows(self) -> dict[str, Took]:
        """What was drawn, by row id."""
        return dict(self._rows)


def median_and_most(seconds: list[float]) -> tuple[float | None, float | None]:
    """What half and what nine in ten of them do not exceed; None of nothing."""
    if not seconds:
        return None, None
    ordered = sorted(seconds)
    return ordered[(len(ordered) - 1) // 2], ordered[(9 * len(ordered) - 1) // 10]
