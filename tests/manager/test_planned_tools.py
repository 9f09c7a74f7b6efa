"""Planners are told of the built-in tools, in bounded words, and a plan that gives agents some runs end to end."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import jsonschema
import pandas as pd
import pytest

import apwa_dask as apwa
from apwa_dask.agents.builtin import BUILTIN
from apwa_dask.agents.capabilities import Capability
from apwa_dask.errors import PlanError
from apwa_dask.manager import draft_async
from apwa_dask.manager.briefing import describe_tables
from apwa_dask.manager.whole import brief
from apwa_dask.testing import ChatRequest, Script, ScriptedServer

ORDERS = pd.DataFrame(
    {"text": ["Order K2, placed 2026-01-30, is late.", "Order K1, placed 2026-02-01, is fine."]}
)
CUSTOMERS = pd.DataFrame({"order": ["K1", "K2"], "name": ["Ada", "Grace"]})
QUESTION = "Whose order is each, and how many days passed from the order to 2026-03-01?"


def field(name: str, kind: str) -> dict[str, Any]:
    empty = {"nullable": False, "labels": None, "fields": None}
    return {"name": name, "type": kind, "description": f"the {name}", **empty}


def step(**changed: Any) -> dict[str, Any]:
    return {
        "reason": "names stand in another table, and days are reckoned, not guessed",
        "op": "map",
        "input": "orders",
        "instruction": "Look up whose order it is, and reckon the days from its date to 2026-03-01.",
        "inputs": ["text"],
        "output": [field("customer", "string"), field("days", "integer")],
        "unit": "row",
        "tools": ["lookup_rows", "date_difference"],
        "tables": ["customers"],
        **changed,
    }


def agent(request: ChatRequest) -> Any:
    """Looks the order up, then reckons, then answers with what the tools said."""
    told = [
        json.loads(message["content"]) for message in request.body["messages"] if message["role"] == "tool"
    ]
    order = "K2" if "K2" in request.prompt else "K1"
    if not told:
        by = {"table": "customers", "column": "order", "value": order}
        return {"tool_calls": [{"name": "lookup_rows", "arguments": by}]}
    if len(told) == 1:
        start = "2026-01-30" if order == "K2" else "2026-02-01"
        return {
            "tool_calls": [{"name": "date_difference", "arguments": {"start": start, "end": "2026-03-01"}}]
        }
    return {"customer": told[0]["rows"][0]["name"], "days": told[1]["days"]}


def test_a_plan_with_tools_of_a_strong_planner_runs_end_to_end(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-only-for-loopback")
    asked: list[ChatRequest] = []

    def respond(request: ChatRequest) -> Any:
        if request.schema is not None and "steps" in request.schema["properties"]:
            asked.append(request)
            return json.dumps({"refusal": None, "steps": [step()]})
        return agent(request)

    with ScriptedServer(Script(respond=respond), in_process=True) as server:
        model = apwa.Model("m", base_url=server.base_url)
        tables = {"orders": apwa.from_pandas(ORDERS), "customers": apwa.from_pandas(CUSTOMERS)}
        planned = apwa.plan(QUESTION, model=model, store=store, **tables)
        run = planned.run(model=model, store=store, scheduler="sync", progress=False).wait()
        frame, calls = run.result(), server.calls

    (contract,) = (one.contract for one in planned.plan.llm_steps)
    assert (contract.tools, contract.tables) == (("lookup_rows", "date_difference"), ("customers",))
    assert planned.plan.sources == ("orders", "customers")
    assert frame["customer"].tolist() == ["Grace", "Ada"]
    assert frame["days"].tolist() == [30, 28]
    assert calls == 1 + 3 * len(ORDERS), "one plan, and three turns a row"
    (request,) = asked
    for name in BUILTIN:
        assert f"- {name}: " in request.prompt
    jsonschema.validate({"refusal": None, "steps": [step()]}, request.schema)
    for broken in (step(tools=["shell"]), step(tables=["/etc/passwd"]), step(unit="pack(5)"), step(tools=[])):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"refusal": None, "steps": [broken]}, request.schema)


def test_the_prompt_tells_of_tools_in_bounded_words(kit: Any) -> None:
    bare = len(describe_tables(kit.catalog()))
    builtin = len(brief("Which?", kit.catalog(), list(BUILTIN.values()))) - bare
    assert builtin < 2_500
    many = [Capability(f"tool_{n}", "words " * 10_000, len, "pure", "1") for n in range(1_000)]
    told = brief("Which?", kit.catalog(), many)
    assert len(told) - bare < 20_000
    assert "- and 960 more" in told


def test_a_table_is_lent_only_to_an_agent_with_tools_and_only_one_of_the_plan(kit: Any) -> None:
    catalog = kit.catalog(ORDERS, "orders") | kit.catalog(CUSTOMERS, "customers")
    unknown = {"refusal": None, "steps": [step(tables=["nowhere"])]}
    with pytest.raises(PlanError, match="nowhere"):
        asyncio.run(
            draft_async(
                QUESTION,
                catalog,
                kit.strong,
                kit.Planner(lambda request: unknown),
                tools=list(BUILTIN.values()),
            )
        )


def test_small_models_are_offered_no_tools(kit: Any) -> None:
    planner = kit.Planner(
        [{"write": "nothing", "keep": "all", "result": "count", "order": "no"}, {"each": "all rows"}]
    )
    drafted = asyncio.run(
        draft_async(
            "How many reviews are there?", kit.catalog(), kit.small, planner, tools=list(BUILTIN.values())
        )
    )
    assert not drafted.plan.tools
    assert not any(name in str(request.tail) for request in planner.requests for name in BUILTIN)
