"""What was paid for under an earlier version stays paid: segments from before a column was added are read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from apwa_dask.store.journal import Journal, Record
from apwa_dask.store.record import SCHEMA, is_earlier
from apwa_dask.store.segment import Seal, SegmentName
from apwa_dask.store.segment_format import encode, format_of, with_header

MakeRecord = Callable[..., Record]
Segments = Callable[[Path], list[Path]]
ADDED = ["prompt", "tools"]


def decode(segment: Path) -> pa.Table:
    return format_of(segment.suffix).decode(segment.read_bytes())


def rewrite(segment: Path, change: Callable[[pa.Table], pa.Table]) -> Path:
    """Put another segment, named by its own content, in the place of one."""
    name = SegmentName.parse(segment.name)
    assert name is not None
    data, form = encode(with_header(change(decode(segment))))
    segment.unlink()
    fresh = segment.with_name(Seal("default", None).name(name.writer, name.sequence, data, form.suffix))
    fresh.write_bytes(data)
    return fresh


def written(store: Path, record: MakeRecord, numbers: range) -> list[Record]:
    records = [record(number) for number in numbers]
    with Journal(str(store)) as journal:
        for item in records:
            journal.put(item)
        journal.flush()
    return records


@pytest.mark.parametrize("lacking", [["tools"], ADDED], ids=["tools", "prompt and tools"])
def test_a_segment_from_before_a_column_was_added_is_served_billed_and_merged(
    tmp_path: Path, record: MakeRecord, segments: Segments, lacking: list[str]
) -> None:
    old = written(tmp_path, record, range(10))
    rewrite(segments(tmp_path)[0], lambda table: table.drop_columns(lacking))
    new = replace(record(20), tools='{"calls": []}', prompt=None)
    with Journal(str(tmp_path)) as journal:
        journal.put(new)
        journal.flush()
        keys = [item.key for item in [*old, new]]
        assert journal.get_many(keys) == {item.key: item for item in [*old, new]}
        assert journal.stats().ignored == {}
        bill = journal.bill_of("run-1")
        assert sum(bill.column("records").to_pylist()) == len(keys)
        assert journal.records_of([old[3].key])[old[3].key] == [old[3]]
        assert journal.tool_records("run-1", "s1") == [new]
        assert journal.compact() == 2
        assert journal.get_many(keys) == {item.key: item for item in [*old, new]}
    assert len(segments(tmp_path)) == 1
    assert decode(segments(tmp_path)[0]).schema.equals(SCHEMA)


def test_a_purge_of_an_earlier_segment_keeps_what_others_paid(
    tmp_path: Path, record: MakeRecord, segments: Segments
) -> None:
    with Journal(str(tmp_path)) as journal:
        for item in (record(1), record(2, run_id="run-2")):
            journal.put(item)
    rewrite(segments(tmp_path)[0], lambda table: table.drop_columns(["tools"]))
    with Journal(str(tmp_path)) as journal:
        assert journal.purge("run-1").records == 1
        assert set(journal.get_many([record(1).key, record(2).key])) == {record(2).key}


@pytest.mark.parametrize(
    "change",
    [
        lambda table: table.drop_columns(["cached_tokens"]),
        lambda table: table.append_column("extra", pa.nulls(table.num_rows, pa.string())),
        lambda table: table.select(list(reversed(table.column_names))),
        lambda table: table.set_column(
            table.column_names.index("tools"), "tools", pa.nulls(table.num_rows, pa.int64())
        ),
    ],
    ids=["without what may not be null", "with a column of nobody", "in another order", "of another type"],
)
def test_a_segment_that_was_never_ours_is_ignored_and_counted(
    tmp_path: Path, record: MakeRecord, segments: Segments, change: Callable[[pa.Table], pa.Table]
) -> None:
    kept = written(tmp_path, record, range(10))
    foreign = written(tmp_path, record, range(10, 20))
    with Journal(str(tmp_path)) as journal:
        assert len(journal.get_many([item.key for item in foreign])) == 10
    victim = next(s for s in segments(tmp_path) if decode(s)["key"][0].as_py() == foreign[0].key)
    changed = rewrite(victim, change)
    with Journal(str(tmp_path)) as journal:
        found = journal.get_many([item.key for item in [*kept, *foreign]])
        assert set(found) == {item.key for item in kept}
        assert journal.stats().ignored == {changed.name: "not a journal segment of this version"}


def test_what_was_added_later_may_be_null() -> None:
    assert is_earlier(SCHEMA)
    assert is_earlier(pa.schema([field for field in SCHEMA if field.name not in ADDED]))
    assert not is_earlier(pa.schema([*SCHEMA, SCHEMA.field("tools")]))
