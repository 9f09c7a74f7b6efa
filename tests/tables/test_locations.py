"""Where files are: any file system, archives, patterns, compression; and no secrets kept."""

from __future__ import annotations

import base64
import bz2
import gzip
import lzma
import pickle
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest
import zstandard

from apwa_dask.errors import SourceError
from apwa_dask.tables import Manifest, read_partition, read_sources
from apwa_dask.tables.locate import split_userinfo

CONTENT = b"id,text\n" + b"".join(b"%d,row number %d\n" % (n, n) for n in range(50))
PACKERS = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstandard.ZstdCompressor().compress,
}


@pytest.fixture
def memory():
    system = fsspec.filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()


@pytest.mark.parametrize("suffix", list(PACKERS))
@pytest.mark.parametrize("partition_rows", [7, 1000])
def test_compressed_files_read_like_plain_ones(suffix, partition_rows, tmp_path, one, whole) -> None:
    (tmp_path / "plain.csv").write_bytes(CONTENT)
    (tmp_path / f"packed.csv.{suffix}").write_bytes(PACKERS[suffix](CONTENT))
    packed = whole(one(tmp_path / f"packed.csv.{suffix}", partition_rows=partition_rows))
    assert packed.to_pylist() == whole(one(tmp_path / "plain.csv")).to_pylist()


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_several_compressed_members_are_one_file(suffix, tmp_path, one) -> None:
    pack = PACKERS[suffix]
    (tmp_path / f"a.csv.{suffix}").write_bytes(pack(CONTENT[:100]) + pack(CONTENT[100:]))
    assert one(tmp_path / f"a.csv.{suffix}").manifest.rows == 50


def test_compression_is_known_by_content_too(tmp_path, one) -> None:
    (tmp_path / "a.csv").write_bytes(gzip.compress(CONTENT))
    assert one(tmp_path / "a.csv").manifest.rows == 50


@pytest.mark.parametrize("suffix", list(PACKERS))
def test_a_cut_off_compressed_file_fails_by_name(suffix, tmp_path) -> None:
    (tmp_path / f"cut.csv.{suffix}").write_bytes(PACKERS[suffix](CONTENT)[:-9])
    with pytest.raises(SourceError, match=rf"cut\.csv\.{suffix}"):
        read_sources(str(tmp_path / f"cut.csv.{suffix}"))


def test_memory_and_patterns_and_many_urls(memory, whole) -> None:
    memory.pipe({"/in/a.csv": CONTENT, "/in/b.csv": CONTENT, "/in/deep/c.csv": CONTENT, "/in/d.txt": b"x"})
    assert next(iter(read_sources("memory://in/*.csv").values())).manifest.rows == 100
    assert next(iter(read_sources("memory://in/**/*.csv").values())).manifest.rows == 150
    assert next(iter(read_sources(["memory://in/a.csv", "memory://in/deep"]).values())).manifest.rows == 100
    source = read_sources("memory://in/*.csv")["in_"]
    assert whole(source).column("id").to_pylist() == [*range(50), *range(50)]


def test_a_file_named_twice_is_read_once(memory) -> None:
    memory.pipe({"/in/a.csv": CONTENT})
    assert next(iter(read_sources(["memory://in/a.csv", "memory://in/*.csv"]).values())).manifest.rows == 50


def test_pattern_characters_in_an_existing_name_are_literal(tmp_path, one) -> None:
    (tmp_path / "data [1].csv").write_bytes(CONTENT)
    assert one(tmp_path / "data [1].csv").manifest.rows == 50


def test_nothing_found_says_what_was_looked_for(tmp_path, memory) -> None:
    for url in (
        str(tmp_path / "nope.csv"),
        str(tmp_path / "*.csv"),
        "memory://none/",
        "zip://*.x::/no/such.zip",
    ):
        with pytest.raises(SourceError) as caught:
            read_sources(url)
        assert url in str(caught.value)


def test_hidden_and_marker_files_are_left_out_and_said(tmp_path, one) -> None:
    (tmp_path / "a.csv").write_bytes(CONTENT)
    (tmp_path / "_SUCCESS").write_bytes(b"")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").write_text("x")
    statuses = {row.path: row.status for row in read_sources(str(tmp_path)).report}
    assert statuses == {"a.csv": "ok", "_SUCCESS": "skipped", ".git/config": "skipped"}


def test_a_zip_holds_a_folder_in_which_broken_members_are_named(tmp_path, whole) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("x/one.csv", CONTENT)
        archive.writestr("x/two.csv.gz", gzip.compress(CONTENT))
        archive.writestr("x/bad.parquet", b"PAR1")
    sources = read_sources(str(tmp_path / "a.zip"))
    assert {row.path: row.status for row in sources.report} == {
        "x/one.csv": "ok",
        "x/two.csv.gz": "ok",
        "x/bad.parquet": "failed",
    }
    assert whole(next(iter(sources.values()))).num_rows == 100


