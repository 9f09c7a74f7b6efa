"""Rewriting segments: many small ones into few, and without the records of a purged run.

A new segment is durable before those it replaces are deleted, and names them, so that a crash in between is
cleaned up by the next compaction. Readers that meet a vanished segment look again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from apwa_dask.errors import StoreError
from apwa_dask.store.folder import Folder
from apwa_dask.store.killpoints import reach
from apwa_dask.store.lease import Lease, LeaseKeeper
from apwa_dask.store.library import Segment, SegmentLibrary
from apwa_dask.store.record import KEY_BYTES
from apwa_dask.store.segment_format import BadSegmentError
from apwa_dask.store.segment_writer import SegmentWriter

__all__ = ["Compactor", "PurgeReport"]

logger = logging.getLogger(__name__)

# Large enough that a million records are tens of files, small enough that one fits in memory many times.
_FULL_BYTES, _FULL_DECODED_BYTES, _FULL_ROWS = 8 * 2**20, 64 * 2**20, 65_536
_PAUSE_S = 30.0
_LEASE_TTL_S = 60.0


@dataclass(frozen=True, slots=True)
class PurgeReport:
    """What a purge did."""

    records: int
    """Records deleted."""
    damaged: tuple[str, ...] = ()
    """Damaged segments, deleted whole: what they held cannot be told."""
    unchecked: tuple[str, ...] = ()
    """Files left alone because they are not this journal's to read (foreign, or signed with another key)."""


