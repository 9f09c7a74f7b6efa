"""The durable segments of one namespace, read: an index of keys, and a bounded cache of decoded segments."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pyarrow as pa

from apwa_dask.store.folder import Entry, Folder
from apwa_dask.store.index import KeyIndex
from apwa_dask.store.record import KEY_BYTES, SCHEMA, Record, records_at
from apwa_dask.store.segment import Seal, SegmentKeys, SegmentName
from apwa_dask.store.segment_file import CALL, SegmentFile, paid_in, paid_in_each, summed
from apwa_dask.store.segment_format import PACKED, BadSegmentError

__all__ = ["Segment", "SegmentLibrary", "bill_of"]

Bill = tuple[pa.Table, tuple[str, ...]]

_SUMMED_AT_ONCE = 32_768
"""So many records are held, a line each, until they are summed."""

_BILLED_RUNS = 8
_REMOTE_READERS = 16
_VANISHED_RETRIES = 3
_UNINDEXED_SEGMENTS = 32
"""Sorted into the index together: each on its own would take twice the time, and nobody has asked yet."""


@dataclass(slots=True)
class Segment:
    """One segment as this process knows it."""

    number: int
    name: SegmentName
    size_bytes: int
    row_count: int
    served_count: int
    decoded_bytes: int
    replaces: tuple[str, ...]
    is_gone: bool = False
    loading: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def packed_bytes(self) -> int:
        """What its records take where a merge has packed them, near enough."""
        return self.size_bytes if self.name.format is PACKED else self.size_bytes // 2


class SegmentLibrary:
    """Finds records by key in all segments of a folder. Safe from several threads; every method may do I/O.

    Parameters
    ----------
    folder : Folder
        Where the segments are.
    seal : Seal
        Checks them.
    cache_bytes : int
        Bound of the decoded segments kept in memory.
    """

    def __init__(self, folder: Folder, seal: Seal, *, cache_bytes: int) -> None:
        self._folder, self._seal, self._cache_limit = folder, seal, cache_bytes
        self._lock = threading.Lock()  # guards the fields below; never held during I/O
        self._refreshing = threading.Lock()
        self._segments: list[Segment] = []
        self._by_name: dict[str, Segment] = {}
        self._index = KeyIndex()
        self._unindexed: list[tuple[int, SegmentKeys]] = []
        self._cache: OrderedDict[int, pa.Table] = OrderedDict()
        self._cache_bytes = 0
        self._is_open = False
        self._bills: OrderedDict[str, dict[str, Bill]] = OrderedDict()
        self.ignored: dict[str, str] = {}
        """Files that are not served, by name, and why."""
        self.damaged: set[str] = set()
        """Those of them that are, by their name, segments that were ours to read."""

    @property
    def segments(self) -> list[Segment]:
        """The segments in use."""
        with self._lock:
            return list(self._by_name.values())

    @property
    def cached_bytes(self) -> int:
        return self._cache_bytes

    @property
    def index_bytes(self) -> int:
        with self._lock:
            return self._whole_index().size_bytes

    def __len__(self) -> int:
        """Segments in use."""
        return len(self._by_name)

    def open(self) -> None:
        """Read the keys of all segments, once."""
        if not self._is_open:
            self.refresh()

    def refresh(self) -> None:
        """See segments that other writers added, and forget those that are gone."""
        with self._refreshing:
            with self._lock:
                before = set(self._by_name)
            listed = {entry.name: entry for entry in self._folder.entries()}
            fresh = [
                entry for name, entry in listed.items() if name not in before and name not in self.ignored
            ]
            keys = self._read_keys(fresh)
            with self._lock:
                for name in self.ignored.keys() - listed.keys():
                    del self.ignored[name]
                    self.damaged.discard(name)
                self._drop(before - set(listed))
                self._insert([(entry, keys[entry.name]) for entry in fresh if entry.name in keys])
                self._is_open = True

    def add(self, name: str, size_bytes: int, keys: SegmentKeys) -> None:
        """Take in a segment that this process has just written."""
        with self._lock:
            self._insert([(Entry(name, size_bytes), keys)])

    def bill(self, name: str, table: pa.Table, run_ids: Collection[str]) -> None:
        """Keep what the runs of a segment that this process has just written have paid: it need not be read again."""
        bills = [(run_id, paid_in(table, run_id)) for run_id in run_ids]
        with self._lock:
            for run_id, paid in bills:
                self._bills.setdefault(run_id, {})[name] = (paid, ())
            self._forget_old_bills()

    def _forget_old_bills(self) -> None:
        while len(self._bills) > _BILLED_RUNS:
            self._bills.popitem(last=False)

    def drop(self, names: Iterable[str]) -> None:
        """Forget segments that this process has just deleted."""
        with self._lock:
            self._drop(names)

    def find(self, keys: Sequence[bytes]) -> dict[bytes, Record]:
        """The served records of those of `keys` that are known."""
        self.open()
        found: dict[bytes, Record] = {}
        missing = list(keys)
        for _ in range(_VANISHED_RETRIES):
            has_vanished = self._collect(missing, found)
            missing = [key for key in missing if key not in found]
            if not missing or not has_vanished:
                break
            self.refresh()  # another process compacted: the records are in a new segment
        return found

    def _collect(self, keys: Sequence[bytes], found: dict[bytes, Record]) -> bool:
        """Add what is known of `keys` to `found`; True where a segment had vanished."""
        with self._lock:
            index, segments = self._whole_index(), self._segments
        has_vanished = False
        for number, places in sorted(index.locate(keys).items()):
            segment = segments[number]
            if segment.is_gone:
                continue
            try:
                records = _records(self._table(segment), [row for row, _ in places])
            except FileNotFoundError:
                has_vanished = True
                continue
            except BadSegmentError as error:
                self.ignore(segment, str(error))
                continue
            for (_, key), record in zip(places, records, strict=True):
                if record.key == key and record.is_served:
                    known = found.get(key)
                    if known is None or known.created_s < record.created_s:
                        found[key] = (
                            record  # a row that was tried again has more than one: the last one counts
                        )
        return has_vanished

    def _table(self, segment: Segment) -> pa.Table:
        with segment.loading:
            with self._lock:
                table = self._cache.get(segment.number)
                if table is not None:
                    self._cache.move_to_end(segment.number)
                    return table
            table = self.read(segment)
            with self._lock:
                self._cache[segment.number] = table
                self._cache_bytes += table.nbytes
                while self._cache_bytes > self._cache_limit and len(self._cache) > 1:
                    _, evicted = self._cache.popitem(last=False)
                    self._cache_bytes -= evicted.nbytes
            return table

    def read(self, segment: Segment) -> pa.Table:
        """All records of a segment, verified; not through the cache.

        Raises
        ------
        BadSegmentError, FileNotFoundError
            Where it is damaged or forged; where it is gone.
        """
        return self.file(segment).table()

    def file(self, segment: Segment) -> SegmentFile:
        """What `segment` is about."""
        return SegmentFile(self._folder, self._seal, segment.name, segment.size_bytes)

    def ignore(self, segment: Segment, reason: str) -> None:
        """Never serve from this segment again."""
        with self._lock:
            self.ignored[str(segment.name)] = reason
            self.damaged.add(str(segment.name))
            self._drop([str(segment.name)])

    def _read_keys(self, entries: Sequence[Entry]) -> Mapping[str, SegmentKeys]:
        if self._folder.is_local or len(entries) < 2:
            read = map(self._keys_of, entries)
            return {entry.name: keys for entry, keys in zip(entries, read, strict=True) if keys is not None}
        with ThreadPoolExecutor(min(_REMOTE_READERS, len(entries)), "apwa-journal-open") as pool:
            answers = pool.map(self._keys_of, entries)
            return {
                entry.name: keys for entry, keys in zip(entries, answers, strict=True) if keys is not None
            }

    def paid_by(self, run_id: str) -> list[pa.Table]:
        """What each readable segment says a run has paid; see `segment_file.paid_in`.

        From a fresh listing, without the index: a process that only looks need not read all keys. Segments never
        change, so each is read once for a run.
        """
        with self._lock:
            known = self._bills.pop(run_id, {})
        bills: dict[str, Bill] = {}
        fresh: dict[str, Bill] = {}
        held = 0
        for entry in self._folder.entries():
            bill = known.get(entry.name)
            if bill is not None:
                bills[entry.name] = bill
            elif (spending := self._spending_in(entry)) is not None:
                fresh[entry.name] = spending
                held += spending[0].num_rows
                if held >= _SUMMED_AT_ONCE:
                    bills.update(_summed(fresh, run_id))
                    fresh, held = {}, 0
        bills.update(_summed(fresh, run_id))
        with self._lock:
            self._bills[run_id] = bills
            self._forget_old_bills()
        replaced = {name for _, replaces in bills.values() for name in replaces}
        return [paid for name, (paid, _) in bills.items() if name not in replaced]

    def _spending_in(self, entry: Entry) -> tuple[pa.Table, tuple[str, ...]] | None:
        name = SegmentName.parse(entry.name)
        if name is None or self._seal.refusal(name) is not None or entry.name in self.ignored:
            return None
        try:
            return SegmentFile(self._folder, self._seal, name, entry.size_bytes).spending()
        except (BadSegmentError, FileNotFoundError):
            return (
                None  # a damaged one is named in `ignored` when it is served; a compacted one has a successor
            )

    def history(self, keys: Sequence[bytes]) -> dict[bytes, list[Record]]:
        """All records of `keys`, also those that are never served, oldest first. Reads every segment's keys."""
        wanted = pa.array(keys, pa.binary(KEY_BYTES))
        found: dict[bytes, list[Record]] = {key: [] for key in keys}
        for record in self._records_where("key", wanted):
            found[record.key].append(record)
        for records in found.values():
            records.sort(key=lambda record: record.created_s)
        return found

    def with_tools(self, run_id: str, step_id: str) -> list[Record]:
        """Records of a step in which tools took part."""
        return [r for r in self._records_where("tools", None) if (r.run_id, r.step_id) == (run_id, step_id)]

    def _records_where(self, column: str, wanted: pa.Array | None) -> list[Record]:
        records: list[Record] = []
        for segment in self._current():
            try:
                rows = self.file(segment).rows_where(column, wanted)
                if rows:
                    records += _records(self._table(segment), rows)
            except (BadSegmentError, FileNotFoundError):
                continue  # as in `paid_by`
        return records

    def _current(self) -> list[Segment]:
        """The segments in use, without those whose records another one has taken over."""
        segments = self.segments
        replaced = {name for segment in segments for name in segment.replaces}
        return [segment for segment in segments if str(segment.name) not in replaced]

    def _keys_of(self, entry: Entry) -> SegmentKeys | None:
        name = SegmentName.parse(entry.name)
        if name is None:
            self.ignored[entry.name] = "not a segment's name"
            return None
        refusal = self._seal.refusal(name)
        if refusal is not None:
            self.ignored[entry.name] = refusal
            return None
        try:
            return SegmentFile(self._folder, self._seal, name, entry.size_bytes).keys()
        except BadSegmentError as error:
            self.ignored[entry.name] = str(error)
            self.damaged.add(entry.name)
            return None
        except FileNotFoundError:
            return None  # compacted away since the listing; the next refresh sees its successor

    def _insert(self, entries: Sequence[tuple[Entry, SegmentKeys]]) -> None:
        for entry, keys in entries:
            name = SegmentName.parse(entry.name)
            if name is None or entry.name in self._by_name:
                continue
            number = len(self._segments)
            segment = Segment(
                number,
                name,
                size_bytes=entry.size_bytes,
                row_count=keys.row_count,
                served_count=len(keys.rows),
                decoded_bytes=keys.decoded_bytes,
                replaces=keys.replaces,
            )
            self._segments.append(segment)
            self._by_name[entry.name] = segment
            self._unindexed.append((number, keys))
        if len(self._unindexed) >= _UNINDEXED_SEGMENTS:
            self._whole_index()

    def _whole_index(self) -> KeyIndex:
        if self._unindexed:
            self._index = self._index.adding(self._unindexed)
            self._unindexed = []
        return self._index

    def _drop(self, names: Iterable[str]) -> None:
        for name in names:
            segment = self._by_name.pop(name, None)
            if segment is None:
                continue
            segment.is_gone = True
            for bills in self._bills.values():
                bills.pop(name, None)
            table = self._cache.pop(segment.number, None)
            self._cache_bytes -= table.nbytes if table is not None else 0
        alive = sum(segment.served_count for segment in self._by_name.values())
        if len(self._index) > 2 * alive + 4096:
            self._index = self._whole_index().without(s.number for s in self._segments if s.is_gone)


def _records(table: pa.Table, rows: Sequence[int]) -> list[Record]:
    try:
        return records_at(table, rows)
    except (ValueError, pa.ArrowIndexError):
        # Sound as a file, but no `Record` of ours has such values or so few rows.
        raise BadSegmentError("its values are no answers of ours") from None


def _summed(spending: Mapping[str, tuple[pa.Table, tuple[str, ...]]], run_id: str) -> dict[str, Bill]:
    """Of the records of segments, by name, what the run has paid."""
    sums = paid_in_each([records for records, _ in spending.values()], run_id)
    return {
        name: (paid, replaces) for (name, (_, replaces)), paid in zip(spending.items(), sums, strict=True)
    }


def bill_of(paid: Sequence[pa.Table]) -> pa.Table:
    """The lines of `segment_file.paid_in` of all segments, summed by step, model and outcome."""
    if not paid:
        return pa.table({name: pa.array([], SCHEMA.field(name).type) for name in CALL})
    return summed(pa.concat_tables(paid))
