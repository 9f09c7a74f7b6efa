"""Nothing secret is written, nothing private is readable by others, nothing unpickles."""

from __future__ import annotations

import ast
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

import apwa_dask.store
from apwa_dask.errors import StoreError
from apwa_dask.store.commit import CommitRecord
from apwa_dask.store.journal import Journal, Record
from apwa_dask.store.names import default_store, redact
from apwa_dask.store.runs import RunStore

MakeRecord = Callable[..., Record]
ROOM = Path(apwa_dask.store.__file__).parent


def use_everything(url: str, record: MakeRecord, **journal_settings: object) -> None:
    """Leave every kind of file that this room writes."""
    with Journal(url, **journal_settings) as journal:  # type: ignore[arg-type]
        for n in range(3):
            journal.put(record(n, prompt="CANARY-PROMPT of the row"))
            journal.flush()
        journal.compact()
    run = RunStore(url).create("run-1", {"name": "n", "sources": ["s3://key:CANARY-KEY@bucket/x"]})
    run.put_text("sources.json", '["https://u:CANARY-KEY@host/x?X-Amz-Signature=CANARY-KEY&v=1"]')
    run.append_history("started", store="s3://CANARY-KEY@bucket")
    with run.claim("owner") as lease:
        lease.heartbeat()
        number = run.begin_attempt("s", 0)
        part = run.write_part("s", 0, number, pa.table({"a": [1]}))
        failures = run.write_failures("s", 0, number, pa.table({"a": [1]}))
        run.commit("s", 0, CommitRecord("s", 0, number, part, failures))
    run.finish({"inputs": [{"url": "gs://u:CANARY-KEY@b"}]})


def content_of(folder: Path) -> bytes:
    import pyarrow.parquet as pq

    found = b""
    for path in folder.rglob("*"):
        if path.is_file():
            found += path.read_bytes()
            if path.suffix == ".parquet":
                found += str(pq.read_table(path).to_pylist()).encode()
    return found


@pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions")
@pytest.mark.parametrize("mask", [0o000, 0o022])
def test_s20_files_are_0600_and_folders_0700_whatever_the_umask(
    tmp_path: Path, record: MakeRecord, mask: int
) -> None:
    before = os.umask(mask)
    try:
        use_everything(str(tmp_path / "new" / "store"), record)
    finally:
        os.umask(before)
    paths = list(tmp_path.rglob("*"))
    assert len(paths) > 15
    for path in paths:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path


def test_s21_without_prompt_storage_no_prompt_is_written(tmp_path: Path, record: MakeRecord) -> None:
    use_everything(str(tmp_path), record)
    assert b"CANARY-PROMPT" not in content_of(tmp_path)
    assert b"answer 1" in content_of(tmp_path), "the search finds what is there"


def test_prompts_are_kept_where_that_is_asked_for(tmp_path: Path, record: MakeRecord) -> None:
    use_everything(str(tmp_path), record, store_prompts=True)
    assert b"CANARY-PROMPT" in content_of(tmp_path)


def test_s3_no_credential_of_a_url_is_written_or_shown(tmp_path: Path, record: MakeRecord) -> None:
    use_everything(str(tmp_path), record)
    assert b"CANARY-KEY" not in content_of(tmp_path)
    store = RunStore("memory://key:CANARY-KEY@place/store")
    with Journal("memory://key:CANARY-KEY@place/store") as journal:
        shown = repr(store) + repr(journal) + store.url + journal.url + repr(journal.stats())
    assert "CANARY-KEY" not in shown


def test_s3_storage_options_are_refused_in_all_that_is_stored(tmp_path: Path) -> None:
    store = RunStore(str(tmp_path), {"secret": "CANARY"})
    with pytest.raises(StoreError) as refused:
        store.create("run-1", {"sources": [{"storage_options": {"secret": "CANARY"}}]})
    assert refused.value.code == "STORE-SECRET"
    assert "CANARY" not in str(refused.value)
    run = store.create("run-1", {})
    with pytest.raises(StoreError):
        run.finish({"storage_options": {}})


def test_s13_nothing_in_this_room_can_unpickle() -> None:
    banned = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "diskcache"}
    for path in ROOM.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not banned.intersection(name.split(".")[0] for name in names), path
            assert not (isinstance(node, ast.Name) and node.id in {"eval", "exec"}), path


def test_this_room_imports_no_other_room_and_no_dask() -> None:
    for path in ROOM.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [node.module or ""]
            for module in modules:
                assert module.split(".")[0] not in {"dask", "distributed", "pandas", "openai"}, path
                if module.startswith("apwa_dask"):
                    assert module == "apwa_dask.errors" or module.startswith("apwa_dask.store"), path


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://AKIA:secret@b/c", "s3://b/c"),
        ("https://token@host/x", "https://host/x"),
        ("https://h/x?sig=abc&v=1", "https://h/x?sig=***&v=1"),
        ("https://h/x?v=1&X-Amz-Security-Token=abc", "https://h/x?v=1&X-Amz-Security-Token=***"),
        ("write to a@b.example", "write to a@b.example"),
        ("s3://bucket/mail@x", "s3://bucket/mail@x"),
        ("a https://u:p@h b ftp://u:p@h", "a https://h b ftp://h"),
    ],
)
def test_urls_lose_their_secrets_and_other_text_stays(text: str, shown: str) -> None:
    assert redact(text) == shown


def test_the_default_store_is_private_and_can_be_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APWA_STORE", "s3://bucket/store")
    assert default_store() == "s3://bucket/store"
    monkeypatch.delenv("APWA_STORE")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    folder = Path(default_store())
    assert folder.is_relative_to(tmp_path)
    if os.name != "nt":
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
