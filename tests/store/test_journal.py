"""The journal: what was flushed is served, what failed never is, and neither costs memory without bound."""

from __future__ import annotations

import os
import pickle
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from apwa_dask.errors import StoreError
from apwa_dask.store import local_folder
from apwa_dask.store.index import KeyIndex
from apwa_dask.store.journal import Journal, Record
from apwa_dask.store.segment import SegmentKeys, prefixes_of
from apwa_dask.store.segment_file import SegmentFile

MakeRecord = Callable[..., Record]
WaitUntil = Callable[[Callable[[], bool]], None]


def test_a_flushed_record_is_served_by_a_new_journal_exactly_as_it_was(url: str, record: MakeRecord) -> None:
    records = [record(n) for n in range(50)]
    with Journal(url) as journal:
        for item in records:
            journal.put(item)
    with Journal(url) as journal:
        found = journal.get_many([item.key for item in records])
    assert found == {item.key: item for item in records}


@pytest.mark.parametrize(
    "outcome", ["truncated", "refused", "filtered", "invalid_output", "transient", "deadline", "internal"]
)
def test_a_failure_is_recorded_and_never_served(url: str, record: MakeRecord, outcome: str) -> None:
    failed = record(1, outcome=outcome)
    with Journal(url) as journal:
        journal.put(failed)
        assert journal.peek(failed.key) is None
        journal.flush()
        assert journal.get_many([failed.key]) == {}
    with Journal(url) as journal:
        assert journal.get_many([failed.key]) == {}
        assert journal.stats().records == 1
        assert journal.stats().index_bytes == 0


@pytest.mark.parametrize("ok_first", [True, False])
def test_an_ok_answer_is_served_whatever_failed_before_or_after(
    url: str, record: MakeRecord, ok_first: bool
) -> None:
    answers = [record(1), record(1, outcome="truncated", text="{")]
    with Journal(url) as journal:
        for item in answers if ok_first else reversed(answers):
            journal.put(item)
            journal.flush()
        assert journal.get_many([answers[0].key])[answers[0].key].outcome == "ok"
    with Journal(url) as journal:
        assert journal.get_many([answers[0].key])[answers[0].key].outcome == "ok"


def test_an_unflushed_record_is_served_from_memory(url: str, record: MakeRecord) -> None:
    with Journal(url, flush_s=3600) as journal:
        journal.put(record(1))
        assert journal.unflushed == 1
        assert journal.peek(record(1).key) == record(1)
        assert journal.get_many([record(1).key]) == {record(1).key: record(1)}
        journal.flush()
        assert journal.unflushed == 0
        assert journal.peek(record(1).key) == record(1)
        assert journal.peek(record(2).key) is None


@pytest.mark.parametrize(
    "text",
    ["", "\ud800 alone", "x" * 3_000_000, "null \0 inside", "🦜 naïve", None],
    ids=["empty", "surrogate", "long", "nul", "unicode", "none"],
)
def test_any_text_comes_back_exactly(url: str, record: MakeRecord, text: str | None) -> None:
    items = [record(1, text=text), record(2), record(3, model="\udfff")]
    with Journal(url) as journal:
        for item in items:
            journal.put(item)
    with Journal(url) as journal:
        found = journal.get_many([item.key for item in items])
    assert found[items[0].key].text == text
    assert found[items[1].key] == items[1]
    assert found[items[2].key].text == items[2].text


def test_a_record_that_could_block_its_batch_is_refused_at_once(record: MakeRecord) -> None:
    for wrong in (
        {"input_tokens": -1},
        {"output_tokens": 1.5},
        {"text": b"bytes"},
        {"attempts": None},
        {"cost_usd": "free"},
        {"run_id": None},
    ):
        with pytest.raises(ValueError, match="record"):
            record(1, **wrong)
    with pytest.raises(ValueError, match="32 bytes"):
        Record(b"short", "ok")


