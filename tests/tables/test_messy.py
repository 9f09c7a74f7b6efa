"""Files that people really have: each reads as its manifest says, or fails by name and with a reason."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from apwa_dask.errors import SourceError
from apwa_dask.tables import read_partition, read_sources

FOLDER = Path(os.environ.get("APWA_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data")) / "messy"
MANIFEST = FOLDER / "manifest.jsonl"
CASES: list[dict[str, Any]] = (
    [json.loads(line) for line in MANIFEST.read_text("utf-8").splitlines()] if MANIFEST.exists() else []
)

# Where counting with a plain CSV reader (which the manifest did) and reading the table differ, and why.
ROWS = {
    "csv/frictionless_matrix-with-comment.csv": 4,  # five lines, of which the first names the columns
    "csv/messytables_weird_head_padding.csv": 76,  # nine title lines are no rows
    "csv/messytables_null.csv": 10,  # no header: the first line is a row
}
COLUMNS = {
    "csv/frictionless_matrix-with-comment.csv": 4,  # the comment line alone has one cell
    "csv/messytables_weird_head_padding.csv": 11,  # separated by semicolons, not commas
    "csv/frictionless_defective-rows.csv": 4,  # surplus cells are kept, in column _extra
    "tables/boston311-100-bad.tsv": 30,  # the same
}
REFUSED = {
    "compressed/boston311-100.csv.sz",  # framed snappy
    "parquet/large_string_map.brotli.parquet",  # two cells of 1 GiB
}
READABLE = [case for case in CASES if case["expect"] in ("table", "document")]
BROKEN = [case for case in CASES if case["expect"] == "error"]
EITHER = [case for case in CASES if case["expect"] == "mixed" and not case["file"].endswith(".zip")]

pytestmark = pytest.mark.skipif(not CASES, reason="the shared data sets are not here; set APWA_SHARED_DATA")


def _ids(case: dict[str, Any]) -> str:
    return str(case["file"])


def test_the_collection_is_complete() -> None:
    assert len(CASES) == 118
    assert len(READABLE) + len(BROKEN) + len(EITHER) == 116  # and one empty file, and one archive of 318


@pytest.mark.parametrize("case", READABLE, ids=_ids)
def test_a_readable_file_gives_its_rows_and_columns(case: dict[str, Any], one, whole) -> None:
    source = one(FOLDER / case["file"])
    table = whole(source)
    expected = case.get("rows", case.get("pages", 1))
    assert table.num_rows == ROWS.get(case["file"], expected)
    if "n_columns" in case:
        assert table.num_columns == COLUMNS.get(case["file"], case["n_columns"])
    assert source.report.failed == ()


@pytest.mark.parametrize("case", [case for case in READABLE if "gold" in case], ids=_ids)
def test_cells_are_the_gold_cells(case: dict[str, Any], one, whole) -> None:
    names = list(case["gold"][0])
    table = whole(one(FOLDER / case["file"], schema=dict.fromkeys(names, "string")))
    assert table.column_names == names
    rows = [{name: cell or "" for name, cell in row.items()} for row in table.to_pylist()]
    assert _comparable(rows) == _comparable(case["gold"])


def _comparable(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """Two gold files differ from their files: another telephone number, CRLF where the file has LF."""
    return [
        {name: cell.replace("\r\n", "\n") for name, cell in row.items() if name != "Contact Phone Number"}
        for row in rows
    ]


@pytest.mark.parametrize("case", [case for case in READABLE if case["file"].startswith("text/")], ids=_ids)
def test_legacy_text_is_decoded_like_its_known_encoding(case: dict[str, Any], one, whole) -> None:
    path = FOLDER / case["file"]
    assert whole(one(path)).column("text")[0].as_py() == path.read_bytes().decode(case["encoding"], "replace")


@pytest.mark.parametrize("case", [case for case in READABLE if "chars" in case], ids=_ids)
def test_a_pdf_page_gives_its_text(case: dict[str, Any], one, whole) -> None:
    text = whole(one(FOLDER / case["file"])).column("text")[0].as_py()
    assert abs(len(text) - case["chars"]) <= 0.02 * case["chars"]


@pytest.mark.parametrize("case", BROKEN, ids=_ids)
def test_a_broken_file_fails_by_name_and_reason(case: dict[str, Any]) -> None:
    with pytest.raises(SourceError) as caught:
        read_sources(str(FOLDER / case["file"]))
    assert Path(case["file"]).name in caught.value.why
    assert len(caught.value.why) > len(Path(case["file"]).name) + 10


@pytest.mark.parametrize("case", EITHER, ids=_ids)
def test_a_doubtful_file_reads_or_fails_by_name(case: dict[str, Any], one, whole) -> None:
    if case["file"] in REFUSED:
        with pytest.raises(SourceError, match=Path(case["file"]).name):
            one(FOLDER / case["file"])
    else:
        assert whole(one(FOLDER / case["file"])).num_rows == case["rows"]


def test_an_empty_file_is_said_to_be_empty() -> None:
    with pytest.raises(SourceError) as caught:
        read_sources(str(FOLDER / "csv" / "frictionless_empty.csv"))
    assert "frictionless_empty.csv: no bytes at all" in caught.value.why


def test_json_that_must_parse_parses_and_json_that_must_not_is_refused() -> None:
    report = read_sources(str(FOLDER / "json" / "jsontestsuite.zip")).report
    assert len(report) == 318
    must = {row.path: row for row in report if row.path.startswith("y_")}
    must_not = {row.path: row for row in report if row.path.startswith("n_")}
    assert len(must) == 95
    assert len(must_not) == 188
    assert [path for path, row in must.items() if row.status == "failed"] == []
    assert [path for path, row in must_not.items() if row.status != "failed"] == []
    assert all(row.reason for row in must_not.values())


def test_a_broken_file_does_not_stop_the_others_of_its_folder() -> None:
    sources = read_sources(str(FOLDER / "parquet"))
    failed = {row.path for row in sources.report.failed}
    assert {path for path in failed if path.startswith("bad_")} >= {
        Path(case["file"]).name for case in BROKEN if "/bad_" in case["file"]
    }
    assert "encrypted.parquet" in failed
    assert len(sources.report) == len(list((FOLDER / "parquet").iterdir()))
    for source in sources.values():
        for ordinal in range(source.manifest.npartitions):
            assert read_partition(source.manifest, ordinal).schema.equals(source.manifest.schema)


def test_the_whole_collection_reads_as_one_table_of_documents(one, whole) -> None:
    source = one(FOLDER, documents=True)
    table = whole(source)
    assert table.column_names == ["path", "page", "text", "media"]
    by_path = {row.path: row for row in source.report if row.rows is not None}
    assert table.num_rows == sum(row.rows for row in by_path.values())
