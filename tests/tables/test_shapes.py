"""Many files, one table: which belong together, how types are unified, what is said about it."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apwa_dask.errors import ConfigError, SourceError
from apwa_dask.tables import read_sources, type_name
from apwa_dask.tables.schema import conform, declared_type, plain_type, unify, unique_names

TYPES = [
    pa.int8(),
    pa.int64(),
    pa.float64(),
    pa.string(),
    pa.bool_(),
    pa.date32(),
    pa.timestamp("us"),
    pa.timestamp("us", tz="UTC"),
    pa.binary(),
    pa.list_(pa.int64()),
    pa.struct([("a", pa.int64())]),
    pa.decimal128(10, 2),
]


def test_numbers_widen_and_a_missing_column_is_null(tmp_path, one, whole) -> None:
    pq.write_table(pa.table({"n": pa.array([1], pa.int8()), "t": ["a"]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"t": ["b"], "n": [2.5], "more": ["m"]}), tmp_path / "b.parquet")
    source = one(tmp_path)
    table = whole(source)
    assert table.schema.types == [pa.float64(), pa.string(), pa.string()]
    assert table.to_pylist() == [
        {"n": 1.0, "t": "a", "more": None},
        {"n": 2.5, "t": "b", "more": "m"},
    ]
    assert any("'more' is missing in 1 of 2 files" in row.reason for row in source.report.files)


def test_types_that_disagree_become_text_and_this_is_said(tmp_path, one, whole) -> None:
    (tmp_path / "a.csv").write_text("id,when\n1,2024-01-01\n2,2024-01-02\n")
    (tmp_path / "b.csv").write_text("id,when\n3,yesterday\n")
    source = one(tmp_path)
    assert whole(source).column("when").to_pylist() == ["2024-01-01", "2024-01-02", "yesterday"]
    assert any(
        "'when' is date or string in different files: read as string" in row.reason for row in source.report
    )


def test_a_column_without_values_in_one_file_takes_its_type_from_the_others(tmp_path, one, whole) -> None:
    (tmp_path / "a.csv").write_text("id,n\n1,\n")
    (tmp_path / "b.csv").write_text("id,n\n2,7\n")
    (tmp_path / "c.jsonl").write_text('{"id": 3, "n": null}\n')
    pq.write_table(pa.table({"id": [4], "n": pa.nulls(1)}), tmp_path / "d.parquet")
    table = whole(one(tmp_path))
    assert table.schema.types == [pa.int64(), pa.int64()]
    assert table.column("n").to_pylist() == [None, 7, None, None]
    assert whole(one(tmp_path / "a.csv")).schema.types == [pa.int64(), pa.string()]


def test_a_nested_value_beside_text_becomes_json_text(tmp_path, one, whole) -> None:
    pq.write_table(pa.table({"id": [1], "v": [{"k": 1}]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"id": [2], "v": ["plain"]}), tmp_path / "b.parquet")
    assert whole(one(tmp_path)).column("v").to_pylist() == ['{"k":1}', "plain"]


def test_encodings_of_parquet_do_not_reach_the_schema(tmp_path, one, whole) -> None:
    table = pa.table(
        {
            "d": pa.array(["x", "y"]).dictionary_encode(),
            "l": pa.array(["a", "b"], pa.large_string()),
            "n": pa.nulls(2),
            "b": pa.array([b"1", b"2"], pa.large_binary()),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    assert whole(one(tmp_path / "a.parquet")).schema.types == [
        pa.string(),
        pa.string(),
        pa.string(),
        pa.binary(),
    ]


def test_different_tables_of_one_folder_get_names_of_their_own(tmp_path) -> None:
    (tmp_path / "2024 sales-EU.csv").write_text("id,amount\n1,2\n")
    (tmp_path / "class.csv").write_text("room,teacher\nA,ann\n")
    sources = read_sources(str(tmp_path))
    assert list(sources) == ["t_2024_sales_eu", "class_"]
    with pytest.raises(KeyError, match="class_"):
        sources["clas"]


def test_declared_columns_and_types_win(tmp_path, one, whole) -> None:
    (tmp_path / "a.csv").write_text("zip,n,x\n10115,1,a\n")
    table = whole(one(tmp_path / "a.csv", schema={"zip": "string", "n": pa.float64()}, columns=["n", "zip"]))
    assert table.to_pylist() == [{"n": 1.0, "zip": "10115"}]
    with pytest.raises(SourceError, match="did you mean 'zip'"):
        read_sources(str(tmp_path / "a.csv"), columns=["zipp"])
    with pytest.raises(ConfigError, match="did you mean 'integer'"):
        read_sources(str(tmp_path / "a.csv"), schema={"n": "intege"})


@given(left=st.sampled_from(TYPES), right=st.sampled_from(TYPES))
def test_unifying_does_not_depend_on_order(left, right) -> None:
    assert unify(left, right).equals(unify(right, left))
    assert unify(unify(left, right), right).equals(unify(left, right))


@given(kind=st.sampled_from(TYPES))
def test_every_type_has_one_of_our_names(kind) -> None:
    names = {"string", "integer", "number", "boolean", "date", "timestamp", "binary", "list", "struct"}
    assert type_name(plain_type(kind)) in names
    assert unify(kind, kind).equals(kind)


@given(st.lists(st.text(max_size=3), max_size=12))
def test_unique_names_are_unique_ignoring_case_and_never_blank(raw) -> None:
    names, _ = unique_names(raw)
    assert len({name.casefold() for name in names}) == len(raw)
    assert all(name.strip() for name in names)


def test_a_cast_that_would_lose_digits_is_refused_by_row() -> None:
    table = pa.table({"n": pa.array([1, 2**53 + 1], pa.int64())})
    schema = pa.schema([("n", declared_type("number"))])
    with pytest.raises(SourceError) as caught:
        conform(table, schema, path="a.parquet", first_row=40)
    assert "row 41" in caught.value.where


def test_folders_named_key_equals_value_are_columns(tmp_path, one, whole) -> None:
    for year, month in ((2023, "x y"), (2024, "__HIVE_DEFAULT_PARTITION__")):
        folder = tmp_path / f"year={year}" / f"month={month.replace(' ', '%20')}"
        folder.mkdir(parents=True)
        pq.write_table(pa.table({"n": [1, 2]}), folder / "part-0.parquet")
    table = whole(one(tmp_path))
    assert table.schema.types == [pa.int64(), pa.int64(), pa.string()]
    assert table.column("year").to_pylist() == [2023, 2023, 2024, 2024]
    assert table.column("month").to_pylist() == ["x y", "x y", None, None]
    assert whole(one(tmp_path / "year=*" / "*" / "*.parquet")).equals(table)
    assert whole(one(tmp_path, columns=["year"])).column("year").to_pylist() == [2023, 2023, 2024, 2024]


def test_columns_are_kept_by_each_table_that_has_them(tmp_path) -> None:
    (tmp_path / "a.csv").write_text("id,amount\n1,2\n")
    (tmp_path / "b.csv").write_text("room,teacher\nA,ann\n")
    sources = read_sources(str(tmp_path), columns=["amount"])
    assert sources["a"].manifest.schema.names == ["amount"]
    assert sources["b"].manifest.schema.names == ["room", "teacher"]


def test_bytes_that_are_not_utf8_in_a_text_column_of_parquet_are_one_cells_damage(
    tmp_path, one, whole
) -> None:
    bad = pa.Array.from_buffers(pa.string(), 2, pa.array([b"fine", b"b\xffd"], pa.binary()).buffers())
    pq.write_table(pa.table({"id": [1, 2], "text": bad}), tmp_path / "a.parquet")
    source = one(tmp_path / "a.parquet")
    assert whole(source).column("text").to_pylist() == ["fine", "b\ufffdd"]
    assert "not UTF-8" in source.report.files[0].reason


def test_the_dtype_noted_in_a_field_survives_and_other_notes_do_not(tmp_path, one) -> None:
    field = pa.field("n", pa.int64(), metadata={"apwa:dtype": "int64", "other": "x"})
    table = pa.Table.from_arrays([pa.array([1])], schema=pa.schema([field]))
    for name in ("a", "b"):
        pq.write_table(table, tmp_path / f"{name}.parquet")
    assert one(tmp_path).manifest.schema.field("n").metadata == {b"apwa:dtype": b"int64"}
