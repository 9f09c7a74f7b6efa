"""A page that cannot be had costs nobody a run."""

from __future__ import annotations

import asyncio
import logging
import sys

import pytest
from distributed import Scheduler

from apwa_dask.execution.events import Progress, StepPulse
from apwa_dask.execution.plugin import RUN_TOPIC, TOPIC, CoordinatorPlugin, event_of, message_of
from apwa_dask.observe import cluster_page
from apwa_dask.observe.board import Board


def with_scheduler(story, **options):
    async def work():
        async with Scheduler(port=0, **options) as scheduler:
            return story(scheduler)

    return asyncio.run(work())


def test_a_scheduler_without_a_dashboard_gets_no_page():
    assert with_scheduler(cluster_page.add_page, dashboard=False, dashboard_address="127.0.0.1:0") is None


def test_where_no_dashboard_has_brought_bokeh_along_it_is_not_imported(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "bokeh"]:
        monkeypatch.delitem(sys.modules, name)
    assert cluster_page.add_page(None) is None
    assert not any(name.partition(".")[0] == "bokeh" for name in sys.modules)


def test_a_dashboard_that_takes_no_page_is_noted_and_the_plugin_works_on(monkeypatch, caplog):
    pytest.importorskip("bokeh", reason="the dashboard needs Bokeh")

    def refuse(*given):
        raise AttributeError("no such thing")

    monkeypatch.setattr(cluster_page, "_connect", refuse)
    with caplog.at_level(logging.WARNING, logger="apwa_dask"):
        page = with_scheduler(cluster_page.add_page, dashboard=True, dashboard_address="127.0.0.1:0")
    assert page is None
    assert "takes no further page" in caplog.text


def test_the_plugin_shows_what_passes_through_both_topics_and_nothing_else():
    plugin, board = CoordinatorPlugin(), Board()
    plugin._board = board
    for topic, rows in ((TOPIC, 3), (RUN_TOPIC, 4), ("others", 100)):
        plugin.log_event(topic, message_of(Progress("r", 1.0, rows_done=rows, worker="w")))
    plugin.log_event(TOPIC, {"kind": "OfAnotherVersion", "run_id": "r"})
    (picture,) = board.pictures()
    assert sum(picture.series.count("rows")) == pytest.approx(7)


def test_a_pulse_travels_as_it_is():
    pulse = StepPulse(
        "r", 1.0, step="s", worker="w", outcomes={"ok": 3}, latency={"20": 3}, took={"0:1": (2.0, 0.5)}
    )
    assert event_of({**message_of(pulse), "worker_address": "tcp://w"}) == pulse
