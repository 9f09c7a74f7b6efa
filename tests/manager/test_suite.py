"""The planner queries end to end: question, plan, run, answer; every row's own answer is the gold one.

Queries that read many rows run with ``make planner`` (``APWA_PLANNER=all``).
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

import apwa_dask as apwa
from apwa_dask.errors import RefusalError
from apwa_dask.testing import ChatRequest, Script, ScriptedServer

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.planner_gold import DATA, QUERIES, gold_answers, tables_of  # noqa: E402
from benchmarks.planner_scoring import is_right  # noqa: E402

pytestmark = pytest.mark.skipif(not QUERIES, reason=f"the shared data are not at {DATA}")

MANY_ROWS = {"sms-count", "bib-pairs", "bib-venues", "pii-redact", "pii-cards", "pii-chats"}
EVERY = os.environ.get("APWA_PLANNER") == "all"
REFUSED = {"trap-no-column": 1, "trap-empty": 0}
"""Calls to the planner before it refuses."""


@pytest.fixture(scope="module")
def server() -> Any:
    with ScriptedServer(in_process=True) as started:
        yield started


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query["id"])
def test_every_answer_is_right_when_the_answers_about_rows_are(
    query: dict[str, Any], server: Any, drafts: Any, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if query["id"] in MANY_ROWS and not EVERY:
        pytest.skip("reads many rows: make planner")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-only-for-loopback")
    gold = gold_answers(query)

    def respond(request: ChatRequest) -> str:
        asks_for_a_plan = request.schema is not None and "steps" in request.schema["properties"]
        return json.dumps(drafts[query["id"]]) if asks_for_a_plan else gold(request)

    server.set(Script(respond=respond))
    server.reset()
    model = apwa.Model("m", base_url=server.base_url, max_output_tokens=32_000)
    if query["id"] in REFUSED:
        with pytest.raises(RefusalError):
            apwa.plan(query["query"], model=model, store=store, **tables_of(query))
        assert server.calls == REFUSED[query["id"]]
        return
    planned = apwa.plan(query["query"], model=model, store=store, **tables_of(query))
    assert server.calls == 1
    run = planned.run(model=model, store=store, progress=False)
    assert is_right(query, run.result())
    assert set(run.failures["outcome"]) <= {"bad_input"}, "only rows without any text are not read"
    if not query["needs_llm"]:
        assert server.calls == 1, "no data call"


def test_all_kinds_of_answers_are_told_from_wrong_ones() -> None:
    import pandas as pd

    wrong = pd.DataFrame(
        {name: ["nothing of it"] for name in ("id", "file", "category", "redacted", "summary")}
    )
    for query in QUERIES:
        if query["answer_type"] not in ("refusal", "cells_file", "pairs_file"):
            assert not is_right(query, wrong), query["id"]
