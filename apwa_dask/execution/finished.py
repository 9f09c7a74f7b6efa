"""Rows that are through the chain, packed into Arrow as they come, and put in order at the end.

A row under way is a Python object with its values; as such it takes ten times the memory of an Arrow row. A
partition of many rows has few of them under way, and most of them here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from apwa_dask.execution.fragments import Row, conform, materialise

__all__ = ["FinishedRows"]

PACKED_ROWS = 512
"""Packed together: enough to make the work for each table small beside that for its rows."""

Place = tuple[int, ...]
"""Where a row stands in its partition; of a row's children, the row's place and then their own."""


class FinishedRows:
    """The result of one partition, as it grows.

    Parameters
    ----------
    schema : pyarrow.Schema
        Declared schema of the result.
    made : mapping of str to pyarrow.DataType
        Columns that model steps make: they exist even where every row failed.
    """

    def __init__(self, schema: pa.Schema, made: Mapping[str, pa.DataType]) -> None:
        self._schema, self._made = schema, made
        self._loose: list[Row] = []
        self._packed: list[pa.Table] = []
        self._places: list[np.ndarray | list[Place]] = []
        self.failed = self.cached = 0
        """Of the rows added so far: without an answer, and those for which nobody was asked in this run."""

    def add(self, rows: Sequence[Row]) -> tuple[int, int]:
        """Take rows in; how many of them have failed, and how many cost nothing."""
        failed = sum(row.status is not None for row in rows)
        cached = sum(row.reused for row in rows)
        self.failed += failed
        self.cached += cached
        self._loose.extend(rows)
        if len(self._loose) >= PACKED_ROWS:
            self._pack()
        return failed, cached

    def table(self) -> pa.Table:
        """All rows in order, with the declared schema."""
        if self._loose:
            self._pack()
        if not self._packed:
            return self._schema.empty_table()
        table = pa.concat_tables(self._packed)
        order = _in_order(self._places)
        return table if order is None else table.take(order)

    def _pack(self) -> None:
        rows, self._loose = sorted(self._loose, key=lambda row: row.order), []
        self._packed.append(conform(materialise(rows, self._made), self._schema))
        places = [row.order for row in rows]
        flat = all(len(place) == 1 for place in places)
        self._places.append(np.array(places, np.int64).ravel() if flat else places)


def _in_order(places: Sequence[np.ndarray | list[Place]]) -> pa.Array | None:
    """Positions in which the rows are in order; None where they are."""
    if all(isinstance(some, np.ndarray) for some in places):
        flat = np.concatenate(places)
        order = np.argsort(flat, kind="stable")
    else:
        nested = [tuple(np.atleast_1d(place).tolist()) for some in places for place in some]
        order = np.array(sorted(range(len(nested)), key=nested.__getitem__), np.int64)
    return None if (np.diff(order) == 1).all() else pa.array(order)
