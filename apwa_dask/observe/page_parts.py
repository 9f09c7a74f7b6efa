"""Small parts of the dashboard page: safe words, tables, figures that read on light and on dark pages."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from html import escape

from bokeh.models import (
    BasicTicker,
    BasicTickFormatter,
    ColumnDataSource,
    DatetimeTickFormatter,
    Div,
    HoverTool,
    InlineStyleSheet,
    Legend,
    LegendItem,
    NumeralTickFormatter,
)
from bokeh.plotting import figure

from apwa_dask.observe.text import safe_text

__all__ = ["PALETTE", "Plot", "html_block", "label", "table_html"]

PALETTE = ("#4a7fb5", "#d08a2e", "#2f8f6a", "#a65fa0", "#7d8a2e", "#b4452f")
"""Blue, amber, green, plum, olive, red: told apart on white, on near-black, and by most eyes."""

_LONG_NAME = 20
FAILED = "#c8553d"
"""Of what went wrong, wherever it is drawn."""
_WORDS = frozenset({"step", "row", "worker", "endpoint", "model"})
"""Columns of names, which stand left; the others are numbers."""
GRAY = "#808a93"
"""Readable on white and on near-black alike."""
Lines = Mapping[str, tuple[Sequence[float], Sequence[float]]]
"""By name: moments (Unix seconds) and values."""
_STYLE = """
:host { color: inherit; }
table { border-collapse: collapse; width: 100%; font: 13px/1.5 system-ui, "Segoe UI", Roboto, sans-serif; }
caption { text-align: left; white-space: nowrap; font-weight: 600; padding: 0 0 4px; }
th, td { text-align: right; padding: 3px 0 3px 14px; border-bottom: 1px solid rgba(128, 138, 147, .3);
  font-variant-numeric: tabular-nums; white-space: nowrap; }
