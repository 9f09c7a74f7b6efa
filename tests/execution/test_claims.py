"""A run belongs to one process at a time: who has lost it stops spending, and says why."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from apwa_dask.errors import StoreError
from apwa_dask.execution.claims import held


class Claimed:
    """A run's folder and its lease; `trouble` is what the next heartbeat meets."""

    def __init__(self, trouble: StoreError | None = None) -> None:
        self.claim_of, self.trouble, self.releases = SimpleNamespace(ttl_s=0.03), trouble, 0
        self.beats = threading.Semaphore(0)

    def claim(self, owner: str, ttl_s: float) -> Any:
        return SimpleNamespace(claim=self.claim_of, heartbeat=self._heartbeat, release=self._release)

    def _heartbeat(self) -> None:
        self.beats.release()
        if self.trouble is not None:
            raise self.trouble

    def _release(self) -> None:
        self.releases += 1


def test_who_has_lost_its_run_is_told_at_once_and_lets_the_other_keep_it() -> None:
    folder: Any = Claimed(StoreError("another process works on this run", code="STORE-FENCED"))
    told, heard = list[str](), threading.Event()

    def on_lost(why: str) -> None:
        told.append(why)
        heard.set()

    with pytest.raises(StoreError, match="another process"), held(folder, "me", on_lost):
        assert heard.wait(30)
    assert told == ["another process works on this run"]
    assert folder.releases == 0


def test_who_keeps_its_run_lets_it_go_at_the_end() -> None:
    folder: Any = Claimed()
    told = list[str]()
    with held(folder, "me", told.append):
        assert folder.beats.acquire(timeout=30)
    assert told == []
    assert folder.releases == 1
