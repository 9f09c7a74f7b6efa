"""The nearest texts by the vectors that a model gave them: exact top-k by cosine, in blocks of bounded size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from apwa_dask.errors import RunError
from apwa_dask.execution.frame_exchange import POSITION
from apwa_dask.models.vectors import floats_of
from apwa_dask.plans.lowering import Pairs, vector_of

if TYPE_CHECKING:
    from apwa_dask.execution.join_find import Found

__all__ = ["nearest_by_vectors", "top_of", "vectors_of"]

LEFT_AT_ONCE = 512
RIGHT_AT_ONCE = 4_096
"""A block of likenesses has at most so many rows and columns: 8 MiB, however long both tables are."""

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
    best = np.full((len(some), k), -np.inf, dtype=np.float32)
    places = np.full((len(some), k), -1, dtype=np.int64)
    for start in range(0, len(others), RIGHT_AT_ONCE):
        block = others[start : start + RIGHT_AT_ONCE]
        # float32 products differ in their last digits between machines' libraries: rounded, ties are ties
        likeness = np.round(some @ block.T, 4)
        if apart is not None:
            likeness[apart[0][:, None] == apart[1][None, start : start + len(block)]] = -np.inf
        near = _top_of_block(likeness, min(k, len(block)))
        values = np.hstack([best, np.take_along_axis(likeness, near, axis=1)])
        found = np.hstack([places, near + start])
        # earlier blocks stand first, and a stable sort keeps them there
        order = np.argsort(-values, axis=1, kind="stable")[:, :k]
        best, places = np.take_along_axis(values, order, axis=1), np.take_along_axis(found, order, axis=1)
    places[np.isneginf(best)] = -1
    return places


def _top_of_block(likeness: Vectors, k: int) -> Places:
    """Columns of the k largest values of each row, best first, equal ones by place."""
    bound = -np.partition(-likeness, k - 1, axis=1)[:, k - 1]
    chosen = np.empty((len(likeness), k), dtype=np.int64)
    for row, least in enumerate(bound):
        reached = np.flatnonzero(likeness[row] >= least)
        chosen[row] = reached[np.argsort(-likeness[row, reached], kind="stable")[:k]]
    return chosen


def vectors_of(column: pa.ChunkedArray) -> tuple[Vectors, np.ndarray[Any, np.dtype[np.bool_]]]:
    """Unit vectors of a column of stored ones, and which rows have one that is not zero.

    Raises
    ------
    RunError
        Vectors of one column have different lengths.
    """
    has = np.asarray(column.is_valid())
    size = 0
    vectors = np.zeros((len(column), 0), dtype=np.float32)
    for row in np.flatnonzero(has):
        vector = np.frombuffer(floats_of(column[int(row)].as_py()), dtype="<f4")
        if not size:
            size = len(vector)
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
