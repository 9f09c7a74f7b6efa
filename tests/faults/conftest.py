"""Shared by the tests that are named after the fault matrix: the invariants, a model, a key to look for."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import pytest

import apwa_dask as apwa
from apwa_dask.models.retry import RetryPolicy
from apwa_dask.testing import ScriptedServer


def _beside(name: str) -> ModuleType:
    """A module of this folder, which is no package: tests are imported one by one."""
    full_name = f"tests_faults_{name}"
    pytest.register_assert_rewrite(full_name)
    spec = importlib.util.spec_from_file_location(full_name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[full_name] = module
    spec.loader.exec_module(module)
    return module


_MODULE = _beside("invariants")
_PROCESSES = _beside("processes")
_S3_PROXY = _beside("s3_proxy")


class ModelAt(Protocol):
    def __call__(self, server: ScriptedServer, **fields: Any) -> apwa.Model: ...


@pytest.fixture
def invariants() -> ModuleType:
    """I1 to I7 (`invariants.py` beside this file)."""
    return _MODULE


@pytest.fixture(scope="session")
def processes() -> ModuleType:
    """Schedulers, workers and programs as real processes (`processes.py` beside this file)."""
    return _PROCESSES


@pytest.fixture(scope="session")
def s3_proxy() -> ModuleType:
    """An S3 endpoint with bad days (`s3_proxy.py` beside this file)."""
    return _S3_PROXY


@pytest.fixture
def model_at(canary_key: str) -> ModelAt:
    """The model at a scripted server; its key is the canary of I6, in the environment only."""

    def make(server: ScriptedServer, **fields: Any) -> apwa.Model:
        given = {"api_key_env": "APWA_TEST_KEY", **fields}
        return apwa.Model("test-model", base_url=server.base_url, **given)

    return make


@pytest.fixture
def workers_model(model_at: ModelAt, processes: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModelAt:
    """As `model_at`, with the key that the processes of a module's cluster have in their own environment."""

    def make(server: ScriptedServer, **fields: Any) -> apwa.Model:
        made = model_at(server, **fields)
        monkeypatch.setenv("APWA_TEST_KEY", processes.KEY)
        return made

    return make


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real number of attempts without the real waits between them, in this process."""
    monkeypatch.setattr(RetryPolicy.__init__, "__defaults__", _without_waits())


def _without_waits() -> tuple[Any, ...]:
    short = {"base_s": 0.01, "cap_s": 0.02}
    return tuple(short.get(field.name, field.default) for field in fields(RetryPolicy))
