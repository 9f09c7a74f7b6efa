"""What changed in a source is seen and named; what did not keeps its partitions, its place and the ids of its rows."""

from __future__ import annotations

import os
import random
import zipfile
from pathlib import Path

import fsspec
import pytest

from apwa_dask.errors import SourceError
from apwa_dask.tables import Manifest, read_partition, read_sources
from apwa_dask.tables.changes import Changes, changes_of, revised
from apwa_dask.tables.checksums import WHOLE_BYTES


def write(folder: Path, name: str, rows: list[str]) -> None:
    (folder / name).write_text("text\n" + "".join(f"{row}\n" for row in rows))


def read(folder: Path | str, **options: object) -> Manifest:
    return next(iter(read_sources(str(folder), **options).values())).manifest


def rows_of(manifest: Manifest) -> list[str]:
    return [
        row["text"] for k in range(manifest.npartitions) for row in read_partition(manifest, k).to_pylist()
    ]


def ids_of(manifest: Manifest) -> dict[str, str]:
    tables = [read_partition(manifest, k, row_ids=True) for k in range(manifest.npartitions)]
    return {row["_apwa_row"]: row["text"] for table in tables for row in table.to_pylist()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "in"
    made.mkdir()
    for name in "bdf":
        write(made, f"{name}.csv", [f"{name}{k}" for k in range(4)])
    return made


def test_nothing_changed_is_nothing(folder):
    manifest = read(folder)

    assert not changes_of(manifest)
    assert revised(manifest) is manifest


def test_each_kind_of_change_is_named(folder):
    manifest = read(folder)
    write(folder, "b.csv", ["b0"])
    (folder / "d.csv").unlink()
    write(folder, "e.csv", ["e0"])

    found = changes_of(manifest)

    assert found == Changes(("b.csv",), ("d.csv",), ("e.csv",))
    assert str(found) == "changed: b.csv; gone: d.csv; new: e.csv"


def test_a_saved_manifest_sees_changes_in_another_folder_of_work(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    manifest = read("in/*.csv")
    url = manifest.save(str(tmp_path / "kept"))
    monkeypatch.chdir("/")
    loaded = Manifest.load(url)
    assert not changes_of(loaded)
    write(folder, "d.csv", ["new"])

    assert changes_of(loaded).changed == ("d.csv",)
    assert loaded.fingerprint == manifest.fingerprint


@pytest.mark.parametrize("size", [100, WHOLE_BYTES + 300_000])
def test_content_counts_where_size_and_time_are_as_they_were(tmp_path, size):
    file = tmp_path / "a.txt"
    file.write_bytes(b"x" * size)
    manifest = read(file)
    before = file.stat()
    file.write_bytes(b"x" * (size - 1) + b"y")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))

    assert changes_of(manifest).changed == ("a.txt",)


def test_a_member_of_an_archive_changes(tmp_path):
    def packed(rows: list[str]) -> None:
        with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
            archive.writestr("a.csv", "text\none\n")
            archive.writestr("b.csv", "text\n" + "\n".join(rows))

    packed(["two"])
    manifest = read(tmp_path / "all.zip")
    packed(["two", "three"])

    assert changes_of(manifest).changed == ("b.csv",)
    assert rows_of(revised(manifest)) == ["one", "two", "three"]


def test_files_of_other_tables_and_unreadable_ones_are_no_changes(folder):
    (folder / "other.csv").write_text("price,shop\n1,x\n")
    (folder / "broken.parquet").write_bytes(b"PAR1 nothing")
    (folder / "_SUCCESS").write_text("")
    sources = read_sources(str(folder))
    manifest = next(source.manifest for source in sources.values() if "text" in source.manifest.schema.names)
    (folder / "other.csv").write_text("price,shop\n2,y\n")

    assert not changes_of(manifest)


def test_a_new_file_of_another_shape_is_not_taken_in(folder):
    manifest = read(folder)
    (folder / "other.csv").write_text("price,shop\n1,x\n")

    assert rows_of(revised(manifest)) == rows_of(manifest)


def test_a_file_that_cannot_be_read_any_more_is_named(folder):
    manifest = read(folder)
    (folder / "d.csv").write_bytes(b"\x89PNG\r\n\x1a\n broken")

    with pytest.raises(SourceError, match=r"d\.csv"):
        revised(manifest)


def test_values_that_no_longer_fit_the_declared_type_are_refused_by_name(tmp_path):
    (tmp_path / "a.csv").write_text("n\n1\n2\n")
    (tmp_path / "b.csv").write_text("n\n3\n")
    manifest = read(tmp_path, partition_rows=2)
    (tmp_path / "b.csv").write_text("n\nmany\n")

    now = revised(manifest)

    assert now.schema.equals(manifest.schema)
    with pytest.raises(SourceError, match=r"b\.csv"):
        read_partition(now, now.npartitions - 1)


def test_everything_gone_is_an_empty_table(folder):
    manifest = read(folder)
    for file in folder.iterdir():
        file.unlink()

    assert len(changes_of(manifest).gone) == 3
    assert rows_of(revised(manifest)) == []
    assert revised(manifest).npartitions == 1


def test_a_memory_file_system_is_compared_by_time_and_size():
    system = fsspec.filesystem("memory")
    system.pipe("/changes/a.csv", b"text\none\n")
    manifest = read("memory://changes/a.csv")
    assert not changes_of(manifest)
    system.pipe("/changes/a.csv", b"text\nother\n")

    assert changes_of(manifest).changed == ("a.csv",)


@pytest.mark.parametrize("seed", range(40))
def test_after_random_edits_rows_are_those_of_a_fresh_read_and_what_did_not_change_is_kept(tmp_path, seed):
    rng = random.Random(seed)
    folder = tmp_path / "in"
    folder.mkdir()
    names = [f"{name}.csv" for name in "bcdefghijk"]
    for name in names:
        write(folder, name, [f"{name} {k}" for k in range(rng.randint(0, 9))])
    partition_rows = rng.randint(1, 12)
    manifest = read(folder, partition_rows=partition_rows)
    before = ids_of(manifest)
    touched = set()
    for number in range(rng.randint(1, 5)):
        name = rng.choice([*names, "a.csv", "ee.csv", "z.csv"])
        touched.add(name)
        if rng.random() < 0.25 and (folder / name).exists():
            (folder / name).unlink()
        else:
            write(folder, name, [f"{name} {number}.{k}" for k in range(rng.randint(1, 9))])

    now = revised(manifest)

    assert rows_of(now) == rows_of(read(folder, partition_rows=partition_rows))
    assert len(ids_of(now)) == now.rows  # no id twice
    after = ids_of(now)
    untouched = {key for key, text in before.items() if text.split()[0] not in touched}
    assert all(after[key] == before[key] for key in untouched)
    keys = {now.partition_key(k) for k in range(now.npartitions)}
    clean = [
        k
        for k, partition in enumerate(manifest.partitions)
        if partition.pieces and not touched & _between(manifest, k)
    ]
    assert all(manifest.partition_key(k) in keys for k in clean)
    assert all(partition.rows <= partition_rows for partition in now.partitions)
    assert not changes_of(now)


def _between(manifest: Manifest, ordinal: int) -> set[str]:
    """Names from the first to the last file of a partition: a new file may come between them."""
    used = [manifest.files[piece.file].path for piece in manifest.partitions[ordinal].pieces]
    names = [*(f"{name}.csv" for name in "abcdefghijkz"), "ee.csv"]
    return {name for name in names if min(used) <= name <= max(used)}
