"""Which rows a preview tries: spread over the categories and the lengths of a table, one of each part."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise

import pyarrow as pa
import pyarrow.compute as pc

from apwa_dask.tables.schema import type_name

__all__ = ["stratified"]

_CATEGORIES = 12
"""A text column with so few values, or fewer, is one of categories."""


def stratified(table: pa.Table, columns: Sequence[str], n: int, seed: int) -> list[int]:
    """Positions of `n` rows, ascending: rows are put in order by category and length, and one is drawn from each of
    `n` equal parts.

    A mean over such rows is nearer to the table's than one over rows drawn at random, since lengths, which costs
    follow, are all represented (Cochran, Sampling Techniques, 1977, chapter 8).

    Parameters
    ----------
    table : pyarrow.Table
    columns : sequence of str
        Those that reach prompts; all when empty.
    n, seed : int
    """
    rows = table.num_rows
    if rows <= n:
        return list(range(rows))
    draw = random.Random(seed)
    category, lengths = _category(table), _lengths(table, columns)
    order = sorted(range(rows), key=lambda k: (category[k], lengths[k], draw.random()))
    edges = [part * rows // n for part in range(n + 1)]
    return sorted(order[draw.randrange(low, high)] for low, high in pairwise(edges))


def _texts(table: pa.Table, columns: Sequence[str]) -> list[str]:
    wanted = set(columns)
    return [
        field.name
        for field in table.schema
        if type_name(field.type) == "string" and (not wanted or field.name in wanted)
    ]


def _category(table: pa.Table) -> list[str]:
    """The value of the first text column that has few of them; the same for all rows where there is none."""
    for name in _texts(table, ()):
        column = table.column(name)
        if 1 < pc.count_distinct(column).as_py() <= min(_CATEGORIES, max(table.num_rows // 4, 1)):
            return [value or "" for value in column.cast(pa.string()).to_pylist()]
    return [""] * table.num_rows


def _lengths(table: pa.Table, columns: Sequence[str]) -> list[int]:
    total = [0] * table.num_rows
    for name in _texts(table, columns):
        lengths = pc.fill_null(pc.binary_length(table.column(name).cast(pa.large_string())), 0).to_pylist()
        total = [a + b for a, b in zip(total, lengths, strict=True)]
    return total
