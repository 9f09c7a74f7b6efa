"""Dask frames over what a run has stored, and over what it has still to do. The only place that builds
graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import dask.dataframe as dd
import pandas as pd
import pyarrow as pa

from apwa_dask.execution.plain_strings import plain_strings
from apwa_dask.tables.dtypes import empty_frame

__all__ = ["RECORD", "from_partitions", "over_frame"]

RECORD = pd.DataFrame(
    {
        "partition": pd.Series([], dtype="int64"),
        "rows_out": pd.Series([], dtype="int64"),
        "stopped": pd.Series([], dtype="object"),
    }
)
"""Meta of the frame of commit records: what an eager run computes instead of the data.

``stopped`` is null for a committed partition, else why its task gave up (see `apwa_dask.execution.stopping`):
a run that stops is no exception to Dask, which would retry, blame workers and fill their logs.
"""


def from_partitions(
    task: Callable[..., pd.DataFrame],
    npartitions: int,
    meta: pa.Schema | pd.DataFrame,
    label: str,
    *each: Sequence[Any],
    divisions: tuple[Any, ...] | None = None,
    **settings: Any,
) -> dd.DataFrame:
    """One task for each ordinal; nothing else is in the graph.

    Parameters
    ----------
    task : callable
        ``task(ordinal, *values, **settings)``: module-level, synchronous, returns a frame like `meta`.
    npartitions : int
    meta : pyarrow.Schema or pandas.DataFrame
    label : str
        Prefix of the task names; never user text.
    each
        Further sequences, one value a partition.
    settings
        Small picklable values.
    """
    frame = empty_frame(meta) if isinstance(meta, pa.Schema) else meta
    with plain_strings():
        return dd.from_map(
            task,
            range(max(npartitions, 1)),
            *each,
            meta=frame,
            label=label,
            divisions=divisions,
            enforce_metadata=False,
            **settings,
        )


def over_frame(
    task: Callable[..., pd.DataFrame], source: dd.DataFrame, meta: pd.DataFrame, label: str, **settings: Any
) -> dd.DataFrame:
    """One task for each partition of a caller's frame; ``task(frame, ordinals, **settings)``."""
    with plain_strings():
        ordinals = dd.from_map(
            _ordinal, range(source.npartitions), meta=_ordinal(0).iloc[:0], label="apwa-ordinal"
        )
        return dd.map_partitions(
            task,
            source.clear_divisions(),
            ordinals,
            meta=meta,
            enforce_metadata=False,
            align_dataframes=False,
            token=None,
            **settings,
        )


def _ordinal(k: int) -> pd.DataFrame:
    return pd.DataFrame({"ordinal": [k]})
