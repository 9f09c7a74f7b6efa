"""Damage: whatever is broken in a file, reading ends with rows or with a `SourceError`."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import zipfile
from collections.abc import Callable

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
import zstandard

from apwa_dask.errors import SourceError
from apwa_dask.tables import profile_source, read_partition, read_sources

TABLE = pa.table(
    {
        "id": list(range(60)),
        "text": [f"text {n} \u00e9" for n in range(60)],
        "tags": [["a", "b"]] * 60,
        "deep": [{"k": n} for n in range(60)],
    }
)
ROWS = TABLE.to_pylist()


def _parquet() -> bytes:
    sink = io.BytesIO()
    pq.write_table(TABLE, sink, row_group_size=20)
    return sink.getvalue()


def _arrow() -> bytes:
    sink = io.BytesIO()
    pyarrow.feather.write_feather(TABLE, sink)
    return sink.getvalue()


def _csv() -> bytes:
    lines = [f'{row["id"]},"{row["text"]}, quoted",{row["id"] / 2}' for row in ROWS]
    return "\n".join(["id,text,half", *lines]).encode()


def _zip() -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.csv", _csv())
        archive.writestr("b.parquet", _parquet())
    return sink.getvalue()


FILES: dict[str, Callable[[], bytes]] = {
    "a.parquet": _parquet,
    "a.arrow": _arrow,
    "a.csv": _csv,
    "a.csv.gz": lambda: gzip.compress(_csv()),
    "a.csv.zst": lambda: zstandard.ZstdCompressor().compress(_csv()),
    "a.zip": _zip,
    "a.json": lambda: json.dumps(ROWS).encode(),
    "a.jsonl": lambda: "\n".join(map(json.dumps, ROWS)).encode(),
    "a.html": lambda: b"<html><head><title>t</title></head><body>" + b"<p>x</p>" * 50,
    "a.txt": lambda: "zwölf Boxkämpfer".encode() * 30,
}


def _damaged(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.randint(1, 6)):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed[: rng.randrange(1, len(changed))] if rng.random() < 0.4 else changed)


@pytest.mark.parametrize("name", list(FILES))
def test_a_damaged_file_gives_rows_or_a_source_error(name, tmp_path) -> None:
    rng = random.Random(name)
    content = FILES[name]()
    refused = 0
    for _ in range(40):
        (tmp_path / name).write_bytes(_damaged(content, rng))
        try:
            sources = read_sources(str(tmp_path / name), partition_rows=25, documents=rng.random() < 0.3)
            for source in sources.values():
                profile_source(source)
                for ordinal in range(source.manifest.npartitions):
                    table = read_partition(source.manifest, ordinal)
                    assert table.schema.equals(source.manifest.schema)
        except SourceError:
            refused += 1
    if name.endswith((".parquet", ".arrow", ".zip", ".gz", ".zst", ".json")):
        assert refused > 0


def test_damage_found_late_names_the_file(tmp_path) -> None:
    path = tmp_path / "late.parquet"
    pq.write_table(pa.table({"text": [f"{n}" * 50 for n in range(2000)]}), path, compression="gzip")
    manifest = read_sources(str(path))["late"].manifest
    stat = path.stat()
    content = bytearray(path.read_bytes())
    content[100:400] = bytes(300)
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(SourceError, match=r"late\.parquet cannot be read"):
        read_partition(manifest, 0)
