"""Faults 16 to 22 of the matrix: answers that are not what was asked for, each with its class and its bill."""

from __future__ import annotations

from typing import Any, Literal

import orjson
import pandas as pd
import pytest

import apwa_dask as apwa
from apwa_dask.testing import ChatRequest, Fault, On
from apwa_dask.testing.script import Json

ROWS = 6
FRAME = pd.DataFrame({"text": [f"row {k}" for k in range(ROWS)]})
ALWAYS_AT_2 = "row 2$"


def mapped(**options: Any) -> apwa.Table:
    given = {"inputs": "text", "output": {"a": Literal["low", "high"]}, **options}
    return apwa.from_pandas(FRAME, npartitions=2).map("say", **given)


@pytest.mark.parametrize(
    ("kind", "status", "calls"),
    [
        ("broken_json", "transient", 6),
        ("empty_body", "transient", 6),
        ("html_200", "transient", 6),
        ("error_in_200", "transient", 6),
        ("no_choices", "invalid_output", 3),
        ("null_content", "invalid_output", 3),
    ],
)
def test_fault_16_a_200_that_is_no_answer_fails_its_row_alone(
    scripted_server, model_at, canary_key, invariants, store, quick_retries, kind, status, calls
):
    server = scripted_server(faults=(Fault(kind, on=On(prompt=r"row 2\b")),))

    run = mapped().run(model=model_at(server), store=store, progress=False)
    result = run.result(status=True)

    invariants.i1_every_row_has_one_status(run, ROWS)
    invariants.i2_order_and_index_are_the_inputs(result, FRAME)
    invariants.i6_the_key_is_nowhere(canary_key, [repr(run), result.to_json()])
    assert result["_apwa_status"].tolist() == ["ok", "ok", status, "ok", "ok", "ok"]
    assert sum("row 2" in str(call.messages) for call in server.log()) == calls
    assert int(run.costs()["calls"].sum()) == server.calls


@pytest.mark.parametrize("kind", ["broken_json", "empty_body", "html_200", "no_choices", "null_content"])
def test_fault_16_passing_trouble_costs_one_more_call_and_no_row(
    scripted_server, model_at, invariants, store, quick_retries, kind
):
    server = scripted_server(faults=(Fault(kind, on=ALWAYS_AT_2, times=1),))

    run = mapped().run(model=model_at(server), store=store, progress=False)
    result = run.result(status=True)

    invariants.i1_every_row_has_one_status(run, ROWS)
    assert (result["_apwa_status"] == "ok").all()
    assert server.calls == int(run.costs()["calls"].sum()) == ROWS + 1


def test_fault_17_a_cut_answer_is_asked_for_once_more_with_more_room(
    scripted_server, model_at, canary_key, invariants, store
):
    server = scripted_server(faults=(Fault("length", on=ALWAYS_AT_2),))

    run = mapped().run(model=model_at(server), store=store, progress=False)
    result = invariants.hold(run, server, FRAME, canary=canary_key)

    asked = [call.body["max_tokens"] for call in server.log().matching(ALWAYS_AT_2)]
    assert result["_apwa_status"].tolist() == ["ok", "ok", "truncated", "ok", "ok", "ok"]
    assert len(asked) == 2
    assert asked[1] > asked[0], "never the same limit twice"
    (cut,) = run.failures.to_dict("records")
    spent = server.log().matching(ALWAYS_AT_2).billed_tokens
    assert (cut["attempts"], cut["input_tokens"], cut["output_tokens"]) == (2, *spent), "both are the row's"
    status = run.status()
    assert (status["input_tokens"], status["output_tokens"]) == server.log().billed_tokens


@pytest.mark.parametrize(
    ("kind", "status"),
    [("content_filter", "filtered"), ("content_filter_finish", "filtered"), ("refusal", "refused")],
)
def test_fault_18_a_filter_or_a_refusal_is_one_call(
    scripted_server, model_at, canary_key, invariants, store, kind, status
):
    server = scripted_server(faults=(Fault(kind, on=ALWAYS_AT_2),))

    run = mapped().run(model=model_at(server), store=store, progress=False)
    result = invariants.hold(run, server, FRAME, canary=canary_key)

    assert result["_apwa_status"].tolist() == ["ok", "ok", status, "ok", "ok", "ok"]
    assert server.calls == ROWS


