"""The rows under way in one process are bounded, in number and in bytes."""

from __future__ import annotations

import threading
from typing import Any

import pandas as pd
import pytest

import apwa_dask as apwa
from apwa_dask.execution import pipeline
from apwa_dask.execution.window import Seat, Window


class Watched(Window):
    """Remembers the most that was under way at once, over all partitions."""

    def __init__(self, **bounds: int) -> None:
        super().__init__(**bounds)
        self.seats: list[Seat] = []
        self.most_rows = self.most_bytes = 0

    def seat(self) -> Any:
        return _Watching(self, super().seat())

    def look(self) -> None:
        self.most_rows = max(self.most_rows, sum(seat.rows for seat in self.seats))
        self.most_bytes = max(self.most_bytes, sum(seat.size_bytes for seat in self.seats))


class _Watching:
    lock = threading.Lock()

    def __init__(self, window: Watched, inner: Any) -> None:
        self.window, self.inner = window, inner

    def __enter__(self) -> Seat:
        seat: Seat = self.inner.__enter__()
        watching = self

        class Seen(Seat):
            __slots__ = ()

            def enter(self, size_bytes: int) -> None:
                super().enter(size_bytes)
                with watching.lock:
                    watching.window.look()

        seen = Seen(self.window)
        with self.lock:
            self.window.seats.append(seen)
        assert seat.rows == 0
        return seen

    def __exit__(self, *exc: object) -> None:
        self.inner.__exit__(*exc)


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> Any:
    def make(**bounds: int) -> Watched:
        window = Watched(**bounds)
        monkeypatch.setattr(pipeline, "WINDOW", window)
        return window

    return make


def run(server: Any, store: str, texts: list[str], npartitions: int = 1) -> pd.DataFrame:
    table = apwa.from_pandas(pd.DataFrame({"text": texts}), npartitions=npartitions)
    model = apwa.Model("m", base_url=server.base_url, max_concurrency=512)
    mapped = table.map("x", inputs="text", output={"n": int})
    return mapped.run(model=model, store=store, progress=False).wait().result()


def test_no_more_rows_are_under_way_than_the_window_holds(
    scripted_server: Any, canary_key: Any, tmp_path: Any, narrow: Any
) -> None:
    window = narrow(rows=128)
    result = run(scripted_server(), str(tmp_path), [f"row {k}" for k in range(700)], npartitions=2)
    assert len(result) == 700
    assert result["text"].tolist() == [f"row {k}" for k in range(700)]
    assert 64 <= window.most_rows <= 128 + 64, "the second partition joins when the first has begun"


def test_large_rows_are_under_way_a_few_at_a_time_and_one_too_large_goes_alone(
    scripted_server: Any, canary_key: Any, tmp_path: Any, narrow: Any
) -> None:
    window = narrow(rows=1000, size_bytes=100_000)
    texts = [f"{k} " + "word " * (40_000 if k == 5 else 4_000) for k in range(20)]
    server = scripted_server()
    result = run(server, str(tmp_path), texts)
    assert len(result) == 20
    assert server.calls == 20
    assert window.most_bytes <= 300_000
    assert window.most_rows <= 5


def test_partitions_at_work_at_once_share_rows_and_bytes_and_leave_them_to_each_other() -> None:
    window = Window(rows=1000, size_bytes=1000)
    with window.seat() as first:
        assert (first.room_rows, first.room_bytes) == (1000, 1000)
        first.enter(300)
        with window.seat() as second:
            assert (second.room_rows, second.room_bytes) == (500, 500)
            assert (first.room_rows, first.room_bytes) == (499, 200)
        assert (first.room_rows, first.room_bytes) == (999, 700)
        first.leave(300)
        assert (first.room_rows, first.room_bytes) == (1000, 1000)
