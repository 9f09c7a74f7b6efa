"""A buffer in front of durable storage: `put` never waits, `flush` returns when all is durable.

Records leave the buffer only after they were written. A failure of the store is raised by the next `put` or
`flush`, while the buffer is kept and tried again.
"""

from __future__ import annotations

import copy
import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence

from apwa_dask.errors import StoreError
from apwa_dask.store.record import Record
from apwa_dask.store.trouble import store_error

__all__ = ["WriteBehind"]

logger = logging.getLogger(__name__)

_MAX_BATCH_RECORDS = 4096
_MAX_BATCH_CHARS = 8 * 2**20
_MAX_RETRY_PAUSE_S = 30.0


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
        self._waiting: dict[bytes, Record] = {}  # served records that are not durable yet
        self._recent: OrderedDict[bytes, Record] = OrderedDict()
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
        with self._lock:
            self._buffer.append(record)
            self._chars += len(record.text or "") + len(record.prompt or "")
            count = len(self._buffer)
            if record.is_served:
                self._waiting[record.key] = record
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
        found = self._waiting.get(key)
        return found if found is not None else self._recent.get(key)

    def flush(self) -> None:
        """Return when everything put before this call is durable.

        Raises
        ------
        StoreError
            Where it could not be written; it is kept.
        """
        with self._write_lock:
            batch = self._take()
            while batch:
                self._write(batch)
                batch = self._take()

    def forget(self, run_id: str) -> None:
        """Drop the recent records of one run from memory."""
        with self._lock:
            for key in [key for key, record in self._recent.items() if record.run_id == run_id]:
                self._recent_bytes -= self._recent.pop(key).size_bytes

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

    def _take(self) -> list[Record]:
        with self._lock:
            count = chars = 0
            for record in self._buffer:
                if count == _MAX_BATCH_RECORDS or chars > _MAX_BATCH_CHARS:
                    break
                count += 1
                chars += len(record.text or "") + len(record.prompt or "")
            batch = self._buffer[:count]
            del self._buffer[:count]
            self._chars -= chars
            self._writing = count
        return batch

    def _write(self, batch: list[Record]) -> None:
        try:
            self._persist(batch)
        except BaseException as error:
            failure = self._told(error, len(batch))
            with self._lock:
                self._buffer[:0] = batch
                self._chars += sum(len(record.text or "") + len(record.prompt or "") for record in batch)
                self._writing = 0
                self._failure = failure
            if isinstance(error, Exception):
                # A StoreError carries text only; anything else is a defect, and its traceback is wanted.
                raise failure from (None if isinstance(error, StoreError) else error)
            raise  # KeyboardInterrupt in the caller's flush
        with self._lock:
            self._writing = 0
            self._failure = None
            self._remember(batch)
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

    def _remember(self, batch: Sequence[Record]) -> None:
        waiting, recent = self._waiting, self._recent
        for record in batch:
            if not record.is_served:
                continue
            key = record.key
            if waiting.get(key) is record:
                del waiting[key]
            replaced = recent.pop(key, None)
            if replaced is not None:
                self._recent_bytes -= replaced.size_bytes
            recent[key] = record
            self._recent_bytes += record.size_bytes
        while self._recent_bytes > self._recent_limit:
            _, oldest = recent.popitem(last=False)
            self._recent_bytes -= oldest.size_bytes

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
