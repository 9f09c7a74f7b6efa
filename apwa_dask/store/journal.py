"""The write-ahead record of every paid answer, keyed by the fingerprint of its request.

Any number of processes share one journal: each writes its own immutable segments and reads all of them. What
was flushed is never lost and, where it is an "ok", never paid for again.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from apwa_dask.errors import StoreError
from apwa_dask.store.compaction import Compactor, PurgeReport
from apwa_dask.store.folder import open_folder
from apwa_dask.store.forks import PROCESS
from apwa_dask.store.library import SegmentLibrary, bill_of
from apwa_dask.store.names import JOURNAL_KEY_VARIABLE, MIN_KEY_BYTES, safe_name, safe_namespace
from apwa_dask.store.record import Record
from apwa_dask.store.segment import UNREADABLE_WITHOUT_KEY, Seal
from apwa_dask.store.segment_writer import SegmentWriter
from apwa_dask.store.write_behind import WriteBehind

__all__ = ["Journal", "JournalStats", "Paid", "PurgeReport", "Record"]

_RECENT_BYTES = 32 * 2**20


@dataclass(frozen=True, slots=True)
class Paid:
    """A run's bill as the journal knows it. ``unpriced`` answers are not in ``cost_usd``."""

    calls: int = 0
    tokens: int = 0
    cost_usd: float = 0.0
    unpriced: int = 0


@dataclass(frozen=True, slots=True)
class JournalStats:
    """What a journal holds, and what this process did with it."""

    records: int
    segments: int
    size_bytes: int
    index_bytes: int
    cached_bytes: int
    """Decoded segments in memory."""
    unflushed: int
    written: int
    hits: int
    misses: int
    ignored: Mapping[str, str] = field(default_factory=dict)
    """Files that are not served, by name, and why."""

    @property
    def ignored_count(self) -> int:
        return len(self.ignored)


