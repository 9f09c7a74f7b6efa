"""Moving rows between partitions, nothing computed ahead of time: positions, folds, an ordered exchange.

Dask's own ``sort_values``, ``set_index`` and ``head`` look at the data while the graph is built, or at the
first partition only. Here every pass is part of one lazy graph: rows carry their place in the table, buckets
are found by splitters taken from a sample (as in sample sort; Frazer and McKellar 1970), and Dask's shuffle
moves them (``set_index`` with given divisions).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import dask.dataframe as dd
import numpy as np
import pandas as pd

__all__ = [
    "ORDINAL_BITS",
    "POSITION",
    "exchange",
    "fold",
    "mapped",
    "row_counts",
    "sorted_by",
    "with_ordinals",
    "with_positions",
]

POSITION = "_apwa_position"
_BUCKET = "_apwa_bucket"
ORDINAL_BITS = 40
"""A position is the partition's ordinal, then 40 bits for the row in it."""
_SPLIT_EVERY = 16
_SAMPLES_PER_PARTITION = 64

Keys = Sequence[tuple[str, bool]]
"""Columns to sort by, each with whether it descends."""


def with_ordinals(
    task: Callable[..., pd.DataFrame],
    frame: dd.DataFrame,
    *others: dd.DataFrame,
    meta: pd.DataFrame,
    **settings: Any,
) -> dd.DataFrame:
    """Map ``task(part, ordinal, *others, **settings)`` over the partitions; `others` have one partition."""
    ordinals = dd.from_map(
        _ordinal, range(frame.npartitions), meta=_ordinal(0).iloc[:0], label="apwa-ordinal"
    )
    return dd.map_partitions(
        _call,
        frame.clear_divisions(),
        ordinals,
        *others,
        task=task,
        meta=meta,
        enforce_metadata=False,
        **settings,
    )


def _ordinal(k: int) -> pd.DataFrame:
    return pd.DataFrame({"ordinal": [k]})


def _call(
    part: pd.DataFrame, ordinal: pd.DataFrame, *others: pd.DataFrame, task: Any, **settings: Any
) -> pd.DataFrame:
    return task(part, int(ordinal["ordinal"].iloc[0]), *others, **settings)  # type: ignore[no-any-return]


def mapped(
    task: Callable[..., pd.DataFrame],
    frame: dd.DataFrame,
    *others: dd.DataFrame,
    meta: pd.DataFrame,
    **settings: Any,
) -> dd.DataFrame:
    """``map_partitions`` with exact meta; frames of one partition are given to every task."""
    return dd.map_partitions(
        task, frame.clear_divisions(), *others, meta=meta, enforce_metadata=False, **settings
    )


def fold(
    frame: dd.DataFrame, combine: Callable[..., pd.DataFrame], meta: pd.DataFrame, **settings: Any
) -> dd.DataFrame:
    """One partition out of many: neighbours are put under one another and combined, in a tree of fixed shape.

    `combine` must be associative; it sees rows in the order of the partitions, so the result does not depend
    on timing.
    """
    while frame.npartitions > 1:
        fewer = -(-frame.npartitions // _SPLIT_EVERY)
        frame = mapped(combine, frame.clear_divisions().repartition(npartitions=fewer), meta=meta, **settings)
    return frame


def with_positions(frame: dd.DataFrame) -> dd.DataFrame:
    """Add the column `POSITION`: unique, and increasing along the table."""
    meta = frame._meta.assign(**{POSITION: np.array([], dtype="int64")})
    return with_ordinals(_add_positions, frame, meta=meta)


def _add_positions(part: pd.DataFrame, ordinal: int) -> pd.DataFrame:
    first = ordinal << ORDINAL_BITS
    return part.assign(**{POSITION: np.arange(first, first + len(part), dtype="int64")})


def row_counts(frame: dd.DataFrame) -> dd.DataFrame:
    """One partition with the column ``rows``: number of rows of each partition, in order."""
    meta = pd.DataFrame({"rows": pd.Series([], dtype="int64")})
    return fold(mapped(_count_rows, frame, meta=meta), _as_is, meta)


def _count_rows(part: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"rows": np.array([len(part)], dtype="int64")})


def _as_is(part: pd.DataFrame) -> pd.DataFrame:
    return part


# --- exchange


