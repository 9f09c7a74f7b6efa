"""Faults 57 and 58 of the matrix: the budget is reached in the middle; the forecast was wrong five times over."""

from __future__ import annotations

import io
import threading

import pandas as pd
import pytest

import apwa_dask as apwa
from apwa_dask.errors import BudgetError
from apwa_dask.execution.events import Event, Forecast
from apwa_dask.observe.progress import progress_for_environment
from apwa_dask.observe.reprs import run_text
from apwa_dask.testing import Fault, Rule, Script

FRAME = pd.DataFrame({"text": [f"row {k}" for k in range(120)]})
PRICE = apwa.Price(10.0, 20.0)


def mapped(npartitions: int = 4) -> apwa.Table:
    return apwa.from_pandas(FRAME, npartitions=npartitions).map("say", inputs="text", output={"a": int})


def test_fault_57_a_budget_reached_in_the_middle_keeps_what_was_paid_and_says_what_is_left(
    scripted_server, model_at, canary_key, invariants, store
):
    server = scripted_server(latency_s=0.005)
    in_flight, budget_usd = 4, 0.04
    model = model_at(server, max_concurrency=in_flight, price=PRICE, max_output_tokens=60)

    run = mapped().run(model=model, store=store, budget=budget_usd, progress=False)
    invariants.stopped_with(run, BudgetError, "BUDGET-REACHED")

    invariants.i5_spent_within(server, budget_usd, PRICE, in_flight, (200, 60))
    paid = server.calls
    assert 0 < paid < len(FRAME)
    status = run.status()
    assert status["calls"] == paid
    assert abs(status["cost_usd"] - PRICE.cost_usd(*server.log().billed_tokens)) < 1e-9
    result = run.resume(budget=5.0).result(status=True)
    invariants.i1_every_row_has_one_status(run, len(FRAME))
    invariants.i2_order_and_index_are_the_inputs(result, FRAME)
    invariants.i4_little_is_paid_again(server, 0)
    invariants.i6_the_key_is_nowhere(canary_key, [repr(run)])
    assert server.calls == len(FRAME)


@pytest.mark.parametrize(
    "ceiling", [apwa.Budget(calls=50), apwa.Budget(tokens=4_000)], ids=["calls", "tokens"]
)
def test_fault_57_budgets_of_calls_and_tokens_hold_too(scripted_server, model_at, invariants, store, ceiling):
    server = scripted_server(latency_s=0.005)
    model = model_at(server, max_concurrency=4, max_output_tokens=60)

    run = mapped().run(model=model, store=store, budget=ceiling, progress=False)
    invariants.stopped_with(run, BudgetError, "BUDGET-REACHED")

    if ceiling.calls is not None:
        assert server.calls == ceiling.calls
    else:
        assert sum(server.log().billed_tokens) <= ceiling.tokens + 4 * 260


def test_fault_57_what_is_left_is_said_in_rows_and_money_by_the_error_and_the_status(
    scripted_server, model_at, store
):
    server = scripted_server(latency_s=0.005)
    model = model_at(server, max_concurrency=4, price=PRICE, max_output_tokens=60)

    run = mapped().run(model=model, store=store, budget=0.04, progress=False)
    with pytest.raises(BudgetError, match="BUDGET-REACHED") as stopped:
        run.wait()

    left = len(FRAME) - server.calls
    assert f"{left} of {len(FRAME)} rows are left" in stopped.value.what
    for status in (run.status(), apwa.attach(run.id, store).status()):
        assert (status["rows_left"], status["rows_left_exact"]) == (left, True)
    remaining_usd = run.status()["cost_left_usd"]
    spent_usd = run.status()["cost_usd"]
    run.resume(budget=5.0).wait()
    assert server.calls == len(FRAME)
    assert run.status()["cost_usd"] - spent_usd == pytest.approx(remaining_usd, rel=0.1)
    assert (run.status()["rows_left"], run.status()["cost_left_usd"]) == (0, 0.0)


def test_fault_57_attempts_that_the_budget_left_without_a_reply_are_on_the_bill(
    scripted_server, model_at, store
):
    """Each row's first answer is billed and empty, and the ceiling comes before most second ones."""
    server = scripted_server(faults=(Fault("null_content", times=1),))
    run = mapped().run(
        model=model_at(server, max_concurrency=2, price=PRICE),
        store=store,
        budget=apwa.Budget(calls=7),
        progress=False,
    )
    with pytest.raises(BudgetError):
        run.wait()

    assert server.calls == 7
    assert run.costs()["calls"].sum() == 7
    tokens = run.costs()[["input_tokens", "output_tokens"]].sum()
    assert tuple(tokens) == server.log().billed_tokens
    assert run.status()["cost_usd"] == pytest.approx(PRICE.cost_usd(*server.log().billed_tokens))


