"""Which rows of two tables may belong together: places of pairs, found in arrays, with caps on all of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from apwa_dask.errors import RunError
from apwa_dask.execution.compile import ROW_ID
from apwa_dask.execution.frame_exchange import POSITION
from apwa_dask.execution.frame_merge import key_texts
from apwa_dask.execution.join_near import nearest_of
from apwa_dask.execution.join_vectors import nearest_by_vectors
from apwa_dask.plans.expressions import columns_of, mask
from apwa_dask.plans.infer import joined_names
from apwa_dask.plans.lowering import Pairs

__all__ = ["Found", "found_in"]

_AT_ONCE = 200_000
"""Pairs that a condition is computed over at a time."""
COMPARED_AT_MOST = 200_000_000
"""Pairs that one task may look at for a condition without keys."""

Places = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class Found:
    """Row numbers of pairs, ordered by left row, then right."""

    left: Places
    right: Places


def found_in(step: Pairs, left: pa.Table, right: pa.Table) -> Found:
    """The candidate pairs of two parts whose rows have all keys.

    Raises
    ------
    RunError
        A row has more than ``step.max_pairs_per_row`` pairs, or the part more than ``step.max_pairs``.
    """
    if left.num_rows == 0 or right.num_rows == 0:
        return _found([])
    groups = _groups(step, left, right)
    if step.similar_left:
        near = (nearest_by_vectors if step.embeds else nearest_of)(step, left, right, groups)
        pieces: Iterator[Found] = iter([near])
    else:
        pieces = _product(step, groups)
    kept: list[Found] = []
    per_row = np.zeros(left.num_rows, dtype=np.int64)
    total = 0
    for piece in pieces:
        chosen = _admitted(step, left, right, piece)
        per_row += np.bincount(chosen.left, minlength=left.num_rows)
        total += len(chosen.left)
        _check(step, left, per_row, total)
        kept.append(chosen)
    return _found(kept)


def _found(pieces: list[Found]) -> Found:
    if not pieces:
        nothing = np.array([], dtype=np.int64)
        return Found(nothing, nothing)
    left = np.concatenate([piece.left for piece in pieces])
    right = np.concatenate([piece.right for piece in pieces])
    order = np.lexsort((right, left))
    return Found(left[order], right[order])


def _groups(step: Pairs, left: pa.Table, right: pa.Table) -> list[tuple[Places, Places]]:
    """Rows of both sides with equal keys; all rows where there are none."""
    if not step.left_on:
        return [(np.arange(left.num_rows), np.arange(right.num_rows))]
    theirs = _by_key(right, step.right_on)
    mine = _by_key(left, step.left_on)
    return [(rows, theirs[key]) for key, rows in mine.items() if key in theirs]


def _by_key(table: pa.Table, on: tuple[str, ...]) -> dict[str, Places]:
    texts, _ = key_texts(table, list(on))
    keys = pd.Series(texts, dtype=object)
    return {
        str(key): np.asarray(rows, dtype=np.int64)
        for key, rows in keys.groupby(keys, sort=True).indices.items()
    }


def _product(step: Pairs, groups: list[tuple[Places, Places]]) -> Iterator[Found]:
    """All pairs of each group, a bounded number at a time."""
    compared = sum(len(mine) * len(theirs) for mine, theirs in groups)
    if compared > COMPARED_AT_MOST:
        raise _exploded(
            f"the condition of {step.of!r} would be computed over {compared:,} pairs in one partition",
            "add left_on and right_on: columns that are equal in rows that belong together",
        )
    for mine, theirs in groups:
        if step.condition is None and len(theirs) > step.max_pairs_per_row:
            raise _too_many(step, len(theirs))
        rows_at_once = max(_AT_ONCE // len(theirs), 1)
        for start in range(0, len(mine), rows_at_once):
            some = mine[start : start + rows_at_once]
            yield Found(np.repeat(some, len(theirs)), np.tile(theirs, len(some)))


def _admitted(step: Pairs, left: pa.Table, right: pa.Table, piece: Found) -> Found:
    """Pairs that the condition keeps; in a table that is joined with itself, each pair once and no row alone.

    Of near rows either may have found the other, so there both directions stay.
    """
    keep = np.ones(len(piece.left), dtype=bool)
    if step.is_within and not step.similar_left:
        at = [np.asarray(table.column(POSITION)) for table in (left, right)]
        keep &= at[0][piece.left] < at[1][piece.right]
    if step.condition is not None:
        keep &= np.asarray(mask(step.condition, _pair_table(step, left, right, piece)))
    return Found(piece.left[keep], piece.right[keep])


def _pair_table(step: Pairs, left: pa.Table, right: pa.Table, piece: Found) -> pa.Table:
    wanted = columns_of(step.condition or "")
    renamed = joined_names(step.left_names, right.column_names, step.suffix)
    mine = [name for name in left.column_names if name in wanted and name not in (ROW_ID, POSITION)]
    columns = {name: left.column(name).take(pa.array(piece.left)) for name in mine}
    columns |= {
        new: right.column(old).take(pa.array(piece.right)) for old, new in renamed.items() if new in wanted
    }
    return pa.table(columns) if columns else pa.table({"_apwa_n": pa.nulls(len(piece.left), pa.int8())})


def _check(step: Pairs, left: pa.Table, per_row: Places, total: int) -> None:
    most = int(per_row.max()) if len(per_row) else 0
    if most > step.max_pairs_per_row:
        raise _too_many(step, most, left.column(ROW_ID)[int(per_row.argmax())].as_py())
    if total > step.max_pairs:
        raise _exploded(
            f"the block of {step.of!r} has more than max_pairs={step.max_pairs:,} pairs",
            "narrow the block (more keys, a condition, fewer nearest), or raise max_pairs",
        )


def _too_many(step: Pairs, pairs: int, row_id: str = "") -> RunError:
    row = f"row {row_id}" if row_id else "a row"
    return _exploded(
        f"in the block of {step.of!r}, {row} has {pairs:,} pairs, more than "
        f"max_pairs_per_row={step.max_pairs_per_row:,}",
        "narrow the block: a key that fewer rows share, a condition, or similar_left and similar_right with "
        "nearest; or raise max_pairs_per_row",
    )


def _exploded(what: str, fix: str) -> RunError:
    return RunError(
        what, why="each pair is one question to a model; none has been asked", fix=fix, code="RUN-BLOCK"
    )
