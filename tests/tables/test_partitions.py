"""Partitions: whatever their size, the same rows in the same order with the same ids and one schema."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.feather
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apwa_dask.errors import SourceError
from apwa_dask.tables import ROW_ID, read_partition, read_sources
from apwa_dask.tables.packing import FEW_ROWS, MANY_PARTITIONS, coalesce, coalesced_rows
from apwa_dask.tables.pieces import Partition, Piece, Slice

ROWS = 137
FORMATS = ["parquet", "arrow", "arrows", "csv", "tsv", "json", "jsonl"]

cells = st.text(
    alphabet=st.one_of(
        st.sampled_from('",;\t|\n \ufeff\x85a1'),  # what dialects, line ends and byte-order marks are made of
        st.characters(blacklist_categories=["Cs"], blacklist_characters="\r\x00"),
    ),
    max_size=20,
)
tables = st.lists(st.tuples(st.integers(-(10**9), 10**9), cells), min_size=1, max_size=40)


def _write(path: Path, kind: str, table: pa.Table) -> str:
    target = path / f"data.{kind}"
    if kind == "parquet":
        pq.write_table(table, target, row_group_size=50)
    elif kind == "arrow":
        pyarrow.feather.write_feather(table, target, chunksize=30)
    elif kind == "arrows":
        target = path / "data.ipc"
        with pyarrow.ipc.new_stream(target, table.schema) as writer:
            writer.write_table(table, max_chunksize=30)
    elif kind == "json":
        target.write_text(json.dumps(table.to_pylist()), "utf-8")
    elif kind == "jsonl":
        target.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()), "utf-8")
    else:
        with target.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream, delimiter="\t" if kind == "tsv" else ",")
            writer.writerow(table.column_names)
            writer.writerows([list(row.values()) for row in table.to_pylist()])
    return str(target)


@pytest.fixture
def table() -> pa.Table:
    return pa.table(
        {
            "n": pa.array(range(ROWS), pa.int64()),
            "text": pa.array([f'row {n}, "quoted"\nsecond line é' for n in range(ROWS)], pa.string()),
            "maybe": pa.array([None if n % 3 else f"x{n}" for n in range(ROWS)], pa.string()),
        }
    )


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("partition_rows", [1, 7, 50, 10_000])
def test_partitions_joined_are_the_whole_file(kind, partition_rows, table, tmp_path, one, whole) -> None:
    source = one(_write(tmp_path, kind, table), partition_rows=partition_rows)
    assert source.manifest.npartitions >= ROWS / partition_rows
    assert all(partition.rows <= partition_rows for partition in source.manifest.partitions)
    assert whole(source).to_pylist() == table.to_pylist()


@pytest.mark.parametrize("kind", FORMATS)
def test_row_ids_do_not_depend_on_partition_sizes(kind, table, tmp_path, one, whole) -> None:
    url = _write(tmp_path, kind, table)
    few = whole(one(url), row_ids=True)
    many = whole(one(url, partition_rows=4, partition_tokens=60), row_ids=True)
    assert few.column_names[0] == ROW_ID
    assert many.equals(few.combine_chunks()) or many.to_pylist() == few.to_pylist()
    assert few.column(ROW_ID).to_pylist() == [f"0:{row}" for row in range(ROWS)]


def test_row_ids_tell_the_file_when_small_files_share_a_partition(tmp_path, one, whole) -> None:
    for name in "abc":
        (tmp_path / f"{name}.csv").write_text("x,y\n1,one\n2,two\n")
    source = one(tmp_path)
    assert source.manifest.npartitions == 1
    ids = whole(source, row_ids=True).column(ROW_ID).to_pylist()
    assert ids == ["0:0", "0:1", "1:0", "1:1", "2:0", "2:1"]


def test_partitions_are_sized_by_text_as_well_as_by_rows(tmp_path, one) -> None:
    (tmp_path / "long.jsonl").write_text(
        "".join(json.dumps({"text": "word " * 1000}) + "\n" for _ in range(40))
    )
    source = one(tmp_path / "long.jsonl", partition_tokens=10_000)
    assert all(partition.est_tokens <= 10_000 for partition in source.manifest.partitions)
    assert source.manifest.npartitions in (5, 6)  # 40 rows of some 1250 tokens
    assert source.manifest.rows == 40


def test_one_row_longer_than_a_partition_is_alone(tmp_path, one, whole) -> None:
    (tmp_path / "a.csv").write_text("n,text\n1,short\n2," + "word " * 5000 + "\n3,short\n")
    source = one(tmp_path / "a.csv", partition_tokens=100)
    assert [partition.rows for partition in source.manifest.partitions] == [1, 1, 1]
    assert whole(source).column("n").to_pylist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("name", "content"),
    [("e.csv", b"a,b\n"), ("e.jsonl", b'{"a": 1, "b": "x"}\n')],
)
def test_columns_can_be_pruned_and_an_unknown_one_is_named(name, content, tmp_path, one) -> None:
    (tmp_path / name).write_bytes(content)
    manifest = one(tmp_path / name).manifest
    assert read_partition(manifest, 0, columns=["b"]).column_names == ["b"]
    assert read_partition(manifest, 0, columns=["b", "a"]).column_names == ["b", "a"]
    with pytest.raises(SourceError, match="columns: a, b"):
        read_partition(manifest, 0, columns=["c"])


def test_no_columns_at_all_still_count_the_rows(table, tmp_path, one) -> None:
    for kind in ("parquet", "csv", "jsonl"):
        manifest = one(_write(tmp_path, kind, table)).manifest
        ids = read_partition(manifest, 0, columns=[], row_ids=True)
        assert ids.column_names == [ROW_ID]
        assert ids.num_rows == manifest.partitions[0].rows


def test_an_empty_table_has_one_partition_with_the_declared_schema(tmp_path, one) -> None:
    empty = pa.schema([("n", pa.int64()), ("tags", pa.list_(pa.string()))]).empty_table()
    pq.write_table(empty, tmp_path / "empty.parquet")
    source = one(tmp_path / "empty.parquet")
    assert source.manifest.npartitions == 1
    assert read_partition(source.manifest, 0).schema.equals(empty.schema)
    assert [row.status for row in source.report] == ["empty"]


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    rows=tables,
    partition_rows=st.integers(1, 9),
    kind=st.sampled_from(["csv", "jsonl"]),
    line_end=st.sampled_from(["\n", "\r\n"]),
)
def test_any_text_survives_any_cut(rows, partition_rows, kind, line_end, tmp_path_factory) -> None:
    folder = tmp_path_factory.mktemp("any")
    if kind == "csv":
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator=line_end)
        writer.writerow(["number", "text"])
        writer.writerows(rows)
        (folder / "any.csv").write_text(stream.getvalue(), "utf-8", newline="")
    else:
        lines = [json.dumps({"number": number, "text": text}) + "\n" for number, text in rows]
        (folder / "any.jsonl").write_text("".join(lines), "utf-8")
    sources = read_sources(
        str(folder / f"any.{kind}"),
        partition_rows=partition_rows,
        schema={"text": "string"},
        delimiter=",",
        header=True,
    )
    manifest = next(iter(sources.values())).manifest
    read = [read_partition(manifest, ordinal) for ordinal in range(manifest.npartitions)]
    assert all(part.schema.equals(manifest.schema) for part in read)
    found = [(row["number"], row["text"] or "") for part in read for row in part.to_pylist()]
    assert found == rows


def _partitions(rows: list[int]) -> list[Partition]:
    return [
        Partition(k, (Piece(k, Slice("all"), count, 0),), count, 10 * count) for k, count in enumerate(rows)
    ]


@given(st.lists(st.integers(0, 200), min_size=1, max_size=40), st.integers(1, 120))
@settings(max_examples=60, deadline=None)
def test_joined_partitions_hold_the_same_pieces_in_their_order_and_only_tiny_neighbours(pattern, times):
    given_ones = _partitions(pattern * times)

    joined = coalesce(given_ones)

    assert [piece for one in joined for piece in one.pieces] == [one.pieces[0] for one in given_ones]
    assert [one.ordinal for one in joined] == list(range(len(joined)))
    assert len(joined) >= min(len(given_ones), MANY_PARTITIONS)
    for one in joined:
        assert one.rows == sum(piece.rows for piece in one.pieces)
        assert one.est_tokens == 10 * one.rows
        assert len(one.pieces) == 1 or one.rows <= FEW_ROWS


def test_ten_thousand_partitions_of_a_row_become_some_hundreds_and_a_giant_among_them_stays_alone():
    rows = [1] * 5_000 + [100_000] + [1] * 5_000

    joined = coalesce(_partitions(rows))

    assert len(joined) == 259
    assert [one.rows for one in joined if len(one.pieces) == 1] == [100_000]


def test_few_partitions_stay_as_they_were_asked_for():
    given_ones = _partitions([1] * (2 * MANY_PARTITIONS - 1))
    assert coalesce(given_ones) == tuple(given_ones)


def test_rows_of_a_file_cut_into_single_rows_are_read_as_before_once_they_are_joined(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f'{{"k": {k}}}\n' for k in range(1_500)))
    manifest = next(iter(read_sources(str(path), partition_rows=1).values())).manifest

    joined = manifest.coalesced()

    assert (manifest.npartitions, joined.npartitions) == (1_500, 300)
    tables = [read_partition(joined, k, row_ids=True) for k in range(joined.npartitions)]
    assert [value for table in tables for value in table["k"].to_pylist()] == list(range(1_500))
    ids = [value for table in tables for value in table[ROW_ID].to_pylist()]
    assert ids[:3] == [read_partition(manifest, k, row_ids=True)[ROW_ID][0].as_py() for k in range(3)]
    assert len(set(ids)) == 1_500


@pytest.mark.parametrize(
    ("rows", "npartitions", "expected"),
    [
        (1, 100, 1),
        (1, 511, 1),
        (1, 512, 2),
        (1, 10_000, 39),
        (1, 10**6, 64),
        (10, 1_000, 30),
        (100, 10_000, 100),
    ],
)
def test_what_is_yet_to_be_written_is_cut_as_it_would_be_joined(rows, npartitions, expected):
    assert coalesced_rows(rows, npartitions) == expected
