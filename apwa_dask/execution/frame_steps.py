"""Frame steps: the part of a plan that calls no model.

`apply_local` runs a row-local step on one Arrow table; `apply_barrier` builds the lazy Dask graph of a step
that needs all rows together. Nothing is computed while a graph is built, and results are the same for any
number of partitions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa

from apwa_dask.execution.frame_aggregate import aggregate
from apwa_dask.execution.frame_exchange import (
    POSITION,
    fold,
    mapped,
    row_counts,
    sorted_by,
    with_ordinals,
    with_positions,
)
from apwa_dask.execution.frame_local import apply_local
from apwa_dask.execution.frame_merge import merge
from apwa_dask.execution.plain_strings import plain_strings
from apwa_dask.plans.expressions import HIDDEN
from apwa_dask.plans.steps import Aggregate, Concat, Distinct, Limit, Merge, Sample, Sort
from apwa_dask.tables.dtypes import empty_frame, to_arrow, to_pandas

__all__ = ["apply_barrier", "apply_local"]


def apply_barrier(
    step: Any, frame: dd.DataFrame, others: Sequence[dd.DataFrame], schema: pa.Schema
) -> dd.DataFrame:
    """The lazy frame of a step that needs all rows together.

    Parameters
    ----------
    step : Aggregate, Sort, Limit, Distinct, Sample, Merge or Concat
        Valid for the frames.
    frame : dask.dataframe.DataFrame
        Partitions as `apwa_dask.tables.dtypes.to_pandas` makes them, bookkeeping columns included.
    others : sequence of dask.dataframe.DataFrame
        The step's further inputs, in the order of ``step.inputs_from``.
    schema : pyarrow.Schema
        Declared schema of the result, bookkeeping columns included.

    Returns
    -------
    dask.dataframe.DataFrame
        Exact meta and dtypes in every partition, unknown divisions, a default index in each partition.

    Notes
    -----
    Sort is stable, nulls last. Limit takes the first rows over all partitions. Distinct keeps the first row,
    and counts null as a value. Aggregates leave out failed rows, give null over nothing (``count`` gives 0),
    and are ordered by the keys, nulls last. In a merge NULL joins nothing, and rows come in the order of the
    left table, then the right. Sort, limit, distinct, sample and concat keep row ids; aggregate numbers its
    groups ``g0``, ``g1``, ...; merge joins the two ids with ``~``.
    """
    with plain_strings():
        return _BUILD[type(step)](step, frame, others, schema)


def _aggregate(
    step: Aggregate, frame: dd.DataFrame, others: Sequence[dd.DataFrame], schema: pa.Schema
) -> dd.DataFrame:
    return aggregate(step, frame, schema)


def _merge(
    step: Merge, frame: dd.DataFrame, others: Sequence[dd.DataFrame], schema: pa.Schema
) -> dd.DataFrame:
    return merge(step, frame, others[0], schema)


def _sort(step: Sort, frame: dd.DataFrame, others: Sequence[dd.DataFrame], schema: pa.Schema) -> dd.DataFrame:
    keys = {key.column: key.descending for key in reversed(step.by)}
    return sorted_by(frame, [(name, keys[name]) for name in reversed(keys)])


def _limit(
    step: Limit, frame: dd.DataFrame, others: Sequence[dd.DataFrame], schema: pa.Schema
) -> dd.DataFrame:
    return with_ordinals(_first_rows, frame, row_counts(frame), meta=frame._meta, n=step.n)


def _first_rows(part: pd.DataFrame, ordinal: int, counts: pd.DataFrame, n: int) -> pd.DataFrame:
    before = int(counts["rows"].iloc[:ordinal].sum())
    return part.iloc[: max(n - before, 0)]


def _sample(
    step: Sample, frame: dd.DataFrame, others: Sequence[dd.DataFrame], schema: pa.Schema
) -> dd.DataFrame:
    counts = row_counts(frame)
    meta = pd.DataFrame({"bound": pd.Series([], dtype="uint64")})
    bound = mapped(_bound_of, counts, meta=meta, n=step.n, fraction=step.fraction, seed=step.seed)
    return with_ordinals(_rows_within, frame, counts, bound, meta=frame._meta, seed=step.seed)


def _bound_of(counts: pd.DataFrame, n: int | None, fraction: float | None, seed: int) -> pd.DataFrame:
    """The largest hash in the sample, which is the rows with the smallest hashes; no row for an empty sample.

    A row's hash is that of its number in the table, so only seed and row count decide, and no partitioning.
    """
    total = int(counts["rows"].sum())
    size = min(n if n is not None else round((fraction or 0.0) * total), total)
    found = [_nth_smallest(total, size, seed)] if size else []
    return pd.DataFrame({"bound": np.array(found, dtype="uint64")})


def _nth_smallest(total: int, n: int, seed: int) -> int:
    """The n-th smallest hash of ``total`` rows, in memory that does not grow with them to speak of.

    Rows are counted by the first bits of their hashes; then only those that share the wanted bits are looked at.
    """
    counts = np.zeros(1 << _RADIX_BITS, dtype=np.int64)
    for hashes in _hashes(total, seed):
        counts += np.bincount(_radix(hashes), minlength=len(counts))
    upto = np.cumsum(counts)
    radix = int(np.searchsorted(upto, n))
    inside = np.concatenate([hashes[_radix(hashes) == radix] for hashes in _hashes(total, seed)])
    place = n - 1 - int(upto[radix] - counts[radix])
    return int(np.partition(inside, place)[place])


_RADIX_BITS = 16
_ROWS_AT_ONCE = 1 << 20


def _hashes(total: int, seed: int) -> Iterator[np.ndarray[Any, Any]]:
    for first in range(0, total, _ROWS_AT_ONCE):
        yield _mixed(np.arange(first, min(first + _ROWS_AT_ONCE, total), dtype=np.uint64), seed)


def _radix(hashes: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return (hashes >> np.uint64(64 - _RADIX_BITS)).astype(np.int64)


def _mixed(numbers: np.ndarray[Any, Any], seed: int) -> np.ndarray[Any, Any]:
    """SplitMix64 (Steele, Lea and Flood 2014): fixed for ever, where NumPy's generators may change.

    Each of its operations can be undone, so no two numbers have one hash.
    """
    with np.errstate(over="ignore"):
        z = numbers * np.uint64(0x9E3779B97F4A7C15) + np.uint64((seed * 0xD1342543DE82EF95 + 1) % 2**64)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def _rows_within(
    part: pd.DataFrame, ordinal: int, counts: pd.DataFrame, bound: pd.DataFrame, seed: int
) -> pd.DataFrame:
    if len(bound) == 0:
        return part.iloc[:0]
    first = int(counts["rows"].iloc[:ordinal].sum())
    hashes = _mixed(np.arange(first, first + len(part), dtype=np.uint64), seed)
    kept: pd.DataFrame = part[hashes <= bound["bound"].to_numpy()[0]]
    return kept.reset_index(drop=True)


def _distinct(
    step: Distinct, frame: dd.DataFrame, others: Sequence[dd.DataFrame], schema: pa.Schema
) -> dd.DataFrame:
    columns = list(step.columns) or [name for name in frame.columns if not name.startswith(HIDDEN)]
    placed = with_positions(frame)
    keys = placed[[*columns, POSITION]]
    firsts = fold(
        mapped(_first_of_each, keys, meta=keys._meta, columns=columns),
        _first_of_each,
        keys._meta,
        columns=columns,
    )
    return mapped(_kept_rows, placed, firsts, meta=frame._meta)


def _first_of_each(part: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    return part.drop_duplicates(columns, keep="first")


def _kept_rows(part: pd.DataFrame, firsts: pd.DataFrame) -> pd.DataFrame:
    keep = part[POSITION].isin(firsts[POSITION])
    return part[keep].drop(columns=POSITION).reset_index(drop=True)


def _concat(
    step: Concat, frame: dd.DataFrame, others: Sequence[dd.DataFrame], schema: pa.Schema
) -> dd.DataFrame:
    meta = empty_frame(schema)
    return dd.concat([mapped(_with_columns, part, meta=meta, schema=schema) for part in (frame, *others)])


def _with_columns(part: pd.DataFrame, schema: pa.Schema) -> pd.DataFrame:
    """The declared columns, in order; those the part lacks are null."""
    present = to_arrow(part, pa.schema([field for field in schema if field.name in part.columns]))
    columns = [
        present.column(f.name) if f.name in present.column_names else pa.nulls(len(part), f.type)
        for f in schema
    ]
    return to_pandas(pa.Table.from_arrays(columns, schema=schema))


_BUILD: dict[type, Callable[[Any, dd.DataFrame, Sequence[dd.DataFrame], pa.Schema], dd.DataFrame]] = {
    Aggregate: _aggregate,
    Sort: _sort,
    Limit: _limit,
    Distinct: _distinct,
    Sample: _sample,
    Merge: _merge,
    Concat: _concat,
}
