"""Makes batches of records durable as segments of one writer, and shows them to the library."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import pyarrow as pa

from apwa_dask.store.folder import Folder
from apwa_dask.store.killpoints import reach
from apwa_dask.store.library import SegmentLibrary
from apwa_dask.store.record import Record, to_table
from apwa_dask.store.segment import Seal, keys_of, keys_of_batch
from apwa_dask.store.segment_format import ARROW, SegmentFormat, encode, with_header

__all__ = ["SegmentWriter"]

_MAX_NAME = 40


class SegmentWriter:
    """Writes segments one after the other; for one thread at a time.

    Parameters
    ----------
    folder : Folder
    seal : Seal
        Names, and so signs, the segments.
    library : SegmentLibrary
        Learns of each segment once it is durable.
    name : str
        Readable part of the writer's name; a random part keeps two processes that were given the same one
        from ever writing the same file.
    """

    def __init__(self, folder: Folder, seal: Seal, library: SegmentLibrary, name: str = "") -> None:
        self._folder, self._seal, self._library = folder, seal, library
        self.name = f"{name}{secrets.token_hex(6)}"[-_MAX_NAME:]
        self._sequence = 0
        self.written = 0
        """Records written so far."""

    def write(self, records: Sequence[Record]) -> None:
        """Make `records` durable."""
        reach("journal.before_write")
        table = with_header(to_table(records))
        data, form = encode(table)
        name = self._put(data, form, "journal")
        self.written += len(records)
        decoded_bytes = len(data) if form is ARROW else table.nbytes
        self._library.add(name, len(data), keys_of_batch(records, decoded_bytes))
        self._library.bill(name, table, {record.run_id for record in records})

    def write_table(self, table: pa.Table, *, replaces: Sequence[str]) -> str:
        """Make the records of `table` durable, in the place of those of the segments named `replaces`.

        Returns the new segment's name.
        """
        table = with_header(table, replaces)
        data, form = encode(table, is_final=True)
        name = self._put(data, form, "compaction")
        self.written += table.num_rows
        self._library.add(name, len(data), keys_of(table, table.nbytes))
        return name

    def _put(self, data: bytes, form: SegmentFormat, point: str) -> str:
        name = self._seal.name(self.name, self._sequence, data, form.suffix)
        self._folder.write(name, data, point=point)
        self._sequence += 1
        return name
