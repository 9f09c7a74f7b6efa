"""The page ``/apwa`` on the dashboard of a running Dask scheduler, beside Dask's own.

A second Bokeh application joins those of the scheduler's HTTP server, as Dask's own dashboard did
(`distributed.dashboard.scheduler.connect`): so a plugin can add it to a scheduler that is already there. It
listens where that dashboard listens, and is stopped with it.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from apwa_dask.execution.events import Event
from apwa_dask.observe.board import Board

if TYPE_CHECKING:
    from bokeh.document import Document
    from distributed import Scheduler

__all__ = ["PANES", "add_page"]

PANES = ("throughput", "concurrency", "money", "latency")
"""Plots that are also pages of their own, which dask-labextension lists as panes."""

_logger = logging.getLogger(__name__)


def add_page(scheduler: Scheduler) -> Callable[[Event], None] | None:
    """Add the page, and give who must be told of events; None where there is no dashboard to add it to."""
    bokeh = sys.modules.get(
        "bokeh.server.tornado"
    )  # a scheduler with a dashboard has it: half a second of import
    if bokeh is None:
        return None
    applications = getattr(getattr(scheduler, "http_application", None), "applications", ())
    dask_pages = next((app for app in applications if isinstance(app, bokeh.BokehTornado)), None)
    if dask_pages is None:
        return None
    board = Board()
    try:
        _connect(scheduler, dask_pages, board)
    except (ImportError, AttributeError, TypeError) as error:  # Dask's dashboard has no public way to join it
        _logger.warning("this version of Dask's dashboard takes no further page: %s", error)
        return None
    return board


def _connect(scheduler: Scheduler, dask_pages: Any, board: Board) -> None:
    from distributed.dashboard.core import BokehApplication
    from distributed.dashboard.scheduler import template_variables
    from tornado.ioloop import IOLoop

    pages: dict[str, Callable[..., None]] = {"/apwa": partial(_whole_page, board)}
    pages |= {f"/individual-apwa-{name}": partial(_pane, board, name) for name in PANES}
    ours = BokehApplication(
        pages, scheduler, prefix=dask_pages.prefix, template_variables=template_variables(scheduler)
    )
    scheduler.http_application.add_application(ours)
    ours.initialize(IOLoop.current())
    ours.start()
    _list_panes(dask_pages, ours)


def _list_panes(dask_pages: Any, ours: Any) -> None:
    """``individual-plots.json`` names the pages of the first application only, and offers no way to add one."""
    known = getattr(dask_pages, "_applications", None)
    if isinstance(known, dict):
        known.update(ours._applications)
    else:
        _logger.debug("this Bokeh keeps its applications elsewhere: the panes are not listed")


def _whole_page(board: Board, scheduler: Scheduler, extra: dict[str, Any], doc: Document) -> None:
    from distributed.dashboard.components.scheduler import env

    from apwa_dask.observe.page import fill

    fill(doc, board.pictures, time.time)
    doc.title = "Dask: apwa"
    doc.template = env.get_template("simple.html")
    doc.template_variables.update(extra)


def _pane(board: Board, name: str, scheduler: Scheduler, extra: dict[str, Any], doc: Document) -> None:
    from apwa_dask.observe.page import EVERY_MS, RunPage

    page = RunPage(board.pictures, time.time)
    page.update()
    plot = getattr(page, name).figure
    plot.sizing_mode = "stretch_both"
    doc.add_root(plot)
    doc.title = f"Dask: apwa {name}"
    doc.add_periodic_callback(page.update, EVERY_MS)