class Journal:
    """Paid answers under a store URL, for one namespace.

    Parameters
    ----------
    url : str
        The store: a local path or any fsspec URL. The journal is in ``journal/<namespace>/`` under it.
    namespace : str
        Tenant. Answers are never shared between namespaces.
    storage_options : mapping, optional
        For the filesystem; in memory only.
    writer : str, optional
        Name of this writer, unique among living ones (lower-case letters and digits); random by default.
    flush_records, flush_s
        A batch is written when so many records wait, or the first has waited so long: the bound of what a
        crash can cost.
    cache_bytes : int
        Memory for decoded segments. The index takes 16 bytes for each record more.
    compact_above : int
        Merge small segments in the background when there are more than this.
    store_prompts : bool
        Keep the prompts too. Off by default: they hold the rows' text.
    hmac_key : bytes, optional
        Sign segments, and ignore those that this key did not sign.

    Notes
    -----
    ``put``, ``peek`` and ``unflushed`` do no I/O and are safe on an event loop's thread. All other methods
    block: call them from worker threads. A journal that crossed a fork starts empty-handed in the child: the
    parent's unflushed records remain the parent's.
    """

    def __init__(
        self,
        url: str,
        *,
        namespace: str = "default",
        storage_options: Mapping[str, Any] | None = None,
        writer: str | None = None,
        flush_records: int = 256,
        flush_s: float = 1.0,
        cache_bytes: int = 256 * 2**20,
        compact_above: int = 256,
        store_prompts: bool = False,
        hmac_key: bytes | None = None,
    ) -> None:
        if flush_records < 1 or flush_s <= 0:
            raise ValueError("flush_records and flush_s must be positive")
        if hmac_key is not None and len(hmac_key) < MIN_KEY_BYTES:
            raise ValueError(f"an HMAC key has at least {MIN_KEY_BYTES} bytes")
        if writer is not None and not (safe_name(writer, "writer").isalnum() and writer.islower()):
            raise StoreError(
                "a journal's writer is named with lower-case letters and digits", code="STORE-NAME"
            )
        self.namespace = safe_namespace(namespace)
        self._folder = open_folder(url, storage_options).child("journal").child(self.namespace)
        self._seal = Seal(self.namespace, hmac_key)
        self._chosen_writer = writer
        self._flush_records, self._flush_s, self._compact_above = flush_records, flush_s, compact_above
        self._cache_bytes, self._store_prompts = cache_bytes, store_prompts
        self._begin()

    def _begin(self) -> None:
        """The state that belongs to one process."""
        self._pid = PROCESS.pid
        self._library = SegmentLibrary(self._folder, self._seal, cache_bytes=self._cache_bytes)
        name = self._chosen_writer or ""
        self._segments = SegmentWriter(self._folder, self._seal, self._library, name)
        self._compactor = Compactor(
            self._folder,
            self._library,
            SegmentWriter(self._folder, self._seal, self._library, f"c{name}"),
            above=self._compact_above,
        )
        self._behind = WriteBehind(
            self._segments.write,
            after_write=self._compactor.start_if_worthwhile,
            flush_records=self._flush_records,
            flush_s=self._flush_s,
            recent_bytes=_RECENT_BYTES,
            where=self._folder.url,
        )
        self._counts = threading.Lock()
        self._hits = self._misses = 0
        self._closer = weakref.finalize(self, self._behind.close_at_exit)

    def _here(self) -> None:
        if self._pid != PROCESS.pid:
            self._begin_anew()

    def _begin_anew(self) -> None:
        """Where this object was inherited by a fork: its locks and thread are the parent's."""
        self._closer.detach()
        self._begin()

    @property
    def url(self) -> str:
        """Where the segments are, without credentials."""
        return self._folder.url

    @property
    def unflushed(self) -> int:
        """Records put here and not durable yet."""
        return self._behind.unflushed if self._pid == PROCESS.pid else 0

    def use_options(self, storage_options: Mapping[str, Any]) -> None:
        """Reach the store with other options from now on, also for what waits to be written: credentials expire."""
        self._folder.use_options(storage_options)

    def keep_prompts(self) -> None:
        """Keep the prompts of records that come with one from now on (they come with one where a run asks it)."""
        self._store_prompts = True

    def put(self, record: Record) -> None:
        """Take a record, to be written soon. O(1), no I/O.

        Raises
        ------
        StoreError
            Where earlier records cannot be written. This one is kept too and will be tried again, but the
            caller should stop paying for more.
        """
        if self._pid != PROCESS.pid:  # as `_here`, which each answer would call twice
            self._begin_anew()
        if record.prompt is not None and not self._store_prompts:
            record = replace(record, prompt=None)
        self._behind.put(record)

    def peek(self, key: bytes) -> Record | None:
        """The "ok" record of `key` if it is in memory: unflushed, or written here recently. No I/O."""
        if self._pid != PROCESS.pid:
            self._begin_anew()
        return self._behind.peek(key)

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, Record]:
        """The "ok" records of those of `keys` that are known. Blocks on I/O.

        Raises
        ------
        StoreError
            Where the store cannot be read. Damaged and foreign segments are ignored and counted instead.
        """
        self._here()
        distinct = list(dict.fromkeys(keys))
        found: dict[bytes, Record] = {}
        missing: list[bytes] = []
        for key in distinct:
            record = self._behind.peek(key)
            if record is None:
                missing.append(key)
            else:
                found[key] = record
        if missing:
            found.update(self._library.find(missing))
            self._compactor.start_if_worthwhile()
        with self._counts:
            self._hits += len(found)
            self._misses += len(distinct) - len(found)
        return found

    def flush(self) -> None:
        """Return when every record put before is durable (on a local disk: fsynced).

        Raises
        ------
        StoreError
            Where they could not be written; they are kept.
        """
        self._here()
        self._behind.flush()

    def refresh(self) -> None:
        """See what other writers flushed since."""
        self._here()
        self._library.refresh()

    def require_key(self) -> None:
        """Refuse a journal that was signed with a key this process does not have: all of it would be paid again.

        Raises
        ------
        StoreError
            ``STORE-KEY``.
        """
        self._here()
        signed = sum(reason == UNREADABLE_WITHOUT_KEY for reason in self._library.ignored.values())
        if not signed:
            return
        raise StoreError(
            "the answers of this namespace are signed, and this process has no key",
            where=self.url,
            why=f"{signed} files can neither be checked nor served, so their answers would be paid for again",
            fix=f"set {JOURNAL_KEY_VARIABLE} to the key they were signed with, or choose another namespace",
            saved="everything; nothing was called",
            code="STORE-KEY",
        )

    def compact(self) -> int:
        """Merge small segments into few; how many were replaced. 0 where another process is at it."""
        self._here()
        return self._compactor.compact()

    def paid_by(self, run_id: str) -> Paid:
        """What a run has paid for so far in all processes, answers of uncommitted partitions included.

        Raises
        ------
        StoreError
            Where the store cannot be read or written.
        """
        self._here()
        self._behind.flush()
        bills = self._library.paid_by(run_id)
        paid = pa.concat_tables(bills) if bills else None
        if paid is None or paid.num_rows == 0:
            return Paid()
        total = {
            name: pc.sum(paid.column(name)).as_py() or 0
            for name in ("attempts", "input_tokens", "output_tokens", "unpriced")
        }
        return Paid(
            calls=total["attempts"],
            tokens=total["input_tokens"] + total["output_tokens"],
            cost_usd=pc.sum(paid.column("cost_usd")).as_py() or 0.0,
            unpriced=total["unpriced"],
        )

    def bill_of(self, run_id: str) -> pa.Table:
        """What `paid_by` sums up, as lines: step, model, outcome, calls, tokens, cost; one for each kind of call.

        Of what is durable: a look at a run at work must not make it write.

        Raises
        ------
        StoreError
            Where the store cannot be read or written.
        """
        self._here()
        return bill_of(self._library.paid_by(run_id))

    def records_of(self, keys: Sequence[bytes]) -> dict[bytes, list[Record]]:
        """All records of `keys`, failed ones too, oldest first. Reads the keys of every segment: for a look at
        single rows, not for a run.

        Raises
        ------
        StoreError
            Where the store cannot be read or written.
        """
        self._here()
        self._behind.flush()
        self._library.refresh()
        return self._library.history(keys)

    def tool_records(self, run_id: str, step_id: str) -> list[Record]:
        """Records of one step of a run in which tools took part; as slow as `records_of`."""
        self._here()
        self._behind.flush()
        self._library.refresh()
        return self._library.with_tools(run_id, step_id)

    def purge(self, run_id: str) -> PurgeReport:
        """Delete every record that `run_id` paid for, here and in memory.

        Other living processes may still hold some in memory, or unflushed: stop the run first.

        Raises
        ------
        StoreError
            Where the store cannot be read or written, or another process holds it for long.
        """
        self._here()
        self._behind.flush()
        self._behind.forget(run_id)
        return self._compactor.purge(run_id)

    def close(self) -> None:
        """Flush and end the threads.

        Raises
        ------
        StoreError
            Where the last records could not be written.
        """
        self._here()
        self._compactor.stop()
        self._behind.close()
        self._closer.detach()  # not before: where this close failed, the process's exit tries once more

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError(
            "a Journal belongs to one process and may hold credentials; open it again where it is used"
        )

    def __repr__(self) -> str:
        return f"Journal({self.url!r}, unflushed={self.unflushed})"

    def stats(self) -> JournalStats:
        """Counts, from memory."""
        self._here()
        segments = self._library.segments
        return JournalStats(
            records=sum(segment.row_count for segment in segments),
            segments=len(segments),
            size_bytes=sum(segment.size_bytes for segment in segments),
            index_bytes=self._library.index_bytes,
            cached_bytes=self._library.cached_bytes,
            unflushed=self.unflushed,
            written=self._segments.written,
            hits=self._hits,
            misses=self._misses,
            ignored=dict(self._library.ignored),
        )