def test_a_damaged_zip_fails_by_name(tmp_path) -> None:
    (tmp_path / "bad.zip").write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(SourceError, match=r"bad\.zip"):
        read_sources(str(tmp_path / "bad.zip"))


def test_a_zip_in_memory_is_read_and_found_again_after_it_changed(memory, whole) -> None:
    for rows in (1, 2):
        with memory.open("/a.zip", "wb") as raw, zipfile.ZipFile(raw, "w") as archive:
            archive.writestr("a.csv", b"id,x\n" + b"1,y\n" * rows)
        assert whole(next(iter(read_sources("memory://a.zip").values()))).num_rows == rows


def test_a_file_that_changed_since_it_was_listed_is_refused(tmp_path, one) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(CONTENT)
    manifest = one(path).manifest
    path.write_bytes(CONTENT.replace(b"number", b"n"))
    with pytest.raises(SourceError, match="changed since it was listed"):
        read_partition(manifest, 0)


def test_a_file_that_is_gone_is_named(tmp_path, one) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(CONTENT)
    manifest = one(path).manifest
    path.unlink()
    with pytest.raises(SourceError, match=r"a\.csv cannot be read"):
        read_partition(manifest, 0)


@pytest.mark.parametrize(
    ("url", "clean", "options"),
    [
        (
            "ftp://ann:s%40cret@host/a.csv",
            "ftp://host/a.csv",
            {"ftp": {"username": "ann", "password": "s@cret"}},
        ),
        ("s3://bucket/a@b.csv", "s3://bucket/a@b.csv", {}),
        ("/home/a@b/c.csv", "/home/a@b/c.csv", {}),
        (
            "zip://*::sftp://u:p@h/x.zip",
            "zip://*::sftp://h/x.zip",
            {"sftp": {"username": "u", "password": "p"}},
        ),
    ],
)
def test_user_names_and_passwords_leave_the_url(url, clean, options) -> None:
    assert split_userinfo(url) == (clean, options)


def test_neither_storage_options_nor_contents_are_in_the_manifest(memory, tmp_path) -> None:
    memory.pipe({"/in/a.csv": b"id,text\n1,CANARY-ROW\n"})
    source = read_sources("memory://in/a.csv", storage_options={"token": "CANARY-KEY"})["a"]
    url = source.manifest.save(str(tmp_path))
    loaded = Manifest.load(url)
    plain = gzip.decompress(Path(url).read_bytes())
    for secret in (b"CANARY-KEY", b"CANARY-ROW"):
        assert secret not in plain
        assert secret not in pickle.dumps(loaded)
    assert "CANARY" not in repr(source)


@pytest.fixture
def web(tmp_path):
    """Serve a folder over HTTP on loopback; yields its address and the authorization headers seen."""
    seen: list[str | None] = []

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers.get("Authorization"))
            super().do_GET()

        def log_message(self, *args: object) -> None:
            """Keep the test's output clean."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"127.0.0.1:{server.server_port}", seen
    server.shutdown()
    server.server_close()
    thread.join(timeout=10)


def test_a_web_address_reads_and_keeps_neither_password_nor_signature_in_sight(tmp_path, web, whole) -> None:
    (tmp_path / "a.csv").write_bytes(CONTENT)
    host, seen = web
    source = read_sources(f"http://ann:CANARY@{host}/a.csv?signature=SIGNED")["a"]
    assert whole(source).num_rows == 50
    assert set(seen) == {"Basic " + base64.b64encode(b"ann:CANARY").decode()}
    assert source.manifest.files[0].path == "a.csv"
    assert "CANARY" not in source.manifest.files[0].url
    with pytest.raises(SourceError) as caught:
        read_sources(f"http://ann:CANARY@{host}/none.csv?signature=SIGNED")
    assert "CANARY" not in str(caught.value)
    assert "SIGNED" not in str(caught.value)


def test_a_cache_in_front_of_another_file_system_is_read_through(memory, whole, tmp_path) -> None:
    memory.pipe({"/in/a.csv": CONTENT, "/in/b.csv": CONTENT})
    options = {"simplecache": {"cache_storage": str(tmp_path)}}
    source = next(iter(read_sources("simplecache::memory://in/*.csv", storage_options=options).values()))
    assert whole(source).num_rows == 100
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("url", ["s4://user:secret@bucket/x.csv", "nowhere at all://x.csv"])
def test_an_unknown_protocol_is_refused_in_words(url):
    with pytest.raises(SourceError, match="no file system") as told:
        read_sources(url)
    assert told.value.code == "SOURCE-PROTOCOL"
    assert "secret" not in str(told.value)
