"""Stores of each kind, and records to put in them."""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from apwa_dask.store.record import Record


@pytest.fixture(params=["local", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A fresh store, on a local disk and in fsspec's memory filesystem in turn."""
    if request.param == "local":
        yield str(tmp_path / "store")
        return
    import fsspec

    place = f"memory://store-{secrets.token_hex(4)}"
    yield place
    filesystem = fsspec.filesystem("memory")
    if filesystem.exists(place):
        filesystem.rm(place, recursive=True)


def make_record(number: int, **fields: Any) -> Record:
    """Always the same paid answer for one number; keywords change its fields."""
    answer: dict[str, Any] = {
        "outcome": "ok",
        "text": f'{{"severity": {number % 5}, "note": "answer {number}"}}',
        "finish_reason": "stop",
        "model": "model-1",
        "input_tokens": 100 + number,
        "output_tokens": 20,
        "cost_usd": 0.001,
        "request_id": f"req-{number}",
        "created_s": 1_700_000_000.0 + number,
        "run_id": "run-1",
        "step_id": "s1",
    }
    return Record(key=hashlib.sha256(f"request {number}".encode()).digest(), **{**answer, **fields})


@pytest.fixture
def record() -> Callable[..., Record]:
    """See `make_record`."""
    return make_record


@pytest.fixture
def wait_until() -> Callable[[Callable[[], bool]], None]:
    """Wait for a condition that another thread makes true; fails after two minutes."""
    ticker = threading.Event()

    def wait(condition: Callable[[], bool]) -> None:
        for _ in range(24_000):
            if condition():
                return
            ticker.wait(0.005)
        pytest.fail("the condition did not come true in time")

    return wait


@pytest.fixture
def segments() -> Callable[[Path], list[Path]]:
    """The segment files of a local store, sorted by name."""

    def find(store: Path) -> list[Path]:
        return sorted(store.glob("journal/*/seg-*"))

    return find
