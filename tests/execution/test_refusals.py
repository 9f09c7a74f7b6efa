"""What stops before a call, and what stops after exactly one."""

from __future__ import annotations

import pandas as pd
import pytest

import apwa_dask as apwa
from apwa_dask.api import load_plan
from apwa_dask.errors import ConfigError, PlanError, ProviderError
from apwa_dask.testing import Fault, Script

FRAME = pd.DataFrame({"text": [f"row {k}" for k in range(40)], "price": [1.5] * 40})
TABLE = apwa.from_pandas(FRAME, npartitions=4)


@pytest.mark.parametrize(
    ("broken", "named"),
    [
        (lambda: TABLE.map("x", inputs="txet", output={"a": int}), "text"),
        (lambda: TABLE.where("prise > 1"), "price"),
        (lambda: TABLE.where("upper(price) = 'A'"), "upper.price.*text .string."),
        (lambda: TABLE.map("x", inputs="text", output={"text": int}), "text"),
        (
            lambda: TABLE.map("x", inputs="text", output={"a": int}).map(
                "y", inputs="text", output={"a": int}
            ),
            "a",
        ),
        (lambda: TABLE.sort("textt"), "text"),
        (lambda: TABLE.select("text", "cost"), "price"),
        (lambda: TABLE.drop("pricee"), "price"),
        (lambda: TABLE.aggregate(by="txt", n="count"), "text"),
        (lambda: TABLE.reduce("x", inputs="text", by="pricy", output={"a": str}), "price"),
        (lambda: TABLE.map("x", inputs="text", output={"a": int}, unit="rwo"), "row"),
        (lambda: TABLE.explode("price"), "price"),
    ],
)
def test_a_broken_plan_names_the_candidates_and_calls_nobody(scripted_server, model_at, store, broken, named):
    with pytest.raises(PlanError, match=named):
        broken()


def test_a_url_in_a_plan_is_refused(tmp_path):
    text = "version: 1\nsources: [https://example.org/data.csv]\nsteps: []\n"

    with pytest.raises(apwa.ApwaError):
        load_plan(text, TABLE)


@pytest.mark.parametrize("scheduler", ["sync", "threads"])
def test_a_wrong_key_costs_one_call_stops_the_run_and_names_the_variables_looked_at(
    scripted_server, model_at, store, monkeypatch, scheduler
):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong-and-secret")
    server = scripted_server(Script(api_key="sk-right"))
    table = TABLE.map("x", inputs="text", output={"a": int})

    run = table.run(model=model_at(server), store=store, scheduler=scheduler, progress=False)
    with pytest.raises(ProviderError) as caught:
        run.wait()

    assert server.calls == 1
    assert "OPENAI_API_KEY" in str(caught.value)
    assert "sk-wrong-and-secret" not in str(caught.value)
    assert run.status()["status"] == "failed"
    assert run.status()["rows_out"] == 0


def test_a_wrong_key_put_right_lets_the_same_run_go_on(scripted_server, model_at, store, monkeypatch):
    server = scripted_server(Script(api_key="sk-right"))
    run = TABLE.map("x", inputs="text", output={"a": int}).run(
        model=model_at(server), store=store, progress=False
    )
    with pytest.raises(ProviderError):
        run.wait()

    monkeypatch.setenv("OPENAI_API_KEY", "sk-right")
    result = run.resume().result()

    assert result["a"].notna().all()
    assert server.calls == 41


def test_a_missing_key_costs_no_call(scripted_server, model_at, store, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    server = scripted_server(Script(api_key="sk-right"))
    model = model_at(server, api_key_env="A_VARIABLE_NOBODY_SETS")

    with pytest.raises(apwa.ApwaError, match="A_VARIABLE_NOBODY_SETS"):
        TABLE.map("x", inputs="text", output={"a": int}).run(model=model, store=store, progress=False).wait()

    assert server.calls == 0


def test_an_unknown_model_stops_the_run_with_one_call(scripted_server, model_at, store):
    server = scripted_server(Script(models=("another",)))

    with pytest.raises(ProviderError, match="test-model"):
        TABLE.map("x", inputs="text", output={"a": int}).run(
            model=model_at(server), store=store, progress=False
        ).wait()

    assert server.calls == 1


def test_quota_running_out_half_way_stops_dispatch_and_keeps_what_was_paid(scripted_server, model_at, store):
    server = scripted_server(Script(faults=(Fault("insufficient_quota", on="row 2[0-9]"),)))
    model = model_at(server, max_concurrency=1)
    run = TABLE.map("x", inputs="text", output={"a": int}).run(model=model, store=store, progress=False)
    with pytest.raises(ProviderError):
        run.wait()
    before = server.calls
    assert len(server.log().matching("row 2[0-9]")) == 1

    server.set(Script())
    result = run.resume().result()

    assert result["a"].notna().all()
    paid = server.log().billed
    assert len(paid) == paid.distinct_texts == 40
    assert server.calls == 41
    assert before < 41


def test_an_unknown_on_error_is_refused_before_any_call(scripted_server, model_at, store):
    server = scripted_server()

    with pytest.raises(ConfigError, match="keep"):
        TABLE.map("x", inputs="text", output={"a": int}).run(
            model=model_at(server), store=store, on_error="kepp", progress=False
        )

    assert server.calls == 0