def exchange(frame: dd.DataFrame, bucket: str, npartitions: int) -> dd.DataFrame:
    """Send each row to the partition that its integer column `bucket` names; the column becomes the index."""
    # Given divisions, set_index does not look at the data. "tasks": the same under every scheduler, no spill
    # files, and a lost worker repeats single pieces, where P2P repeats the whole shuffle.
    return frame.set_index(
        bucket, divisions=tuple(range(npartitions + 1)), shuffle_method="tasks"
    ).clear_divisions()


def sorted_by(frame: dd.DataFrame, keys: Keys, *, tie: Sequence[str] = ()) -> dd.DataFrame:
    """The frame in order over all partitions: stable, nulls last in both directions.

    Parameters
    ----------
    frame : dask.dataframe.DataFrame
    keys : sequence of (str, bool)
        Columns, each with whether it descends.
    tie : sequence of str
        Integer columns that order equal keys, nulls last; the order of the input when empty.

    Returns
    -------
    dask.dataframe.DataFrame
        Same columns and number of partitions. Some may be empty where keys repeat.
    """
    meta = frame._meta
    if tie:
        keys = [*keys, *((name, False) for name in tie)]
        placed = frame
    else:
        placed = with_positions(frame)
        keys = [*keys, (POSITION, False)]
    if placed.npartitions > 1:
        columns = [name for name, _ in keys]
        key_meta = placed._meta[columns]
        samples = mapped(_sampled, placed[columns], meta=key_meta, keys=keys)
        splitters = mapped(
            _splitters, fold(samples, _as_is, key_meta), meta=key_meta, keys=keys, pieces=placed.npartitions
        )
        bucketed_meta = placed._meta.assign(**{_BUCKET: np.array([], dtype="int64")})
        bucketed = mapped(_add_buckets, placed, splitters, meta=bucketed_meta, keys=keys)
        placed = exchange(bucketed, _BUCKET, placed.npartitions)
    return mapped(_sorted_part, placed, meta=meta, keys=keys, columns=list(meta.columns))


def _comparable(part: pd.DataFrame, keys: Keys) -> pd.DataFrame:
    """Key columns in types that pandas orders as SQL does: NaN as null, categories by their text."""
    columns = {}
    for name, _ in keys:
        column = part[name]
        if isinstance(column.dtype, pd.CategoricalDtype):
            column = column.astype(column.cat.categories.dtype)
        elif pd.api.types.is_float_dtype(column.dtype) and not isinstance(column.dtype, np.dtype):
            plain = column.to_numpy(dtype="float64", na_value=np.nan)
            column = pd.Series(plain, index=column.index)
        columns[name] = column
    return pd.DataFrame(columns, index=part.index)


def _order(part: pd.DataFrame, keys: Keys) -> np.ndarray[Any, Any]:
    """Positions of the rows in sorted order. The last key is unique, so the order is total."""
    comparable = _comparable(part, keys).reset_index(drop=True)
    names = list(comparable.columns)
    ascending = [not descending for _, descending in keys]
    ordered = comparable.sort_values(names, ascending=ascending, na_position="last", kind="stable")
    return ordered.index.to_numpy()


def _sampled(part: pd.DataFrame, keys: Keys) -> pd.DataFrame:
    """Evenly spaced rows of the sorted part."""
    if len(part) <= _SAMPLES_PER_PARTITION:
        return part
    at = np.linspace(0, len(part) - 1, _SAMPLES_PER_PARTITION).astype(np.int64)
    return part.iloc[_order(part, keys)[at]]


def _splitters(samples: pd.DataFrame, keys: Keys, pieces: int) -> pd.DataFrame:
    """At most ``pieces - 1`` rows that cut the sample into equal pieces."""
    if len(samples) == 0:
        return samples
    at = np.unique(np.linspace(0, len(samples), pieces + 1).astype(np.int64)[1:-1])
    return samples.iloc[_order(samples, keys)[at[at < len(samples)]]]


def _add_buckets(part: pd.DataFrame, splitters: pd.DataFrame, keys: Keys) -> pd.DataFrame:
    """How many splitters come before each row. Sorting both together works for any type and direction."""
    columns = [name for name, _ in keys]
    both = pd.concat([part[columns], splitters[columns]], ignore_index=True)
    order = _order(both, keys)
    # A splitter is a row of the table, so one part sorts beside its own copy; either side of it is fine.
    before = np.cumsum(order >= len(part))
    buckets = np.empty(len(both), dtype="int64")
    buckets[order] = before
    return part.assign(**{_BUCKET: buckets[: len(part)]})


def _sorted_part(part: pd.DataFrame, keys: Keys, columns: list[str]) -> pd.DataFrame:
    return part.iloc[_order(part, keys)][columns].reset_index(drop=True)
