"""Shared by the tests that are named after the fault matrix: the invariants, a model, a key to look for."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import pytest

import apwa_dask as apwa
from apwa_dask.testing import ScriptedServer

_NAME = "tests_faults_invariants"
pytest.register_assert_rewrite(_NAME)
_SPEC = importlib.util.spec_from_file_location(_NAME, Path(__file__).with_name("invariants.py"))
assert _SPEC is not None
assert _SPEC.loader is not None
_MODULE = importlib.util.module_from_spec(_SPEC)
sys.modules[_NAME] = _MODULE
_SPEC.loader.exec_module(_MODULE)


class ModelAt(Protocol):
    def __call__(self, server: ScriptedServer, **fields: Any) -> apwa.Model: ...


@pytest.fixture
def invariants() -> ModuleType:
    """I1 to I7 (`invariants.py` beside this file)."""
    return _MODULE


@pytest.fixture
def model_at(canary_key: str) -> ModelAt:
    """The model at a scripted server; its key is the canary of I6, in the environment only."""

    def make(server: ScriptedServer, **fields: Any) -> apwa.Model:
        given = {"api_key_env": "APWA_TEST_KEY", **fields}
        return apwa.Model("test-model", base_url=server.base_url, **given)

    return make
