"""U3: the price is told before, in a range that is neither wrong nor useless; and nearer after a preview."""

from __future__ import annotations

import contextlib
import shutil
import time
from pathlib import Path

import pandas as pd
import pytest

import apwa_dask as apwa
from apwa_dask.execution.events import Forecast
from apwa_dask.execution.manifest import minutes_at_work
from apwa_dask.testing import Fault, Rule

ROWS_ARE_KNOWN = 6.0
ROWS_ARE_THE_MODELS_CHOICE = 20.0
"""Of a chain flat_map, filter, map, and of agents that use tools as often as they like."""


def test_u3_the_actual_cost_is_in_the_range_before_and_within_a_fifth_after_a_preview(
    job, endpoint, tmp_path
):
    plan = job.table(tmp_path).plan()
    model, store = job.model(endpoint.base_url), str(tmp_path / "store")

    before = plan.estimate(model=model, store=store).cost_usd
    assert endpoint.calls == 0
    preview = plan.preview(job.preview_rows, model=model, store=store)
    after = plan.estimate(model=model, store=store).cost_usd
    run = plan.run(model=model, store=str(tmp_path / "another"), progress=False).wait()
    actual = run.manifest["actual"]["cost_usd"]

    assert before.low <= actual <= before.high
    is_known = all(step.op in ("map", "reduce") and not step.contract.tools for step in plan.plan.llm_steps)
    assert before.high / before.low <= (ROWS_ARE_KNOWN if is_known else ROWS_ARE_THE_MODELS_CHOICE)
    assert before.high <= 6 * before.expected
    assert after.expected == pytest.approx(actual, rel=0.2)
    assert after.low <= actual <= after.high
    assert after.high / after.low < before.high / before.low
    assert abs(after.expected - actual) <= abs(before.expected - actual)
    assert preview.estimate.cost_usd == after


def test_u3_actuals_stand_beside_the_estimate_in_the_manifest_and_the_report(job, endpoint, tmp_path):
    plan = job.table(tmp_path).plan()
    model, store = job.model(endpoint.base_url), str(tmp_path / "store")
    estimate = plan.estimate(model=model, store=store)
    run = plan.run(model=model, store=store, progress=False).wait()

    assert run.manifest["estimate"]["cost_usd"]["expected"] == estimate.cost_usd.expected
    assert run.manifest["actual"]["calls"] == endpoint.calls
    assert 0 < run.manifest["actual"]["minutes"] < 5
    assert "Expected" in run.report()


def test_u3_minutes_at_work_leave_out_stops_and_what_a_killed_life_did_not_write():
    entries = [
        ("started", 0.0), ("stage", 60.0), ("stopped", 90.0),
        ("budget", 4000.0), ("resumed", 4010.0), ("stage", 4040.0),  # and killed
        ("alarms", 9000.0), ("resumed", 9010.0), ("done", 9040.0), ("redone", 9999.0),
    ]  # fmt: skip
    history = [{"event": event, "at_s": at_s} for event, at_s in entries]
    assert minutes_at_work(history) == pytest.approx((90 + 30 + 30) / 60)
    assert minutes_at_work(history[:2]) == pytest.approx(1.0)
    assert minutes_at_work([]) == 0.0


def rows(count: int) -> pd.DataFrame:
    return pd.DataFrame({"text": [f"row {k}" for k in range(count)]})


WORDY = Rule("row", {"note": "many words that nobody asked for, " * 40})


@pytest.mark.parametrize("mode", ["live", "batch"])
def test_u3_a_run_that_comes_to_half_as_much_again_warns_once(scripted_server, model_at, store, mode, caplog):
    server = scripted_server(rules=(WORDY,))
    told: list[object] = []
    table = apwa.from_pandas(rows(60), npartitions=3).map("note it", inputs="text", output={"note": str})
    terms = apwa.BatchTerms(poll_first_s=0.01, poll_most_s=0.1) if mode == "batch" else "live"
    run = table.run(model=model_at(server), store=store, progress=told.append, mode=terms).wait(60)

    forecasts = [event for event in told if isinstance(event, Forecast)]
    assert len([event for event in forecasts if event.warning]) == 1
    actual = run.manifest["actual"]["cost_usd"]
    assert forecasts[-1].forecast == pytest.approx(actual, rel=0.2)
    assert forecasts[-1].forecast >= 1.5 * forecasts[-1].estimated
    assert sum("times the estimate" in record.getMessage() for record in caplog.records) == 1


