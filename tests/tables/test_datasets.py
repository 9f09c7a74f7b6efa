"""Public data sets as users download them: counts and structure."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa

from apwa_dask.tables import read_sources, type_name


def test_a_tsv_with_stray_quotes_and_no_header_keeps_every_row(shared: Path, one, whole) -> None:
    path = shared / "sms_spam" / "SMSSpamCollection.tsv.gz"
    table = whole(one(path))
    lines = gzip.decompress(path.read_bytes()).decode("utf-8").split("\n")
    expected = [line.rstrip("\r").split("\t") for line in lines if line]
    assert table.num_rows == len(expected) == 5574
    assert [list(row.values()) for row in table.to_pylist()] == expected


def test_nested_json_documents_become_one_table_with_their_paths(shared: Path, one, whole) -> None:
    table = whole(one(shared / "factbook" / "factbook.zip"))
    assert table.num_rows == 69
    gold = [json.loads(line) for line in (shared / "factbook" / "gold.jsonl").read_text("utf-8").splitlines()]
    assert set(table.column("path").to_pylist()) == {row["file"] for row in gold}
    assert type_name(table.schema.field("People and Society").type) == "string"
    assert all(json.loads(text) for text in table.column("People and Society").to_pylist())


def test_a_zip_of_documents_is_read_like_a_folder(shared: Path, one, whole) -> None:
    table = whole(one(shared / "peps" / "peps.zip"))
    assert table.num_rows == 298
    with gzip.open(shared / "peps" / "gold.jsonl.gz", "rt") as stream:
        chars = {row["file"]: row["chars"] for row in map(json.loads, stream)}
    lengths = dict(zip(table["path"].to_pylist(), map(len, table["text"].to_pylist()), strict=True))
    assert lengths == chars


def test_a_chained_url_with_a_pattern_inside_an_archive_gives_the_same(shared: Path, one, whole) -> None:
    archive = shared / "peps" / "peps.zip"
    chained = whole(one(f"zip://*.rst::{archive}"))
    assert chained.equals(whole(one(archive)))
    assert whole(one(f"zip://south-america/*.json::{shared / 'factbook' / 'factbook.zip'}")).num_rows == 14


def test_tables_of_a_relational_folder_stay_apart(shared: Path, whole) -> None:
    sources = read_sources(str(shared / "databases" / "car_dealership"))
    assert set(sources) == {
        "cars",
        "customers",
        "inventory_snapshots",
        "payments_made",
        "payments_received",
        "sales",
        "salespersons",
    }
    sales = sources["sales"].manifest.schema
    assert type_name(sales.field("sale_date").type) in ("date", "timestamp")
    assert sales.field("id").type == pa.int64()


def test_images_keep_their_bytes(shared: Path, whole) -> None:
    sources = read_sources(str(shared / "images"))
    table = whole(sources["images"])
    assert table.num_rows == 8
    for row in table.to_pylist():
        assert row["media"] == (shared / "images" / row["path"]).read_bytes()
