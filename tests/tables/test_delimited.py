"""Delimited files: dialects found from the data, nothing lost, nothing silently cast."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from apwa_dask.errors import SourceError
from apwa_dask.tables import read_partition
from apwa_dask.tables.readers.dialect import sniff


def _rows(one, whole, path: Path, content: str | bytes, **options: object) -> list[dict[str, object]]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return whole(one(path, **options)).to_pylist()


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_found(delimiter, tmp_path, one, whole) -> None:
    content = "name,note\nann,likes; tabs\nbob,and | bars\n".replace(",", delimiter)
    rows = _rows(one, whole, tmp_path / "a.csv", content)
    assert [row["name"] for row in rows] == ["ann", "bob"]


def test_commas_of_prose_do_not_hide_the_delimiter(tmp_path, one, whole) -> None:
    lines = [f"{n}\tone, two, three, four{', five' * (n % 3)}" for n in range(30)]
    rows = _rows(one, whole, tmp_path / "a.csv", "id\ttext\n" + "\n".join(lines))
    assert rows[2] == {"id": 2, "text": "one, two, three, four, five, five"}


def test_types_are_found_and_codes_stay_text(tmp_path, one, whole) -> None:
    content = (
        "whole,part,flag,day,moment,instant,code,money,mixed\n"
        '1,1.5,true,2024-02-29,2024-02-29 10:00,2024-02-29T10:00:00Z,007,"1,000",1\n'
        '-2,2e3,FALSE,2023-01-01,2023-01-01T00:00:01,2023-01-01T00:00:00+02:00,012,"2,000",x\n'
    )
    (tmp_path / "t.csv").write_text(content)
    schema = one(tmp_path / "t.csv").manifest.schema
    assert schema.types == [
        pa.int64(),
        pa.float64(),
        pa.bool_(),
        pa.date32(),
        pa.timestamp("us"),
        pa.timestamp("us", tz="UTC"),
        pa.string(),
        pa.string(),
        pa.string(),
    ]
    row = whole(one(tmp_path / "t.csv")).to_pylist()[1]
    assert row["part"] == 2000.0
    assert row["instant"].isoformat() == "2022-12-31T22:00:00+00:00"
    assert row["code"] == "012"


def test_numbers_that_a_double_cannot_hold_stay_text(tmp_path, one) -> None:
    (tmp_path / "a.csv").write_text("id,card\n12345678901234567890,0.12345678901234567890\n")
    assert one(tmp_path / "a.csv").manifest.schema.types == [pa.string(), pa.string()]


def test_dates_that_do_not_exist_are_text(tmp_path, one) -> None:
    (tmp_path / "a.csv").write_text("day\n2023-02-28\n2023-02-30\n")
    assert one(tmp_path / "a.csv").manifest.schema.types == [pa.string()]


def test_null_words_are_missing_in_numbers_and_text_in_text(tmp_path, one, whole) -> None:
    rows = _rows(one, whole, tmp_path / "a.csv", "n,name\n1,NA\nNA,Null\n,ann\n")
    assert [row["n"] for row in rows] == [1, None, None]
    assert [row["name"] for row in rows] == ["NA", "Null", "ann"]


def test_quoted_cells_keep_delimiters_quotes_and_line_ends(tmp_path, one, whole) -> None:
    content = 'a,b\r\n"x, ""y""","two\r\nlines"\r\nplain,5" disk\r\n'
    assert _rows(one, whole, tmp_path / "a.csv", content) == [
        {"a": 'x, "y"', "b": "two\r\nlines"},
        {"a": "plain", "b": '5" disk'},
    ]


def test_unbalanced_quotes_do_not_swallow_rows(tmp_path, one, whole) -> None:
    lines = ["ham\thello", 'spam\t"win now', "ham\tok", 'ham\tsaid "yes', 'spam\t"free" prize', "ham\tbye"]
    rows = _rows(one, whole, tmp_path / "a.tsv", "\n".join(lines) + "\n")
    assert [f"{row['column_1']}\t{row['column_2']}" for row in rows] == lines


@pytest.mark.parametrize(
    ("content", "names", "count"),
    [
        ("id,name\n1,ann\n2,bob\n", ["id", "name"], 2),
        ("1,ann\n2,bob\n", ["column_1", "column_2"], 2),
        ("red,apple\nred,cherry\ngreen,pear\n", ["column_1", "column_2"], 3),
        ("region,2019,2020\nnorth,5,6\nsouth,7,8\n", ["region", "2019", "2020"], 2),
        ("name\nann\n", ["name"], 1),
        ("# exported 2024\n\nid,name\n1,ann\n", ["id", "name"], 1),
    ],
)
def test_the_header_is_found(content, names, count, tmp_path, one, whole) -> None:
    (tmp_path / "a.csv").write_text(content)
    table = whole(one(tmp_path / "a.csv"))
    assert table.column_names == names
    assert table.num_rows == count


