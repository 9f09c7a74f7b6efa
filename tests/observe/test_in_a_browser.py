"""The pages as people see them: opened by Chromium, drawn with data, deaf to hostile text, light and dark."""

from __future__ import annotations

import json
from collections.abc import Iterator
from html import escape
from typing import Any

import pandas as pd
import pytest
from distributed import Client, LocalCluster

import apwa_dask as apwa
from apwa_dask.execution.events import EndpointPulse, Progress, RunStarted, StepPulse
from apwa_dask.observe.history import History
from apwa_dask.observe.standalone import Dashboard
from apwa_dask.testing import Fault, Script, ScriptedServer

pytestmark = pytest.mark.slow
KEY = "sk-only-for-loopback"
EVIL = "<img src=x onerror=\"window.pwned='cell'\"><script>window.pwned='cell'</script>$$x$$"
T0 = 1_700_000_000.0
LOADED = (
    "window.Bokeh && Bokeh.documents && Bokeh.documents.length > 0 && Bokeh.documents[0].roots().length > 0"
)
POINTS = """(name => {
  const figure = Bokeh.documents[0].get_model_by_name(name)
  if (!figure) return -1
  const sizes = figure.renderers.map(r => r.data_source.data.y.length)
  return sizes.reduce((most, size) => Math.max(most, size), 0)
})"""
DRAWN = """(name => {
  const figure = Bokeh.documents[0].get_model_by_name(name)
  const canvas = [...Bokeh.index.query(view => view.model === figure)][0].export('png', false).canvas
  const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data
  let blue = 0
  for (let at = 0; at < pixels.length; at += 4)
    blue += Math.hypot(pixels[at] - 0x4a, pixels[at + 1] - 0x7f, pixels[at + 2] - 0xb5) < 12 && pixels[at + 3] > 250
  return blue
})"""
"""Pixels of the first line's colour: data in a figure's model does not say that anything was painted."""
TEXT = "Bokeh.documents[0].get_model_by_name"


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture(scope="module")
def server() -> Iterator[ScriptedServer]:
    faults = (
        Fault("refusal", on="row 7 "),
        Fault("status", on="row 211 ", status=429, retry_after="2", times=1),
    )
    with ScriptedServer(Script(latency_s=0.05, faults=faults)) as made:
        yield made


def started(server: ScriptedServer, store: str, rows: int = 600, **options: Any) -> apwa.Run:
    frame = pd.DataFrame({"text": [f"row {i} {EVIL}" for i in range(rows)]})
    table = apwa.from_pandas(frame, npartitions=4).map(
        "How severe?", inputs=["text"], output={"severity": int}
    )
    model = apwa.Model("gpt-test", base_url=server.base_url, price=apwa.Price(1.0, 2.0), max_concurrency=16)
    return table.run(model=model, store=store, budget=2.0, name=EVIL, progress=False, **options)


def test_the_standalone_page_draws_a_live_run(browser, screenshots, server, store):
    run = started(server, store, scheduler="threads")
    with run.dashboard() as dashboard:
        assert dashboard.url.startswith("http://127.0.0.1:")
        page = browser.open(dashboard.url)
        page.until(LOADED)
        for name in ("throughput", "concurrency", "throttled", "money", "tokens", "latency", "rows"):
            page.until(f"{POINTS}('{name}') > 0")
            page.until(f"{DRAWN}('{name}') > 60")
        run.wait()
        page.until(f"{TEXT}('summary').text.includes('done')")
        assert "map_1" in page.value(f"{TEXT}('steps').text")
        assert "p99" in page.value(f"{TEXT}('steps').text")
        assert page.value(f"{TEXT}('slowest').text").count("<tr>") > 3
        page.shot(screenshots / "standalone-light.png", dark=False)
        page.shot(screenshots / "standalone-dark.png", dark=True)
        assert page.value("typeof window.pwned") == "undefined"
        assert "onerror" not in page.value("document.documentElement.outerHTML")


