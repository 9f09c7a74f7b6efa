"""A store in trouble: full, slow, refusing or flaky. Fault matrix 43 and 53."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from apwa_dask.errors import StoreError
from apwa_dask.store import local_folder, trouble
from apwa_dask.store.journal import Journal, Record

MakeRecord = Callable[..., Record]
WaitUntil = Callable[[Callable[[], bool]], None]


class Disk:
    """Stands before the disk's write call and fails it on demand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.error: OSError | None = None
        self.failures_left = 0
        self.failures = 0
        self._write = os.write
        monkeypatch.setattr(local_folder.os, "write", self.write)
        monkeypatch.setattr(trouble, "BASE_S", 0.0)

    def fail(self, number: int, times: int = 10**9) -> None:
        self.error, self.failures_left = OSError(number, os.strerror(number)), times

    def mend(self) -> None:
        self.error = None

    def write(self, descriptor: int, data: Any) -> int:
        if self.error is not None and self.failures_left > 0:
            self.failures_left -= 1
            self.failures += 1
            raise self.error
        return self._write(descriptor, data)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def test_fault_43_a_full_disk_is_said_and_nothing_is_lost(
    tmp_path: Path, record: MakeRecord, disk: Disk
) -> None:
    with Journal(str(tmp_path), flush_s=3600) as journal:
        journal.put(record(1))
        disk.fail(errno.ENOSPC)
        with pytest.raises(StoreError) as full:
            journal.flush()
        assert full.value.code == "STORE-FULL"
        assert disk.failures == 1, "a full disk is not hammered"
        assert not list(tmp_path.rglob(".tmp-*")), "no torn file takes up the room that is missing"
        with pytest.raises(StoreError):
            journal.put(record(2))
        assert journal.unflushed == 2
        assert journal.peek(record(2).key) == record(2)
        disk.mend()
        journal.flush()
        journal.put(record(3))
        assert journal.unflushed == 1
    with Journal(str(tmp_path)) as journal:
        assert len(journal.get_many([record(n).key for n in (1, 2, 3)])) == 3


def test_fault_43_the_writer_recovers_by_itself_when_there_is_room_again(
    tmp_path: Path, record: MakeRecord, disk: Disk, wait_until: WaitUntil
) -> None:
    with Journal(str(tmp_path), flush_s=0.01) as journal:
        disk.fail(errno.ENOSPC)
        journal.put(record(1))
        wait_until(lambda: disk.failures >= 2)
        assert journal.unflushed == 1
        disk.mend()
        wait_until(lambda: journal.unflushed == 0)
        journal.put(record(2))


def test_fault_53_transient_errors_are_retried_and_never_seen(
    tmp_path: Path, record: MakeRecord, disk: Disk
) -> None:
    with Journal(str(tmp_path), flush_s=3600) as journal:
        journal.put(record(1))
        disk.fail(errno.EIO, times=4)
        journal.flush()
        assert disk.failures == 4
    with Journal(str(tmp_path)) as journal:
        assert journal.get_many([record(1).key])


def test_fault_53_lost_permission_is_told_apart_and_resumable(
    tmp_path: Path, record: MakeRecord, disk: Disk
) -> None:
    with Journal(str(tmp_path), flush_s=3600) as journal:
        journal.put(record(1))
        disk.fail(errno.EACCES)
        with pytest.raises(StoreError) as denied:
            journal.flush()
        assert denied.value.code == "STORE-DENIED"
        assert disk.failures == 1
        disk.mend()


def test_errors_of_cloud_clients_are_sorted_by_what_helps() -> None:
    def of(name: str, base: type[Exception] = Exception) -> Exception:
        return type(name, (base,), {})("said s3://AKIA:secret@bucket?X-Amz-Signature=0123")

    for name in (
        "ReadTimeoutError",
        "EndpointConnectionError",
        "ServerDisconnectedError",
        "IncompleteReadError",
    ):
        assert trouble.is_transient(of(name)), name
    for name in ("NoCredentialsError", "TokenRetrievalError"):
        assert not trouble.is_transient(of(name)), name
        told = trouble.store_error(of(name), "writing failed", "s3://bucket")
        assert told.code == "STORE-DENIED"
        assert "secret" not in str(told)
        assert "0123" not in str(told)


def test_a_place_that_is_a_file_is_refused_in_words(tmp_path: Path, record: MakeRecord) -> None:
    (tmp_path / "store").write_text("a file")
    journal = Journal(str(tmp_path / "store"), flush_s=3600)
    journal.put(record(1))
    with pytest.raises(StoreError, match="journaled"):
        journal.flush()
    (tmp_path / "store").unlink()
    journal.close()


@pytest.mark.parametrize("url", ["simplecache::s3://bucket/x", "nosuchprotocol://x", "memory://a*"])
def test_urls_that_cannot_be_stores_are_refused(url: str) -> None:
    with pytest.raises(StoreError) as refused:
        Journal(url)
    assert refused.value.code == "STORE-URL"


def test_a_disk_without_hard_links_is_refused_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from apwa_dask.store.runs import RunStore

    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(local_folder.os, "link", no_links)
    with pytest.raises(StoreError) as refused:
        RunStore(str(tmp_path)).create("run-1", {})
    assert refused.value.code == "STORE-LINKS"
