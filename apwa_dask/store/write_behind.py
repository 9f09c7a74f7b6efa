"""A buffer in front of durable storage: `put` never waits, `flush` returns when all is durable.

Records leave the buffer only after they were written. A failure of the store is raised by the next `put` or
`flush`, while the buffer is kept and tried again.
"""

from __future__ import annotations

import copy
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from apwa_dask.errors import StoreError
from apwa_dask.store.record import OK, Record
from apwa_dask.store.trouble import store_error

__all__ = ["WriteBehind"]

logger = logging.getLogger(__name__)

_MAX_BATCH_RECORDS = 4096
_MAX_BATCH_CHARS = 8 * 2**20
_MAX_RETRY_PAUSE_S = 30.0
# What a record takes in memory, near enough to bound it: its fields, and its text in the widest encoding.
_RECORD_BYTES, _CHAR_BYTES = 600, 4


@dataclass(frozen=True, slots=True)
class _Recent:
    """The served records of one batch that was written."""

    records: list[Record]
    size_bytes: int


class WriteBehind:
    """Collects records and hands them in batches to `persist`, from its own thread or from `flush`.

    Parameters
    ----------
    persist : callable
        Makes a batch durable or raises; called by one thread at a time.
    after_write : callable
        Called after each batch; must not raise.
    flush_records : int
        Write when so many records wait.
    flush_s : float
        Write when the oldest has waited so long.
    recent_bytes : int
        Memory for written records that `peek` can still answer.
    where : str
        Named in errors.
    """

    def __init__(
        self,
        persist: Callable[[Sequence[Record]], None],
        *,
        after_write: Callable[[], None],
        flush_records: int,
        flush_s: float,
        recent_bytes: int,
        where: str,
    ) -> None:
        self._persist, self._after_write, self._where = persist, after_write, where
        self._flush_records, self._flush_s = flush_records, flush_s
        self._lock = threading.Lock()  # guards the fields below; never held during I/O
        self._pid = os.getpid()
        self._buffer: list[Record] = []
        self._chars = 0  # text in the buffer, near enough
        self._writing = 0
        self._known: dict[bytes, Record] = {}  # served records in memory, durable or not
        self._recent: deque[_Recent] = deque()  # those of them that are durable, as they were written
        self._recent_bytes, self._recent_limit = 0, recent_bytes
        self._failure: StoreError | None = None
        self._write_lock = threading.Lock()  # one batch at a time
        self._something = threading.Event()
        self._enough = threading.Event()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def unflushed(self) -> int:
        """Records put and not durable yet."""
        return len(self._buffer) + self._writing

    @property
    def failure(self) -> StoreError | None:
        """Why the last write failed; None after one succeeded."""
        return self._failure

    def put(self, record: Record) -> None:
        """Take `record`; O(1), no I/O.

        Raises
        ------
        StoreError
            Where earlier records cannot be written. `record` is kept nevertheless and will be tried again:
            the caller should stop paying for more. ``STORE-CLOSED`` after `close`: then it is not kept.
        """
        if self._stopped.is_set():
            raise StoreError("the journal is closed", where=self._where, code="STORE-CLOSED")
        chars = _chars(record)
        with self._lock:
            self._buffer.append(record)
            self._chars += chars
            count = len(self._buffer)
            if record.outcome == OK:
                self._known[record.key] = record
            if self._thread is None:
                self._start()
        if count == 1:
            self._something.set()
        if count == self._flush_records or self._chars > _MAX_BATCH_CHARS:
            self._enough.set()
        if self._failure is not None:
            raise copy.copy(self._failure)

    def peek(self, key: bytes) -> Record | None:
        """The served record of `key` if it is still in memory."""
        return self._known.get(key)

    def flush(self) -> None:
        """Return when everything put before this call is durable.

        Raises
        ------
        StoreError
            Where it could not be written; it is kept.
        """
        with self._write_lock:
            batch, chars = self._take()
            while batch:
                self._write(batch, chars)
                batch, chars = self._take()

    def forget(self, run_id: str) -> None:
        """Drop the recent records of one run from memory."""
        with self._lock:
            for batch in self._recent:
                self._evict([record for record in batch.records if record.run_id == run_id])
                batch.records[:] = [record for record in batch.records if record.run_id != run_id]

    def close(self) -> None:
        """Flush, and end the thread."""
        try:
            self.flush()
        finally:
            self._stopped.set()
            self._something.set()
            self._enough.set()
            thread = self._thread
            if thread is not None and thread is not threading.current_thread():
                thread.join(timeout=5.0)

    def close_at_exit(self) -> None:
        """`close` for a process that is ending: there is nobody left to raise to."""
        if self._pid != os.getpid():
            return  # a forked child: the records are the parent's
        try:
            self.close()
        except StoreError as error:
            logger.error("%d paid answers could not be journaled at exit: %s", self.unflushed, error)

    def _take(self) -> tuple[list[Record], int]:
        """The next batch, and its characters."""
        with self._lock:
            count = chars = 0
            if len(self._buffer) <= _MAX_BATCH_RECORDS and self._chars <= _MAX_BATCH_CHARS:
                count, chars = len(self._buffer), self._chars
            else:
                for record in self._buffer:
                    if count == _MAX_BATCH_RECORDS or chars > _MAX_BATCH_CHARS:
                        break
                    count += 1
                    chars += _chars(record)
            batch = self._buffer[:count]
            del self._buffer[:count]
            self._chars -= chars
            self._writing = count
        return batch, chars

    def _write(self, batch: list[Record], chars: int) -> None:
        try:
            self._persist(batch)
        except BaseException as error:
            failure = self._told(error, len(batch))
            with self._lock:
                self._buffer[:0] = batch
                self._chars += chars
                self._writing = 0
                self._failure = failure
            if isinstance(error, Exception):
                # A StoreError carries text only; anything else is a defect, and its traceback is wanted.
                raise failure from (None if isinstance(error, StoreError) else error)
            raise  # KeyboardInterrupt in the caller's flush
        served = [record for record in batch if record.outcome == OK]
        with self._lock:
            self._writing = 0
            self._failure = None
            self._remember(_Recent(served, _RECORD_BYTES * len(batch) + _CHAR_BYTES * chars))
        self._after_write()

    def _told(self, error: BaseException, count: int) -> StoreError:
        cause = store_error(error, "", self._where)
        return StoreError(
            "paid answers cannot be journaled",
            where=self._where,
            why=cause.why,
            fix=cause.fix,
            saved=f"what was flushed before; {count} answers wait in memory and are tried again",
            code=cause.code,
        )

    def _remember(self, written: _Recent) -> None:
        """Keep what was written for `peek`, and let the oldest go: a batch at a time, not a record."""
        self._recent.append(written)
        self._recent_bytes += written.size_bytes
        while self._recent_bytes > self._recent_limit:
            oldest = self._recent.popleft()
            self._recent_bytes -= oldest.size_bytes
            self._evict(oldest.records)

    def _evict(self, records: Sequence[Record]) -> None:
        known = self._known
        for record in records:
            if known.get(record.key) is record:  # not where a later record of the same key took its place
                del known[record.key]

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="apwa-journal-writer", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        failures = 0
        while not self._stopped.is_set():
            self._something.wait()
            self._something.clear()
            # Monotonic waits only: the wall clock may jump.
            self._enough.wait(timeout=self._flush_s)
            self._enough.clear()
            try:
                self.flush()
                failures = 0
            except StoreError as error:
                failures += 1
                if failures == 1:
                    logger.warning("%d paid answers wait to be journaled: %s", self.unflushed, error)
                self._stopped.wait(min(_MAX_RETRY_PAUSE_S, self._flush_s * 2**failures))
                self._something.set()


def _chars(record: Record) -> int:
    text, prompt, tools = record.text, record.prompt, record.tools
    return (len(text) if text else 0) + (len(prompt) if prompt else 0) + (len(tools) if tools else 0)