@pytest.mark.parametrize("kind", ["wrong_enum", "extra_field", "missing_field", "nan"])
def test_fault_19_an_answer_outside_the_schema_is_validated_and_asked_for_again_twice_at_most(
    scripted_server, model_at, canary_key, invariants, store, kind
):
    server = scripted_server(faults=(Fault(kind, on=On(prompt=r"row 2\b")),))
    output = {"a": Literal["low", "high"], "n": float}

    run = mapped(output=output).run(model=model_at(server), store=store, progress=False)
    result = run.result(status=True)

    invariants.i1_every_row_has_one_status(run, ROWS)
    invariants.i3_the_ledger_is_the_bill([run], server)
    calls = [call for call in server.log() if "row 2" in str(call.messages)]
    assert len(calls) <= 3
    for text in [str(message["content"]) for call in calls for message in call.messages]:
        assert len(text) < 4_000, "the broken answer is not appended without bound"
    assert set(result["_apwa_status"]) <= {"ok", "invalid_output"}
    assert set(result["a"].dropna()) <= {"low", "high"}
    if kind in ("wrong_enum", "missing_field", "nan"):
        assert result["_apwa_status"][2] == "invalid_output"


def answer_each(request: ChatRequest) -> Json:
    """Each row's answer names the row, whether it is asked alone or in a pack."""
    lines = request.text.splitlines()
    if len(lines) == 1:
        return {"a": f"about {request.text}"}
    cells = [orjson.loads(line) for line in lines[1:]]
    return {"rows": [{"row": number, "a": f"about {text}"} for number, text in cells]}


@pytest.mark.parametrize("kind", ["drop_item", "duplicate_item"])
def test_fault_20_a_pack_with_a_missing_or_doubled_item_shifts_no_answer(
    scripted_server, model_at, canary_key, invariants, store, kind
):
    fault = Fault(kind, on=On(calls=(1,)), item=2)
    server = scripted_server(in_process=True, respond=answer_each, faults=(fault,))
    table = apwa.from_pandas(FRAME).map("say", inputs="text", output={"a": str}, unit=f"pack({ROWS})")

    run = table.run(model=model_at(server), store=store, progress=False)
    result = invariants.hold(run, server, FRAME, canary=canary_key)

    assert result["a"].tolist() == [f"about row {k}" for k in range(ROWS)]
    again = [str(call.messages) for call in server.log()[1:]]
    assert len(again) == 1
    assert "row 2" in again[0]
    assert "row 3" not in again[0], "only what is missing or said twice is asked again"


def test_fault_21_a_model_that_changes_silently_is_in_the_record(
    scripted_server, model_at, canary_key, invariants, store
):
    server = scripted_server(faults=(Fault("other_model", content="test-model-2031"),))

    run = mapped().run(model=model_at(server), store=store, progress=False)
    invariants.hold(run, server, FRAME, canary=canary_key)
    said = orjson.dumps(run.manifest, default=str).decode()

    assert "test-model-2031" in said
    assert '"test-model"' in said
    paid = server.calls
    run_again = mapped().run(model=model_at(server), store=store, progress=False)
    run_again.result()
    assert server.calls == paid, "kept under the name that was asked for"


@pytest.mark.parametrize(
    ("answers_as", "warned"), [("another-model", True), ("test-model-2031", False), ("p/test-model", False)]
)
def test_fault_21_a_model_that_is_another_than_the_one_asked_is_warned_of(
    scripted_server, model_at, store, caplog, answers_as, warned
):
    server = scripted_server(faults=(Fault("other_model", content=answers_as),))

    with caplog.at_level("WARNING", logger="apwa_dask"):
        run = mapped().run(model=model_at(server), store=store, progress=False).wait()

    said = [r.getMessage() for r in caplog.records if answers_as in r.getMessage()]
    assert said == (
        [f"run {run.id}: model 'test-model' was asked, and answered as '{answers_as}'"] if warned else []
    )


def test_fault_21_a_model_that_changes_in_the_middle_is_warned_of(scripted_server, model_at, store, caplog):
    server = scripted_server(faults=(Fault("other_model", on="row [4-5]$", content="test-model-2031"),))

    with caplog.at_level("WARNING", logger="apwa_dask"):
        mapped().run(model=model_at(server), store=store, progress=False).wait()

    assert [r for r in caplog.records if "'test-model', 'test-model-2031'" in r.getMessage()]


def test_fault_22_without_usage_the_cost_is_an_estimate_and_says_so(
    scripted_server, model_at, invariants, store
):
    server = scripted_server(usage=False)
    model = model_at(server, price=apwa.Price(1.0, 2.0))

    run = mapped().run(model=model, store=store, progress=False)
    result = run.result(status=True)
    costs = run.costs()

    invariants.i1_every_row_has_one_status(run, ROWS)
    assert (result["_apwa_status"] == "ok").all()
    assert int(costs["calls"].sum()) == server.calls == ROWS
    assert float(costs["cost_usd"].sum()) > 0
    assert int(costs["estimated"].sum()) == ROWS
