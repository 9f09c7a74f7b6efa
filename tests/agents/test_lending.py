"""Tables that a plan lends to a step's tools: declared in the plan, checked before a call, seen by no other step."""

from __future__ import annotations

from typing import Annotated

import orjson
import pandas as pd
import pytest
from pydantic import Field

import apwa_dask as apwa
from apwa_dask.agents.unit import Row
from apwa_dask.errors import PlanError, RunError
from apwa_dask.execution import lent
from apwa_dask.plans.plan import Plan
from apwa_dask.plans.validate import problems_of
from apwa_dask.testing import Rule

ORDERS = pd.DataFrame({"text": ["order K2 is late", "order K9 is late"]})
CUSTOMERS = pd.DataFrame({"order": ["K1", "K2"], "customer": ["Ada", "Grace"]})


def asked(run_table=None, tables=None, **contract):
    orders = apwa.from_pandas(ORDERS, name="orders")
    tables = apwa.from_pandas(CUSTOMERS, name="customers") if tables is None else tables
    return orders.map(
        "Whose order is it?",
        inputs="text",
        output={"customer": "string?"},
        tools=["lookup_rows"],
        tables=tables,
        **contract,
    )


def look_up(order):
    arguments = {"table": "customers", "column": "order", "value": order, "columns": ["customer"]}
    return {"tool_calls": [{"name": "lookup_rows", "arguments": arguments}]}


def server_of(scripted_server):
    return scripted_server(
        rules=(
            Rule("K2", look_up("K2"), turn=0),
            Rule("K9", look_up("K9"), turn=0),
            Rule("Grace", {"customer": "Grace"}, where="last"),
            Rule('"found":0', {"customer": None}, where="last"),
        ),
        answers="fail",
    )


def test_an_agent_looks_rows_up_in_another_table_of_the_plan(scripted_server, canary_key, store):
    server = server_of(scripted_server)
    model = apwa.Model("m", base_url=server.base_url)
    found = asked().run(model=model, store=store, progress=False).result()
    assert [None if pd.isna(value) else value for value in found["customer"]] == ["Grace", None]
    assert server.calls == 4
    bodies = [orjson.dumps(call.body).decode() for call in server.log().calls]
    assert "customers: order (string), customer (string)" in bodies[0]
    assert not any("Ada" in body for body in bodies), "rows that nobody asked for reach no prompt"

    again = asked().run(model=model, store=store, progress=False).wait()
    assert (server.calls, again.status()["rows_failed"]) == (4, 0)


def test_a_changed_table_is_asked_about_anew_and_an_unchanged_answer_is_kept(
    scripted_server, canary_key, store
):
    server = server_of(scripted_server)
    model = apwa.Model("m", base_url=server.base_url)
    asked().run(model=model, store=store, progress=False).wait()
    changed = CUSTOMERS.assign(customer=["Ada", "Grace H."])
    asked(tables=apwa.from_pandas(changed, name="customers")).run(
        model=model, store=store, progress=False
    ).wait()
    assert server.calls == 5, "the row whose tool result changed, from there on"


def test_a_plan_says_which_tables_it_lends(scripted_server):
    planned = asked().plan()
    assert planned.plan.sources == ("orders", "customers")
    assert "customers (lent to the tools)" in str(planned.explain())
    assert "lookup_rows (pure)" in str(planned.explain())
    assert Plan.from_yaml(planned.to_yaml()) == planned.plan


def test_a_plan_without_lent_tables_has_the_hash_it_always_had():
    data = asked().plan().plan.canonical()
    assert data["steps"][0]["contract"]["tables"] == ["customers"]
    plain = apwa.from_pandas(ORDERS, name="orders").map("x", inputs="text", output={"a": int}).plan().plan
    assert "tables" not in plain.canonical()["steps"][0]["contract"]


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        (["customer"], "did you mean 'customers'"),
        (["file:///etc/passwd"], "never paths or URLs"),
        (["../customers"], "never paths or URLs"),
    ],
)
def test_only_tables_of_the_plan_are_lent(tables, words):
    plan = asked().plan().plan
    step = plan.steps[0]
    wrong = step.model_copy(update={"contract": step.contract.model_copy(update={"tables": tuple(tables)})})
    catalog = asked().plan()._catalog()
    problems, _ = problems_of(plan.model_copy(update={"steps": (wrong,)}), catalog, tools={"lookup_rows"})
    assert words in str(problems[0])
    assert problems[0].field == "tables"


def test_what_cannot_be_lent_is_refused_before_any_call(scripted_server, canary_key, store, monkeypatch):
    server = server_of(scripted_server)
    common = {"model": apwa.Model("m", base_url=server.base_url), "store": store, "progress": False}
    dd = pytest.importorskip("dask.dataframe")
    with pytest.raises(PlanError, match="as it was read"):
        asked(tables=apwa.from_pandas(CUSTOMERS).limit(1))
    with pytest.raises(PlanError, match="Dask frame"):
        asked(tables=apwa.from_dask(dd.from_pandas(CUSTOMERS, npartitions=1))).run(**common)
    with pytest.raises(PlanError, match="lends it none"):
        asked(tables=()).run(**common)
    monkeypatch.setattr(lent, "MOST_ROWS", 1)
    with pytest.raises(RunError, match="too large to be lent"):
        asked().run(**common).wait()
    assert server.calls == 0


@pytest.mark.slow
def test_workers_lend_the_same_tables_and_know_the_types_of_a_tool_that_travelled(
    scripted_server, canary_key, store, monkeypatch
):
    from distributed import Client, LocalCluster

    from apwa_dask.agents import capabilities

    monkeypatch.setattr(capabilities, "_registry", {})

    @apwa.capability
    def letters(row: Row, times: Annotated[int, Field(ge=1, le=3)] = 1) -> int:
        """How many letters the text has."""
        return len(row["text"]) * times

    both = {"tool_calls": [*look_up("K2")["tool_calls"], {"name": "letters", "arguments": {"times": 2}}]}
    server = scripted_server(
        rules=(Rule("K2", both, turn=0), Rule("Grace(.|\\n)*32", {"customer": "Grace"}, where="prompt")),
        answers="fail",
    )
    orders = apwa.from_pandas(ORDERS[:1], name="orders")
    customers = apwa.from_pandas(CUSTOMERS, name="customers")
    asked_there = orders.map(
        "Whose?",
        inputs="text",
        output={"customer": str},
        tools=["lookup_rows", "letters"],
        tables=[customers],
    )
    model = apwa.Model("m", base_url=server.base_url)
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
    ):
        found = asked_there.run(model=model, store=store, client=client, progress=False).result()
    assert found["customer"].tolist() == ["Grace"]
    assert server.calls == 2