@pytest.mark.parametrize("on_a_cluster", [False, True])
def test_u3_a_lazy_frame_warns_too(scripted_server, model_at, store, caplog, request, on_a_cluster):
    if on_a_cluster:
        request.getfixturevalue("cluster_client")
    server = scripted_server(rules=(WORDY,))
    table = apwa.from_pandas(rows(60), npartitions=3).map("note it", inputs="text", output={"note": str})
    table.to_dask(model=model_at(server), store=store).compute()
    assert server.calls == 60
    deadline_s = time.monotonic() + 120
    while not (said := [r for r in caplog.records if "times the estimate" in r.getMessage()]):
        assert time.monotonic() < deadline_s, "no warning came"
        time.sleep(0.05)
    assert len(said) == 1


def test_u3_an_unknown_price_is_unknown_and_not_zero(scripted_server, model_at, store):
    server = scripted_server()
    plan = apwa.from_pandas(rows(5)).map("x", inputs="text", output={"a": int}).plan()
    estimate = plan.estimate(model=model_at(server, price=None), store=store)
    assert estimate.cost_usd is None
    assert "unknown" in str(estimate)


def noted(count: int) -> apwa.Table:
    return apwa.from_pandas(rows(count)).map("note it", inputs="text", output={"note": str})


def test_u3_a_full_run_teaches_the_next_estimate_as_a_preview_does(scripted_server, model_at, store):
    server = scripted_server(rules=(WORDY,))
    told = {"model": model_at(server), "store": store}
    before = noted(60).plan().estimate(**told)
    run = noted(60).plan().run(**told, progress=False).wait()
    assert server.calls == 60
    actual = run.manifest["actual"]["cost_usd"]
    after = noted(60).plan().estimate(**told)  # a plan object of its own: only the store knows
    assert before.cost_usd.expected < actual / 1.5
    assert after.cost_usd.expected == pytest.approx(actual, rel=0.05)
    assert after.cost_usd.low <= actual <= after.cost_usd.high
    assert after.cost_usd.high / after.cost_usd.low < before.cost_usd.high / before.cost_usd.low
    assert server.calls == 60


def test_u3_what_a_contract_came_to_is_known_in_another_plan_over_other_data_and_not_of_another_model(
    scripted_server, model_at, store
):
    server = scripted_server(rules=(WORDY,))
    model = model_at(server)
    noted(60).plan().run(model=model, store=store, progress=False).wait()
    others = apwa.from_pandas(pd.DataFrame({"text": [f"row {k}" for k in range(500, 700)], "n": range(200)}))
    asked = others.where("n < 100").map("note it", inputs="text", output={"note": str}).plan()

    known = asked.estimate(model=model, store=store).steps[asked.plan.llm_steps[0].id]
    stranger = asked.estimate(model=model_at(server, temperature=0.5), store=store)
    new = stranger.steps[asked.plan.llm_steps[0].id]
    assert (
        known.output_tokens.expected / known.calls.expected
        > 2 * new.output_tokens.expected / new.calls.expected
    )
    assert known.rows == new.rows
    assert stranger.minutes is None


def expected_tokens(count: int, told: dict[str, object]) -> float:
    """Of an answer, as a plan object of its own thinks of it."""
    (step,) = noted(count).plan().estimate(**told).steps.values()
    return step.output_tokens.expected / step.calls.expected


def stopped_at(server, slow_from, calls: int, told: dict[str, object], count: int = 60) -> apwa.Run:
    """A run that was told to stop when so many calls had been answered, and each further one took seconds."""
    script = server.script
    server.set(script.but(faults=(slow_from(calls + 1),)))
    run = noted(count).plan().run(**told, progress=False, max_concurrency=4)
    server.wait_until(lambda stats: stats.calls - stats.in_flight >= calls, timeout_s=60)
    run.stop()
    server.set(script)
    return run


def test_u3_a_stopped_run_teaches_what_a_call_takes_and_not_how_many_rows_there_are(
    scripted_server, model_at, store, slow_from
):
    server = scripted_server(rules=(WORDY,))
    told = {"model": model_at(server), "store": store}
    thought = expected_tokens(60, told)
    before = noted(60).plan().estimate(**told)
    run = stopped_at(server, slow_from, 30, told)
    with contextlib.suppress(apwa.ApwaError):
        run.wait(60)
    after = noted(60).plan().estimate(**told)
    assert run.status()["status"] == "stopped"
    assert expected_tokens(60, told) > 2 * thought
    assert next(iter(after.steps.values())).rows == next(iter(before.steps.values())).rows
    assert after.minutes is not None


def test_u3_a_run_that_another_process_goes_on_with_teaches_as_a_whole_one(
    scripted_server, model_at, store, slow_from
):
    server = scripted_server(rules=(WORDY,))
    told = {"model": model_at(server), "store": store}
    run = stopped_at(server, slow_from, 30, told)
    with contextlib.suppress(apwa.ApwaError):
        run.wait(60)
    forget_lessons(store)

    found = apwa.attach(run.id, store, progress=False)
    assert found.resume().wait(60).status()["status"] == "done"
    actual = found.manifest["actual"]["cost_usd"]
    after = noted(60).plan().estimate(**told)
    assert after.cost_usd.expected == pytest.approx(actual, rel=0.05)
    assert after.cost_usd.low <= actual <= after.cost_usd.high
    assert after.minutes is not None


