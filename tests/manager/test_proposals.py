"""Plans that change in the user's hands: proposed, priced, accepted or not; looked at before the rest is planned."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd
import pytest

import apwa_dask as apwa
from apwa_dask.errors import ConfigError, PlanError
from apwa_dask.testing import ChatRequest, Script

FRAME = pd.DataFrame(
    {
        "stars": list(range(12)),
        "gold": ["SECRET-GOLD"] * 12,
        "text": [f"ROW-{n} the tent {'leaks' if n % 2 else 'is fine'}" for n in range(12)],
    }
)


def step(op: str, **fields: Any) -> dict[str, Any]:
    return {"reason": "so it is asked", "op": op, "input": "reviews", **fields}


FILTER = step("filter", instruction="It leaks", inputs=["text"], unit="row")
SAY = {
    "name": "what",
    "type": "string",
    "description": "what it says",
    "nullable": False,
    "labels": None,
    "fields": None,
}
MAP = step("map", instruction="Say what", inputs=["text"], unit="row", output=[SAY])
FIRST = {"refusal": None, "steps": [FILTER, {**MAP, "input": "#1"}]}


class Endpoint:
    """One endpoint that is the manager and the workers; plans are said in turn."""

    def __init__(self, server: Any, plans: list[Any]) -> None:
        self.model = apwa.Model("m", base_url=server.base_url)
        self.server, self.plans = server, plans
        self.told: list[str] = []
        server.set(Script(respond=self.respond))

    def respond(self, request: ChatRequest) -> str:
        if request.schema and "steps" in request.schema.get("properties", {}):
            self.told.append(request.prompt)
            return json.dumps(self.plans[len(self.told) - 1])
        if "keep" in request.schema["properties"]:
            return json.dumps({"keep": "leaks" in request.text})
        return json.dumps({"what": "leak"})


@pytest.fixture
def endpoint(scripted_server: Any, monkeypatch: Any) -> Any:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-only-for-loopback")
    return lambda *plans: Endpoint(scripted_server(in_process=True), list(plans))


@pytest.fixture
def table() -> apwa.Table:
    return apwa.from_pandas(FRAME, name="reviews").drop("gold")


def planned(endpoint: Endpoint, table: Any, store: str, **options: Any) -> Any:
    return apwa.plan("What do leaks say?", reviews=table, model=endpoint.model, store=store, **options)


def test_an_edit_is_a_proposal_and_changes_nothing_until_it_is_accepted(
    endpoint: Any, table: Any, store: str
) -> None:
    edited = json.loads(json.dumps(FIRST))
    edited["steps"][0]["instruction"] = "It leaks badly"
    edited["steps"][0]["reason"] = "badly, as told"
    edited["steps"][1]["input"] = "#2"
    edited["steps"].insert(0, step("select", columns=["stars", "text"], rename=[]))
    edited["steps"][1]["input"] = "#1"
    here = endpoint(FIRST, edited)
    before = planned(here, table, store)
    old = before.plan.to_yaml()
    proposal = before.edit("Only what leaks badly.", model=here.model, store=store)
    assert before.plan.to_yaml() == proposal.old.to_yaml() == old
    changed = {change.field for change in proposal.diff}
    assert changed == {"contract.instruction", "reason"}
    assert proposal.reasons == {"filter_1": "badly, as told"}
    assert "It leaks -> It leaks badly" in repr(proposal)
    assert "accept()" in repr(proposal)
    assert "<del>It leaks</del>" in proposal._repr_html_()
    assert proposal.estimate(model=here.model).calls.expected > 0
    assert here.server.calls == 2, "looking at it makes no call"
    after = proposal.accept()
    assert after.plan.step("filter_1").contract.instruction == "It leaks badly"
    assert len(after.run(model=here.model, store=store).result()) == 6


def test_a_hidden_column_is_shown_to_no_planner_that_edits(endpoint: Any, table: Any, store: str) -> None:
    wrong = {"refusal": None, "steps": [step("where", condition="gold = 'x'")]}
    here = endpoint(FIRST, wrong, wrong, wrong)
    before = planned(here, table, store)
    with pytest.raises(PlanError, match="no column 'gold'"):
        before.edit("Use the gold.", model=here.model, store=store)
    assert "SECRET-GOLD" not in "".join(here.told)
    assert '"gold"' not in here.told[1].split("Change wanted")[0]


def test_a_static_plan_is_not_revised(endpoint: Any, table: Any, store: str) -> None:
    here = endpoint(FIRST)
    before = planned(here, table, store)
    with pytest.raises(ConfigError, match="not to be revised"):
        before.revise(model=here.model, store=store)
    assert here.server.calls == 1


def test_a_revision_sees_counts_and_no_row_and_pays_nothing_twice(
    endpoint: Any, table: Any, store: str
) -> None:
    revised = {
        "refusal": None,
        "steps": [
            {"reason": "half of them leak", "op": "aggregate", "input": "filter_1", "by": [],
             "aggregates": [{"name": "n", "fn": "count", "column": None}]}
        ],
    }  # fmt: skip
    here = endpoint(FIRST, revised)
    before = planned(here, table, store, mode="adaptive", samples=0)
    assert before.revisions == 2
    proposal = before.revise(model=here.model, store=store, rows=None)
    assert here.server.calls == 2 + 12
    told = here.told[1]
    assert "6e+00 rows came of 1e+01 (50%). Failed rows: none." in told
    assert "ROW-" not in told
    assert "SECRET" not in told
    kinds = {(change.kind, change.step) for change in proposal.diff}
    assert kinds == {("removed", "map_1"), ("added", "aggregate_1"), ("changed", "")}
    after = proposal.accept()
    assert after.revisions == 1
    assert after.plan.step("filter_1") == before.plan.step("filter_1")
    assert after.run(model=here.model, store=store).result()["n"].tolist() == [6]
    assert here.server.calls == 2 + 12, "what the look has paid for is not paid again"


def test_a_look_at_a_sample_is_bounded(endpoint: Any, table: Any, store: str) -> None:
    same = {"refusal": None, "steps": [{**MAP, "input": "filter_1"}]}
    here = endpoint(FIRST, same)
    before = planned(here, table, store, mode="adaptive")
    proposal = before.revise(model=here.model, store=store, rows=4)
    assert here.server.calls == 2 + 4
    assert "of a sample of 4e+00" in here.told[1]
    assert not proposal.diff
    assert str(proposal.diff) == "no change"


def test_revisions_are_used_up(endpoint: Any, table: Any, store: str) -> None:
    same = {"refusal": None, "steps": [{**MAP, "input": "filter_1"}]}
    here = endpoint(FIRST, same)
    query = planned(here, table, store, mode="adaptive", revisions=1)
    query = query.revise(model=here.model, store=store).accept()
    with pytest.raises(ConfigError, match="used up"):
        query.revise(model=here.model, store=store)


def test_after_the_last_step_nothing_is_left_to_revise(endpoint: Any, table: Any, store: str) -> None:
    here = endpoint(FIRST)
    query = planned(here, table, store, mode="adaptive")
    with pytest.raises(PlanError, match="no step 'mapp_1'"):
        query.revise("mapp_1", model=here.model, store=store)
    with pytest.raises(PlanError, match="nothing comes after map_1"):
        query.revise("map_1", model=here.model, store=store)


@pytest.mark.parametrize("consent", [True, False])
def test_ask_in_adaptive_mode_runs_only_what_is_approved(
    endpoint: Any, table: Any, store: str, consent: bool
) -> None:
    shorter = {"refusal": None, "steps": [step("limit", n=1) | {"input": "filter_1"}]}
    here = endpoint(FIRST, shorter)
    seen = []

    def approve(proposal: Any) -> bool:
        seen.append(proposal.estimate(model=here.model).calls)
        return consent

    run = apwa.ask(
        "What do leaks say?",
        reviews=table,
        model=here.model,
        store=store,
        mode="adaptive",
        approve=approve,
        budget=apwa.Budget(calls=100),
        progress=False,
    )
    rows = run.result()
    assert len(seen) == 1
    assert (len(rows), "what" in rows.columns) == ((1, False) if consent else (6, True))


def test_adaptive_without_anybody_who_approves_makes_no_call(endpoint: Any, table: Any, store: str) -> None:
    here = endpoint(FIRST)
    with pytest.raises(ConfigError, match="who approves"):
        apwa.ask("What?", reviews=table, model=here.model, store=store, mode="adaptive")
    with pytest.raises(ConfigError, match="no way to plan"):
        planned(here, table, store, mode="adaptiv")
    assert here.server.calls == 0


def test_a_program_makes_a_plan_that_loads(endpoint: Any, table: Any, store: str) -> None:
    here = endpoint(FIRST)
    before = planned(here, table, store)
    names: dict[str, Any] = {}
    exec(before.plan.to_python(), names)
    again = apwa.load_plan(names["plan"], {"reviews": apwa.from_pandas(FRAME, name="reviews")})
    assert again.plan.hash == before.plan.hash


def test_reason_and_unit_of_each_step_are_explained(endpoint: Any, table: Any, store: str) -> None:
    packed = {"refusal": None, "steps": [{**FILTER, "unit": "pack(10)", "reason": "short texts, low cost"}]}
    here = endpoint(packed)
    text = planned(here, table, store).explain(model=here.model).text()
    assert "why: short texts, low cost" in text
    assert "unit: pack(10)" in text
