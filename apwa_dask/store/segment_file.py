"""One stored segment and what can be asked of it, in either format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from apwa_dask.store.folder import Folder
from apwa_dask.store.segment import Seal, SegmentKeys, SegmentName, keys_of
from apwa_dask.store.segment_format import replaces_of

__all__ = ["CALL", "SegmentFile", "paid_in", "paid_in_each", "summed"]

CALL = ["step_id", "model", "outcome"]
_TABLE = "table"
_PAID = ["attempts", "input_tokens", "cached_tokens", "output_tokens", "cost_usd"]


@dataclass(frozen=True, slots=True)
class SegmentFile:
    """A segment where it lies. Every method reads it anew, and as little of it as can be trusted.

    Raises
    ------
    BadSegmentError, FileNotFoundError, StoreError
        By all methods: where it is damaged or forged; where it is gone; where the store cannot be read.
    """

    folder: Folder
    seal: Seal
    name: SegmentName
    size_bytes: int

    def open(self) -> BinaryIO:
        """For random access reading; not verified."""
        return self.folder.open(str(self.name))

    def verified(self) -> bytes:
        """All of it, checked against its name."""
        data = self.folder.read(str(self.name))
        self.seal.check(self.name, data)
        return data

    def table(self) -> pa.Table:
        """All its records, verified, with all columns of `SCHEMA`."""
        return self.name.format.decode(self.verified())

    def keys(self) -> SegmentKeys:
        """The keys that it serves."""
        return keys_of(*self._columns("key", "outcome"))

    def holds_run(self, run_id: str) -> bool:
        """Whether it has records of `run_id`."""
        table, _ = self._columns("run_id")
        return bool(pc.any(pc.equal(table.column("run_id"), run_id)).as_py())

    def spending(self) -> tuple[pa.Table, tuple[str, ...]]:
        """What each record came to, and for which run: see `paid_in`; and the names of the segments whose records
        this one took over.
        """
        table, _ = self._columns("run_id", *CALL, *_PAID)
        return table, replaces_of(table)

    def rows_where(self, column: str, wanted: pa.Array | None) -> list[int]:
        """Numbers of the rows whose `column` is one of `wanted` (None: is not null)."""
        table, _ = self._columns(column)
        values = table.column(column)
        mask = pc.is_valid(values) if wanted is None else pc.is_in(values, value_set=wanted)
        found: list[int] = pc.indices_nonzero(mask).to_pylist()
        return found

    def _columns(self, *names: str) -> tuple[pa.Table, int]:
        return self.name.format.columns(self, names)


def paid_in(table: pa.Table, run_id: str) -> pa.Table:
    """Records, attempts, tokens and cost of `run_id` in a segment, summed by `CALL`. ``unpriced`` counts unknown
    costs.
    """
    return summed(_lines_of(table, run_id, CALL))


def paid_in_each(tables: Sequence[pa.Table], run_id: str) -> list[pa.Table]:
    """`paid_in` of each segment, in one pass over all: a pass costs as much as a thousand records."""
    if not tables:
        return []
    numbers = np.repeat(np.arange(len(tables)), [table.num_rows for table in tables])
    bare = [table.replace_schema_metadata(None) for table in tables]
    numbered = pa.concat_tables(bare).append_column(_TABLE, pa.array(numbers))
    by = [_TABLE, *CALL]
    lines = summed(_lines_of(numbered, run_id, by), by).sort_by(_TABLE)
    ends = np.searchsorted(lines.column(_TABLE).to_numpy(), np.arange(len(tables) + 1))
    lines = lines.drop_columns([_TABLE])
    return [lines.slice(begin, end - begin) for begin, end in pairwise(ends.tolist())]


def _lines_of(table: pa.Table, run_id: str, by: Sequence[str]) -> pa.Table:
    mine = table.filter(pc.equal(table.column("run_id"), run_id)).select([*by, *_PAID])
    ones = pa.array(np.ones(mine.num_rows, np.int64))
    unpriced = pc.cast(pc.is_null(mine.column("cost_usd")), pa.int64())
    counted = mine.append_column("unpriced", unpriced).append_column("records", ones)
    return counted.replace_schema_metadata(None)


def summed(paid: pa.Table, by: Sequence[str] = CALL) -> pa.Table:
    """One line for each step, model and outcome."""
    sums = [name for name in paid.column_names if name not in by]
    lines = paid.group_by(list(by), use_threads=False).aggregate([(name, "sum") for name in sums])
    return lines.select([*by, *(f"{name}_sum" for name in sums)]).rename_columns([*by, *sums])
