"""The store on S3: a moto server in a process of its own, reached through s3fs as users do."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

from apwa_dask.errors import StoreError
from apwa_dask.store.commit import CommitRecord
from apwa_dask.store.folder import open_folder
from apwa_dask.store.journal import Journal, Record
from apwa_dask.store.runs import RunStatus, RunStore

MakeRecord = Callable[..., Record]


@pytest.fixture
def options(s3_options: dict[str, Any]) -> dict[str, Any]:
    """Storage options for the S3 server."""
    return s3_options


@pytest.fixture
def bucket(bucket: str) -> str:
    """A fresh store."""
    return f"{bucket}/store"


def test_the_journal_keeps_and_serves_on_s3(bucket: str, options: dict[str, Any], record: MakeRecord) -> None:
    records = [record(n) for n in range(40)]
    with (
        Journal(bucket, storage_options=options) as first,
        Journal(bucket, storage_options=options) as second,
    ):
        for n, item in enumerate(records):
            (first if n % 2 else second).put(item)
            if n % 10 == 9:
                first.flush()
                second.flush()
        assert len(first.get_many([item.key for item in records])) == 40
        assert second.compact() == 8
        first.refresh()
        assert first.stats().segments == 1
        assert len(first.get_many([item.key for item in records])) == 40
        assert first.purge("run-1").records == 40
    with Journal(bucket, storage_options=options) as journal:
        assert journal.get_many([item.key for item in records]) == {}


def test_commits_have_one_winner_on_s3(bucket: str, options: dict[str, Any]) -> None:
    run = RunStore(bucket, options).create("run-1", {"name": "n"})
    table = pa.table({"a": [1, 2]})
    records = [CommitRecord("s", 0, n, run.write_part("s", 0, n, table)) for n in range(4)]
    start = threading.Barrier(4)
    winners: list[CommitRecord] = []

    def race(item: CommitRecord) -> None:
        start.wait()
        winners.append(run.commit("s", 0, item))

    threads = [threading.Thread(target=race, args=[item]) for item in records]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(winners) == 4
    assert len(set(winners)) == 1
    assert run.read_part(winners[0]).equals(table)
    import s3fs

    assert len(s3fs.S3FileSystem(**options).find(f"{bucket}/runs/run-1/data")) == 1


def test_a_run_lives_and_dies_on_s3(bucket: str, options: dict[str, Any]) -> None:
    store = RunStore(bucket, options)
    run = store.create("run-1", {"name": "n"})
    with run.claim("owner") as lease:
        lease.heartbeat()
        run.append_history("started")
        assert run.status is RunStatus.RUNNING
        with pytest.raises(StoreError):
            RunStore(bucket, options).open("run-1").claim("second")
    assert run.begin_attempt("s", 0) == 1
    run.finish({"rows": 1})
    assert [item.status for item in store.list()] == [RunStatus.DONE]
    store.purge("run-1")
    assert store.list() == []


def test_fault_52_no_answer_comes_from_a_cached_listing(bucket: str, options: dict[str, Any]) -> None:
    cached = RunStore(bucket, {**options, "use_listings_cache": True}).create("run-1", {})
    assert cached.committed("s") == {}
    other = RunStore(bucket, {**options, "skip_instance_cache": True}).open("run-1")
    for partition in range(2):
        part = other.write_part("s", partition, 1, pa.table({"a": [1]}))
        other.commit("s", partition, CommitRecord("s", partition, 1, part))
        assert list(cached.committed("s")) == list(range(partition + 1))
    assert other.append_history("a") == 0
    assert cached.append_history("b") == 1
    assert cached.attempts_of("s", 0) == 0
    other.begin_attempt("s", 0)
    assert cached.attempts_of("s", 0) == 1


def test_credentials_are_nowhere_in_the_bucket(
    bucket: str, options: dict[str, Any], record: MakeRecord
) -> None:
    import s3fs

    with Journal(bucket, storage_options=options) as journal:
        journal.put(record(1))
    RunStore(bucket, options).create("run-1", {}).append_history("started", url=bucket)
    filesystem = s3fs.S3FileSystem(**options)
    names = filesystem.find(bucket)
    assert len(names) == 3
    assert not any(b"CANARY" in filesystem.cat_file(name) for name in names)


def test_a_server_that_cannot_put_if_absent_is_refused_before_anything_is_written(
    bucket: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import s3fs

    put = s3fs.S3FileSystem._pipe_file

    async def ignoring_the_condition(self: Any, path: str, data: bytes, **settings: Any) -> Any:
        return await put(self, path, data, **{**settings, "mode": "overwrite"})

    monkeypatch.setattr(s3fs.S3FileSystem, "_pipe_file", ignoring_the_condition)
    with pytest.raises(StoreError) as refused:
        RunStore(bucket, {**options, "skip_instance_cache": True}).create("run-1", {})
    assert refused.value.code == "STORE-CONDITIONAL"
    assert s3fs.S3FileSystem(**options).find(bucket) == []


def test_fault_53_an_unreachable_store_is_said_without_secrets(
    options: dict[str, Any], record: MakeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apwa_dask.store.trouble.BASE_S", 0.0)
    nowhere = {
        **options,
        "endpoint_url": "http://127.0.0.1:9",
        "config_kwargs": {"retries": {"max_attempts": 0}, "connect_timeout": 1},
    }
    journal = Journal("s3://bucket/store", storage_options=nowhere, flush_s=3600)
    journal.put(record(1))
    with pytest.raises(StoreError) as refused:
        journal.flush()
    assert "CANARY" not in str(refused.value)
    assert journal.unflushed == 1
    journal._behind._buffer.clear()
    journal.close()


def test_fault_53_a_wrong_bucket_is_said_at_once(options: dict[str, Any]) -> None:
    with pytest.raises(StoreError):
        RunStore("s3://no-such-bucket/store", options).create("run-1", {})


def test_a_lost_answer_to_our_own_put_is_not_taken_for_a_defeat(
    bucket: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The put succeeds, its answer is lost, and the client's own retry is told that the object exists."""
    import s3fs

    folder = open_folder(bucket, options)
    folder.put_if_absent("first", b"1")
    put = s3fs.S3FileSystem._pipe_file
    lost = []

    async def answer_lost(self: Any, path: str, data: bytes, **settings: Any) -> Any:
        lost.append(path)
        await put(self, path, data, **settings)
        return await put(self, path, data, **settings)

    monkeypatch.setattr(s3fs.S3FileSystem, "_pipe_file", answer_lost)
    # s3fs binds its methods when an instance is made, so the patched ones need a fresh instance.
    folder = open_folder(bucket, {**options, "skip_instance_cache": True})
    assert folder.put_if_absent("second", b"ours") == b"ours"
    assert folder.put_if_absent("first", b"2") == b"1"
    assert f"{bucket.removeprefix('s3://')}/second" in lost
