"""Line charts as inline SVG: no script, no font, no image, so the report's policy may forbid them all.

Bokeh's resources alone weigh 5 MB and need scripts; a chart here is some kilobytes, prints, and takes its colours
from the page, in light and in dark. Every text is escaped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, isfinite, log10

from markupsafe import Markup, escape

from apwa_dask.observe.text import safe_text

__all__ = ["Chart", "Line", "line_chart"]

WIDTH, HEIGHT = 520, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 40, 26
_LEGEND_CHARS = 34


@dataclass(frozen=True, slots=True)
class Line:
    """One line. ``kind`` is a class of the page's style: ``a`` to ``f`` are colours, ``limit`` is dashed."""

    name: str
    times_s: Sequence[float]
    values: Sequence[float]
    kind: str = "a"


@dataclass(frozen=True, slots=True)
class Chart:
    """Lines over the time since the run began. ``log`` is a logarithmic scale."""

    title: str
    unit: str
    lines: Sequence[Line]
    log: bool = False


def line_chart(chart: Chart, start_s: float) -> Markup | None:
    """The chart as an SVG element; None where no line has a point.

    Parameters
    ----------
    chart : Chart
    start_s : float
        Unix seconds of the beginning, the left end of the axis.
    """
    lines = [line for line in chart.lines if len(line.values)]
    if not lines:
        return None
    end_s = max(max(line.times_s) for line in lines)
    span_s = max(end_s - start_s, 1e-3)
    low, high, ticks = _scale([v for line in lines for v in line.values if isfinite(v)], log=chart.log)

    def x(time_s: float) -> float:
        return _LEFT + (WIDTH - _LEFT - _RIGHT) * min(max((time_s - start_s) / span_s, 0.0), 1.0)

    def y(value: float) -> float:
        at = log10(max(value, 10**low)) if chart.log else value
        return HEIGHT - _BOTTOM - (HEIGHT - _BOTTOM - _TOP) * (at - low) / (high - low)

    parts = [
        Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(
            WIDTH, HEIGHT, safe_text(f"{chart.title}, {chart.unit}")
        ),
        Markup('<text class="title" x="{}" y="14">{}</text>').format(_LEFT, safe_text(chart.title)),
        Markup('<text class="tick" x="{}" y="14" text-anchor="end">{}</text>').format(
            WIDTH - _RIGHT, safe_text(chart.unit)
        ),
    ]
    for tick in ticks:
        height = y(tick)
        parts.append(
            Markup('<path class="grid" d="M{} {:.1f}H{}"/>').format(_LEFT, height, WIDTH - _RIGHT)
            + Markup('<text class="tick" x="{}" y="{:.1f}" text-anchor="end">{}</text>').format(
                _LEFT - 6, height + 3.5, _number(tick)
            )
        )
    parts += _time_axis(span_s)
    for line in lines:
        path = _path([(x(t), y(v)) for t, v in zip(line.times_s, line.values, strict=True) if isfinite(v)])
        parts.append(Markup('<path class="line {}" d="{}"/>').format(line.kind, path))
    parts.append(_legend(lines))
    return Markup("").join(parts) + Markup("</svg>")


def _path(points: Sequence[tuple[float, float]]) -> str:
    """A path through the points; a lone point becomes a short dash, which can be seen."""
    if len(points) == 1:
        (left, top), *_ = points
        return f"M{left - 3:.1f} {top:.1f}h6"
    return "M" + "L".join(f"{left:.1f} {top:.1f}" for left, top in points)


def _legend(lines: Sequence[Line]) -> Markup:
    parts, left = [], float(_LEFT)
    for line in lines:
        name = safe_text(line.name, max_chars=_LEGEND_CHARS)
        parts.append(
            Markup(
                '<path class="line {}" d="M{:.0f} 27h14"/><text class="tick" x="{:.0f}" y="30.5">{}</text>'
            ).format(line.kind, left, left + 18, escape(name))
        )
        left += 30 + 6.2 * len(name)
    return Markup("").join(parts)


def _time_axis(span_s: float) -> list[Markup]:
    unit, name = next(
        ((u, n) for u, n in ((86400, "d"), (3600, "h"), (60, "min")) if span_s >= 2 * u), (1, "s")
    )
    _, _, ticks = _scale([0.0, span_s / unit], log=False)
    shown = [tick for tick in ticks if tick <= span_s / unit * 1.0001]
    return [
        Markup('<text class="tick" x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(
            _LEFT + (WIDTH - _LEFT - _RIGHT) * tick * unit / span_s,
            HEIGHT - 8,
            f"{_number(tick)} {name}" if tick == shown[-1] else _number(tick),
        )
        for tick in shown
    ]


def _scale(values: Sequence[float], *, log: bool) -> tuple[float, float, list[float]]:
    """Lowest and highest place of the axis (powers of ten where it is logarithmic), and its ticks."""
    if log:
        least = min((value for value in values if value > 0), default=0.1)
        low, high = floor(log10(least)), ceil(log10(max(max(values, default=1.0), least * 1.001)))
        return low, max(high, low + 1), [10.0**power for power in range(low, max(high, low + 1) + 1)]
    top = max(max(values, default=0.0), 0.0) or 1.0
    rough = top / 4
    power = 10.0 ** floor(log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough)
    count = ceil(top / step - 1e-9)
    return 0.0, step * count, [step * k for k in range(count + 1)]


def _number(value: float) -> str:
    """A tick: ``1.5k``, ``2M``, ``0.02``."""
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{suffix}"
    return f"{value:.3g}"
