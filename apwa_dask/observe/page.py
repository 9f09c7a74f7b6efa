"""The dashboard page of runs, as a Bokeh document: the same on a scheduler and standalone.

It draws pictures (`apwa_dask.observe.history`) and asks nobody: where they come from is the caller's business.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from bokeh.layouts import column, gridplot, row
from bokeh.models import Select

from apwa_dask.observe.history import EndpointPicture, Picture
from apwa_dask.observe.latency import QUANTILES, quantiles_over_time
from apwa_dask.observe.page_parts import Plot, html_block, label
from apwa_dask.observe.page_tables import slowest_table, steps_table, summary_html, workers_table

if TYPE_CHECKING:
    from bokeh.document import Document

__all__ = ["EVERY_MS", "Pictures", "RunPage", "fill"]

EVERY_MS = 1000
_FAR = "ceiling (far above)"
MAX_LINES = 4
"""Endpoints drawn in a plot: those with the most answers."""

Pictures = Callable[[], Sequence[Picture]]
"""Gives the runs there are to show, the latest last; quick, and safe to call from the server's thread."""


class RunPage:
    """The models of one visitor's page, and how they are brought up to date.

    Parameters
    ----------
    pictures : callable
    now : callable
        Unix seconds.
    """

    def __init__(self, pictures: Pictures, now: Callable[[], float]) -> None:
        self._pictures, self._now = pictures, now
        self._seen: Picture | None = None
        self._latest = ""
        self.summary, self.steps = html_block("summary"), html_block("steps")
        self.workers, self.slowest = html_block("workers"), html_block("slowest")
        self.choice = Select(title="Run", options=[], value="", visible=False, width=420, name="run")
        self.choice.on_change("value", lambda attr, old, new: self.update())
        self.throughput = Plot("throughput", "Answers, against the announced limit", "a second")
        self.concurrency = Plot(
            "concurrency", "Calls in flight, against what is allowed", "calls", whole=True
        )
        self.throttled = Plot("throttled", "429s and pauses", "429s", whole=True)
        self.rows = Plot("rows", "Rows", "rows", whole=True)
        self.money = Plot("money", "Cost, against the ceiling", "USD")
        self.tokens = Plot("tokens", "Tokens", "tokens", whole=True)
        self.latency = Plot("latency", "Latency of calls on the wire", "seconds", log=True)
        self.queue = Plot("queue", "Calls that wait for a slot", "calls", whole=True)
        plots = (
            self.throughput,
            self.concurrency,
            self.throttled,
            self.queue,
            self.money,
            self.tokens,
            self.latency,
            self.rows,
        )
        grid = gridplot(
            [plot.figure for plot in plots],
            ncols=2,
            sizing_mode="stretch_width",
            toolbar_location=None,
            merge_tools=False,
        )
        self.root = column(
            self.choice,
            self.summary,
            grid,
            self.steps,
            row(self.slowest, self.workers, sizing_mode="stretch_width"),
            sizing_mode="stretch_width",
        )

    def update(self) -> None:
        """Draw the chosen run as it is now; nothing is sent where nothing has changed."""
        pictures = {picture.state.run_id: picture for picture in self._pictures()}
        self._offer(list(pictures))
        picture = pictures.get(self.choice.value, Picture())
        self.summary.text = summary_html(picture, self._now())
        if picture == self._seen:
            return
        self._seen = picture
        self.steps.text = steps_table(picture)
        self.workers.text = workers_table(picture)
        self.slowest.text = slowest_table(picture)
        self._draw_endpoints(picture)
        self._draw_run(picture)

    def _offer(self, run_ids: list[str]) -> None:
        """A run that begins is shown at once to whoever looked at the latest one."""
        if not run_ids:
            return
        follows = self.choice.value in ("", self._latest)
        options = [(run_id, label(run_id)) for run_id in run_ids]
        if self.choice.options != options:
            self.choice.options = options
            self.choice.visible = len(options) > 1
        if follows or self.choice.value not in run_ids:
            self._latest = self.choice.value = run_ids[-1]

    def _draw_endpoints(self, picture: Picture) -> None:
        shown = sorted(picture.endpoints, key=lambda one: -one.answers)[:MAX_LINES]
        answers, flights, refusals, waits = {}, {}, {}, {}
        limits: set[str] = set()
        for one in shown:
            # one endpoint, as nearly always: its name would only crowd the legends
            name, series = label(one.endpoint, 26) if len(shown) > 1 else "", one.series
            times_s = series.times_s()
            answers[_of("answers", name)] = times_s, series.per_s("answers")
            flights[_of("in flight", name)] = times_s, series.gauge("in_flight")
            refusals[_of("429s", name)] = times_s, series.count("throttled")
            waits[_of("waiting", name)] = times_s, series.gauge("waiting")
            refusals[_of("paused", name)] = times_s, series.gauge("paused")
            if len(shown) <= 2:
                flights[_of("allowed now", name)] = times_s, series.gauge("limit")
            limits |= {_of("allowed now", name), _of("paused", name)}
            for limit, value, lines in _limits_of(one, name):
                lines_of = {"answers": answers, "flights": flights}[lines]
                lines_of[limit] = _flat(times_s, value)
                limits.add(limit)
        self.throughput.show(answers, dashed=limits)
        self.concurrency.show(flights, dashed=limits)
        self.throttled.show(refusals, dashed=limits)
        self.queue.show(waits)

    def _draw_run(self, picture: Picture) -> None:
        series, times_s = picture.series, picture.series.times_s()
        self.money.show(_money(picture), dashed={"ceiling", "forecast", _FAR})
        self.tokens.show(
            {
                "in": (times_s, series.summed("input_tokens")),
                "out": (times_s, series.summed("output_tokens")),
            }
        )
        self.rows.show(
            {
                "done": (times_s, series.summed("rows")),
                "from the journal": (times_s, series.summed("cached")),
                "failed": (times_s, series.summed("failed")),
            }
        )
        moments_s, quantiles = quantiles_over_time(series)
        self.latency.show({f"p{100 * q:.0f}": (moments_s, quantiles[q]) for q in QUANTILES})


