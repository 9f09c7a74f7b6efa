"""What a row may cost, in counts: hops between threads, look-ups, encodings and hashes."""

from __future__ import annotations

import gc
import hashlib
import threading
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

import apwa_dask as apwa
from apwa_dask.execution.collector import spared_collector
from apwa_dask.execution.desk import StageDesk
from apwa_dask.execution.pipeline import FEED_ROWS
from apwa_dask.models import types
from apwa_dask.store.journal import Journal
from apwa_dask.testing import Script

ROWS = 1500


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often the places of the hot path are passed."""
    seen: Counter[str] = Counter()

    def counted(owner: Any, name: str, label: str, size: Callable[..., int] = lambda *_: 1) -> None:
        original = getattr(owner, name)

        def counting(*args: Any, **kwargs: Any) -> Any:
            seen[label] += 1
            seen[f"{label}: size"] += size(*args)
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, counting)

    counted(StageDesk, "submit", "hops to the loop", lambda desk, held, *_: len(held))
    counted(StageDesk, "_ring", "wake-ups of a partition thread")
    counted(Journal, "get_many", "bulk look-ups", lambda journal, keys: len(keys))
    counted(Journal, "peek", "look-ups in memory")
    counted(Journal, "put", "records")
    counted(types.Message, "encode", "messages encoded")

    def sha256(data: bytes = b"") -> Any:
        seen["hashes"] += 1
        return hashlib.sha256(data)

    monkeypatch.setattr(types, "hashlib", SimpleNamespace(sha256=sha256))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-only-for-loopback")
    return seen


def label(server: Any, store: str, texts: list[str]) -> pd.DataFrame:
    model = apwa.Model("test-model", base_url=server.base_url)
    table = apwa.from_pandas(pd.DataFrame({"text": texts})).map(
        "severity", inputs="text", output={"severity": int}
    )
    return table.run(model=model, store=store, scheduler="threads", progress=False).result(status=True)


def test_a_row_costs_one_request_one_record_one_encoding_and_two_hashes(
    scripted_server: Any, store: str, counts: Counter[str]
) -> None:
    server = scripted_server(Script(latency_s=0.05, keep_bodies=False))
    result = label(server, store, [f"complaint {k}" for k in range(ROWS)])

    assert len(result) == ROWS
    assert server.calls == ROWS
    assert counts["records"] == ROWS
    assert counts["look-ups in memory"] == ROWS
    assert counts["bulk look-ups: size"] == ROWS
    constant_messages, per_template = 8, 8
    assert counts["messages encoded"] <= ROWS + constant_messages
    assert counts["hashes"] <= 2 * ROWS + per_template


def test_threads_and_loop_meet_for_many_rows_at_once(
    scripted_server: Any, store: str, counts: Counter[str]
) -> None:
    server = scripted_server(Script(latency_s=0.05, keep_bodies=False))
    label(server, store, [f"complaint {k}" for k in range(ROWS)])

    most = 2 + -(-ROWS // FEED_ROWS)  # the first of them a short one
    assert counts["hops to the loop: size"] == ROWS
    # what is taken before the step's first good answer goes in two parts: a few rows, and then the rest
    assert counts["hops to the loop"] <= 2 * most
    assert counts["bulk look-ups"] <= most
    # 64 answers come within some milliseconds of each other, every 50: never a wake-up for each
    assert counts["wake-ups of a partition thread"] <= ROWS / 4


def test_equal_rows_are_requested_once_and_the_rest_is_shared(
    scripted_server: Any, store: str, counts: Counter[str]
) -> None:
    server = scripted_server(Script(latency_s=0.02, keep_bodies=False))
    result = label(server, store, [f"complaint {k % 300}" for k in range(ROWS)])

    assert len(result) == ROWS
    assert server.calls == 300
    assert counts["records"] == 300


def test_the_second_run_asks_the_journal_and_never_the_loop(
    scripted_server: Any, store: str, counts: Counter[str]
) -> None:
    server = scripted_server(Script(keep_bodies=False))
    texts = [f"complaint {k}" for k in range(300)]
    label(server, store, texts)
    counts.clear()

    label(server, store, texts)

    assert server.calls == 300
    assert counts["hops to the loop"] == 0
    assert counts["records"] == 0


# -- the garbage collector


@pytest.fixture
def thawed() -> Any:
    """Nothing frozen before the test (a run of an earlier test would be a defect, and shows here)."""
    assert gc.get_freeze_count() == 0
    yield
    gc.unfreeze()


def test_the_collector_is_as_before_when_the_last_partition_ends(thawed: None) -> None:
    before, inside = gc.get_threshold(), []
    both = threading.Barrier(2)

    def partition() -> None:
        with spared_collector():
            both.wait(10)
            inside.append((gc.get_threshold()[0], gc.get_freeze_count() > 0))
            both.wait(10)

    threads = [threading.Thread(target=partition) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)

    assert len(inside) == 2
    assert all(young > before[0] and frozen for young, frozen in inside)
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() == 0


def test_what_the_caller_froze_or_set_stays(thawed: None) -> None:
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(0)
    try:
        with spared_collector():
            assert gc.get_threshold()[0] == 0
        assert gc.get_threshold()[0] == 0
        assert gc.get_freeze_count() > 0
    finally:
        gc.set_threshold(*before)


def test_a_row_that_fails_leaves_the_collector_as_it_was(
    thawed: None, scripted_server: Any, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-only-for-loopback")
    server = scripted_server(Script())
    label(server, store, ["one", "", "three"])
    assert gc.get_freeze_count() == 0
