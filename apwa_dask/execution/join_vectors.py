"""The nearest texts by the vectors that a model gave them: exact top-k by cosine, in blocks of bounded size."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from apwa_dask.errors import RunError
from apwa_dask.execution.frame_exchange import POSITION
from apwa_dask.plans.lowering import Pairs, vector_of

if TYPE_CHECKING:
    from apwa_dask.execution.join_find import Found

__all__ = ["nearest_by_vectors", "top_of", "vectors_of"]

LEFT_AT_ONCE = 512
RIGHT_AT_ONCE = 4_096
"""A block of likenesses has at most so many rows and columns: 8 MiB, however long both tables are."""
_STEPS = 10_000
"""Cosines are told apart by their fourth digit."""
_COLUMN_BITS, _PLACE_BITS = 12, 40
_LAST_COLUMN, _LAST_PLACE = (1 << _COLUMN_BITS) - 1, (1 << _PLACE_BITS) - 1
_APART, _NOWHERE = np.iinfo(np.int32).min, np.iinfo(np.int64).min
"""Less than any rank, in a block and among all places: rows that do not meet."""
VECTOR_BYTES_AT_MOST = 1024**3
"""Of one side's vectors in one task."""

Vectors = np.ndarray[Any, np.dtype[np.float32]]
Places = np.ndarray[Any, np.dtype[np.int64]]


def nearest_by_vectors(
    step: Pairs, left: pa.Table, right: pa.Table, groups: list[tuple[Places, Places]]
) -> Found:
    """For each left row, the `step.nearest` right rows of its group by cosine; ties go to the earlier row.

    A row without text has no vector and no neighbours. In a table that is joined with itself a row is not its own
    neighbour.
    """
    from apwa_dask.execution.join_find import Found

    name = vector_of(step.of)
    mine, has_mine = vectors_of(left.column(name))
    theirs, has_theirs = vectors_of(right.column(name))
    if mine.shape[1] != theirs.shape[1] and mine.size and theirs.size:
        raise RunError(
            f"the vectors of {step.of!r} have {mine.shape[1]} and {theirs.shape[1]} dimensions",
            why="the endpoint answered the same model with vectors of different lengths",
            fix='pin the length, where the endpoint knows it: Model(..., extra={"dimensions": 512})',
            code="RUN-BLOCK",
        )
    at = [np.asarray(table.column(POSITION)) for table in (left, right)]
    lefts: list[Places] = [np.array([], dtype=np.int64)]
    rights: list[Places] = [np.array([], dtype=np.int64)]
    for rows, others in groups:
        rows, others = rows[has_mine[rows]], others[has_theirs[others]]
        for start in range(0, len(rows) if len(others) else 0, LEFT_AT_ONCE):
            some = rows[start : start + LEFT_AT_ONCE]
            apart = (at[0][some], at[1][others]) if step.is_within else None
            near = top_of(
                mine[some], theirs[others] if len(others) < len(theirs) else theirs, step.nearest, apart
            )
            filled = near >= 0
            lefts.append(np.repeat(some, near.shape[1])[filled.ravel()])
            rights.append(others[near[filled]])
    return Found(np.concatenate(lefts), np.concatenate(rights))


def top_of(some: Vectors, others: Vectors, k: int, apart: tuple[Places, Places] | None = None) -> Places:
    """Rows of `others` with the largest products, best first, equal ones by place; -1 where there are fewer.

    Parameters
    ----------
    some : ndarray of float32, shape (n, d)
        Unit vectors.
    others : ndarray of float32, shape (m, d)
        Unit vectors, looked at `RIGHT_AT_ONCE` at a time.
    k : int
    apart : pair of ndarray of int64, optional
        Keys of both sides: rows with equal keys do not meet.

    Returns
    -------
    ndarray of int64, shape (n, min(k, m))
    """
    k = min(k, len(others))
    best = np.full((len(some), k), _NOWHERE, dtype=np.int64)
    for start in range(0, len(others), RIGHT_AT_ONCE):
        block = others[start : start + RIGHT_AT_ONCE]
        ranks = _ranks(some @ block.T)
        if apart is not None:
            ranks[apart[0][:, None] == apart[1][None, start : start + len(block)]] = _APART
        if len(block) > k:
            ranks = np.partition(ranks, len(block) - k, axis=1)[:, len(block) - k :]
        # a place counts down within its block, and earlier blocks are ahead of later ones
        found = np.where(ranks == _APART, _NOWHERE, _within_all(ranks.astype(np.int64), start))
        best = np.sort(np.hstack([best, found]), axis=1)[:, ::-1][:, :k]
    return np.where(best == _NOWHERE, -1, _LAST_PLACE - (best & _LAST_PLACE))


def _ranks(likeness: Vectors) -> np.ndarray[Any, np.dtype[np.int32]]:
    """One number for likeness and column: greater is more alike, and of equally alike ones the earlier column.

    float32 products differ in their last digits between machines' libraries: rounded, ties are ties.
    """
    rounded = np.rint(likeness * _STEPS).astype(np.int32)
    rounded <<= _COLUMN_BITS
    rounded |= np.arange(_LAST_COLUMN, _LAST_COLUMN - likeness.shape[1], -1, dtype=np.int32)
    return rounded


def _within_all(ranks: Places, start: int) -> Places:
    """The ranks of a block that begins at this place, as ranks among all places."""
    columns = _LAST_COLUMN - (ranks & _LAST_COLUMN)
    return ((ranks >> _COLUMN_BITS) << _PLACE_BITS) | (_LAST_PLACE - (columns + start))


def vectors_of(column: pa.ChunkedArray) -> tuple[Vectors, np.ndarray[Any, np.dtype[np.bool_]]]:
    """Unit vectors of a column of stored ones, and which rows have one that is not zero.

    Raises
    ------
    RunError
        Vectors of one column have different lengths, or are more than `VECTOR_BYTES_AT_MOST`.
    """
    has = np.asarray(column.is_valid())
    size = 0
    vectors = np.zeros((len(column), 0), dtype=np.float32)
    for row in np.flatnonzero(has):
        vector = np.frombuffer(base64.b64decode(column[int(row)].as_py()), dtype="<f4")
        if not size:
            size = len(vector)
            _check_size(len(column), size)
            vectors = np.zeros((len(column), size), dtype=np.float32)
        if len(vector) != size:
            raise RunError(
                f"an endpoint answered with vectors of {size} and of {len(vector)} dimensions",
                fix='pin the length, where the endpoint knows it: Model(..., extra={"dimensions": 512})',
                code="RUN-BLOCK",
            )
        vectors[row] = vector
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    has &= norms[:, 0] > 0
    vectors /= np.where(norms > 0, norms, 1)
    return vectors, has


def _check_size(rows: int, size: int) -> None:
    if rows * size * 4 <= VECTOR_BYTES_AT_MOST:
        return
    raise RunError(
        f"{rows:,} vectors of {size:,} dimensions do not fit one task",
        why="a block without keys compares each row with all rows of the other table",
        fix='ask for shorter vectors, where the endpoint has them: Model(..., extra={"dimensions": 512}); or give keys '
        "(left_on and right_on, on): columns that are equal in rows that belong together",
        code="RUN-BLOCK",
    )