def _money(picture: Picture) -> dict[str, tuple[Sequence[float], Sequence[float]]]:
    """What was spent, will be, and may be; of a ceiling far above the others only its name."""
    series, state, times_s = picture.series, picture.state, picture.series.times_s()
    lines: dict[str, tuple[Sequence[float], Sequence[float]]] = {
        "spent": (times_s, series.summed("cost_usd"))
    }
    if state.forecast_usd is not None and not state.is_over:
        lines["forecast"] = _flat(times_s, state.forecast_usd)
    if state.ceiling_in_sight_usd is not None:
        lines["ceiling"] = _flat(times_s, state.ceiling_in_sight_usd)
    elif state.budget_usd is not None:
        lines[_FAR] = [], []
    return lines


def _limits_of(one: EndpointPicture, name: str) -> list[tuple[str, float, str]]:
    """(name of the line, height, plot) of the limits that are known of an endpoint."""
    limits: list[tuple[str, float, str]] = []
    if one.most:
        limits.append((_of("ceiling", name), float(one.most), "flights"))
    if one.requests_per_s is not None:
        limits.append((_of("announced limit", name), one.requests_per_s, "answers"))
    return limits


def _of(what: str, name: str) -> str:
    return f"{what}: {name}" if name else what


def _flat(times_s: Sequence[float], value: float) -> tuple[list[float], list[float]]:
    ends = [times_s[0], times_s[-1]] if times_s else []
    return ends, [value] * len(ends)


def fill(doc: Document, pictures: Pictures, now: Callable[[], float], *, every_ms: int = EVERY_MS) -> RunPage:
    """Put the page into a document, and keep it up to date while the visitor stays."""
    page = RunPage(pictures, now)
    page.update()
    doc.add_root(page.root)
    doc.title = "apwa"
    doc.add_periodic_callback(page.update, every_ms)
    return page
