"""Group records into cuts as they stream by; the same arithmetic for every format."""

from __future__ import annotations

from ..pieces import Cut, Limits, Slice

__all__ = ["CutBuilder", "row_cuts"]


class CutBuilder:
    """Collects records with their end offsets and closes a cut before a limit is passed.

    Parameters
    ----------
    limits : Limits
    start : int
        Offset of the first record in bytes of the decompressed stream.
    """

    def __init__(self, limits: Limits, start: int) -> None:
        self._limits = limits
        self._start = self._end = start
        self._rows = self._tokens = self._first_row = 0
        self._cuts: list[Cut] = []

    def add(self, end: int, tokens: int) -> None:
        """Take a record that ends at byte `end`."""
        too_many = self._rows >= self._limits.rows or self._tokens + tokens > self._limits.tokens
        if self._rows and too_many:
            self._close()
        self._rows += 1
        self._tokens += tokens
        self._end = end

    def finish(self) -> tuple[Cut, ...]:
        """Return all cuts."""
        if self._rows:
            self._close()
        return tuple(self._cuts)

    def _close(self) -> None:
        piece = Slice("bytes", self._start, self._end)
        self._cuts.append(Cut(piece, self._rows, self._first_row, self._tokens))
        self._first_row += self._rows
        self._start = self._end
        self._rows = self._tokens = 0


def row_cuts(
    rows: int, tokens: int, limits: Limits, *, kind: str = "rows", group: int = 0, first_row: int = 0
) -> list[Cut]:
    """Cut `rows` rows of about equal size into slices within the limits.

    Slices count from 0 inside `group`; `first_row` is the offset of the group inside the file.
    """
    if rows == 0:
        return []
    tokens_per_row = max(1, tokens // rows)
    step = max(1, min(limits.rows, limits.tokens // tokens_per_row))
    cuts = []
    for start in range(0, rows, step):
        stop = min(rows, start + step)
        share = round(tokens * (stop - start) / rows)
        cuts.append(Cut(Slice(kind, start, stop, group), stop - start, first_row + start, share))  # type: ignore[arg-type]
    return cuts