def test_what_the_user_says_wins(tmp_path, one, whole) -> None:
    assert len(_rows(one, whole, tmp_path / "a.csv", "id,name\n1,ann\n", header=False)) == 2
    assert _rows(one, whole, tmp_path / "b.csv", "a;b,c\n1;2,3\n", delimiter=";")[0] == {"a": 1, "b,c": "2,3"}
    assert _rows(one, whole, tmp_path / "c.csv", "naïve\né\n".encode("cp850"), encoding="cp850") == [
        {"naïve": "é"}
    ]


def test_ragged_rows_lose_nothing_and_are_reported(tmp_path, one, whole) -> None:
    path = tmp_path / "a.csv"
    rows = _rows(one, whole, path, "id,name,note\n1,ann\n2,bob,x,surplus,cells\n3,eve,y\n")
    assert rows == [
        {"id": 1, "name": "ann", "note": None, "_extra": None},
        {"id": 2, "name": "bob", "note": "x", "_extra": "surplus,cells"},
        {"id": 3, "name": "eve", "note": "y", "_extra": None},
    ]
    reason = one(path).report.files[0].reason
    assert "1 row(s) shorter" in reason
    assert "1 row(s) longer" in reason


def test_blank_and_repeated_names_are_made_unique_ignoring_case(tmp_path, one) -> None:
    (tmp_path / "a.csv").write_text("id,,ID,name,_apwa_row\n1,2,3,x,5\n4,5,6,y,7\n")
    source = one(tmp_path / "a.csv")
    assert source.manifest.schema.names == ["id", "column_2", "ID_2", "name", "_apwa_row_2"]
    assert "'ID' is called 'ID_2'" in source.report.files[0].reason


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
@pytest.mark.parametrize("partition_rows", [2, 1000])
def test_encodings_with_several_bytes_a_character_are_cut_safely(
    encoding, partition_rows, tmp_path, one, whole
) -> None:
    content = "id,text\n" + "".join(f'{n},"línea {n}\nzwei"\n' for n in range(30))
    rows = _rows(one, whole, tmp_path / "a.csv", content.encode(encoding), partition_rows=partition_rows)
    assert rows == [{"id": n, "text": f"línea {n}\nzwei"} for n in range(30)]


def test_old_macintosh_line_ends_are_line_ends(tmp_path, one, whole) -> None:
    rows = _rows(one, whole, tmp_path / "a.csv", "id,x\r1,one\r2,two\r", partition_rows=1)
    assert rows == [{"id": 1, "x": "one"}, {"id": 2, "x": "two"}]


def test_a_bad_byte_is_one_cells_damage_and_is_reported(tmp_path, one, whole) -> None:
    good = "id,text\n" + "".join(f"{n},größe {n}\n" for n in range(9000))
    content = ("x" * 0 + good).encode() + b"9000,bad \xff byte\n"
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    source = one(path, encoding="utf-8")
    texts = whole(source).column("text").to_pylist()
    assert texts[:9000] == [f"größe {n}" for n in range(9000)]
    assert texts[9000] == "bad \ufffd byte"
    assert "1 line(s) hold bytes that are not utf-8" in source.report.files[0].reason


def test_a_later_value_that_does_not_fit_names_file_row_column_and_fix(tmp_path, one) -> None:
    content = "id,score\n" + "".join(f"{n},{n}\n" for n in range(200)) + "200,secret-text\n"
    (tmp_path / "late.csv").write_text(content)
    manifest = one(tmp_path / "late.csv", infer_bytes=500).manifest
    assert manifest.schema.field("score").type == pa.int64()
    with pytest.raises(SourceError) as caught:
        read_partition(manifest, 0)
    message = str(caught.value)
    assert "late.csv, row 200 (from 0), column 'score'" in message
    assert 'schema={"score": "string"}' in message
    assert "secret" not in message
    again = one(tmp_path / "late.csv", infer_bytes=500, schema={"score": "string"}).manifest
    assert read_partition(again, 0).column("score")[200].as_py() == "secret-text"


def test_a_cell_of_ten_megabytes_is_read(tmp_path, one, whole) -> None:
    big = "lorem ipsum " * 900_000
    rows = _rows(one, whole, tmp_path / "a.csv", f'id,text\n1,"{big}"\n2,small\n')
    assert [len(row["text"]) for row in rows] == [len(big), 5]


def test_sniffing_does_not_look_at_a_line_that_the_sample_cuts() -> None:
    dialect = sniff("a,b\n1,2\n3,4\n5", complete=False)
    assert (dialect.delimiter, dialect.width, dialect.header) == (",", 2, ("a", "b"))
