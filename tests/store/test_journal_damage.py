"""Damaged, foreign and forged files cost at most their own records, and are named. Fault matrix 55 and 56."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from apwa_dask.store.journal import Journal, Record

MakeRecord = Callable[..., Record]
Segments = Callable[[Path], list[Path]]
KEY = b"k" * 32


def fill(store: Path, record: MakeRecord, batches: int = 3, **settings: object) -> list[list[Record]]:
    """`batches` segments of ten records each."""
    written = []
    with Journal(str(store), **settings) as journal:  # type: ignore[arg-type]
        for batch in range(batches):
            items = [record(10 * batch + n) for n in range(10)]
            for item in items:
                journal.put(item)
            journal.flush()
            written.append(items)
    return written


def flat(batches: list[list[Record]]) -> list[Record]:
    return [item for batch in batches for item in batch]


def served(store: Path, records: list[Record], **settings: object) -> tuple[int, dict[str, str]]:
    """How many of `records` come back, all of them right, and what was ignored."""
    with Journal(str(store), **settings) as journal:  # type: ignore[arg-type]
        found = journal.get_many([item.key for item in records])
        assert all(found[item.key] == item for item in records if item.key in found)
        return len(found), dict(journal.stats().ignored)


@pytest.mark.parametrize("keep", [0, 3, 0.5, -1], ids=["empty", "magic only", "half", "last byte"])
def test_fault_55_a_truncated_segment_costs_only_its_own_records(
    tmp_path: Path, record: MakeRecord, segments: Segments, keep: float
) -> None:
    batches = fill(tmp_path, record)
    victim = segments(tmp_path)[1]
    data = victim.read_bytes()
    victim.write_bytes(data[: int(len(data) * keep) if 0 < keep < 1 else int(keep)])
    count, ignored = served(tmp_path, flat(batches))
    assert count == 20
    assert list(ignored) == [victim.name]


def test_fault_55_a_flipped_byte_anywhere_is_never_served(
    tmp_path: Path, record: MakeRecord, segments: Segments
) -> None:
    batches = fill(tmp_path / "sound", record)
    sound = segments(tmp_path / "sound")[1].read_bytes()
    for place in range(0, len(sound), max(1, len(sound) // 60)):
        store = tmp_path / f"flipped-{place}"
        shutil.copytree(tmp_path / "sound", store)
        victim = segments(store)[1]
        flipped = bytearray(sound)
        flipped[place] ^= 0x10
        victim.write_bytes(flipped)
        count, ignored = served(store, flat(batches))
        assert count == 20, f"byte {place}"
        assert list(ignored) == [victim.name], f"byte {place}"


def test_fault_56_foreign_files_are_ignored_with_count_and_reason(
    tmp_path: Path, record: MakeRecord, segments: Segments
) -> None:
    batches = fill(tmp_path, record)
    folder = segments(tmp_path)[0].parent
    (folder / "README.txt").write_text("mine")
    (folder / "seg-x-00000000-zz.parquet").write_bytes(b"PAR1")
    pq.write_table(pa.table({"key": [1]}), folder / f"seg-x-00000001-{'0' * 32}.parquet")
    count, ignored = served(tmp_path, flat(batches))
    assert count == 30
    assert len(ignored) == 3
    assert all(ignored.values())


def test_fault_56_a_segment_of_another_schema_version_is_ignored(
    tmp_path: Path, record: MakeRecord, segments: Segments
) -> None:
    batches = fill(tmp_path, record)
    with Journal(str(tmp_path)) as journal:
        journal.compact()
    (victim,) = segments(tmp_path)
    table = pq.read_table(victim)
    pq.write_table(table.drop_columns(["attempts"]), victim)
    count, ignored = served(tmp_path, flat(batches))
    assert count == 0
    assert "version" in ignored[victim.name]


def test_s13_a_pickle_in_the_journal_is_ignored_and_never_loaded(
    tmp_path: Path, record: MakeRecord, segments: Segments
) -> None:
    batches = fill(tmp_path, record)
    trap = tmp_path / "sprung"
    bomb = pickle.dumps(Bomb(str(trap)))
    victim = segments(tmp_path)[0]
    victim.write_bytes(bomb)
    (victim.parent / "cache.pkl").write_bytes(bomb)
    count, ignored = served(tmp_path, flat(batches))
    assert count == 20
    assert len(ignored) == 2
    assert not trap.exists()
    pickle.loads(bomb)
    assert trap.exists(), "the bomb works"


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (Path(self.path),)


def test_s14_without_the_key_no_segment_is_believed(tmp_path: Path, record: MakeRecord) -> None:
    batches = fill(tmp_path, record, hmac_key=KEY)
    everything = flat(batches)
    assert served(tmp_path, everything, hmac_key=KEY) == (30, {})
    for settings in ({"hmac_key": b"x" * 32}, {}):
        count, ignored = served(tmp_path, everything, **settings)
        assert count == 0
        assert len(ignored) == 3


def test_s14_an_unsigned_segment_is_ignored_where_a_key_is_set(tmp_path: Path, record: MakeRecord) -> None:
    forged = flat(fill(tmp_path, record, batches=1))
    count, ignored = served(tmp_path, forged, hmac_key=KEY)
    assert count == 0
    assert list(ignored.values()) == ["unsigned, and a key is set"]


def test_s14_a_forged_answer_does_not_hide_the_true_one(tmp_path: Path, record: MakeRecord) -> None:
    true = flat(fill(tmp_path, record, batches=1, hmac_key=KEY))
    with Journal(str(tmp_path), hmac_key=b"the forger's own key") as forger:
        for item in true:
            forger.put(replace(item, text="send money"))
    count, _ = served(tmp_path, true, hmac_key=KEY)
    assert count == 10


def test_s14_a_signed_segment_cannot_be_carried_to_another_tenant(
    tmp_path: Path, record: MakeRecord, segments: Segments
) -> None:
    records = flat(fill(tmp_path, record, batches=1, hmac_key=KEY, namespace="acme"))
    (tmp_path / "journal" / "zenith").mkdir()
    shutil.copy(segments(tmp_path)[0], tmp_path / "journal" / "zenith")
    count, ignored = served(tmp_path, records, hmac_key=KEY, namespace="zenith")
    assert count == 0
    assert list(ignored.values()) == ["wrong signature"]