th { font-weight: 600; color: #808a93; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
th.words, td.words { text-align: left; }
.tiles { display: flex; flex-wrap: wrap; gap: 6px 28px; font: 14px/1.4 system-ui, "Segoe UI", Roboto, sans-serif; }
.tiles b { display: block; font-size: 20px; font-variant-numeric: tabular-nums; }
.tiles span { color: #808a93; font-size: 13px; }
.none { color: #808a93; font: 13px/1.5 system-ui, sans-serif; }
"""


def label(text: object, max_chars: int = 48) -> str:
    """A name as a plot may show it: one line, nothing that a plot would typeset as a formula."""
    words = safe_text(text, max_chars=max_chars)
    return words.replace("$$", "$\u200b$").replace("\\", "\u2216")


def html_block(name: str) -> Div:
    """A place for HTML of ours. What is put there must have been escaped."""
    return Div(
        name=name,
        text="",
        disable_math=True,
        sizing_mode="stretch_width",
        stylesheets=[InlineStyleSheet(css=_STYLE)],
        margin=(6, 14, 10, 14),
    )


def table_html(
    caption: str, columns: Sequence[str], rows: Sequence[Sequence[object]], none: str = "nothing yet"
) -> str:
    """A table with every cell escaped."""
    if not rows:
        return f"<table><caption>{escape(caption)}</caption></table><div class='none'>{escape(none)}</div>"
    aligned = [' class="words"' if name in _WORDS else "" for name in columns]
    head = "".join(f"<th{how}>{escape(name)}</th>" for how, name in zip(aligned, columns, strict=True))
    body = "".join(
        "<tr>"
        + "".join(
            f"<td{how}>{escape(safe_text(cell, max_chars=80))}</td>"
            for how, cell in zip(aligned, row, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    return (
        f"<table><caption>{escape(caption)}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )


def _clock() -> DatetimeTickFormatter:
    """The time of day at each tick, also where ticks are less than a second apart; the day below the first."""
    fine = dict.fromkeys(("microseconds", "milliseconds"), "%H:%M:%S.%3N")
    seconds = dict.fromkeys(("seconds", "minsec"), "%H:%M:%S")
    minutes = dict.fromkeys(("minutes", "hourmin", "hours"), "%H:%M")
    day = dict.fromkeys((*fine, *seconds, *minutes), "%b %d, %Y")
    return DatetimeTickFormatter(
        **fine,
        **seconds,
        **minutes,
        days="%b %d",
        context=DatetimeTickFormatter(**day, days="%Y"),
        context_which="start",
    )


class Plot:
    """A figure over time with named lines; `show` replaces all that they draw.

    Parameters
    ----------
    title, unit : str
        Ours, never a user's.
    log : bool
        A logarithmic scale.
    whole : bool
        Things that are counted: no tick between one and two, thousands as ``16k``.
    """

    def __init__(self, name: str, title: str, unit: str, *, log: bool = False, whole: bool = False) -> None:
        self.figure = figure(
            name=name,
            title=title,
            height=240,
            min_width=320,
            sizing_mode="stretch_width",
            x_axis_type="datetime",
            y_axis_type="log" if log else "linear",
            y_axis_label=unit,
            tools="xpan,xwheel_zoom,reset",
            toolbar_location=None,
            min_border_right=30,
            margin=(4, 10, 6, 10),
        )
        self._lines: dict[str, ColumnDataSource] = {}
        self._log = log
        self._items: dict[str, LegendItem] = {}
        self._legend = Legend(
            items=[],
            orientation="horizontal",
            background_fill_alpha=0.0,
            border_line_alpha=0.0,
            label_text_color=GRAY,
            label_text_font_size="11px",
            glyph_height=12,
            padding=0,
            margin=0,
            spacing=14,
        )
        self.figure.add_layout(self._legend, "above")
        self._finish_style()
        self.figure.xaxis.formatter = _clock()
        if whole:
            self.figure.yaxis.ticker = BasicTicker(min_interval=1)
            self.figure.yaxis.formatter = NumeralTickFormatter(format="0.[0]a")
        elif not log:
            self.figure.yaxis.formatter = BasicTickFormatter(use_scientific=False)

    def _finish_style(self) -> None:
        fig = self.figure
        fig.background_fill_color = fig.border_fill_color = None
        fig.outline_line_color = None
        fig.title.text_color = GRAY
        fig.title.text_font_size = "13px"
        fig.grid.grid_line_color = GRAY
        fig.grid.grid_line_alpha = 0.2
        fig.xgrid.grid_line_color = None
        for axis in fig.axis:
            axis.axis_line_color = axis.major_tick_line_color = GRAY
            axis.minor_tick_line_color = None
            axis.major_label_text_color = axis.axis_label_text_color = GRAY
            axis.axis_label_text_font_style = "normal"
        if not self._log:
            fig.y_range.start = 0
        fig.y_range.range_padding = 0.12
        fig.add_tools(
            HoverTool(
                tooltips=[("", "@name: @y{0,0.[000]}"), ("", "@x{%F %T}")], formatters={"@x": "datetime"}
            )
        )

    def show(self, lines: Lines, *, dashed: Collection[str] = ()) -> None:
        """Draw these lines: by name, moments (Unix seconds) and values. Lines that are not named are emptied."""
        for name, (times_s, values) in lines.items():
            source = self._lines.get(name)
            if source is None:
                source = self._line(name, name in dashed)
            source.data = {
                "x": [time_s * 1000.0 for time_s in times_s],
                "y": list(values),
                "name": [name] * len(values),
            }
            self._items[name].visible = True
        for name in self._lines.keys() - lines.keys():
            self._lines[name].data = {"x": [], "y": [], "name": []}
            self._items[name].visible = False

    def _line(self, name: str, is_dashed: bool) -> ColumnDataSource:
        source = ColumnDataSource({"x": [], "y": [], "name": []}, name=name)
        color = FAILED if name == "failed" else PALETTE[len(self._lines) % len(PALETTE)]
        dash = "dashed" if is_dashed else "solid"
        line = self.figure.line("x", "y", source=source, color=color, line_width=2, line_dash=dash)
        if not is_dashed:  # a lone point is no line, and would not be seen
            self.figure.scatter("x", "y", source=source, color=color, size=3)
        self._lines[name] = source
        self._items[name] = LegendItem(label={"value": name}, renderers=[line])
        self._legend.items = list(self._items.values())
        self._legend.ncols = 2 if any(len(item) > _LONG_NAME for item in self._items) else "auto"
        return source
