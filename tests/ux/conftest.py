"""What the promises to people share: a key, the five jobs, and an endpoint that counts tokens as it likes."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

import apwa_dask as apwa
from apwa_dask.agents import capabilities
from apwa_dask.testing import Script, ScriptedServer, answers, chat

_NAME = "tests_ux_jobs"
_SPEC = importlib.util.spec_from_file_location(_NAME, Path(__file__).with_name("jobs.py"))
assert _SPEC is not None
assert _SPEC.loader is not None
jobs = importlib.util.module_from_spec(_SPEC)
sys.modules[_NAME] = jobs
_SPEC.loader.exec_module(jobs)


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-only-for-loopback")


@pytest.fixture
def model_at() -> Any:
    """The model at a scripted server, with a price."""

    def make(server: ScriptedServer, **fields: Any) -> apwa.Model:
        return apwa.Model("test-model", base_url=server.base_url, **{"price": apwa.Price(1.0, 4.0), **fields})

    return make


@pytest.fixture(params=list(jobs.JOBS))
def job(request: pytest.FixtureRequest) -> Any:
    """One of the five example jobs."""
    return jobs.JOBS[request.param]


@pytest.fixture
def endpoint(job: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedServer]:
    """A server that answers the job and bills by pieces of words, some with the schema and the tools on the bill."""
    monkeypatch.setattr(answers, "count_tokens", jobs.pieces)
    monkeypatch.setattr(chat, "count_tokens", jobs.pieces)
    note = chat.Desk._note

    def billed(self: Any, call: Any, asked: Any) -> None:
        note(self, call, asked)
        if job.counts_schema:
            for part in (asked.schema, asked.body.get("tools")):
                call.prompt_tokens += jobs.pieces(orjson.dumps(part).decode()) if part else 0

    monkeypatch.setattr(chat.Desk, "_note", billed)
    monkeypatch.setattr(capabilities, "_registry", dict(capabilities._registry))

    @apwa.capability(power="pure")
    def price_in_catalogue(product: str) -> str:
        """Price of a product."""
        return f"{len(product)} USD each, in stock"

    with ScriptedServer(Script(respond=job.answer), in_process=True) as server:
        yield server


@pytest.fixture
def cluster_client() -> Iterator[Any]:
    """A cluster in this process, of one worker with two threads."""
    from distributed import Client

    with Client(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None) as client:
        yield client
