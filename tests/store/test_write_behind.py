"""What the buffer in front of the journal keeps in memory: all that waits, and of what was written a bounded part."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest

from apwa_dask.errors import StoreError
from apwa_dask.store.record import Record
from apwa_dask.store.write_behind import WriteBehind

MakeRecord = Callable[..., Record]
RECORD_BYTES = 2000
"""More than the account of one of our records, less than that of two."""


class Disk:
    """Takes batches, or refuses them."""

    def __init__(self) -> None:
        self.batches: list[list[Record]] = []
        self.is_full = False

    def persist(self, batch: Sequence[Record]) -> None:
        if self.is_full:
            raise OSError(28, "no space left")
        self.batches.append(list(batch))


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def buffer(disk: Disk) -> Iterator[WriteBehind]:
    """Writes on `flush` only, and remembers some four records that were written."""
    behind = WriteBehind(
        disk.persist,
        after_write=lambda: None,
        flush_records=1000,
        flush_s=3600.0,
        recent_bytes=4 * RECORD_BYTES,
        where="nowhere",
    )
    yield behind
    disk.is_full = False
    behind.close()


def written(buffer: WriteBehind, *records: Record) -> None:
    for item in records:
        buffer.put(item)
    buffer.flush()


def test_of_what_was_written_the_newest_stays_in_memory_within_the_bound(
    buffer: WriteBehind, record: MakeRecord
) -> None:
    records = [record(n) for n in range(50)]
    for item in records:
        written(buffer, item)
    kept = [item for item in records if buffer.peek(item.key) is not None]
    assert kept == records[-len(kept) :]
    assert 4 <= len(kept) <= 4 * RECORD_BYTES / 600


def test_what_waits_stays_in_memory_however_much_it_is(buffer: WriteBehind, record: MakeRecord) -> None:
    records = [record(n, text="x" * 1000) for n in range(100)]
    for item in records:
        buffer.put(item)
    assert all(buffer.peek(item.key) is item for item in records)
    assert buffer.unflushed == 100


def test_a_later_record_of_a_key_outlives_the_batch_of_the_one_before(
    buffer: WriteBehind, record: MakeRecord
) -> None:
    earlier, later = record(1, text="before"), record(1, text="after")
    written(buffer, earlier)
    buffer.put(later)
    written(buffer, *[record(n) for n in range(2, 12)])
    written(buffer, record(20))
    assert buffer.peek(record(2).key) is None, "the batch of both was let go"
    buffer.put(later)
    written(buffer, *[record(n) for n in range(30, 33)])
    assert buffer.peek(later.key) is later


def test_forgetting_a_run_keeps_what_others_paid_and_what_still_waits(
    buffer: WriteBehind, record: MakeRecord
) -> None:
    mine, other, waiting = record(1), record(2, run_id="run-2"), record(3)
    written(buffer, mine, other)
    buffer.put(waiting)
    buffer.forget("run-1")
    assert buffer.peek(mine.key) is None
    assert buffer.peek(other.key) is other
    assert buffer.peek(waiting.key) is waiting


def test_a_failed_answer_is_written_and_never_served(
    buffer: WriteBehind, disk: Disk, record: MakeRecord
) -> None:
    failed = record(1, outcome="refused")
    written(buffer, failed)
    assert disk.batches == [[failed]]
    assert buffer.peek(failed.key) is None


def test_what_could_not_be_written_is_served_and_written_in_order_later(
    buffer: WriteBehind, disk: Disk, record: MakeRecord
) -> None:
    disk.is_full = True
    first, second = record(1), record(2)
    buffer.put(first)
    with pytest.raises(StoreError, match="journaled"):
        buffer.flush()
    with pytest.raises(StoreError, match="journaled"):
        buffer.put(second)
    assert buffer.peek(first.key) is first
    assert buffer.peek(second.key) is second
    disk.is_full = False
    buffer.flush()
    assert disk.batches == [[first, second]]
    assert buffer.unflushed == 0
    buffer.put(record(3))  # no failure any more
