"""The plots and the table of latencies of a report, from the picture that was kept of the run."""

from __future__ import annotations

from markupsafe import Markup

from apwa_dask.observe.history import EndpointPicture, Picture
from apwa_dask.observe.latency import QUANTILES, quantile_s, quantiles_over_time
from apwa_dask.observe.svg import Chart, Line, line_chart
from apwa_dask.observe.text import count_text, money_text, seconds_text

__all__ = ["charts_of", "latency_rows"]

_COLORS = "abcdef"
_MOST_ENDPOINTS = 3
_MOST_STEPS = 60
_WIDE = 20.0
"""From so many times the least latency to the greatest, a logarithmic scale shows both."""


def charts_of(picture: Picture) -> list[Markup]:
    """Throughput, calls in flight, 429s, money, tokens and latency over time; those that have data."""
    start_s = picture.state.started_s or picture.series.start_s
    charts = [_rows(picture), _answers(picture), _flights(picture), _refusals(picture)]
    charts += [_money(picture), _tokens(picture), _latency(picture)]
    drawn = [line_chart(chart, start_s) for chart in charts]
    return [chart for chart in drawn if chart is not None]


def latency_rows(picture: Picture) -> list[list[str]]:
    """One line for each step whose calls were timed: calls, then each of `QUANTILES`."""
    return [
        [
            step.step,
            count_text(int(sum(step.latency.values()))),
            *(seconds_text(quantile_s(step.latency, q)) for q in QUANTILES),
        ]
        for step in picture.steps[:_MOST_STEPS]
        if step.latency
    ]


def _rows(picture: Picture) -> Chart:
    series, times_s = picture.series, picture.series.times_s()
    lines = [Line("done", times_s, series.per_s("rows"), "a")]
    if any(series.count("failed")):
        lines.append(Line("failed", times_s, series.per_s("failed"), "f"))
    return Chart("Throughput", "rows a second", lines)


def _answers(picture: Picture) -> Chart:
    lines: list[Line] = []
    for one, color, name in _endpoints(picture, "answers"):
        times_s = one.series.times_s()
        lines.append(Line(name, times_s, one.series.per_s("answers"), color))
        if one.requests_per_s is not None and times_s:
            ends = [times_s[0], times_s[-1]]
            lines.append(Line("announced limit", ends, [one.requests_per_s] * 2, "limit"))
    return Chart("Answers of endpoints", "a second", lines)


def _flights(picture: Picture) -> Chart:
    lines: list[Line] = []
    for one, color, name in _endpoints(picture, "in flight"):
        times_s = one.series.times_s()
        lines.append(Line(name, times_s, one.series.gauge("in_flight"), color))
        lines.append(Line("allowed", times_s, one.series.gauge("limit"), f"{color} dashed"))
        if one.most and times_s:
            lines.append(Line("ceiling", [times_s[0], times_s[-1]], [float(one.most)] * 2, "limit"))
    return Chart("Calls in flight", "calls", lines)


def _refusals(picture: Picture) -> Chart:
    lines: list[Line] = []
    for one, color, name in _endpoints(picture, "429s"):
        if one.throttled:
            lines.append(Line(name, one.series.times_s(), one.series.count("throttled"), color))
    return Chart("Refusals for rate (429)", "calls", lines)


def _money(picture: Picture) -> Chart:
    times_s = picture.series.times_s()
    lines = [Line("spent", times_s, picture.series.summed("cost_usd"), "b")]
    ceiling_usd, unit = picture.state.ceiling_in_sight_usd, "USD"
    if ceiling_usd is not None and times_s:
        lines.append(Line("ceiling", [times_s[0], times_s[-1]], [ceiling_usd] * 2, "limit"))
    elif picture.state.budget_usd is not None:
        unit = f"USD; the ceiling, {money_text(picture.state.budget_usd)}, is above"
    return Chart("Cost", unit, lines)


def _tokens(picture: Picture) -> Chart:
    series, times_s = picture.series, picture.series.times_s()
    lines = [Line("in", times_s, series.summed("input_tokens"), "a")]
    return Chart("Tokens", "tokens", [*lines, Line("out", times_s, series.summed("output_tokens"), "b")])


def _latency(picture: Picture) -> Chart:
    times_s, quantiles = quantiles_over_time(picture.series)
    lines = [
        Line(f"p{100 * q:.0f}", times_s, quantiles[q], color)
        for q, color in zip(QUANTILES, _COLORS, strict=False)
    ]
    values = [value for line in lines for value in line.values]
    wide = bool(values) and max(values) > _WIDE * min(values)
    return Chart("Latency of calls on the wire", "seconds", lines, log=wide)


def _endpoints(picture: Picture, what: str) -> list[tuple[EndpointPicture, str, str]]:
    """(endpoint, colour, name of its line); one endpoint, as nearly always, needs no name."""
    shown = sorted(picture.endpoints, key=lambda one: -one.answers)[:_MOST_ENDPOINTS]
    return [
        (one, color, one.endpoint if len(shown) > 1 else what)
        for one, color in zip(shown, _COLORS, strict=False)
    ]
