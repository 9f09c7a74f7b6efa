"""One gate for an endpoint, a key and a model: whoever calls in this process waits in the same line."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pandas as pd
import pytest

import apwa_dask as apwa
from apwa_dask.execution.loop import run_sync
from apwa_dask.execution.runtime import runtime
from apwa_dask.models.gate import Gate
from apwa_dask.testing import ChatRequest, Script

WAIT_S = 60.0
FILTER = {
    "reason": "asked",
    "op": "filter",
    "input": "reviews",
    "instruction": "It leaks",
    "inputs": ["text"],
}
PLAN = {"refusal": None, "steps": [{**FILTER, "unit": "row"}]}


def respond(request: ChatRequest) -> str:
    asked = (request.schema or {}).get("properties", {})
    return json.dumps(PLAN if "steps" in asked else {"severity": 1})


def reviews(*texts: str) -> apwa.Table:
    return apwa.from_pandas(pd.DataFrame({"text": list(texts)}), name="reviews")


async def held(model: apwa.Model) -> Gate:
    """The gate of a model in this process, with its only slot taken."""
    gate = (await runtime().endpoints.lane(model)).gate
    await gate.acquire()
    return gate


async def released(gate: Gate) -> None:
    gate.release()


def until_so_many_wait(gate: Gate, count: int) -> None:
    deadline, ticker = time.monotonic() + WAIT_S, threading.Event()
    while gate.waiting < count:
        assert time.monotonic() < deadline, (
            f"{gate.waiting} calls wait, not {count}: another gate let one through"
        )
        ticker.wait(0.005)


def test_a_run_a_preview_and_the_planner_pass_through_one_gate(
    scripted_server: Any, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-only-for-loopback")
    server = scripted_server(Script(respond=respond, latency_s=0.05), in_process=True)
    model = apwa.Model("m", base_url=server.base_url, max_concurrency=1)
    severity = {"inputs": "text", "output": {"severity": int}}
    warm = dataclasses.replace(
        model, temperature=1.0
    )  # another way to ask, and the same endpoint, key and model
    gate = run_sync(held(model))
    with ThreadPoolExecutor(2) as pool:
        try:
            run = (
                reviews("of the run")
                .map("severity", **severity)
                .run(model=model, store=store, progress=False)
            )
            until_so_many_wait(gate, 1)
            tried = reviews("of the preview").map("severity", **severity).plan()
            preview = pool.submit(tried.preview, 1, model=model, store=store)
            until_so_many_wait(gate, 2)
            drafted = pool.submit(
                apwa.plan, "Which leak?", reviews=reviews("of the plan"), model=warm, store=store
            )
            until_so_many_wait(gate, 3)
            assert (server.calls, gate.waiting, gate.in_flight) == (0, 3, 1)
        finally:
            run_sync(released(gate))
        assert list(run.result()["severity"]) == list(preview.result()["severity"]) == [1]
        assert [step.op for step in drafted.result().plan.steps] == ["filter"]
    assert (server.calls, server.max_in_flight) == (3, 1)
    assert (gate.waiting, gate.in_flight, gate.answers) == (0, 0, 3)
    assert [known for known in runtime().endpoints.gates() if known.key == gate.key] == [gate]
