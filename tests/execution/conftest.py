"""A key, a model at a scripted server, and a thousand small conveniences kept to two."""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import pandas as pd
import pytest

import apwa_dask as apwa
from apwa_dask.testing import ScriptedServer

for _name in ("mortality", "machine"):  # of this folder, which is no package: tests are imported one by one
    _full_name = f"tests_execution_{_name}"
    pytest.register_assert_rewrite(_full_name)
    _spec = importlib.util.spec_from_file_location(_full_name, Path(__file__).with_name(f"{_name}.py"))
    assert _spec is not None
    assert _spec.loader is not None
    sys.modules[_full_name] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules[_full_name])


class ModelAt(Protocol):
    def __call__(self, server: ScriptedServer, **fields: Any) -> apwa.Model: ...


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-only-for-loopback")


@pytest.fixture
def model_at() -> ModelAt:
    """The model at a scripted server."""

    def make(server: ScriptedServer, **fields: Any) -> apwa.Model:
        return apwa.Model("test-model", base_url=server.base_url, **fields)

    return make


class BatchKit:
    """What tests of batch mode say often. ``count`` rows unless another number is given."""

    count = 60

    def __init__(self, model_at: ModelAt, store: str) -> None:
        self._model_at, self._store = model_at, store

    def start(self, table: apwa.Table, server: ScriptedServer, **options: Any) -> apwa.Run:
        """A run in batches at a server."""
        model = self._model_at(server, price=options.pop("price", apwa.Price(1.0, 1.0)))
        settings = {"mode": self.terms(), "store": self._store, "progress": False, "scheduler": "threads"}
        return table.run(model=model, **{**settings, **options})

    @staticmethod
    def terms(**fields: Any) -> apwa.BatchTerms:
        return apwa.BatchTerms(**{"poll_first_s": 0.01, "poll_most_s": 0.1, **fields})

    def rows(self, count: int = count, distinct: int | None = None) -> pd.DataFrame:
        return pd.DataFrame({"text": [f"row {k % (distinct or count)}" for k in range(count)]})

    @staticmethod
    def severities(frame: pd.DataFrame, npartitions: int = 3) -> apwa.Table:
        table = apwa.from_pandas(frame, npartitions=npartitions)
        return table.map("severity", inputs="text", output={"severity": int})

    @staticmethod
    def lines(server: ScriptedServer) -> Counter[str]:
        """How often each text stood in a line of a batch that was worked on or is at work."""
        return Counter(server.log().lines.texts)

    @staticmethod
    def once(texts: Iterable[str]) -> Counter[str]:
        return Counter(set(texts))


@pytest.fixture
def kit(model_at: ModelAt, store: str) -> BatchKit:
    return BatchKit(model_at, store)
