"""Manifests: saved without pickle, the same content under the same name, one copy a process."""

from __future__ import annotations

import os
from pathlib import Path

import fsspec
import orjson
import pyarrow as pa
import pytest

from apwa_dask.errors import SourceError
from apwa_dask.tables import FileInfo, Layout, Manifest, Partition, Piece, Slice, read_partition
from apwa_dask.tables.packing import pack
from apwa_dask.tables.pieces import Cut, Limits


@pytest.fixture
def manifest(tmp_path, one) -> Manifest:
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text('{"n": 1, "tags": ["x"], "deep": {"k": "v"}}\n' * 30)
    return one(tmp_path, partition_rows=7).manifest


def test_a_manifest_survives_saving(manifest, tmp_path) -> None:
    loaded = Manifest.load(manifest.save(str(tmp_path / "out")))
    assert loaded == manifest
    assert loaded.fingerprint == manifest.fingerprint
    for ordinal in range(manifest.npartitions):
        assert read_partition(loaded, ordinal).equals(read_partition(manifest, ordinal))


def test_saving_twice_gives_the_same_name_and_bytes(manifest, tmp_path) -> None:
    first = manifest.save(str(tmp_path / "one"))
    second = manifest.save(str(tmp_path / "two"))
    assert Path(first).name == Path(second).name
    assert Path(first).read_bytes() == Path(second).read_bytes()


def test_an_exact_name_is_kept_and_any_file_system_works(manifest) -> None:
    url = manifest.save("memory://runs/7/sources/reviews.json")
    assert url == "memory://runs/7/sources/reviews.json"
    assert Manifest.load(url) == manifest
    fsspec.filesystem("memory").rm("/runs", recursive=True)


def test_a_loaded_manifest_is_kept_in_memory_until_the_file_changes(manifest, tmp_path) -> None:
    url = manifest.save(str(tmp_path / "kept.json"))
    assert Manifest.load(url) is Manifest.load(url)
    changed = Manifest(manifest.schema, manifest.partitions[:1], manifest.files, manifest.layouts)
    changed.save(url)
    os.utime(url, (1, 1))
    assert Manifest.load(url) == changed


def test_the_fingerprint_changes_with_files_slices_and_schema(manifest, tmp_path, one) -> None:
    seen = {manifest.fingerprint}
    seen.add(one(tmp_path, partition_rows=8).manifest.fingerprint)
    seen.add(one(tmp_path, partition_rows=7, schema={"n": "string"}).manifest.fingerprint)
    os.utime(tmp_path / "a.jsonl", (1, 1))
    seen.add(one(tmp_path, partition_rows=7).manifest.fingerprint)
    assert len(seen) == 4
    assert one(tmp_path, partition_rows=7).manifest.fingerprint in seen


def test_the_key_of_a_partition_depends_on_its_own_files_only(manifest, tmp_path, one) -> None:
    keys = [manifest.partition_key(ordinal) for ordinal in range(manifest.npartitions)]
    assert len(set(keys)) == len(keys)
    (tmp_path / "z.jsonl").write_text('{"n": 2, "tags": ["y"], "deep": {"k": "w"}}\n')
    os.utime(tmp_path / "b.jsonl", (1, 1))
    after = one(tmp_path, partition_rows=7).manifest
    assert [after.partition_key(ordinal) for ordinal in range(4)] == keys[:4]
    assert after.partition_key(5) != keys[5]


def test_a_hundred_thousand_partitions_fit_into_a_few_megabytes(tmp_path) -> None:
    files = tuple(FileInfo(f"memory://in/{n}.csv", f"{n}.csv", 1000, "", "1", "", 0) for n in range(100))
    partitions = tuple(
        Partition(n, (Piece(n % 100, Slice("bytes", n, n + 1), 1, n),), 1, 1) for n in range(100_000)
    )
    manifest = Manifest(pa.schema([("x", pa.string())]), partitions, files, (Layout("csv"),))
    url = manifest.save(str(tmp_path))
    assert Path(url).stat().st_size < 3_000_000
    assert Manifest.load(url).partitions[99_999] == partitions[99_999]


@pytest.mark.parametrize("content", [b"", b"not json", orjson.dumps({"version": 99})])
def test_a_manifest_that_cannot_be_understood_is_an_error(content, tmp_path) -> None:
    (tmp_path / "bad.json").write_bytes(content)
    with pytest.raises(SourceError, match=r"bad\.json"):
        Manifest.load(str(tmp_path / "bad.json"))
    with pytest.raises(SourceError, match=r"none\.json"):
        Manifest.load(str(tmp_path / "none.json"))


def test_packing_keeps_order_and_limits() -> None:
    cuts = [
        Cut(Slice("all", 0, 1), rows, 0, tokens) for rows, tokens in [(1, 5), (1, 5), (3, 1), (1, 50), (1, 1)]
    ]
    partitions = pack([(0, cuts[:2]), (1, cuts[2:])], Limits(rows=4, tokens=10))
    assert [[piece.rows for piece in partition.pieces] for partition in partitions] == [[1, 1], [3], [1], [1]]
    assert [partition.ordinal for partition in partitions] == [0, 1, 2, 3]
    assert pack([], Limits(1, 1))[0].pieces == ()
