"""Times of some rows that stand for all of them: the first in an order by lot, whoever told of them."""

from __future__ import annotations

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
        self._rows: dict[str, tuple[int, Took]] = {}
        self._last = -1
        self.add(known or {})

    def add(self, told: Mapping[str, Took]) -> None:
        """Rows that ended; a row that is told again counts as told last."""
        for row_id, (calls_s, waited_s) in told.items():
            rank = sample_rank(row_id)
            if row_id not in self._rows and len(self._rows) >= SAMPLED:
                if rank > self._last:
                    continue
                del self._rows[max(self._rows, key=lambda row: self._rows[row][0])]
            self._rows[row_id] = (rank, (calls_s, waited_s))
            self._last = max(rank for rank, _ in self._rows.values())

    def rows(self) -> dict[str, Took]:
        """What was drawn, by row id."""
        return {row_id: took for row_id, (_, took) in self._rows.items()}


def median_and_most(seconds: list[float]) -> tuple[float | None, float | None]:
    """What half and what nine in ten of them do not exceed; None of nothing."""
    if not seconds:
        return None, None
    ordered = sorted(seconds)
    return ordered[(len(ordered) - 1) // 2], ordered[(9 * len(ordered) - 1) // 10]
