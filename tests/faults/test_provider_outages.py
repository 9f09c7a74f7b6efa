"""Faults 6 to 9 of the matrix: refusals for good stop the run and leave it whole; outages are waited out."""

from __future__ import annotations

import threading
import time

import pandas as pd
import pytest

import apwa_dask as apwa
from apwa_dask.errors import ProviderError
from apwa_dask.testing import Fault, On, Script, ScriptedServer

FRAME = pd.DataFrame({"text": [f"row {k}" for k in range(80)]})


def mapped(frame: pd.DataFrame = FRAME, npartitions: int = 4) -> apwa.Table:
    return apwa.from_pandas(frame, npartitions=npartitions).map("say", inputs="text", output={"a": int})


def test_fault_06_a_spent_quota_stops_dispatch_and_a_resume_pays_only_the_rest(
    scripted_server, model_at, canary_key, invariants, store
):
    in_flight = 4
    server = scripted_server(
        faults=(Fault("insufficient_quota", on=On(calls=tuple(range(31, 999)))),), latency_s=0.01
    )

    run = mapped().run(model=model_at(server, max_concurrency=in_flight), store=store, progress=False)
    said = invariants.stopped_with(run, ProviderError, "PROVIDER-QUOTA")
    log = server.log()

    invariants.i6_the_key_is_nowhere(canary_key, [str(said), repr(run)])
    assert len([call for call in log if call.fault]) <= in_flight
    first = next(call.t_end for call in log if call.fault)
    assert all(call.t_start <= first + 1.0 for call in log)
    server.set(Script())
    result = run.resume().result(status=True)
    invariants.i1_every_row_has_one_status(run, len(FRAME))
    invariants.i2_order_and_index_are_the_inputs(result, FRAME)
    invariants.i4_little_is_paid_again(server, 0)
    assert (result["_apwa_status"] == "ok").all()


@pytest.mark.parametrize(
    ("status", "code"), [(401, "PROVIDER-KEY"), (403, "PROVIDER-KEY"), (404, "PROVIDER-MODEL")]
)
def test_fault_07_a_wrong_key_or_model_is_found_by_one_call_before_any_other(
    scripted_server, model_at, canary_key, invariants, store, status, code
):
    server = scripted_server(faults=(Fault("status", status=status),), latency_s=0.02)

    run = mapped().run(model=model_at(server), store=store, progress=False)
    said = invariants.stopped_with(run, ProviderError, code)

    invariants.i6_the_key_is_nowhere(canary_key, [str(said), repr(said)])
    assert server.calls == 1


@pytest.mark.parametrize("status", [401, 404])
def test_fault_07_in_the_middle_of_a_run_it_stops_within_a_second(
    scripted_server, model_at, invariants, store, status
):
    server = scripted_server(
        faults=(Fault("status", status=status, on=On(calls=tuple(range(31, 999)))),), latency_s=0.01
    )

    run = mapped().run(model=model_at(server, max_concurrency=4), store=store, progress=False)
    invariants.stopped_with(run, ProviderError, "PROVIDER-KEY" if status == 401 else "PROVIDER-MODEL")

    log = server.log()
    first = next(call.t_end for call in log if call.fault)
    assert all(call.t_start <= first + 1.0 for call in log)
    assert len([call for call in log if call.fault]) <= 4
    server.set(Script())
    assert (run.resume().result(status=True)["_apwa_status"] == "ok").all()
    invariants.i4_little_is_paid_again(server, 0)


@pytest.mark.parametrize("status", [500, 503, 529])
def test_fault_08_a_burst_of_errors_opens_the_breaker_and_is_drained(
    scripted_server, model_at, invariants, store, quick_retries, status
):
    """Everything fails for three seconds; a row's own attempts would last a tenth of that."""
    frame = pd.DataFrame({"text": [f"row {k}" for k in range(400)]})
    script = Script(latency_s=0.02)
    out = Fault("status", On(calls=tuple(range(101, 2000))), status=status)
    server = scripted_server(script.but(faults=(out,)))
    words: list[str] = []

    run = mapped(frame).run(
        model=model_at(server, max_concurrency=8),
        store=store,
        progress=lambda event: words.append(getattr(event, "words", "")),
    )
    server.wait_until(lambda stats: stats.by_fault.get("status", 0) >= 1)
    threading.Event().wait(3.0)
    server.set(script)
    result = run.result(status=True)

    invariants.i1_every_row_has_one_status(run, len(frame))
    invariants.i2_order_and_index_are_the_inputs(result, frame)
    assert (result["_apwa_status"] == "ok").all()
    assert server.stats().by_fault["status"] >= 5
    assert server.calls - len(frame) <= 0.1 * server.calls
    assert int(run.costs()["calls"].sum()) == server.calls
    assert any("provider does not answer" in said for said in words)


def test_fault_09_a_run_waits_for_a_provider_that_is_gone_and_says_so(
    scripted_server, model_at, invariants, store, quick_retries, slow_from
):
    """Connections are refused for three seconds, which stand for ten minutes: no attempt of a row is used up."""
    server = scripted_server(in_process=True, latency_s=0.02, faults=(slow_from(31, delay_s=60.0),))
    port = int(server.base_url.split(":")[2].split("/")[0])
    words: list[str] = []
    run = mapped().run(
        model=model_at(server, max_concurrency=4),
        store=store,
        progress=lambda event: words.append(getattr(event, "words", "")),
    )
    server.wait_until(lambda stats: stats.calls >= 30)
    server.close()
    away = threading.Event()
    away.wait(3.0)

    with ScriptedServer(in_process=True, port=port) as back:
        returned_s = time.monotonic()
        result = run.wait(timeout=60).result(status=True)
        resumed_s = back.log()[0].t_start - returned_s
        answered = back.calls

    invariants.i1_every_row_has_one_status(run, len(FRAME))
    invariants.i2_order_and_index_are_the_inputs(result, FRAME)
    assert (result["_apwa_status"] == "ok").all()
    assert resumed_s <= 30
    assert answered >= 80 - 34
    assert any(said.startswith("paused until") and "provider does not answer" in said for said in words)
