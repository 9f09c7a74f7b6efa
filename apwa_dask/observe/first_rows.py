"""The first rows of a stored result, reading as few of its parts as will do."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import dask.dataframe as dd
    import pandas as pd

__all__ = ["first_rows"]


def first_rows(frame: dd.DataFrame, n: int) -> pd.DataFrame:
    """The first `n` rows in order, or all where there are fewer; empty parts in front do not hide them.

    Reads one part, then twice as many each time, in threads of this process: the parts are small files, and a
    cluster that is busy or gone should not be needed to look at a result.
    """
    parts = 1
    while True:
        parts = min(parts, frame.npartitions)
        lazy = frame.partitions[:parts].head(n, npartitions=-1, compute=False)
        head: pd.DataFrame = lazy.compute(scheduler="threads")
        if len(head) >= n or parts == frame.npartitions:
            return head
        parts *= 2
