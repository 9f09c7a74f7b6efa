"""Stores of each kind, and records to put in them."""

from __future__ import annotations

import hashlib
import secrets
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


@pytest.fixture
def record() -> Callable[..., Record]:
    """``record(7)`` is always the same paid answer; keywords change its fields."""

    def make(number: int, **fields: Any) -> Record:
        key = hashlib.sha256(f"request {number}".encode()).digest()
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
        return Record(key=key, **{**answer, **fields})

    return make


@pytest.fixture
def segments() -> Callable[[Path], list[Path]]:
    """The segment files of a local store, sorted by name."""

    def find(store: Path) -> list[Path]:
        return sorted(store.glob("journal/*/seg-*.parquet"))

    return find
