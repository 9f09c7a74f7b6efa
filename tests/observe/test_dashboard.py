"""The dashboard of a run: fed by what travels anyway, from the process that works or from the run's folder."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
import urllib.request

import pandas as pd
import pytest

import apwa_dask as apwa
from apwa_dask.execution.events import EndpointPulse, RunFinished, StepPulse
from apwa_dask.execution.pulse import SAMPLED, SLOWEST, EndpointMeter, LeaseMeter, StepMeter, endpoint_label
from apwa_dask.models.gate import Gate
from apwa_dask.models.headers import Announced, Window
from apwa_dask.models.leases import Grant, Report, Want
from apwa_dask.observe.history import History
from apwa_dask.observe.keeping import kept_picture
from apwa_dask.observe.stored_picture import picture_of_parts, stored_picture
from apwa_dask.store.runs import RunStore
from apwa_dask.testing import Fault, Script, ScriptedServer, grep_canary

KEY = "sk-CANARY-dashboard-0123456789abcdef"
SECRET = "the patient is called Wilhelmina"


@pytest.fixture(autouse=True)
def _key(monkeypatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def finished(server: ScriptedServer, store: str, rows: int = 60) -> tuple[apwa.Run, list[object]]:
    frame = pd.DataFrame({"text": [f"row {i} {SECRET}" for i in range(rows)]})
    table = apwa.from_pandas(frame, npartitions=3).map("x", inputs="text", output={"a": int})
    model = apwa.Model("gpt-test", base_url=server.base_url, price=apwa.Price(1.0, 2.0), max_concurrency=8)
    run = table.run(model=model, store=store, budget=2.0, progress=False, scheduler="threads")
    events: list[object] = []
    run.subscribe(events.append)
    return run.wait(), events


def test_what_is_seen_agrees_with_the_bill(store):
    with ScriptedServer(Script(faults=(Fault("refusal", on="row 7 "),))) as server:
        run, events = finished(server, store)
        billed = len(server.log())
    picture = run.seen.picture()
    (step,), (endpoint,) = picture.steps, picture.endpoints
    assert dict(step.outcomes) == {"ok": 59, "refused": 1}
    assert sum(step.latency.values()) == endpoint.answers == billed == 60
    assert sum(picture.series.count("rows")) == pytest.approx(60)
    assert endpoint.most == 8
    assert endpoint.endpoint.startswith("gpt-test at 127.0.0.1:")
    assert isinstance(events[-1], RunFinished)


def test_pulses_are_few_whatever_the_number_of_calls(store):
    """One for each partition that ends, and one every two seconds: none for a call."""
    with ScriptedServer(Script()) as server:
        began_s = time.monotonic()
        _, events = finished(server, store, rows=2000)
    allowed = 3 + 2 + (time.monotonic() - began_s) / 2 + 3
    for kind in (StepPulse, EndpointPulse):
        assert 0 < sum(isinstance(event, kind) for event in events) <= allowed


def test_no_row_text_and_no_key_is_kept_or_shown(store):
    with ScriptedServer(Script()) as server:
        run, _ = finished(server, store)
    seen = run.folder.get_text("seen.json")
    assert "Wilhelmina" not in seen
    assert KEY not in seen
    assert grep_canary(store, KEY) == []


def test_another_process_sees_a_finished_run_as_it_was_seen(store):
    with ScriptedServer(Script()) as server:
        run, _ = finished(server, store)
    other = apwa.attach(run.id, store, scheduler="threads")
    assert other.seen is None
    shown, seen = stored_picture(other)(), run.seen.picture()
    assert shown == kept_picture(run.folder)
    assert (shown.series, shown.steps, shown.slowest) == (seen.series, seen.steps, seen.slowest)
    assert shown.state.status == "done"


def test_a_run_at_work_elsewhere_is_shown_by_its_finished_partitions(store):
    with ScriptedServer(Script(faults=(Fault("refusal", on="row 7 "),))) as server:
        run, _ = finished(server, store)
    picture = picture_of_parts(apwa.attach(run.id, store, scheduler="threads"))
    assert picture.state.rows_done == 60
    assert picture.state.rows_failed == 1
    assert dict(picture.steps[0].outcomes) == {"ok": 59, "refused": 1}
    assert sum(picture.series.count("cost_usd")) == pytest.approx(run.status()["cost_usd"])
    assert picture.state.budget_usd == 2.0
    assert picture.workers == ()


def test_the_folder_is_looked_into_no_more_often_than_it_should(store):
    with ScriptedServer(Script()) as server:
        run, _ = finished(server, store)
    now_s = 0.0
    look = stored_picture(apwa.attach(run.id, store, scheduler="threads"), clock=lambda: now_s)
    first = look()
    RunStore(store).purge(run.id)
    now_s = 1.0
    assert look() is first


def test_the_command_serves_the_page_of_a_finished_run_until_it_is_interrupted(store):
    pytest.importorskip("bokeh", reason="the dashboard needs Bokeh")
    with ScriptedServer(Script()) as server:
        run, _ = finished(server, store)
    command = [sys.executable, "-m", "apwa_dask.cli", "dashboard", run.id, "--store", store]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) as process:
        url = process.stdout.readline().strip()
        with urllib.request.urlopen(url, timeout=30) as answer:
            assert answer.status == 200
        process.send_signal(2)
        assert process.wait(120) == 130
    assert url.startswith("http://127.0.0.1:")


def test_a_label_of_an_endpoint_holds_neither_key_nor_password():
    assert endpoint_label("https://me:secret@api.example/v1|0123abcd|gpt") == "gpt at api.example"
    assert endpoint_label("local:||small") == "small at local"


def told(meter: StepMeter, rows: range, waited_s: float = 0.0) -> dict[str, tuple[float, float]]:
    """What a process says after units of so many seconds in calls, and some of waiting."""
    for n in rows:
        meter.lasted("s", f"0:{n}", float(n), waited_s)
    meter.settled("s", "ok", reused=False)
    (pulse,) = meter.take("r", "w")
    return pulse.took


def test_units_are_slow_by_their_calls_and_not_by_their_waiting():
    meter = StepMeter()
    told(meter, range(1000))
    took = told(meter, range(1000), waited_s=1e6)
    assert sorted(took.values())[-SLOWEST:] == [(float(n), 1e6) for n in range(1000 - SLOWEST, 1000)]


def test_time_in_calls_is_told_apart_from_waiting_for_a_turn(scripted_server, tmp_path):
    server = scripted_server(latency_s=0.01)
    model = apwa.Model("m", base_url=server.base_url, max_concurrency=1)
    table = apwa.from_pandas(pd.DataFrame({"text": [f"row {n}" for n in range(40)]}))
    asked = table.map("x", inputs="text", output={"a": int})
    run = asked.run(model=model, store=str(tmp_path), progress=False).wait()
    (step,) = kept_picture(run.folder).steps
    assert len(step.sample) == 40
    longest_s = max(calls_s + waited_s for calls_s, waited_s in step.sample.values())
    # one call at a time: together they cannot take longer than the last row took to come back
    assert 0.4 <= sum(calls_s for calls_s, _ in step.sample.values()) <= longest_s


def test_a_preview_names_each_of_its_rows():
    assert len(told(StepMeter(), range(SAMPLED))) == SAMPLED


def test_the_sample_stands_for_all_of_a_run_however_its_processes_share_it():
    alone, history = StepMeter(), History()
    for n in range(50):
        history(StepPulse("r", 1.0, step="s", worker="w", took=told(alone, range(200 * n, 200 * n + 200))))
    (whole,) = history.picture().steps
    meters, shared = [StepMeter() for _ in range(4)], History()
    for n in range(50):
        took = told(meters[n % 4], range(200 * n, 200 * n + 200))
        shared(StepPulse("r", 1.0, step="s", worker=f"w{n % 4}", took=took))
    (parted,) = shared.picture().steps

    assert parted.sample == whole.sample
    assert len(whole.sample) == SAMPLED
    seconds = sorted(calls_s for calls_s, _ in whole.sample.values())
    for q in (0.1, 0.5, 0.9):  # of 200 out of 10,000 evenly spread: within five standard errors
        assert abs(seconds[int(q * SAMPLED)] / 10_000 - q) < 5 * (q * (1 - q) / SAMPLED) ** 0.5
    assert [row[2] for row in shared.picture().slowest] == [
        float(n) for n in range(9_999, 9_999 - SLOWEST, -1)
    ]


def test_what_a_process_says_of_rows_is_bounded_however_many_ended():
    meter = StepMeter()
    first = told(meter, range(20_000))
    assert len(first) <= SLOWEST + SAMPLED * (
        1 + 7
    )  # those that came in and were pushed out again: log(n / k)
    assert len(told(meter, range(20_000, 40_000))) <= SLOWEST + 2 * SAMPLED


def test_a_step_without_news_is_not_told_again():
    meter = StepMeter()
    meter.begun("s", 3)
    assert [pulse.waiting for pulse in meter.take("r", "w")] == [3]
    assert meter.take("r", "w") == []
    meter.begun("s", -3)
    assert [pulse.waiting for pulse in meter.take("r", "w")] == [0]


def test_an_endpoint_tells_what_a_run_added_and_its_refusals_come_from_the_leases():
    async def story() -> None:
        async def grant(gate_key: str, want: Want, report: Report) -> Grant:
            return Grant(concurrency=5)

        leases = LeaseMeter()
        gate = Gate("http://host/v1|k|gpt", max_concurrency=8)
        gate.answers = 100  # of runs before
        meter = EndpointMeter([gate], leases)
        gate.answers = 107
        limits = Announced(requests=Window(600.0, 300.0, 60.0))
        await leases.watching(grant)(gate.key, Want(1), Report(admitted=7, throttled=2, limits=limits))
        (pulse,) = meter.take([gate], "r", "w")
        assert (pulse.answers, pulse.throttled, pulse.share, pulse.most) == (7, 2, 5, 8)
        assert pulse.requests_per_s == limits.requests.per_s
        assert meter.take([gate], "r", "w") == []
        await gate.close()

    asyncio.run(story())
