"""Faults 59 to 61 of the matrix: planners that invent, planners that break off, agents that never end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import pandas as pd
import pytest

import apwa_dask as apwa
from apwa_dask.agents import capabilities
from apwa_dask.errors import ApwaError, PlanError
from apwa_dask.testing import ChatRequest, Fault, On, ScriptedServer
from apwa_dask.testing.obedient import obey, order

FRAME = pd.DataFrame({"text": ["the tent leaks", "a fine tent"], "stars": [1, 5]})
QUESTION = "Which reviews are complaints?"
GOOD = {"op": "filter", "input": "reviews", "instruction": "It is a complaint", "inputs": ["text"]}
INVENTED: dict[str, tuple[dict[str, Any], str]] = {
    "column": ({**GOOD, "inputs": ["txt"]}, "did you mean 'text'"),
    "column-in-sql": ({"op": "where", "input": "reviews", "condition": "star < 3"}, "did you mean 'stars'"),
    "table": ({"op": "limit", "input": "review", "n": 1}, "did you mean 'reviews'"),
    "operation": ({"op": "fliter", "input": "reviews", "instruction": "x", "inputs": ["text"]}, "filter"),
    "model": ({**GOOD, "model": "gpt-99"}, "model"),
    "tool": ({"op": "map", "input": "reviews", "instruction": "x", "inputs": ["text"], "tools": ["web_search"],
              "output": [{"name": "a", "type": "string"}]}, "web_search"),
    "function": ({"op": "where", "input": "reviews", "condition": "soundex(text) = 'x'"}, "soundex"),
    "field": ({**GOOD, "temperature": 0.3}, "temperature"),
}  # fmt: skip


def is_planning(body: dict[str, Any]) -> bool:
    return QUESTION in orjson.dumps(body["messages"]).decode()


def data_calls(server: ScriptedServer) -> int:
    """Calls about rows, the planner's not among them."""
    return sum(not is_planning(call.body) for call in server.log().calls)


def drafts(*steps: dict[str, Any]) -> Callable[[ChatRequest], Any]:
    """A planner that gives these drafts in turn, each of one step; the last one for ever."""

    def respond(request: ChatRequest) -> Any:
        if not is_planning(request.body):
            return None  # an honest answer
        return {"refusal": None, "steps": [{"reason": "", **steps[min(request.turn, len(steps) - 1)]}]}

    return respond


def reviews() -> apwa.Table:
    return apwa.from_pandas(FRAME, name="reviews")


@pytest.mark.parametrize("what", INVENTED)
def test_fault_59_what_a_planner_invents_is_told_to_it_and_then_to_the_user_before_any_row_is_asked_about(
    scripted_server, model_at, canary_key, invariants, tmp_path, what
):
    draft, words = INVENTED[what]
    server = scripted_server(respond=drafts(draft), in_process=True)
    with pytest.raises(PlanError) as refused:
        apwa.ask(QUESTION, reviews(), model=model_at(server), store=str(tmp_path), progress=False)

    assert server.calls == 3, "the draft, and two rounds to mend it"
    assert words in server.log().calls[1].messages[-1]["content"], (
        "the planner is told what is wrong, with the candidates"
    )
    assert words in str(refused.value)
    assert "load_plan" in refused.value.fix
    assert "no row was sent to a model" in refused.value.saved
    assert data_calls(server) == 0
    assert not list((tmp_path / "runs").glob("*")), "no run was begun"
    invariants.i6_the_key_is_nowhere(canary_key, [str(refused.value), tmp_path])


@pytest.mark.parametrize("what", INVENTED)
def test_fault_59_a_draft_that_was_mended_runs(scripted_server, model_at, store, what):
    server = scripted_server(respond=drafts(INVENTED[what][0], GOOD), in_process=True)
    run = apwa.ask(QUESTION, reviews(), model=model_at(server), store=store, progress=False)
    run.wait()
    assert len(server.log().calls) == 2 + data_calls(server)
    assert data_calls(server) == len(FRAME)


@pytest.mark.parametrize("kind", ["hang", "disconnect", "reset", "empty_body", "broken_json"])
def test_fault_60_a_planner_that_never_ends_gives_an_error_and_no_plan(
    scripted_server, model_at, store, quick_retries, kind
):
    server = scripted_server(
        respond=drafts(GOOD), in_process=True, faults=(Fault(kind, on=On(prompt=QUESTION)),)
    )
    model = model_at(server, timeout_s=0.3)
    with pytest.raises(ApwaError):
        apwa.ask(QUESTION, reviews(), model=model, store=store, progress=False)
    assert server.calls >= 1
    assert data_calls(server) == 0


@pytest.mark.parametrize("says_so", [True, False])
def test_fault_60_no_part_of_a_plan_that_was_cut_off_ever_runs(scripted_server, model_at, store, says_so):
    faults = (Fault("length", on=On(prompt=QUESTION)),) if says_so else ()
    whole = {
        "refusal": None,
        "steps": [{"reason": "", **GOOD}, {"reason": "", "op": "limit", "input": "#1", "n": 1}],
    }
    text = orjson.dumps(whole).decode()

    def respond(request: ChatRequest) -> Any:
        return text if says_so else text[: text.index('{"reason":"","op":"limit"')]

    server = scripted_server(respond=respond, in_process=True, faults=faults)
    with pytest.raises(PlanError) as refused:
        apwa.ask(QUESTION, reviews(), model=model_at(server), store=store, progress=False)
    assert "planner" in str(refused.value)
    assert all(call.status == 200 for call in server.log().calls)
    assert data_calls(server) == 0


def test_fault_61_an_agent_that_loops_on_tools_ends_within_its_caps_and_spoils_only_its_row(
    scripted_server, model_at, canary_key, invariants, store, monkeypatch
):
    monkeypatch.setattr(capabilities, "_registry", {})
    ran = []

    @apwa.capability
    def again(word: str) -> str:
        """Say it again."""
        ran.append(word)
        return word

    frame = pd.DataFrame({"text": ["row 0", order("CALL", "again", word="x"), "row 2"]})
    server = scripted_server(respond=obey, in_process=True)
    table = apwa.from_pandas(frame).map("say", inputs="text", output={"a": int}, tools=["again"])

    run = table.run(model=model_at(server), store=store, progress=False)
    result = invariants.hold(run, server, frame, canary=canary_key)

    steps = table.plan().plan.steps[0].contract.limits.steps
    assert result["_apwa_status"].tolist() == ["ok", "tool_error", "ok"]
    assert len(server.log().matching(r"\[\[CALL")) == steps
    assert len(ran) == steps
    assert f"after {steps} steps" in run.failures.iloc[0]["message"]
