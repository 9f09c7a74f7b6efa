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

__all__ = ["CALL", "SegmentFile", "paid_in", "summed", "summed_each"]

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

    def paid_by(self, run_id: str) -> tuple[pa.Table, tuple[str, ...]]:
        """Attempts, tokens and cost of the records of `run_id`, a line each; and the names of the segments whose
        records this one took over. ``unpriced`` counts unknown costs.
        """
        table, _ = self._columns("run_id", *CALL, *_PAID)
        return _lines_of(table, run_id), replaces_of(table)

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
    """What a segment's records say that `run_id` has paid, summed by `CALL`; see `SegmentFile.paid_by`."""
    return summed(_lines_of(table, run_id))


def _lines_of(table: pa.Table, run_id: str) -> pa.Table:
    mine = table.filter(pc.equal(table.column("run_id"), run_id)).select([*CALL, *_PAID])
    ones = pa.array(np.ones(mine.num_rows, np.int64))
    unpriced = pc.cast(pc.is_null(mine.column("cost_usd")), pa.int64())
    counted = mine.append_column("unpriced", unpriced).append_column("records", ones)
    return counted.replace_schema_metadata(None)


def summed(paid: pa.Table, by: Sequence[str] = CALL) -> pa.Table:
    """One line for each step, model and outcome."""
    sums = [name for name in paid.column_names if name not in by]
    lines = paid.group_by(list(by), use_threads=False).aggregate([(name, "sum") for name in sums])
    return lines.select([*by, *(f"{name}_sum" for name in sums)]).rename_columns([*by, *sums])


def summed_each(tables: Sequence[pa.Table]) -> list[pa.Table]:
    """`summed` of each table, in one pass over all: a pass costs as much as a thousand lines."""
    if not tables:
        return []
    numbers = np.repeat(np.arange(len(tables)), [table.num_rows for table in tables])
    numbered = pa.concat_tables(tables).append_column(_TABLE, pa.array(numbers))
    lines = summed(numbered, [_TABLE, *CALL]).sort_by(_TABLE)
    ends = np.searchsorted(lines.column(_TABLE).to_numpy(), np.arange(len(tables) + 1))
    lines = lines.drop_columns([_TABLE])
    return [lines.slice(begin, end - begin) for begin, end in pairwise(ends.tolist())]