class Compactor:
    """Rewrites the segments of one folder, one process at a time.

    Parameters
    ----------
    folder : Folder
    library : SegmentLibrary
    writer : SegmentWriter
        Not the one that the journal's records go through.
    above : int
        `start_if_worthwhile` acts when there are more small segments than this.
    """

    def __init__(self, folder: Folder, library: SegmentLibrary, writer: SegmentWriter, *, above: int) -> None:
        self._folder, self._library, self._writer, self._above = folder, library, writer, above
        self._keeper = LeaseKeeper(folder.child("lease"))
        self._working = threading.Lock()
        self._stopped = threading.Event()
        self._not_before_s = 0.0
        self._thread: threading.Thread | None = None

    def start_if_worthwhile(self) -> None:
        """Compact in the background where small segments abound."""
        if self._thread is not None or self._stopped.is_set() or time.monotonic() < self._not_before_s:
            return
        if len(self._library) <= self._above:
            return  # nearly always, and asked after every batch
        if sum(map(_is_small, self._library.segments)) <= self._above:
            return
        self._thread = threading.Thread(target=self._run, name="apwa-journal-compaction", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.compact()
            for pool in (pa.default_memory_pool(), pa.system_memory_pool()):
                pool.release_unused()  # a merge takes what a long run does not need again for long
            # Another process may be at it, with nothing done here: do not ask again at every flush.
            self._not_before_s = time.monotonic() + _PAUSE_S
            self._thread = None
        except StoreError as error:
            # Compaction saves time later; its failure costs nothing now. Not tried again by this process.
            logger.warning("the journal was not compacted: %s", error)

    def stop(self) -> None:
        """End background work at the next step."""
        self._stopped.set()
        thread = self._thread
        if thread is not None:
            thread.join(timeout=10.0)

    def compact(self) -> int:
        """Merge small segments; how many were replaced. 0 where another process is at it."""
        with self._working:
            try:
                lease = self._keeper.claim("compaction", _LEASE_TTL_S)
            except StoreError as error:
                if error.code == "STORE-CLAIMED":
                    return 0
                raise
            with lease:
                self._folder.sweep()
                self._library.refresh()
                self._delete_leftovers()
                return sum(self._merge(group, lease) for group in list(self._groups()))

    def purge(self, run_id: str) -> PurgeReport:
        """Delete the records of one run."""
        with self._working, self._keeper.claim("purge", _LEASE_TTL_S, wait_s=2 * _LEASE_TTL_S) as lease:
            self._library.refresh()
            deleted, damaged = 0, []
            for segment in self._library.segments:
                lease.heartbeat()
                try:
                    deleted += self._purge_segment(segment, run_id, lease)
                except BadSegmentError as error:
                    self._library.ignore(segment, str(error))
                except FileNotFoundError:
                    continue
            for name in sorted(self._library.damaged):
                self._folder.delete(name)
                damaged.append(name)
            self._library.refresh()
            unchecked = tuple(sorted(set(self._library.ignored) - set(damaged)))
            return PurgeReport(deleted, tuple(damaged), unchecked)

    def _purge_segment(self, segment: Segment, run_id: str, lease: Lease) -> int:
        if not self._library.file(segment).holds_run(run_id):
            return 0
        table = self._library.read(segment)
        kept = table.filter(pc.not_equal(table.column("run_id"), run_id))
        self._replace([segment], kept, lease)
        return int(table.num_rows - kept.num_rows)

    def _merge(self, group: Sequence[Segment], lease: Lease) -> int:
        if self._stopped.is_set():
            return 0
        lease.heartbeat()
        read: list[tuple[Segment, pa.Table]] = []
        for segment in group:
            try:
                read.append((segment, self._library.read(segment)))
            except BadSegmentError as error:
                self._library.ignore(segment, str(error))  # left where it is, for who wants to look
            except FileNotFoundError:
                continue
        if len(read) < 2:
            return 0
        merged = _distinct(pa.concat_tables(table for _, table in read).combine_chunks())
        self._replace([segment for segment, _ in read], merged, lease)
        return len(read)

    def _replace(self, segments: Sequence[Segment], table: pa.Table, lease: Lease) -> None:
        names = [str(segment.name) for segment in segments]
        if table.num_rows:
            written = self._writer.write_table(table, replaces=names)
            try:
                lease.check()
            except StoreError:
                # We were frozen, and a purge may have gone over these records since: do not bring them back.
                self._delete([written])
                raise
        reach("compaction.before_delete")
        self._delete(names)

    def _delete(self, names: Iterable[str]) -> None:
        for name in names:
            self._folder.delete(name)
            self._library.drop([name])

    def _groups(self) -> Iterator[list[Segment]]:
        """Small segments in runs that make up a full one. A writer's stay together and in order: its records
        will be asked for together again."""
        group: list[Segment] = []
        small = sorted(
            filter(_is_small, self._library.segments), key=lambda s: (s.name.writer, s.name.sequence)
        )
        for segment in small:
            if group and not _fits([*group, segment]):
                yield group
                group = []
            group.append(segment)
        if len(group) > 1:
            yield group

    def _delete_leftovers(self) -> None:
        """Delete what a compaction that died had replaced already."""
        known = {str(segment.name) for segment in self._library.segments}
        for segment in self._library.segments:
            leftovers = known.intersection(segment.replaces)
            if not leftovers:
                continue
            try:
                self._library.read(segment)  # only a sound successor counts
            except (BadSegmentError, FileNotFoundError):
                continue
            self._delete(sorted(leftovers))


def _is_small(segment: Segment) -> bool:
    return (
        segment.packed_bytes < _FULL_BYTES // 2
        and segment.decoded_bytes < _FULL_DECODED_BYTES // 2
        and segment.row_count < _FULL_ROWS // 2
    )


def _fits(group: Sequence[Segment]) -> bool:
    return (
        sum(segment.packed_bytes for segment in group) <= _FULL_BYTES
        and sum(segment.decoded_bytes for segment in group) <= _FULL_DECODED_BYTES
        and sum(segment.row_count for segment in group) <= _FULL_ROWS
    )


def _distinct(table: pa.Table) -> pa.Table:
    """`table` less repeated copies of one record. Two answers paid for one key are two records, and stay."""
    if table.num_rows == 0:
        return table
    prefixes = np.sort(_key_prefixes(table))
    if (prefixes[1:] != prefixes[:-1]).all():
        return table  # nearly always, and a hundredth of the work
    identity = ["key", "outcome", "request_id", "created_s"]
    rows = table.select(identity).append_column("row", pa.array(range(table.num_rows), pa.int64()))
    first = rows.group_by(identity, use_threads=False).aggregate([("row", "min")]).column("row_min")
    return table if len(first) == table.num_rows else table.take(first.sort())


def _key_prefixes(table: pa.Table) -> npt.NDArray[np.uint64]:
    keys = pa.concat_arrays(table.column("key").chunks)
    words = np.frombuffer(keys.buffers()[1], dtype=np.uint64)
    return words[KEY_BYTES // 8 * keys.offset :: KEY_BYTES // 8][: len(keys)]
