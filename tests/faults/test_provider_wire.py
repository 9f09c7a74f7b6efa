"""Faults 10 to 15 of the matrix: headers that overrule, connections that break, servers that hang or drip."""

from __future__ import annotations

import pandas as pd
import pytest

import apwa_dask as apwa
from apwa_dask.testing import Fault, On

FRAME = pd.DataFrame({"text": [f"row {k}" for k in range(40)]})
SMALL = FRAME[:6]


def mapped(frame: pd.DataFrame = SMALL) -> apwa.Table:
    return apwa.from_pandas(frame, npartitions=2).map("say", inputs="text", output={"a": int})


@pytest.mark.parametrize(
    ("status", "should_retry", "outcome", "calls"),
    [(400, True, "bad_input", 6), (500, False, "transient", 1), (429, False, "transient", 1)],
)
def test_fault_10_should_retry_overrules_the_status(
    scripted_server,
    model_at,
    canary_key,
    invariants,
    store,
    quick_retries,
    status,
    should_retry,
    outcome,
    calls,
):
    fault = Fault("status", on="row 2$", status=status, should_retry=should_retry)
    server = scripted_server(faults=(fault,))

    run = mapped().run(model=model_at(server), store=store, progress=False)
    result = invariants.hold(run, server, SMALL, canary=canary_key)

    assert result["_apwa_status"][2] == outcome
    assert (result["_apwa_status"] == "ok").sum() == 5
    assert len(server.log().matching("row 2$")) == calls


@pytest.mark.parametrize("kind", ["reset", "short_body", "disconnect"])
def test_fault_11_a_broken_connection_is_tried_again_and_both_attempts_are_in_the_ledger(
    scripted_server, model_at, invariants, store, quick_retries, kind
):
    server = scripted_server(faults=(Fault(kind, on="row [24]$", times=1),))
    price = apwa.Price(1.0, 2.0)

    run = mapped().run(model=model_at(server, price=price), store=store, progress=False)
    result = run.result(status=True)

    invariants.i1_every_row_has_one_status(run, len(SMALL))
    assert (result["_apwa_status"] == "ok").all()
    costs = run.costs()
    assert int(costs["calls"].sum()) == server.calls == len(SMALL) + 2
    billed = price.cost_usd(*server.log().billed_tokens)
    assert float(costs["cost_usd"].sum()) >= 0.5 * billed, "what nobody stated is estimated, not forgotten"
    assert int(costs["estimated"].sum()) == 2


def test_fault_12_a_socket_that_hangs_is_given_up_at_the_wall_deadline(
    scripted_server, model_at, invariants, store, quick_retries
):
    given_up_at_the_deadline(
        scripted_server(faults=(Fault("hang", on="row 2$"),)), model_at, invariants, store
    )


def test_fault_13_a_body_that_drips_is_given_up_at_the_wall_deadline(
    scripted_server, model_at, invariants, store, quick_retries
):
    fault = Fault("drip", on="row 2$", interval_s=0.05)
    given_up_at_the_deadline(scripted_server(faults=(fault,)), model_at, invariants, store)


def given_up_at_the_deadline(server, model_at, invariants, store):
    deadline_s = 2.0
    run = mapped().run(model=model_at(server, timeout_s=deadline_s), store=store, progress=False)
    result = run.result(status=True)

    invariants.i1_every_row_has_one_status(run, len(SMALL))
    assert result["_apwa_status"].tolist() == ["ok", "ok", "deadline", "ok", "ok", "ok"]
    struck = server.log().matching("row 2$")
    assert len(struck) == int(run.failures["attempts"][0]) == 3
    assert all(call.aborted for call in struck)
    assert max(call.t_end - call.t_start for call in struck) <= deadline_s + 5.0


def test_fault_14_calls_that_hang_keep_no_other_row_waiting(
    scripted_server, model_at, invariants, store, quick_retries
):
    """A tenth of the rows hangs once. Their slots are lost for one deadline; the others go on meanwhile."""
    server = scripted_server(faults=(Fault("hang", on=On(fraction=0.1, seed=3), times=1),), latency_s=0.02)
    model = model_at(server, timeout_s=6.0, max_concurrency=16)

    run = mapped(FRAME).run(model=model, store=store, progress=False)
    result = run.result(status=True)

    invariants.i1_every_row_has_one_status(run, len(FRAME))
    assert (result["_apwa_status"] == "ok").all()
    log = server.log()
    hung = [call for call in log if call.fault == "hang"]
    assert 1 <= len(hung) <= 8
    first_end = min(call.t_end for call in hung)
    before = [call for call in log if not call.fault and call.t_start < first_end]
    assert len(before) == len(FRAME) - len(hung), (
        "every other row was answered before the first hang was over"
    )
    assert len(log) == len(FRAME) + len(hung)


def test_fault_15_a_slow_tail_leaves_no_slot_idle_while_rows_wait(
    scripted_server, model_at, canary_key, invariants, store
):
    slow = On(text="row (3|17)$")
    server = scripted_server(faults=(Fault("slow", on=slow, delay_s=6.0),), latency_s=0.02)

    run = mapped(FRAME).run(model=model_at(server, max_concurrency=8), store=store, progress=False)
    result = invariants.hold(run, server, FRAME, canary=canary_key)

    assert (result["_apwa_status"] == "ok").all()
    log = server.log()
    tail = [call for call in log if call.fault == "slow"]
    others = [call for call in log if call.fault != "slow"]
    assert max(call.t_end for call in others) < min(call.t_end for call in tail)
    assert len(log) == len(FRAME), "hedging is off unless it is asked for"


def test_fault_15_with_hedging_late_calls_are_at_most_two_in_a_hundred_and_all_in_the_ledger(
    scripted_server, model_at, invariants, store
):
    frame = pd.DataFrame({"text": [f"row {k}" for k in range(300)]})
    slow = Fault("slow", on=On(fraction=0.01, seed=5), times=1, delay_s=3.0)
    server = scripted_server(faults=(slow,), latency_s=0.02)

    run = mapped(frame).run(
        model=model_at(server, max_concurrency=8, hedge=True), store=store, progress=False
    )
    result = run.result(status=True)

    invariants.i1_every_row_has_one_status(run, len(frame))
    invariants.i2_order_and_index_are_the_inputs(result, frame)
    assert (result["_apwa_status"] == "ok").all()
    hedges = server.calls - len(frame)
    assert hedges <= 0.02 * server.calls
    assert int(run.costs()["calls"].sum()) == server.calls
