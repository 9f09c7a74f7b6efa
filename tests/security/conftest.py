"""A key to look for, and a model that uses it."""

from __future__ import annotations

from typing import Any, Protocol

import pytest

import apwa_dask as apwa
from apwa_dask.testing import ScriptedServer


class ModelAt(Protocol):
    def __call__(self, server: ScriptedServer, **fields: Any) -> apwa.Model: ...


@pytest.fixture
def model_at(canary_key: str) -> ModelAt:
    """The model at a scripted server; its key is the canary, in the environment only."""

    def make(server: ScriptedServer, **fields: Any) -> apwa.Model:
        given = {"api_key_env": "APWA_TEST_KEY", **fields}
        return apwa.Model("test-model", base_url=server.base_url, **given)

    return make
