"""Which rows of a partition to work together, after some of its beginnings ended their process. Pure.

A row may end the process that works on it: a tool that calls into a broken library, a document that needs all
memory. Nothing raises then, so it is found by what did not end. A partition begun twice without an end is
worked in four spans, one after the other and with nothing else in its process; a span that took its process
with it is cut in four again, and a row that did so twice by itself is condemned. At most ``3 + log2(rows)``
processes are lost to one such row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

__all__ = ["SHARED_DEATHS", "Course", "Span", "course_of"]

SHARED_DEATHS = 2
"""Processes that may die around a partition before it is suspected: one death blames all that were there."""

ALONE_DEATHS = 2
"""Processes a row must take with it, worked by itself, before it is condemned: the first may be chance."""

PIECES = 4
"""A span is cut in so many. Each level costs a process, so a wide cut loses fewer than halving."""

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Course:
    """How to work a suspected partition: spans in the order of rows, and the rows not to be worked."""

    spans: tuple[Span, ...]
    condemned: tuple[int, ...]


def course_of(rows: int, deaths: Sequence[Span | None], *, separable: bool = True) -> Course | None:
    """What to do with a partition whose earlier attempts ended like this.

    Parameters
    ----------
    rows : int
        Rows of the partition.
    deaths : sequence of (int, int) or None
        For each attempt that never ended: its span, None where it was the whole partition beside others.
    separable : bool
        Whether rows may be worked apart; where prompts are shared by rows they may not.

    Returns
    -------
    Course or None
        None: work the whole partition beside others, as usual. The spans cover all rows; condemned rows are
        in them too.
    """
    died = Counter(span for span in deaths if span is not None)
    shared = len(deaths) - died.total()
    if shared < SHARED_DEATHS and not died:
        return None
    if rows == 0:
        return Course(((0, 0),), ())
    spans: list[Span] = []
    condemned: list[int] = []
    if not separable:
        lost = died[(0, rows)] >= ALONE_DEATHS
        return Course(((0, rows),), tuple(range(rows)) if lost else ())
    # a partition of one row was by itself before, but for its neighbours
    needed = ALONE_DEATHS if rows > 1 else 1
    todo = [(0, rows)] if rows == 1 else _pieces((0, rows))[::-1]
    while todo:
        span = todo.pop()
        size = span[1] - span[0]
        if died[span] and size > 1:
            todo.extend(_pieces(span)[::-1])
            continue
        spans.append(span)
        if size == 1 and died[span] >= needed:
            condemned.append(span[0])
    return Course(tuple(spans), tuple(condemned))


def _pieces(span: Span) -> list[Span]:
    """At most four spans of nearly one size, none of them empty."""
    start, stop = span
    count = min(PIECES, stop - start)
    cuts = [start + (stop - start) * k // count for k in range(count + 1)]
    return list(pairwise(cuts))