def test_the_report_draws_its_plots_and_runs_nothing(browser, screenshots, server, store, tmp_path):
    run = started(server, store, rows=300, scheduler="threads").wait()
    again = apwa.attach(run.id, store, scheduler="threads")  # as another process would
    path = tmp_path / "report.html"
    again.report(str(path))
    page = browser.open(path.as_uri())
    page.until("document.readyState == 'complete'")
    titles = page.value("[...document.querySelectorAll('svg.chart .title')].map(t => t.textContent)")
    assert {
        "Throughput",
        "Answers of endpoints",
        "Calls in flight",
        "Cost",
        "Latency of calls on the wire",
    } <= set(titles)
    drawn = page.value(
        "[...document.querySelectorAll('svg.chart path.line')].every(p => p.getTotalLength() > 2)"
    )
    assert drawn
    assert page.value("document.querySelectorAll('svg.graph .node').length") == 2
    assert page.value("document.scripts.length") == 0
    assert page.value("typeof window.pwned") == "undefined"
    assert page.value("document.querySelectorAll('img').length") == 0
    assert EVIL in page.value("document.body.textContent")  # shown, as text
    page.shot(screenshots / "report-light.png", dark=False)
    page.shot(screenshots / "report-dark.png", dark=True)


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", KEY)  # workers look for it in their own environment
        with (
            LocalCluster(
                n_workers=2, threads_per_worker=2, processes=True, dashboard_address="127.0.0.1:0"
            ) as cluster,
            Client(cluster, set_as_default=False) as made,
        ):
            yield made


def test_the_page_on_the_schedulers_dashboard_draws_a_live_run(browser, screenshots, server, store, client):
    script = server.script
    server.set(script.but(latency_s=0.3))  # a minute at sixteen calls in flight, until the page has shown it
    run = started(server, store, rows=3000, client=client)
    root = client.dashboard_link.removesuffix("/status")
    assert root.startswith("http://127.0.0.1:")
    page = browser.open(f"{root}/apwa")
    page.until(LOADED)
    for name in ("throughput", "concurrency", "money", "latency"):
        page.until(f"{POINTS}('{name}') > 0")
        page.until(f"{DRAWN}('{name}') > 60")
    workers = page.until(f"{TEXT}('workers').text.includes('leased') && {TEXT}('workers').text")
    page.shot(screenshots / "scheduler-live.png", dark=False)
    server.set(script)
    run.wait()
    page.until(f"{TEXT}('summary').text.includes('done')")
    assert page.value(f"{TEXT}('summary').text").count(run.id) == 1
    assert "tcp://" in workers
    assert page.value("[...document.querySelectorAll('.navbar a')].some(a => a.textContent == 'Status')")
    assert page.value("typeof window.pwned") == "undefined"
    page.shot(screenshots / "scheduler-light.png", dark=False)
    page.shot(screenshots / "scheduler-dark.png", dark=True)

    panes = page.value(f"fetch('{root}/individual-plots.json').then(answer => answer.json())")
    assert {f"/individual-apwa-{name}" for name in ("throughput", "concurrency", "money", "latency")} <= set(
        panes.values()
    )
    pane = browser.open(f"{root}/individual-apwa-throughput")
    pane.until(LOADED)
    pane.until(f"{POINTS}('throughput') > 0")


def test_hostile_names_run_nothing_on_the_page(browser, screenshots):
    """Of runs, steps, workers, models and endpoints; a name with a formula in it is not typeset either."""
    names = (
        EVIL,
        "</script><svg onload=\"window.pwned='name'\">",
        "$$\\href{javascript:window.pwned=1}{x}$$",
    )
    seen = []
    for name in names:
        history = History()
        for event in (
            RunStarted(name, T0, budget_usd=1.0, model=name),
            Progress(name, T0 + 2, rows_done=40, calls=40, cost_usd=0.5, worker=name),
            StepPulse(name, T0 + 2, step=name, worker=name, outcomes={name: 3}, took={name: (4.0, 1.0)}),
            EndpointPulse(name, T0 + 2, endpoint=name, worker=name, in_flight=1, most=2, answers=40),
            Progress(name, T0 + 5, rows_done=40, calls=40, cost_usd=0.2, worker=name),
            EndpointPulse(name, T0 + 4, endpoint=name, worker=name, in_flight=2, most=2, answers=40),
            EndpointPulse(name, T0 + 3, endpoint=f"2{name}", worker=name, in_flight=1, most=2, answers=40),
        ):
            history(event)
        seen.append(history.picture())
    with Dashboard(lambda: seen) as dashboard:
        page = browser.open(dashboard.url)
        page.until(LOADED)
        for name in names:
            page.value(f"{TEXT}('run').value = {json.dumps(name)}; 0")
            page.until(f"{TEXT}('workers').text.includes({json.dumps(escape(name)[:40])})")
            page.until("document.querySelector('.bk-Column, .bk-Row') != null")
            assert page.value("typeof window.pwned") == "undefined"
        assert page.value("typeof window.MathJax") == "undefined"
        page.shot(screenshots / "hostile-light.png", dark=False)
