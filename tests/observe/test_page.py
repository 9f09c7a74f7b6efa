"""The dashboard page as a Bokeh document, without a browser: it has the data, and hostile names stay names."""

from __future__ import annotations

import urllib.request
from html.parser import HTMLParser

import pytest

pytest.importorskip("bokeh", reason="the dashboard needs Bokeh")

from bokeh.document import Document

from apwa_dask.errors import ConfigError
from apwa_dask.execution.events import (
    EndpointPulse,
    Forecast,
    Progress,
    RunStarted,
    StageStarted,
    State,
    StepPulse,
)
from apwa_dask.observe.history import History, Picture
from apwa_dask.observe.page import fill
from apwa_dask.observe.page_parts import label
from apwa_dask.observe.page_tables import summary_html
from apwa_dask.observe.report_charts import charts_of
from apwa_dask.observe.standalone import Dashboard

EVIL = "<script>window.pwned=1</script><img src=x onerror=pwned()> $$\\href{javascript:pwned()}{x}$$"
T0 = 1_700_000_000.0


def history(run_id: str = "calm-otter", name: str = "rate", **changes: object) -> History:
    made = History()
    for event in (
        RunStarted(run_id, T0, budget_usd=2.0, model=name),
        StageStarted(run_id, T0, stage=0, name=name, partitions=2, rows=100),
        State(run_id, T0 + 1, words=name),
        Progress(run_id, T0 + 2, rows_done=40, calls=40, cost_usd=0.5, input_tokens=900, worker=name),
        StepPulse(
            run_id, T0 + 2, step=name, worker=name, waiting=3, outcomes={"ok": 39, name: 1}, latency={"24": 40},
            took={name: (4.0, 65.0)},
        ),
        EndpointPulse(
            run_id, T0 + 2, endpoint=name, worker=name, in_flight=3, limit=8, share=8, most=16, answers=40,
            throttled=2, paused=name, requests_per_s=50.0,
        ),
    ):  # fmt: skip
        made(event)
    return made


def document(*pictures: Picture) -> Document:
    doc = Document()
    fill(doc, lambda: list(pictures), lambda: T0 + 10)
    return doc


def lines(doc: Document, name: str) -> dict[str, list[float]]:
    figure = doc.get_model_by_name(name)
    return {line.data_source.name: list(line.data_source.data["y"]) for line in figure.renderers}


class Tags(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.seen: set[str] = set()
        self.feed(html)

    def handle_starttag(self, tag, attrs) -> None:
        self.seen.add(tag)


def test_every_plot_has_the_data_of_the_run():
    doc = document(history().picture())
    assert lines(doc, "throughput")["announced limit"] == [50.0, 50.0]
    assert sum(lines(doc, "throughput")["answers"]) > 0
    flights = lines(doc, "concurrency")
    assert (flights["in flight"][-1], flights["allowed now"][-1], flights["ceiling"]) == (
        3.0,
        8.0,
        [16.0, 16.0],
    )
    assert sum(lines(doc, "throttled")["429s"]) == 2
    assert lines(doc, "throttled")["paused"][-1] == 1
    assert lines(doc, "money")["spent"][-1] == pytest.approx(0.5)
    assert lines(doc, "money")["ceiling"] == [2.0, 2.0]
    assert lines(doc, "tokens")["in"][-1] == pytest.approx(900)
    assert lines(doc, "rows")["done"][-1] == pytest.approx(40)
    assert all(0.06 < value < 0.08 for value in lines(doc, "latency")["p50"])
    assert "<td>4.0 s</td><td>65.0 s</td>" in doc.get_model_by_name("slowest").text
    assert "<td>8</td><td>3</td>" in doc.get_model_by_name("workers").text


def test_a_ceiling_far_above_what_is_spent_is_named_and_leaves_the_plot_to_the_money():
    made = History()
    for event in (
        RunStarted("calm-otter", T0, budget_usd=500.0),
        Progress("calm-otter", T0 + 2, rows_done=40, calls=40, cost_usd=0.5),
        Progress("calm-otter", T0 + 4, rows_done=40, calls=40, cost_usd=0.5),
        Forecast("calm-otter", T0 + 4, figure="USD", estimated=2.0, forecast=3.0),
    ):
        made(event)
    money = lines(document(made.picture()), "money")
    assert money["ceiling (far above)"] == []
    assert money["forecast"] == [3.0, 3.0]
    assert max(money["spent"]) == 1.0
    (chart,) = [chart for chart in charts_of(made.picture()) if ">Cost<" in chart]
    assert "the ceiling, $500.00, is above" in chart


def test_several_workers_are_told_of_as_last_heard():
    made = history()
    assert "of 16 calls<" in summary_html(made.picture(), T0 + 3)
    made(
        EndpointPulse("calm-otter", T0 + 2, endpoint="rate", worker="other", in_flight=15, most=16, answers=1)
    )
    assert "of 16 calls, as last told<" in summary_html(made.picture(), T0 + 3)


def test_hostile_names_add_no_tag_and_are_not_typeset():
    plain, evil = document(history().picture()), document(history(EVIL, EVIL).picture())
    for name in ("summary", "steps", "workers", "slowest"):
        block = evil.get_model_by_name(name)
        assert Tags(block.text).seen == Tags(plain.get_model_by_name(name).text).seen
        assert block.disable_math
    assert "$$" not in label(EVIL)
    assert "\\" not in label(EVIL)


def test_a_page_without_runs_says_so_and_fills_when_one_begins():
    seen: list[Picture] = []
    doc = Document()
    page = fill(doc, lambda: seen, lambda: T0)
    assert "No run has been seen" in page.summary.text
    seen.append(history().picture())
    page.update()
    assert "calm-otter" in page.summary.text


def test_a_new_run_is_shown_to_whoever_looks_at_the_latest_and_no_other():
    seen = [history("one").picture(), history("two").picture()]
    doc = Document()
    page = fill(doc, lambda: seen, lambda: T0)
    assert page.choice.visible
    assert page.choice.value == "two"
    seen.append(history("three").picture())
    page.update()
    assert page.choice.value == "three"
    page.choice.value = "one"
    seen.append(history("four").picture())
    page.update()
    assert page.choice.value == "one"


def test_two_endpoints_are_told_apart_by_name():
    made = history()
    made(EndpointPulse("calm-otter", T0 + 3, endpoint="other at host", worker="w", answers=5, most=4))
    assert {"answers: rate", "answers: other at host"} <= lines(document(made.picture()), "throughput").keys()


def test_the_standalone_page_is_served_on_loopback_under_a_policy_and_ends_when_closed():
    made = history(EVIL)
    with Dashboard(lambda: [made.picture()]) as dashboard:
        assert dashboard.url.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(dashboard.url, timeout=30) as answer:
            page = answer.read().decode()
    assert "default-src 'none'" in page
    assert "pwned" not in page
    assert repr(dashboard) == "<Dashboard closed>"
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(dashboard.url, timeout=5)


def test_a_taken_port_is_refused_in_words():
    with Dashboard(list) as first:
        port = int(first.url.split(":")[2].split("/")[0])
        with pytest.raises(ConfigError, match="cannot listen on port"):
            Dashboard(list, port=port)