def test_u3_answers_of_a_killed_process_count_as_units_where_a_unit_is_a_call(
    scripted_server, model_at, store
):
    """All were paid by a life that committed nothing: the next one is served by the journal."""
    server = scripted_server(rules=(WORDY,))
    told = {"model": model_at(server), "store": store}
    run = noted(40).plan().run(**told, progress=False).wait(60)
    forget_lessons(store)
    forget_commits(run)

    again = apwa.attach(run.id, store, progress=False).resume().wait(60)
    assert server.calls == 40
    assert again.costs().set_index("outcome")["units"].get("uncommitted") == 0
    assert expected_tokens(40, told) > 100


def test_u3_a_retry_says_nothing_of_the_whole(scripted_server, model_at, store):
    server = scripted_server(rules=(WORDY,), faults=(Fault("refusal"),))
    told = {"model": model_at(server), "store": store}
    run = noted(40).plan().run(**told, progress=False, early_stop=False).wait(60)
    learned = noted(40).plan().estimate(**told).cost_usd
    assert len(run.failures) == 40
    server.set(server.script.but(faults=()))
    again = run.retry_failed().wait(60)
    assert again.manifest["actual"]["calls"] == 40
    assert run.spec.teaches
    assert again.spec.teaches == ""  # nor, then, where another process goes on with it
    assert noted(40).plan().estimate(**told).cost_usd == learned


def forget_lessons(store: str) -> None:
    for page in (Path(store) / "lessons").glob("*.json"):
        page.unlink()


def forget_commits(run: apwa.Run) -> None:
    """As if the process had died behind its last answer, and before its first commit."""
    folder = Path(run.store) / "runs" / run.id
    shutil.rmtree(folder / "commit")
    (folder / "manifest.json").unlink()
    for entry in sorted((folder / "history").iterdir())[1:]:
        entry.unlink()


def test_u3_a_preview_is_no_run_of_the_whole_and_a_run_that_paid_nothing_teaches_nothing(
    scripted_server, model_at, store
):
    server = scripted_server(rules=(WORDY,))
    told = {"model": model_at(server), "store": store}
    noted(60).plan().run(**told, progress=False).wait()
    learned = noted(60).plan().estimate(**told)
    noted(60).plan().preview(5, **told)
    noted(60).plan().run(**told, progress=False).wait()
    assert noted(60).plan().estimate(**told).cost_usd == learned.cost_usd
    assert server.calls == 60


def test_u3_minutes_are_unknown_until_a_call_was_timed_and_then_follow_the_calls_in_flight(
    scripted_server, model_at, store
):
    server = scripted_server(latency_s=0.05)
    told = {"model": model_at(server), "store": store}
    plan = noted(600).plan()
    assert plan.estimate(**told).minutes is None
    assert "time unknown" in str(plan.estimate(**told))
    after = plan.preview(20, **told, max_concurrency=4).estimate
    assert server.calls == 20
    assert 0 < after.minutes.low < after.minutes.expected < after.minutes.high
    assert after.minutes.expected * 60 >= 0.9 * 600 * 0.05 / 4
    alone = plan.estimate(**told, max_concurrency=1).minutes
    assert alone.expected == pytest.approx(4 * after.minutes.expected)
    assert " min (" in str(after)
    run = plan.run(**told, progress=False).wait()
    assert run.manifest["estimate"]["minutes"]["expected"] > 0
    assert plan.estimate(**told, mode="batch").minutes is None


def test_u3_minutes_know_the_limits_that_an_endpoint_announced(scripted_server, model_at, store):
    server = scripted_server(rpm=6_000)
    told = {"model": model_at(server), "store": store}
    plan = noted(12_000).plan()
    plan.preview(10, **told)
    assert plan.estimate(**told).minutes.expected >= 2.0


def test_u3_another_process_knows_what_a_preview_has_shown(scripted_server, model_at, store):
    server = scripted_server(rules=(WORDY,))
    model = model_at(server)
    table = apwa.from_pandas(rows(200)).map("note it", inputs="text", output={"note": str})
    before = table.plan().estimate(model=model, store=store).cost_usd
    table.plan().preview(10, model=model, store=store)
    after = (
        table.plan().estimate(model=model, store=store).cost_usd
    )  # a plan object of its own: only the store knows
    assert after.expected > 2 * before.expected
    assert after.high / after.low < before.high / before.low
