"""Compaction and purge: fewer files, the same answers; and none of a purged run."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from apwa_dask.errors import StoreError
from apwa_dask.store import compaction
from apwa_dask.store.journal import Journal, Record

MakeRecord = Callable[..., Record]
WaitUntil = Callable[[Callable[[], bool]], None]
Segments = Callable[[Path], list[Path]]


def fill(url: str, records: list[Record], per_segment: int = 5, **settings: object) -> None:
    with Journal(url, flush_s=3600, **settings) as journal:  # type: ignore[arg-type]
        for start in range(0, len(records), per_segment):
            for item in records[start : start + per_segment]:
                journal.put(item)
            journal.flush()


def test_compaction_keeps_every_record_in_fewer_segments(url: str, record: MakeRecord) -> None:
    records = [record(n, outcome="ok" if n % 3 else "refused") for n in range(50)]
    fill(url, records)
    with Journal(url) as journal:
        assert journal.compact() == 10
        assert journal.stats().segments == 1
        assert journal.stats().records == 50
    with Journal(url) as journal:
        found = journal.get_many([item.key for item in records])
        assert found == {item.key: item for item in records if item.outcome == "ok"}
        assert journal.compact() == 0


def test_answers_paid_twice_stay_two_records_and_copies_become_one(url: str, record: MakeRecord) -> None:
    paid_twice = [record(1, request_id="a"), record(1, request_id="b")]
    fill(url, [*paid_twice, record(2), record(2)], per_segment=1)
    with Journal(url) as journal:
        journal.compact()
        assert journal.stats().records == 3


def test_readers_outlive_a_segment_that_another_process_compacted(url: str, record: MakeRecord) -> None:
    records = [record(n) for n in range(50)]
    fill(url, records)
    with Journal(url) as reader, Journal(url) as compactor:
        assert reader.get_many([records[0].key])
        assert compactor.compact() == 10
        assert len(reader.get_many([item.key for item in records])) == 50
        assert reader.stats().segments == 1


def test_many_small_segments_are_merged_in_the_background(
    url: str, record: MakeRecord, wait_until: WaitUntil
) -> None:
    records = [record(n) for n in range(40)]
    fill(url, records, per_segment=1)
    with Journal(url, compact_above=20) as journal:
        assert len(journal.get_many([item.key for item in records])) == 40
        wait_until(lambda: journal.stats().segments == 1)
        assert len(journal.get_many([item.key for item in records])) == 40


def test_full_segments_are_left_alone(url: str, record: MakeRecord) -> None:
    import os

    big = [record(n, text=os.urandom(5_000_000).hex()) for n in range(2)]
    fill(url, [*big, record(10)], per_segment=1)
    with Journal(url) as journal:
        assert journal.compact() == 0
        assert journal.stats().segments == 3


def test_damaged_segments_are_kept_out_of_a_compaction_and_left_in_place(
    tmp_path: Path, record: MakeRecord, segments: Segments
) -> None:
    records = [record(n) for n in range(20)]
    fill(str(tmp_path), records)
    victim = segments(tmp_path)[1]
    data = bytearray(victim.read_bytes())
    data[len(data) // 3] ^= 1
    victim.write_bytes(data)
    with Journal(str(tmp_path)) as journal:
        assert journal.compact() == 3
        assert list(journal.stats().ignored) == [victim.name]
        assert len(journal.get_many([item.key for item in records])) == 15
    assert victim.exists()


def test_signed_segments_stay_signed(url: str, record: MakeRecord) -> None:
    records = [record(n) for n in range(20)]
    fill(url, records, hmac_key=b"k" * 32)
    with Journal(url, hmac_key=b"k" * 32) as journal:
        assert journal.compact() == 4
    with Journal(url, hmac_key=b"k" * 32) as journal:
        assert len(journal.get_many([item.key for item in records])) == 20
        assert journal.stats().ignored == {}


def test_s22_a_purge_leaves_no_record_of_its_run_and_all_of_the_others(url: str, record: MakeRecord) -> None:
    import fsspec

    mine = [replace(record(n), run_id="run-a", text=f"CANARY {n}") for n in range(12)]
    others = [replace(record(100 + n), run_id="run-b") for n in range(12)]
    mixed = [item for pair in zip(mine, others, strict=True) for item in pair]
    fill(url, [*mixed, *(replace(record(200 + n), run_id="run-a", text="CANARY") for n in range(5))])
    with Journal(url) as journal:
        journal.put(replace(record(300), run_id="run-a", text="CANARY"))
        report = journal.purge("run-a")
        assert report.records == 18
        assert (report.damaged, report.unchecked) == ((), ())
        assert journal.peek(record(300).key) is None
        assert journal.get_many([item.key for item in mine]) == {}
        assert len(journal.get_many([item.key for item in others])) == 12
        assert journal.purge("run-a").records == 0
    filesystem, path = fsspec.core.url_to_fs(url)
    for name in filesystem.find(path):
        assert b"run-a" not in raw(filesystem.cat_file(name)), name


def test_s22_a_purge_deletes_damaged_segments_whole_and_says_so(
    tmp_path: Path, record: MakeRecord, segments: Segments
) -> None:
    fill(str(tmp_path), [record(n) for n in range(10)])
    victim = segments(tmp_path)[0]
    victim.write_bytes(victim.read_bytes()[:-10])
    (victim.parent / "notes.txt").write_text("not ours")
    with Journal(str(tmp_path)) as journal:
        report = journal.purge("another-run")
    assert report.damaged == (victim.name,)
    assert report.unchecked == ("notes.txt",)
    assert not victim.exists()
    assert (victim.parent / "notes.txt").exists()


def raw(data: bytes) -> bytes:
    """A file's content, and where it is Parquet, its values without their compression."""
    import io

    import pyarrow.parquet as pq

    if data[:4] != b"PAR1":
        return data
    return data + str(pq.read_table(io.BytesIO(data)).to_pylist()).encode()


