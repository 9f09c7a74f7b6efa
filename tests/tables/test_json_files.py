"""JSON and JSON Lines: one type for each place, nothing dropped, strict about what is not JSON."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest

from apwa_dask.errors import SourceError
from apwa_dask.tables import read_partition, read_sources


def _write(path, rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return str(path)


def test_records_objects_and_values_each_make_rows(tmp_path, one, whole) -> None:
    (tmp_path / "records.json").write_text('[{"a": 1}, {"b": "x"}]')
    (tmp_path / "object.json").write_text('{"a": {"b": [1, 2]}}')
    (tmp_path / "values.json").write_text('["x", 1, null]')
    assert whole(one(tmp_path / "records.json")).to_pylist() == [{"a": 1, "b": None}, {"a": None, "b": "x"}]
    assert whole(one(tmp_path / "object.json")).to_pylist() == [{"path": "object.json", "a": {"b": [1, 2]}}]
    assert whole(one(tmp_path / "values.json")).column("value").to_pylist() == ["x", "1", None]


def test_numbers_widen_and_clashes_become_text(tmp_path, one, whole) -> None:
    rows = [{"n": 1, "clash": 1, "deep": {"k": 1}}, {"n": 1.5, "clash": "x", "deep": {"k": [1]}}]
    table = whole(one(_write(tmp_path / "a.jsonl", rows)))
    assert table.schema.field("n").type == pa.float64()
    assert table.column("clash").to_pylist() == ["1", "x"]
    assert table.column("deep").to_pylist() == [{"k": "1"}, {"k": "[1]"}]


def test_objects_with_very_many_keys_are_json_text(tmp_path, one, whole) -> None:
    wide = {"row": {f"k{n}": n for n in range(100)}}
    table = whole(one(_write(tmp_path / "a.jsonl", [wide])))
    assert json.loads(table.column("row")[0].as_py()) == wide["row"]


def test_a_json_file_of_lines_is_read_as_lines(tmp_path, one) -> None:
    source = one(_write(tmp_path / "a.json", [{"a": 1}, {"a": 2}]))
    assert source.report.files[0].format == "jsonl"
    assert source.manifest.rows == 2


def test_a_line_that_is_not_json_fails_the_file_by_line_number(tmp_path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n{"a": private}\n')
    with pytest.raises(SourceError) as caught:
        read_sources(str(tmp_path / "a.jsonl"))
    assert "a.jsonl: line 2 is not valid JSON" in caught.value.why
    assert "private" not in str(caught.value)


@pytest.mark.parametrize("text", ["NaN", "[1,]", "{'a': 1}", "", " ", "[" * 100_000, '{"a":' * 100_000])
def test_what_is_not_json_is_refused_without_a_crash(text, tmp_path) -> None:
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(SourceError, match=r"bad\.json"):
        read_sources(str(tmp_path / "bad.json"))


def test_lone_surrogates_become_replacement_characters(tmp_path, one, whole) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "broken \\ud83d emoji"}\n{"text": "fine"}\n')
    assert whole(one(tmp_path / "a.jsonl")).column("text").to_pylist() == ["broken \ufffd emoji", "fine"]


def test_integers_past_64_bits_are_kept_as_text(tmp_path, one, whole) -> None:
    (tmp_path / "a.jsonl").write_text('{"n": 1}\n{"n": 18446744073709551615}\n')
    assert whole(one(tmp_path / "a.jsonl")).column("n").to_pylist() == ["1", "18446744073709551615"]


def test_integers_that_a_double_cannot_hold_are_not_made_numbers(tmp_path, one, whole) -> None:
    (tmp_path / "a.jsonl").write_text('{"n": 9007199254740993}\n{"n": 1.5}\n')
    (tmp_path / "b.csv").write_text("m\n9007199254740993\n1.5\n")
    assert whole(one(tmp_path / "a.jsonl")).column("n").to_pylist() == ["9007199254740993", "1.5"]
    assert whole(one(tmp_path / "b.csv")).column("m").to_pylist() == ["9007199254740993", "1.5"]


def test_an_object_used_as_a_map_of_ids_is_json_text(tmp_path, one, whole) -> None:
    url = _write(tmp_path / "a.jsonl", [{"seen": {f"id{n}": n}} for n in range(1000)])
    texts = whole(one(url)).column("seen").to_pylist()
    assert texts[:2] == ['{"id0":0}', '{"id1":1}']


def test_a_key_that_the_sample_did_not_have_is_named(tmp_path, one) -> None:
    rows = [{"a": n} for n in range(100)] + [{"a": 1, "late": 2}]
    manifest = one(_write(tmp_path / "a.jsonl", rows), infer_bytes=200).manifest
    with pytest.raises(SourceError, match="'late'") as caught:
        read_partition(manifest, 0)
    assert "row 100" in caught.value.where


def test_a_later_value_of_another_type_names_row_and_column(tmp_path, one) -> None:
    rows = [{"a": n} for n in range(100)] + [{"a": "private"}]
    manifest = one(_write(tmp_path / "a.jsonl", rows), infer_bytes=200).manifest
    with pytest.raises(SourceError, match="'a'") as caught:
        read_partition(manifest, 0)
    assert "row 100" in caught.value.where
    assert "private" not in str(caught.value)


def test_dates_can_be_declared(tmp_path, one, whole) -> None:
    url = _write(tmp_path / "a.jsonl", [{"day": "2024-01-02"}, {"day": None}])
    table = whole(one(url, schema={"day": "date"}))
    assert [str(day) for day in table.column("day").to_pylist()] == ["2024-01-02", "None"]
