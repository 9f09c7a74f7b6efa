"""Both forms of a segment answer alike; and a hostile Arrow file under the right checksum is refused, not obeyed."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from apwa_dask.store import compaction, library, segment_format
from apwa_dask.store.journal import Journal, Record
from apwa_dask.store.record import SCHEMA, to_table
from apwa_dask.store.segment import Seal, SegmentName, keys_of, keys_of_batch
from apwa_dask.store.segment_format import (
    ARROW,
    LARGE,
    MAX_ARROW_BYTES,
    PACKED,
    BadSegmentError,
    SegmentFormat,
    encode,
    with_header,
)

MakeRecord = Callable[..., Record]
Segments = Callable[[Path], list[Path]]
FORMATS = pytest.mark.parametrize("form", [ARROW, LARGE, PACKED], ids=["arrow", "large", "packed"])


def stored(store: Path, data: bytes, form: SegmentFormat, sequence: int = 0) -> Path:
    """A segment of these bytes, under the name that they have a right to."""
    folder = store / "journal" / "default"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / Seal("default", None).name("w", sequence, data, form.suffix)
    path.write_bytes(data)
    return path


def stream(table: pa.Table, **options: object) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


@pytest.fixture
def table(record: MakeRecord) -> pa.Table:
    """Forty records of two runs, a fifth of them failed, some with tools."""
    return with_header(
        to_table(
            [
                record(
                    n,
                    outcome="refused" if n % 5 == 0 else "ok",
                    run_id=f"run-{n % 2}",
                    tools='{"calls": []}' if n == 3 else None,
                    cost_usd=None if n == 4 else 0.5,
                )
                for n in range(40)
            ]
        )
    )


# -- the two are one


@FORMATS
def test_every_question_to_a_journal_has_one_answer_in_any_format(
    tmp_path: Path, record: MakeRecord, table: pa.Table, form: SegmentFormat
) -> None:
    stored(tmp_path, form.encode(table), form)
    with Journal(str(tmp_path)) as journal:
        keys = [record(n).key for n in range(40)]
        assert set(journal.get_many(keys)) == {key for n, key in enumerate(keys) if n % 5}
        assert journal.stats().ignored == {}
        paid = journal.paid_by("run-0")
        assert (paid.calls, paid.cost_usd, paid.unpriced) == (20, 0.5 * 19, 1)
        assert sum(journal.bill_of("run-1").column("records").to_pylist()) == 20
        assert [item.outcome for item in journal.records_of([keys[5]])[keys[5]]] == ["refused"]
        assert [item.key for item in journal.tool_records("run-1", "s1")] == [keys[3]]
        assert journal.purge("run-1").records == 20
        assert journal.paid_by("run-1").calls == 0
        assert journal.paid_by("run-0").calls == 20


@FORMATS
def test_any_format_is_merged_with_the_others_into_packed_parquet(
    tmp_path: Path, record: MakeRecord, segments: Segments, form: SegmentFormat
) -> None:
    for sequence in range(3):
        batch = [record(10 * sequence + n) for n in range(10)]
        stored(tmp_path, form.encode(with_header(to_table(batch))), form, sequence)
    with Journal(str(tmp_path)) as journal:
        new = [record(100 + n) for n in range(10)]
        for item in new:
            journal.put(item)
        journal.flush()
        assert journal.compact() == 4
        keys = [record(n).key for n in range(30)] + [item.key for item in new]
        assert len(journal.get_many(keys)) == 40
    (merged,) = segments(tmp_path)
    assert merged.suffix == ".parquet"


@pytest.mark.parametrize("key", [None, b"k" * 32], ids=["unsigned", "signed"])
def test_a_journal_that_wrote_parquet_batches_resumes_and_goes_on_with_arrow(
    tmp_path: Path,
    record: MakeRecord,
    segments: Segments,
    monkeypatch: pytest.MonkeyPatch,
    key: bytes | None,
) -> None:
    """What a journal wrote before there were Arrow segments: batches as Parquet, one of them merged already."""

    def put(journal: Journal, numbers: range) -> None:
        for number in numbers:
            journal.put(record(number))
        journal.flush()

    with monkeypatch.context() as earlier:
        earlier.setattr(segment_format, "MAX_ARROW_BYTES", 0)
        with Journal(str(tmp_path), hmac_key=key) as journal:
            put(journal, range(10))
            put(journal, range(10, 20))
            journal.compact()
            put(journal, range(20, 30))
    assert {path.suffix for path in segments(tmp_path)} == {".parquet"}
    with Journal(str(tmp_path), hmac_key=key) as journal:
        keys = [record(n).key for n in range(40)]
        assert len(journal.get_many(keys)) == 30
        put(journal, range(30, 40))
        assert sorted(path.suffix for path in segments(tmp_path)) == [".arrows", ".parquet", ".parquet"]
        assert len(journal.get_many(keys)) == 40
    with Journal(str(tmp_path), hmac_key=key) as journal:
        assert journal.get_many(keys) == {record(n).key: record(n) for n in range(40)}
        assert journal.stats().ignored == {}
        assert journal.compact() == 3
        assert len(journal.get_many(keys)) == 40
    assert len(segments(tmp_path)) == 1


def test_a_compaction_that_died_between_formats_leaves_nothing_twice(
    tmp_path: Path, record: MakeRecord, segments: Segments, monkeypatch: pytest.MonkeyPatch
) -> None:
    for sequence in range(2):
        batch = [record(10 * sequence + n) for n in range(10)]
        stored(tmp_path, ARROW.encode(with_header(to_table(batch))), ARROW, sequence)
    before = {path: path.read_bytes() for path in segments(tmp_path)}
    with Journal(str(tmp_path)) as journal:
        journal.compact()
    for path, data in before.items():
        path.write_bytes(data)
    monkeypatch.setattr(compaction, "_FULL_ROWS", 10)
    with Journal(str(tmp_path)) as journal:
        assert journal.paid_by("run-1").calls == 20
        journal.compact()
        assert journal.stats().records == 20
    assert len(segments(tmp_path)) == 1


def test_segments_without_a_record_are_merged_into_nothing(
    tmp_path: Path, record: MakeRecord, segments: Segments
) -> None:
    empty = LARGE.encode(with_header(SCHEMA.empty_table()))
    for sequence in range(2):
        stored(tmp_path, empty, LARGE, sequence)
    with Journal(str(tmp_path)) as journal:
        assert journal.compact() == 2
        assert journal.stats().ignored == {}
    assert segments(tmp_path) == []


def test_a_large_batch_is_parquet_from_the_start(record: MakeRecord) -> None:
    small, large = [record(1)], [record(1, text="x" * MAX_ARROW_BYTES)]
    assert encode(with_header(to_table(small)))[1] is ARROW
    assert encode(with_header(to_table(large)))[1] is LARGE
    assert encode(with_header(to_table(small)), is_final=True)[1] is PACKED


def test_the_format_is_told_by_the_name_alone() -> None:
    for suffix in (".parquet", ".signed.parquet", ".arrows", ".signed.arrows"):
        name = f"seg-w-00000001-{'a' * 32}{suffix}"
        parsed = SegmentName.parse(name)
        assert parsed is not None
        assert str(parsed) == name
        assert parsed.is_signed == ("signed" in suffix)
    assert SegmentName.parse(f"seg-w-00000001-{'a' * 32}.arrow.gz") is None


# -- hostile


def refused(tmp_path: Path, data: bytes, sequence: int = 0) -> str:
    """Why a journal ignores an Arrow segment of these bytes, beside a sound one which it serves."""
    victim = stored(tmp_path, data, ARROW, sequence)
    with Journal(str(tmp_path)) as journal:
        journal.get_many([bytes(32)])
        ignored = dict(journal.stats().ignored)
    victim.unlink()
    assert set(ignored) == {victim.name}
    return ignored[victim.name]


def test_a_checksum_is_verified_before_anything_is_parsed(
    tmp_path: Path, table: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = ARROW.encode(table)
    victim = stored(tmp_path, data, ARROW)
    victim.write_bytes(data[:-1] + b"\1")
    monkeypatch.setattr(ARROW, "decode", lambda _: pytest.fail("it was parsed"))
    with Journal(str(tmp_path)) as journal:
        journal.get_many([bytes(32)])
        assert list(journal.stats().ignored.values()) == ["content differs from its checksum"]


def test_an_arrow_stream_cut_anywhere_is_refused_whole(tmp_path: Path, table: pa.Table) -> None:
    data = ARROW.encode(table)
    assert len(ARROW.decode(data)) == 40
    end = len(data) - 8  # the mark of its end, without which nothing is missing
    for length in [0, 1, 4, 8, *range(64, end, 997), end - 1]:
        with pytest.raises(BadSegmentError):
            ARROW.decode(data[:length])
    assert refused(tmp_path, data[: len(data) // 2])


def test_flipped_bits_under_a_recomputed_checksum_never_crash(
    tmp_path: Path, record: MakeRecord, table: pa.Table
) -> None:
    """Either it is refused with a reason, or it is a table of our schema whose every value can be read."""
    sound, chance = ARROW.encode(table), random.Random(7)
    outcomes = {"refused": 0, "served": 0}
    keys = [record(n).key for n in range(40)]
    for _ in range(1500):
        data = bytearray(sound)
        for _ in range(chance.choice([1, 1, 3])):
            # Most of a stream is values; its metadata, where the harm is, comes first.
            data[chance.randrange(len(data) if chance.random() < 0.3 else 3500)] ^= 1 << chance.randrange(8)
        try:
            decoded = ARROW.decode(bytes(data))
            assert decoded.schema.equals(SCHEMA)
            decoded.to_pylist()
            outcomes["served"] += 1
        except BadSegmentError:
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 50, outcomes
    for sequence in range(20):
        data = bytearray(sound)
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        victim = stored(tmp_path, bytes(data), ARROW, sequence)
        with Journal(str(tmp_path)) as journal:
            journal.get_many(keys)
            journal.records_of(keys)
            journal.bill_of("run-0")
            journal.compact()
        victim.unlink(missing_ok=True)


def test_offsets_out_of_range_are_refused(tmp_path: Path, table: pa.Table) -> None:
    data = ARROW.encode(table)
    lengths = [len(text) for text in table.column("text").to_pylist()]
    offsets = struct.pack("<3i", 0, lengths[0], lengths[0] + lengths[1])
    place = data.index(offsets)
    for wrong in (2**31 - 1, -1, -(2**31), lengths[0] + 10**6):
        crafted = bytearray(data)
        crafted[place + 4 : place + 8] = struct.pack("<i", wrong)
        assert "unreadable" in refused(tmp_path, bytes(crafted))


def test_lengths_beyond_the_file_are_refused(tmp_path: Path, table: pa.Table) -> None:
    data = ARROW.encode(table)
    rows = struct.pack("<q", table.num_rows)
    places = [k for k in range(0, len(data) - 8, 8) if data[k : k + 8] == rows]
    assert len(places) > 10, "the batch's length and its columns'"
    for wrong in (2**62, -1, 10**6, 41):
        crafted = data
        for place in places:
            crafted = crafted[:place] + struct.pack("<q", wrong) + crafted[place + 8 :]
        assert refused(tmp_path, crafted)
    body = struct.pack("<i", 2**31 - 1)
    assert refused(tmp_path, data[:4] + body + data[8:]), "a schema of 2 GiB"


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_a_compressed_stream_is_refused_before_it_is_unpacked(
    tmp_path: Path, record: MakeRecord, monkeypatch: pytest.MonkeyPatch, codec: str
) -> None:
    bomb = with_header(to_table([record(n, text="\0" * 2**20) for n in range(64)]))
    data = stream(bomb, compression=codec)
    assert len(data) < MAX_ARROW_BYTES
    monkeypatch.setattr(pa.ipc, "read_record_batch", lambda *_: pytest.fail("it was unpacked"))
    assert "compressed" in refused(tmp_path, data)


def test_an_older_metadata_version_is_refused(table: pa.Table) -> None:
    with pytest.raises(BadSegmentError, match="compressed"):
        ARROW.decode(stream(table, metadata_version=pa.ipc.MetadataVersion.V4))


@pytest.mark.parametrize(
    "change",
    [
        lambda table: table.drop_columns(["attempts"]),
        lambda table: table.append_column("extra", pa.nulls(table.num_rows, pa.string())),
        lambda table: table.replace_schema_metadata(None),
        lambda table: table.set_column(0, "key", pa.array(range(table.num_rows))),
        lambda table: table.set_column(5, "model", table.column("model").dictionary_encode()),
    ],
    ids=["a column less", "a column more", "no header", "another type", "a dictionary"],
)
def test_a_stream_of_another_schema_is_refused(
    tmp_path: Path, table: pa.Table, change: Callable[[pa.Table], pa.Table]
) -> None:
    assert refused(tmp_path, stream(change(table)))


def test_two_batches_in_one_stream_are_refused(tmp_path: Path, table: pa.Table) -> None:
    assert refused(tmp_path, stream(pa.concat_tables([table, table]))) == "not one batch of records"


def test_nulls_where_none_may_be_are_refused(tmp_path: Path, table: pa.Table) -> None:
    for name, kind in (("key", pa.binary(32)), ("input_tokens", pa.int64()), ("run_id", pa.string())):
        place = table.column_names.index(name)
        nulls = table.set_column(place, table.schema.field(name), pa.nulls(table.num_rows, kind))
        assert "null" in refused(tmp_path, stream(nulls))


def test_a_stream_larger_than_ours_is_not_even_read(
    tmp_path: Path, record: MakeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    from apwa_dask.store.local_folder import LocalFolder

    monkeypatch.setattr(LocalFolder, "read", lambda *_: pytest.fail("it was read"))
    large = ARROW.encode(with_header(to_table([record(1, text="x" * MAX_ARROW_BYTES)])))
    assert "larger" in refused(tmp_path, large)


@FORMATS
@pytest.mark.parametrize(
    ("name", "value"),
    [("input_tokens", -1), ("attempts", -(2**63)), ("text_raw", b"\xff\xfe")],
)
def test_values_that_no_record_has_cost_only_their_own_segment(
    tmp_path: Path, record: MakeRecord, table: pa.Table, form: SegmentFormat, name: str, value: object
) -> None:
    field = SCHEMA.field(name)
    values = pa.array([value] * table.num_rows, field.type)
    wrong = table.set_column(table.column_names.index(name), field, values)
    stored(tmp_path, form.encode(wrong), form)
    sound = [record(100 + n) for n in range(5)]
    with Journal(str(tmp_path)) as journal:
        for item in sound:
            journal.put(item)
    keys = [record(n).key for n in range(40)] + [item.key for item in sound]
    with Journal(str(tmp_path)) as journal:
        assert set(journal.get_many(keys)) == {item.key for item in sound}
        assert len(journal.stats().ignored) == 1


@FORMATS
@pytest.mark.parametrize("header", [b"{", b"7", b"[1]", b'{"a": 1}'])
def test_a_header_that_cannot_be_read_costs_only_its_own_segment(
    tmp_path: Path, table: pa.Table, form: SegmentFormat, header: bytes
) -> None:
    metadata = {**table.schema.metadata, b"apwa.replaces": header}
    victim = stored(tmp_path, form.encode(table.replace_schema_metadata(metadata)), form)
    with Journal(str(tmp_path)) as journal:
        assert journal.get_many([bytes(32)]) == {}
        assert journal.bill_of("run-0").num_rows == 0
        assert journal.stats().ignored == {victim.name: "its header cannot be read"}


@pytest.mark.parametrize("served", [range(40), range(0, 40, 3), []], ids=["all", "some", "none"])
def test_the_keys_of_a_batch_are_those_that_its_segment_would_tell(
    record: MakeRecord, served: Sequence[int]
) -> None:
    records = [record(n, outcome="ok" if n in served else "refused") for n in range(40)]
    known, read = keys_of_batch(records, 7), keys_of(with_header(to_table(records)), 7)
    assert known.prefixes.tolist() == read.prefixes.tolist()
    assert known.rows.tolist() == read.rows.tolist() == list(served)
    assert (known.prefixes.dtype, known.rows.dtype) == (read.prefixes.dtype, read.rows.dtype)
    assert (known.row_count, known.decoded_bytes, known.replaces) == (40, 7, ())


def test_bills_are_summed_alike_whether_many_segments_are_read_at_once_or_few(
    tmp_path: Path, record: MakeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Journal(str(tmp_path)) as journal:
        for number in range(40):
            journal.put(record(number, run_id=f"run-{number % 3}", outcome="ok" if number % 2 else "refused"))
            journal.flush()
    bills = []
    for most in (1, 7, 1000):
        monkeypatch.setattr(library, "_SUMMED_AT_ONCE", most)
        with Journal(str(tmp_path)) as journal:
            lines = [journal.bill_of(f"run-{number}").sort_by("outcome").to_pylist() for number in range(4)]
            bills.append((lines, journal.paid_by("run-1")))
    assert bills[0] == bills[1] == bills[2]
    assert [line["records"] for line in bills[0][0][0]] == [7, 7]
    assert bills[0][0][3] == []