def test_a_compaction_that_froze_does_not_bring_back_what_was_purged(
    url: str, record: MakeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    from apwa_dask.store.lease import LeaseKeeper

    fill(url, [record(n) for n in range(10)])
    zombie = Journal(url)
    frozen_write = zombie._compactor._writer.write_table

    def purged_meanwhile(table: Any, **settings: Any) -> str:
        # The zombie has read the segments; before it writes, its lease runs out and another purges.
        keeper = LeaseKeeper(zombie._folder.child("lease"), clock=lambda: time.time() + 3600)
        keeper.claim("purge").release()
        with Journal(url) as other:
            assert other.purge("run-1").records == 10
        return frozen_write(table, **settings)

    monkeypatch.setattr(zombie._compactor._writer, "write_table", purged_meanwhile)
    with pytest.raises(StoreError) as fenced:
        zombie.compact()
    assert fenced.value.code == "STORE-FENCED"
    zombie.close()
    with Journal(url) as journal:
        assert journal.get_many([record(n).key for n in range(10)]) == {}
        assert journal.stats().segments == 0


def test_leftovers_of_a_compaction_that_died_are_deleted_once_their_successor_is_sound(
    tmp_path: Path, record: MakeRecord, segments: Segments, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [record(n) for n in range(20)]
    fill(str(tmp_path), records)
    before = segments(tmp_path)
    kept = {path: path.read_bytes() for path in before}
    with Journal(str(tmp_path)) as journal:
        journal.compact()
    for path, data in kept.items():  # as if it had died before it deleted them
        path.write_bytes(data)
    monkeypatch.setattr(compaction, "_FULL_ROWS", 10)  # the successor is no longer one to be merged
    with Journal(str(tmp_path)) as journal:
        journal.refresh()
        assert journal.stats().records == 40
        journal.compact()
        assert journal.stats().records == 20
        assert len(journal.get_many([item.key for item in records])) == 20
    assert len(segments(tmp_path)) == 1

    successor = segments(tmp_path)[0]
    for path, data in kept.items():
        path.write_bytes(data)
    damaged = bytearray(successor.read_bytes())
    damaged[len(damaged) // 3] ^= 1
    successor.write_bytes(damaged)
    with Journal(str(tmp_path)) as journal:
        journal.compact()
        assert len(journal.get_many([item.key for item in records])) == 20, (
            "a damaged successor deletes nothing"
        )
