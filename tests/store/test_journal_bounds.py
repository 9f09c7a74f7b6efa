"""What a journal of any size costs: memory that does not grow with it, and no work on the event loop's thread."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import apwa_dask as apwa
from apwa_dask.execution import loop as private
from apwa_dask.store import segment_writer
from apwa_dask.store.journal import Journal, Record
from apwa_dask.store.local_folder import LocalFolder
from apwa_dask.testing import ScriptedServer

MakeRecord = Callable[..., Record]
SEGMENTS, ROWS, TEXT_BYTES = 24, 250, 4500
"""More than 1 MiB a segment, so that its columns are read one by one."""


@pytest.fixture
def keys(tmp_path: Path, record: MakeRecord) -> list[bytes]:
    """Keys of a journal whose values take 27 MB, in the order in which they were written."""
    found = []
    with Journal(str(tmp_path), flush_s=3600) as journal:
        for number in range(SEGMENTS * ROWS):
            item = record(number, text=f"{number:0{TEXT_BYTES}d}")
            journal.put(item)
            found.append(item.key)
            if number % ROWS == ROWS - 1:
                journal.flush()
    return found


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each file was read whole."""
    counts: Counter[str] = Counter()
    read = LocalFolder.read

    def counted(self: LocalFolder, name: str) -> bytes:
        counts[name] += 1
        return read(self, name)

    monkeypatch.setattr(LocalFolder, "read", counted)
    return counts


def test_opening_a_journal_and_asking_for_what_it_lacks_reads_no_value(
    tmp_path: Path, keys: list[bytes], reads: Counter[str]
) -> None:
    with Journal(str(tmp_path)) as journal:
        assert journal.get_many([bytes([k]) * 32 for k in range(100)]) == {}
        assert journal.stats().index_bytes == 16 * len(keys)
        assert journal.stats().cached_bytes == 0
    assert not reads


def test_batches_that_are_not_merged_yet_are_read_whole_once_and_none_is_kept(
    tmp_path: Path, record: MakeRecord, reads: Counter[str]
) -> None:
    with Journal(str(tmp_path), flush_s=3600) as journal:
        for number in range(200):
            journal.put(record(number))
            if number % 10 == 9:
                journal.flush()
    with Journal(str(tmp_path)) as journal:
        assert journal.get_many([bytes([k]) * 32 for k in range(100)]) == {}
        assert journal.stats().index_bytes == 16 * 200
        assert journal.stats().cached_bytes == 0
    assert sorted(Path(name).suffix for name in reads) == [".arrows"] * 20
    assert max(reads.values()) == 1


def test_a_finished_step_is_looked_up_with_a_bounded_part_of_its_values_in_memory(
    tmp_path: Path, keys: list[bytes], reads: Counter[str]
) -> None:
    limit = 4 * 2**20
    most, served = 0, 0
    with Journal(str(tmp_path), cache_bytes=limit) as journal:
        for start in range(0, len(keys), 256):
            served += len(journal.get_many(keys[start : start + 256]))
            most = max(most, journal.stats().cached_bytes)

    assert served == len(keys)
    assert most <= limit < SEGMENTS * ROWS * TEXT_BYTES / 5
    assert len(reads) == SEGMENTS
    assert max(reads.values()) == 1, "what was answered together is read together"


def test_several_partitions_at_once_read_each_segment_once(
    tmp_path: Path, keys: list[bytes], reads: Counter[str]
) -> None:
    """Eight partitions that were under way together share their segments: one reads, the others find it."""
    with Journal(str(tmp_path)) as journal:
        partitions = [keys[k::8] for k in range(8)]
        found: list[int] = []

        def work(mine: list[bytes]) -> None:
            found.append(sum(len(journal.get_many(mine[k : k + 256])) for k in range(0, len(mine), 256)))

        threads = [threading.Thread(target=work, args=[mine]) for mine in partitions]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sum(found) == len(keys)
    assert max(reads.values()) == 1


def test_nothing_of_the_store_runs_on_the_loops_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches are encoded and written, and the store is listed and read, by other threads; the loop only puts."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-only-for-loopback")
    seen: dict[str, set[int]] = {}

    def noted(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def note(*arguments: Any, **options: Any) -> Any:
            seen.setdefault(name, set()).add(threading.get_ident())
            return original(*arguments, **options)

        monkeypatch.setattr(owner, name, note)

    for name in ("write", "put_if_absent", "read", "read_many", "open", "entries", "exists"):
        noted(LocalFolder, name)
    for name in ("encode", "to_table"):
        noted(segment_writer, name)
    puts: set[int] = set()
    put = Journal.put

    def noted_put(self: Journal, record: Record) -> None:
        puts.add(threading.get_ident())
        put(self, record)

    monkeypatch.setattr(Journal, "put", noted_put)
    frame = pd.DataFrame({"text": [f"row {k}" for k in range(600)]})
    with ScriptedServer() as server:
        table = apwa.from_pandas(frame, npartitions=4).map("x", inputs="text", output={"a": int})
        model = apwa.Model("m", base_url=server.base_url)
        for _ in range(2):
            table.run(model=model, store=str(tmp_path), scheduler="threads", progress=False).wait()
        assert server.calls == 600

    told: list[int] = []
    done = threading.Event()
    private.loop().call_soon_threadsafe(lambda: (told.append(threading.get_ident()), done.set()))
    assert done.wait(60)
    assert puts == set(told), "answers are put from the loop"
    assert {"write", "put_if_absent", "encode", "to_table", "entries"} <= set(seen)
    assert not [name for name, threads in seen.items() if threads & set(told)]
