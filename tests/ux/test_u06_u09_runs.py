"""U6 to U9: edits, rows, failures and retries, by the bill."""

from __future__ import annotations

import pandas as pd

import apwa_dask as apwa
from apwa_dask.testing import Fault, On

FRAME = pd.DataFrame(
    {"text": [f"row {k}" for k in range(30)], "n": range(30)},
    index=pd.Index([f"id-{k:02}" for k in range(30, 0, -1)], name="key"),
)
FAILURE_COLUMNS = {
    "row_id": "str", "step": "str", "outcome": "str", "message": "str", "attempts": "int64",
    "input_tokens": "int64", "output_tokens": "int64", "cost_usd": "float64", "request_id": "str",
    "model": "str", "raw": "str", "inputs": "str",
}  # fmt: skip


def two_steps(second: str = "B"):
    return (
        apwa.from_pandas(FRAME, npartitions=3)
        .map("A", inputs="text", output={"a": int})
        .map(second, inputs="text", output={"b": int})
        .plan()
    )


def test_u6_an_edited_plan_names_its_change_and_pays_only_the_changed_step(scripted_server, model_at, store):
    server = scripted_server()
    options = {"model": model_at(server), "store": store, "progress": False}
    old, new = two_steps(), two_steps("B, but in other words")
    old.run(**options).wait()
    assert server.calls == 60

    found = old.plan.diff(new.plan)
    assert set(found.steps) == {"map_2"}
    assert "other words" in str(found)
    run = new.run(**options).wait()
    assert server.calls == 60 + 30
    costs = run.costs()
    assert costs.loc[costs["step"] == "map_1", "calls"].sum() == 0
    assert not old.plan.diff(two_steps().plan)
    two_steps().run(**options).wait()
    assert server.calls == 90


def test_u7_every_row_keeps_its_place_and_its_index(scripted_server, model_at, store):
    server = scripted_server(faults=(Fault("refusal", on=On(text="row 1?7$")),))
    table = apwa.from_pandas(FRAME, npartitions=4).map("x", inputs="text", output={"a": int})
    run = table.run(model=model_at(server), store=store, progress=False)
    result = run.result()
    pd.testing.assert_frame_equal(result[["text", "n"]], FRAME, check_dtype=False)
    assert result.index.equals(FRAME.index)
    assert result.loc[result["a"].isna(), "text"].tolist() == ["row 7", "row 17"]
    assert run.frame.compute(scheduler="sync").index.tolist() == FRAME.index.tolist()


def test_u8_failures_are_a_frame_with_class_message_attempts_and_cost(scripted_server, model_at, store):
    server = scripted_server(faults=(Fault("refusal", on=On(text="row 7$")),))
    table = apwa.from_pandas(FRAME).map("x", inputs="text", output={"a": int})
    failures = table.run(model=model_at(server), store=store, progress=False).wait().failures
    assert isinstance(failures, pd.DataFrame)
    assert list(failures.columns) == list(FAILURE_COLUMNS)
    (one,) = failures.to_dict("records")
    assert (one["step"], one["outcome"], one["attempts"]) == ("map_1", "refused", 1)
    assert one["message"]
    assert one["cost_usd"] > 0
    good = table.run(model=model_at(server), store=store + "2", progress=False, namespace="other").wait()
    assert list(good.failures.iloc[:0].columns) == list(FAILURE_COLUMNS)


def test_u9_only_failed_rows_are_tried_again_twice_if_need_be_and_then_there_is_nothing_to_do(
    scripted_server, model_at, store
):
    fault = Fault("refusal", on=On(text="row 1?[37]$"))
    server = scripted_server(faults=(fault,))
    table = apwa.from_pandas(FRAME, npartitions=2).map("x", inputs="text", output={"a": int})
    run = table.run(model=model_at(server), store=store, progress=False).wait()
    assert (server.calls, len(run.failures)) == (30, 4)

    server.set(server.script.but(faults=(Fault("refusal", on=On(text="row 1[37]$")),)))
    first = run.retry_failed().wait()
    assert (server.calls, len(first.failures)) == (34, 2)
    server.set(server.script.but(faults=()))
    second = first.retry_failed().wait()
    assert (server.calls, len(second.failures)) == (36, 0)
    assert second.result()["a"].notna().all()
    assert second.retry_failed() is second
    assert server.calls == 36