def test_flush_returns_after_file_and_folder_were_synced(
    tmp_path: Path, record: MakeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[bool] = []

    def fsync(descriptor: int) -> None:
        synced.append(stat.S_ISDIR(os.fstat(descriptor).st_mode))

    with Journal(str(tmp_path), flush_s=3600) as journal:
        journal.put(record(1))
        journal.flush()
        monkeypatch.setattr(local_folder.os, "fsync", fsync)
        journal.put(record(2))
        journal.flush()
        assert synced == [False, True] or (os.name == "nt" and synced == [False])


def test_batches_are_written_by_count_and_by_time(
    url: str, record: MakeRecord, wait_until: WaitUntil
) -> None:
    with Journal(url, flush_records=10, flush_s=3600) as by_count:
        for n in range(10):
            by_count.put(record(n))
        wait_until(lambda: by_count.unflushed == 0)
    with Journal(url, flush_records=10_000, flush_s=0.05) as by_time:
        by_time.put(record(100))
        wait_until(lambda: by_time.unflushed == 0)


def test_large_answers_are_written_before_the_count_is_reached(
    url: str, record: MakeRecord, wait_until: WaitUntil
) -> None:
    with Journal(url, flush_records=1000, flush_s=3600) as journal:
        for n in range(3):
            journal.put(record(n, text=str(n) * 5_000_000))
        wait_until(lambda: journal.stats().written >= 2)


def test_two_writers_share_one_journal(url: str, record: MakeRecord) -> None:
    with Journal(url) as first, Journal(url) as second:
        first.put(record(1))
        second.put(record(2))
        first.flush()
        second.flush()
        assert first.get_many([record(2).key]) == {record(2).key: record(2)}
        first.put(record(3))
        first.flush()
        assert first.get_many([record(3).key]) == {record(3).key: record(3)}
        assert second.get_many([record(1).key]) == {record(1).key: record(1)}
        first.put(record(4))
        first.flush()
        assert second.get_many([record(4).key]) == {}
        second.refresh()
        assert second.get_many([record(4).key]) == {record(4).key: record(4)}
        assert second.get_many([record(3).key]) == {record(3).key: record(3)}


def test_writers_of_one_name_never_write_one_file(url: str, record: MakeRecord) -> None:
    with Journal(url, writer="worker1") as first, Journal(url, writer="worker1") as second:
        first.put(record(1))
        second.put(record(2))
    with Journal(url) as journal:
        assert len(journal.get_many([record(1).key, record(2).key])) == 2


def test_namespaces_share_nothing(url: str, record: MakeRecord) -> None:
    with Journal(url, namespace="acme") as acme:
        acme.put(record(1))
    with Journal(url, namespace="zenith") as zenith:
        assert zenith.get_many([record(1).key]) == {}


@pytest.mark.parametrize("namespace", ["../acme", "a/b", "", "Acme", "con", "a..b", "a\n", "."])
def test_no_namespace_leaves_its_folder(tmp_path: Path, namespace: str) -> None:
    with pytest.raises(StoreError) as refused:
        Journal(str(tmp_path), namespace=namespace)
    assert refused.value.code == "STORE-NAME"


def test_keys_that_share_a_prefix_are_told_apart(url: str) -> None:
    same = [Record(b"same8byt" + bytes([n]) * 24, "ok", text=str(n)) for n in range(5)]
    with Journal(url) as journal:
        for item in same:
            journal.put(item)
    with Journal(url) as journal:
        assert journal.get_many([same[3].key]) == {same[3].key: same[3]}
        assert journal.get_many([b"same8byt" + b"\xff" * 24]) == {}


def test_an_empty_store_answers_nothing_and_makes_nothing(tmp_path: Path, record: MakeRecord) -> None:
    with Journal(str(tmp_path / "store")) as journal:
        assert journal.get_many([record(1).key]) == {}
        assert journal.get_many([]) == {}
    assert not (tmp_path / "store").exists()


def test_hits_and_misses_are_counted(url: str, record: MakeRecord) -> None:
    with Journal(url) as journal:
        journal.put(record(1))
        journal.get_many([record(1).key, record(1).key, record(2).key])
        stats = journal.stats()
    assert (stats.hits, stats.misses) == (1, 1)


def test_many_threads_put_and_get_at_once(url: str, record: MakeRecord) -> None:
    wrong: list[int] = []
    with Journal(url, flush_records=16, flush_s=0.01) as journal:

        def work(start: int) -> None:
            for n in range(start, start + 200):
                journal.put(record(n))
                if journal.get_many([record(n).key]).get(record(n).key) != record(n):
                    wrong.append(n)

        threads = [threading.Thread(target=work, args=[1000 * t]) for t in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []
    with Journal(url) as journal:
        keys = [record(1000 * t + n).key for t in range(8) for n in range(200)]
        assert len(journal.get_many(keys)) == 1600


def test_decoded_segments_are_bounded_in_memory(tmp_path: Path, record: MakeRecord) -> None:
    records = [record(n, text=f"{n} ".ljust(2000, "x")) for n in range(2000)]
    with Journal(str(tmp_path), flush_records=100) as journal:
        for start in range(0, 2000, 100):
            for item in records[start : start + 100]:
                journal.put(item)
            journal.flush()
    budget = 1_000_000
    with Journal(str(tmp_path), cache_bytes=budget) as journal:
        for start in range(0, 2000, 50):
            keys = [item.key for item in records[start : start + 50]]
            assert len(journal.get_many(keys)) == 50
            assert journal.stats().cached_bytes <= budget


def test_the_index_of_200_000_records_takes_16_bytes_each() -> None:
    index = KeyIndex()
    keys = [os.urandom(32) for _ in range(200_000)]
    for number, start in enumerate(range(0, 200_000, 1000)):
        part = keys[start : start + 1000]
        rows = np.arange(1000, dtype=np.uint32)
        index = index.adding([(number, SegmentKeys(prefixes_of(part), rows, 1000, 0))])
    assert index.size_bytes == 16 * 200_000
    assert len(index.blocks) <= 18
    for i in (0, 999, 1000, 123_456, 199_999):
        assert index.locate([keys[i]]) == {i // 1000: [(i % 1000, keys[i])]}


def test_a_journal_never_travels(tmp_path: Path) -> None:
    with Journal(str(tmp_path)) as journal, pytest.raises(TypeError, match="one process"):
        pickle.dumps(journal)


def test_a_closed_journal_takes_no_more_records(tmp_path: Path, record: MakeRecord) -> None:
    journal = Journal(str(tmp_path))
    journal.put(record(1))
    journal.close()
    with pytest.raises(StoreError) as refused:
        journal.put(record(2))
    assert refused.value.code == "STORE-CLOSED"
    assert journal.get_many([record(1).key])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_writes_its_own_records_and_leaves_the_parents_alone(
    tmp_path: Path, record: MakeRecord
) -> None:
    journal = Journal(str(tmp_path), flush_s=3600)
    journal.put(record(1))
    child = os.fork()
    if child == 0:
        try:
            journal.put(record(2))
            journal.flush()
            os._exit(0 if journal.stats().written == 1 else 1)
        except BaseException:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert journal.unflushed == 1
    journal.close()
    with Journal(str(tmp_path)) as fresh:
        assert len(fresh.get_many([record(1).key, record(2).key])) == 2
        assert fresh.stats().records == 2


def test_what_this_process_wrote_is_billed_without_a_look_at_it_and_as_others_read_it(
    tmp_path: Path,
    record: MakeRecord,
    segments: Callable[[Path], list[Path]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Journal(str(tmp_path), flush_records=8) as journal:
        for n in range(40):
            journal.put(record(n, run_id=f"run-{n % 3}", outcome="ok" if n % 5 else "refused"))
        journal.flush()
        with Journal(str(tmp_path)) as other, monkeypatch.context() as blind:
            read = {run: other.bill_of(run) for run in ("run-0", "run-1", "run-2")}
            blind.setattr(SegmentFile, "spending", None)  # whoever reads one now fails
            for run, lines in read.items():
                assert _sorted(journal.bill_of(run)).equals(_sorted(lines))
        journal.compact()
        assert journal.paid_by("run-1").calls == sum(read["run-1"].column("attempts").to_pylist())
        segments(tmp_path)[0].unlink()
        assert journal.paid_by("run-1").calls == 0, "of what is there, not of what was"


def _sorted(bill: pa.Table) -> pa.Table:
    return bill.sort_by([(name, "ascending") for name in ("step_id", "model", "outcome")])
