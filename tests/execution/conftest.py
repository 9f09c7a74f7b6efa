"""A key, a model at a scripted server, and a thousand small conveniences kept to two."""

from __future__ import annotations

from typing import Any, Protocol

import pytest

import apwa_dask as apwa
from apwa_dask.testing import ScriptedServer


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
