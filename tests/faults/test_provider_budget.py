"""Faults 57 and 58 of the matrix: the budget is reached in the middle; the forecast was wrong five times over."""

from __future__ import annotations

import pandas as pd
import pytest

import apwa_dask as apwa
from apwa_dask.errors import BudgetError

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
