"""The report of a run: one HTML file that needs nothing else, whatever was in the data.

It is made from plain values alone, so it can be written long after the cluster is gone. Every text is escaped
by the template engine; a content security policy forbids scripts and every fetch, should one slip through.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, Any

from apwa_dask.observe.grids import cell_text
from apwa_dask.observe.history import Picture
from apwa_dask.observe.plan_graph import GraphNode, plan_graph
from apwa_dask.observe.report_charts import charts_of, latency_rows
from apwa_dask.observe.text import count_text, duration_text, money_text, safe_text, things_text

if TYPE_CHECKING:
    from jinja2 import Template

__all__ = ["MAX_BYTES", "CostRow", "EstimateRow", "FailureReport", "ReportFacts", "render_report"]

MAX_BYTES = 5_000_000
CONTENT_SECURITY_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'"


@dataclass(frozen=True, slots=True)
class CostRow:
    """What one step, model and outcome came to. ``cost_usd`` is None where the price is unknown."""

    step: str
    model: str
    outcome: str
    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float | None = 0.0
    cached_tokens: int = 0
    """Of the input tokens, those that the endpoint had cached."""


@dataclass(frozen=True, slots=True)
class EstimateRow:
    """One quantity as it was forecast and as it came: texts with their units, such as ``"$1.20"``."""

    name: str
    low: str
    expected: str
    high: str
    actual: str = ""


@dataclass(frozen=True, slots=True)
class FailureReport:
    """Failures that say the same. `samples` are cells by column name; the first five are shown."""

    outcome: str
    message: str
    rows: int
    samples: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True)
class ReportFacts:
    """Everything a report says, as plain values.

    Parameters
    ----------
    run_id, name, query, status : str
        ``status``: ``done``, ``stopped``, ``failed``, ``budget`` or ``running``.
    rows_total : int, optional
        None while unknown.
    rows_done, rows_failed, rows_cached, rows_out : int
        Rows with an outcome (failed and cached ones included), and rows of the result.
    cost_usd, budget_usd : float, optional
        None: price unknown, no ceiling.
    started_at, ended_at : str
        ISO 8601, with the offset.
    graph : sequence of GraphNode
        Tables and steps of the plan, to be drawn.
    picture : Picture, optional
        What the run was like over time, to be plotted.
    plan_text, plan_yaml : str
        The explanation and the plan itself.
    local_model : str
        Label of the embedded model when it gave (some of) the answers; empty otherwise.
    sample_rows : sequence of mapping
        Cells of the result by column name.
    sample_columns : sequence of str
        Order of the columns; that of the first row when empty.
    manifest : mapping
        The run's manifest. It must hold no secret: it is printed as it is.
    folder : str
        Where the run is kept.
    """

    run_id: str
    name: str = ""
    query: str = ""
    status: str = "done"
    message: str = ""
    rows_total: int | None = None
    rows_done: int = 0
    rows_failed: int = 0
    rows_cached: int = 0
    rows_out: int = 0
    calls: int = 0
    cost_usd: float | None = 0.0
    budget_usd: float | None = None
    started_at: str = ""
    ended_at: str = ""
    duration_s: float | None = None
    graph: Sequence[GraphNode] = ()
    picture: Picture | None = None
    plan_text: str = ""
    plan_yaml: str = ""
    models: Sequence[str] = ()
    prices_as_of: str = ""
    """Date of the price list that was used; empty where all prices were given, or unknown."""
    local_model: str = ""
    costs: Sequence[CostRow] = ()
    estimates: Sequence[EstimateRow] = ()
    failures: Sequence[FailureReport] = ()
    sample_columns: Sequence[str] = ()
    sample_rows: Sequence[Mapping[str, Any]] = ()
    manifest: Mapping[str, Any] = field(default_factory=dict)
    folder: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True)
class _Limits:
    """How much of each part is printed."""

    text_chars: int = 100_000
    cell_chars: int = 300
    columns: int = 40
    rows: int = 100
    groups: int = 40
    samples: int = 5
    costs: int = 300

    def halved(self) -> _Limits:
        return replace(
            self,
            text_chars=self.text_chars // 2,
            cell_chars=max(self.cell_chars // 2, 20),
            columns=max(self.columns // 2, 5),
            rows=max(self.rows // 2, 5),
            groups=max(self.groups // 2, 5),
            costs=max(self.costs // 2, 20),
        )


def render_report(facts: ReportFacts) -> str:
    """The report as one HTML document of at most 5 MB (`MAX_BYTES`), at any size of the run.

    The document loads nothing and runs nothing; it reads in light and dark and on paper.
    """
    limits = _Limits()
    document = _rendered(facts, limits)
    while len(document.encode()) > MAX_BYTES and limits.text_chars:
        limits = limits.halved()
        document = _rendered(facts, limits)
    return document


def _rendered(facts: ReportFacts, limits: _Limits) -> str:
    columns = list(facts.sample_columns) or (list(facts.sample_rows[0]) if facts.sample_rows else [])
    return _template().render(
        csp=CONTENT_SECURITY_POLICY,
        title=safe_text(facts.name or facts.run_id, max_chars=120),
        status=safe_text(facts.status, max_chars=40),
        subtitle=[safe_text(words, max_chars=200) for words in _subtitle(facts)],
        local_model=safe_text(facts.local_model, max_chars=200),
        rows_failed=facts.rows_failed,
        folder=safe_text(facts.folder, max_chars=1000),
        version=safe_text(facts.version, max_chars=40),
        query=_block(facts.query, limits),
        message=_block(facts.message, limits),
        tiles=_tiles(facts),
        outcome_bar=_outcome_bar(facts),
        estimates=[_texts(row) for row in facts.estimates[:20]],
        costs=[_cost_cells(row) for row in facts.costs[: limits.costs]],
        costs_left=max(len(facts.costs) - limits.costs, 0),
        cost_total=_cost_total(facts),
        prices_as_of=safe_text(facts.prices_as_of, max_chars=40),
        graph=plan_graph(facts.graph),
        charts=[] if facts.picture is None else charts_of(facts.picture),
        latencies=[] if facts.picture is None else [_names(row) for row in latency_rows(facts.picture)],
        plan_text=_block(facts.plan_text, limits),
        plan_yaml=_block(facts.plan_yaml, limits),
        failures=[_failure(group, limits) for group in facts.failures[: limits.groups]],
        failures_left=max(len(facts.failures) - limits.groups, 0),
        sample_columns=[cell_text(name, 80) for name in columns[: limits.columns]],
        sample_rows=[
            [cell_text(row.get(name), limits.cell_chars) for name in columns[: limits.columns]]
            for row in islice(facts.sample_rows, limits.rows)
        ],
        sample_note=_sample_note(facts, columns, limits),
        manifest=_block(_json(facts.manifest), limits),
    )


def _subtitle(facts: ReportFacts) -> list[str]:
    times = " to ".join(time for time in (facts.started_at, facts.ended_at) if time)
    return [words for words in (f"run {facts.run_id}", times, ", ".join(facts.models)) if words]


def _tiles(facts: ReportFacts) -> list[tuple[str, str, str]]:
    """(name, figure, small print) of the summary."""
    total = "" if facts.rows_total is None else f"of {count_text(facts.rows_total)}"
    ceiling = (
        "no ceiling was set" if facts.budget_usd is None else f"of at most {money_text(facts.budget_usd)}"
    )
    took = "unknown" if facts.duration_s is None else duration_text(facts.duration_s)
    return [
        ("Rows worked on", count_text(facts.rows_done), total),
        ("Failed", count_text(facts.rows_failed), _share(facts.rows_failed, facts.rows_done)),
        ("From the journal", count_text(facts.rows_cached), "not paid again"),
        ("Rows of the result", count_text(facts.rows_out), ""),
        ("Cost", money_text(facts.cost_usd), ceiling),
        ("Time", took, f"{things_text(facts.calls, 'call')}"),
    ]


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else ""


def _outcome_bar(facts: ReportFacts) -> list[tuple[str, str, str]]:
    """(class, width in per cent, words) of the parts of all rows."""
    whole = max(facts.rows_total or 0, facts.rows_done)
    if not whole:
        return []
    cached = min(facts.rows_cached, facts.rows_done)
    fresh = max(facts.rows_done - facts.rows_failed - cached, 0)
    parts = [
        ("ok", fresh, "answered"),
        ("cached", cached, "from the journal"),
        ("failed", facts.rows_failed, "failed"),
        ("pending", max(whole - facts.rows_done, 0), "not worked on"),
    ]
    return [(kind, f"{100 * n / whole:.2f}", f"{count_text(n)} {words}") for kind, n, words in parts if n]


def _texts(row: EstimateRow) -> list[str]:
    return [safe_text(text, max_chars=80) for text in (row.name, row.low, row.expected, row.high, row.actual)]


def _names(row: Sequence[str]) -> list[str]:
    return [safe_text(text, max_chars=80) for text in row]


def _cost_cells(row: CostRow) -> list[str]:
    names = [safe_text(text, max_chars=80) for text in (row.step, row.model, row.outcome)]
    tokens = (row.input_tokens, row.cached_tokens, row.output_tokens)
    numbers = [count_text(n) for n in (row.calls, *tokens)]
    return [*names, *numbers, money_text(row.cost_usd)]


def _cost_total(facts: ReportFacts) -> list[str]:
    names = ("calls", "input_tokens", "cached_tokens", "output_tokens")
    sums = [count_text(sum(getattr(row, name) for row in facts.costs)) for name in names]
    return [*sums, money_text(facts.cost_usd)]


def _failure(group: FailureReport, limits: _Limits) -> dict[str, Any]:
    samples = list(islice(group.samples, limits.samples))
    columns = list(dict.fromkeys(name for sample in samples for name in sample))[: limits.columns]
    return {
        "outcome": safe_text(group.outcome, max_chars=80),
        "message": safe_text(group.message, max_chars=500),
        "rows": count_text(group.rows),
        "columns": [cell_text(name, 80) for name in columns],
        "samples": [
            [cell_text(sample.get(name), limits.cell_chars) for name in columns] for sample in samples
        ],
    }


def _sample_note(facts: ReportFacts, columns: Sequence[str], limits: _Limits) -> str:
    shown = min(len(facts.sample_rows), limits.rows)
    notes = [f"{count_text(shown)} of {count_text(max(facts.rows_out, shown))} rows"]
    if len(columns) > limits.columns:
        notes.append(f"{limits.columns} of {count_text(len(columns))} columns")
    return ", ".join(notes) + f"; cells are cut at {limits.cell_chars} characters"


def _block(text: str, limits: _Limits) -> str:
    """A block of text with its lines kept, cut to size and saying so."""
    kept = safe_text(text[: limits.text_chars], keep_lines=True)
    left = len(text) - limits.text_chars
    return f"{kept}\n... ({count_text(left)} more characters)" if left > 0 else kept


def _json(manifest: Mapping[str, Any]) -> str:
    import orjson

    if not manifest:
        return ""
    option = orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS
    return orjson.dumps(dict(manifest), default=str, option=option).decode()


@cache
def _template() -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("apwa_dask.observe"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2")