def test_fault_57_a_ceiling_given_to_a_resume_counts_what_was_paid_without_one(
    scripted_server, model_at, store, slow_from
):
    server = scripted_server(faults=(slow_from(41),))
    model = model_at(server, max_concurrency=4)
    run = mapped().run(model=model, store=store, progress=False)
    server.wait_until(lambda stats: stats.calls > 40)
    run.stop().wait()
    assert 40 < server.calls < 60
    server.set(server.script.but(faults=()))

    with pytest.raises(BudgetError):
        run.resume(budget=apwa.Budget(calls=60)).wait()

    assert server.calls == 60


def test_fault_58_an_estimate_that_is_wrong_five_times_is_said_before_a_fifth_of_the_rows_are_paid(
    scripted_server, model_at, store, caplog, slow_from
):
    rows = 400
    frame = pd.DataFrame({"text": [f"row {k}" for k in range(rows)]})
    table = apwa.from_pandas(frame, npartitions=4).map("say", inputs="text", output={"a": "string"})
    long_answers = (Rule(".*", answer={"a": "word " * 300}),)
    server = scripted_server(latency_s=0.04, rules=long_answers, faults=(slow_from(61),))
    model = model_at(server, max_concurrency=2, price=apwa.Price(0.01, 20.0))
    estimate = table.plan().estimate(model=model)
    per_row_usd = estimate.cost_usd.expected / rows
    forecasts, shown, warned = [], io.StringIO(), threading.Event()
    display = progress_for_environment(shown, mode="plain")

    def watch(event: Event) -> None:
        display(event)
        if isinstance(event, Forecast):
            forecasts.append(event)
            if event.warning:
                warned.set()

    with caplog.at_level("WARNING", logger="apwa_dask"):
        run = table.run(model=model, store=store, progress=watch)
        assert warned.wait(60)
        asked = server.calls
        run.stop().wait()

    assert asked < 0.2 * rows
    (warning,) = [one for one in forecasts if one.warning]
    assert warning.estimated == pytest.approx(estimate.cost_usd.expected)
    true_usd = rows * run.status()["cost_usd"] / server.calls
    assert true_usd > 3 * rows * per_row_usd, "the estimate was far too low"
    assert warning.forecast == pytest.approx(true_usd, rel=0.05)
    assert "times the estimate" in warning.warning
    assert shown.getvalue().count(warning.warning) >= 2, "while it ran, and in the summary"
    assert [r.getMessage() for r in caplog.records if warning.warning in r.getMessage()], "in the log"
    (kept,) = [entry for entry in run.folder.history() if entry["event"] == "forecast"]
    assert kept["words"] == warning.warning
    assert kept["rows_done"] < 0.2 * rows

    server.set(Script(rules=long_answers))
    forecasts.clear()
    run.resume().wait()
    assert not [one for one in forecasts if one.warning], "once in a run"
    assert forecasts[-1].forecast == pytest.approx(true_usd, rel=0.1)


def test_fault_58_an_estimate_that_holds_warns_of_nothing(scripted_server, model_at, store):
    server = scripted_server(latency_s=0.005)
    model = model_at(server, max_concurrency=4, price=PRICE)
    events: list[Event] = []

    run = mapped().run(model=model, store=store, progress=events.append).wait()

    forecasts = [event for event in events if isinstance(event, Forecast)]
    assert forecasts
    assert not [event for event in forecasts if event.warning]
    assert forecasts[-1].forecast == pytest.approx(run.status()["cost_usd"], rel=0.1)


def test_the_status_counts_tokens_and_what_is_left_reads_well(scripted_server, model_at, store):
    server = scripted_server(latency_s=0.005)
    model = model_at(server, max_concurrency=4, price=PRICE, max_output_tokens=60)
    run = mapped().run(model=model, store=store, budget=0.04, progress=False)
    with pytest.raises(BudgetError):
        run.wait()

    status = run.status()
    assert (status["input_tokens"], status["output_tokens"]) == server.log().billed_tokens
    assert status["cached_tokens"] == 0
    assert status["prices_as_of"] is None, "the price was given, not looked up"
    assert f"{len(FRAME) - server.calls} rows, about $" in run_text(status)
