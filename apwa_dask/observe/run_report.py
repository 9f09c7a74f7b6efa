"""The facts of a stored run, gathered for its report from its folder alone: no cluster, no model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from apwa_dask import __version__
from apwa_dask.models.local.catalogue import CATALOGUE
from apwa_dask.models.model import Model
from apwa_dask.observe.first_rows import first_rows
from apwa_dask.observe.history import Picture
from apwa_dask.observe.plan_graph import nodes_of
from apwa_dask.observe.report import CostRow, EstimateRow, FailureReport, ReportFacts, render_report
from apwa_dask.observe.text import count_text, money_text

if TYPE_CHECKING:
    import pandas as pd

    from apwa_dask.execution.ledger import Entry
    from apwa_dask.execution.run import Run

__all__ = ["estimate_rows", "failure_reports", "local_label", "report_facts", "report_of"]

_SAMPLE_ROWS = 100
_ESTIMATED = {
    "calls": "Calls",
    "input_tokens": "Tokens in",
    "output_tokens": "Tokens out",
    "cost_usd": "Cost",
}
_SAMPLES_OF_A_GROUP = 5


def report_of(run: Run) -> str:
    """The report of a run as one HTML document, also of one that is running or was stopped."""
    return render_report(report_facts(run))


def report_facts(run: Run) -> ReportFacts:
    """Everything the report says, from what the run has stored."""
    status, spec = run.status(), run.spec
    history = run.folder.history()
    times = [float(entry["at_s"]) for entry in history]
    ledger = list(run.ledger())
    is_done = status["status"] == "done"
    sample = first_rows(run.frame, _SAMPLE_ROWS) if is_done else None
    return ReportFacts(
        run_id=run.id,
        name=spec.name,
        query=spec.plan.query,
        status=status["status"],
        message="" if is_done else _last_reason(history),
        rows_total=None if not is_done else status["rows_in"],
        rows_done=status["rows_in"],
        rows_failed=status["rows_failed"],
        rows_cached=sum(entry.reused for entry in ledger),
        rows_out=status["rows_out"],
        calls=status["calls"],
        cost_usd=status["cost_usd"],
        budget_usd=spec.budget.get("usd"),
        started_at=_iso(times[0]) if times else "",
        ended_at=_iso(times[-1]) if times and is_done else "",
        duration_s=times[-1] - times[0] if times else None,
        graph=nodes_of(spec.plan, {alias: model.name for alias, model in spec.models.items()}),
        picture=_picture(run),
        estimates=estimate_rows(run.manifest),
        plan_text=_plan_text(run, ledger),
        plan_yaml=spec.plan.to_yaml(),
        models=[model.name for model in spec.models.values()],
        prices_as_of=status["prices_as_of"] or "",
        local_model=local_label(spec.models.values()),
        costs=[
            CostRow(
                e.step,
                e.model,
                e.outcome,
                e.calls,
                e.input_tokens,
                e.output_tokens,
                e.cost_usd,
                e.cached_tokens,
            )
            for e in ledger
        ],
        failures=failure_reports(run.failures),
        sample_columns=[] if sample is None else [str(name) for name in sample.columns],
        sample_rows=[] if sample is None else _records(sample),
        manifest=run.manifest,
        folder=run.folder.url,
        version=__version__,
    )


def _plan_text(run: Run, ledger: Iterable[Entry]) -> str:
    """The plan in words, with what each step came to in the place of what it was thought to."""
    from apwa_dask.plans.explain import Range, StepEstimate, explain

    steps: dict[str, list[Entry]] = defaultdict(list)
    for entry in ledger:
        steps[entry.step].append(entry)
    actual = {
        step: StepEstimate(
            calls=Range.exactly(sum(entry.calls for entry in entries)),
            input_tokens=Range.exactly(sum(entry.input_tokens for entry in entries)),
            output_tokens=Range.exactly(sum(entry.output_tokens for entry in entries)),
            cost_usd=None
            if any(entry.cost_usd is None for entry in entries)
            else Range.exactly(sum(entry.cost_usd or 0.0 for entry in entries)),
        )
        for step, entries in steps.items()
    }
    names = {alias: model.name for alias, model in run.spec.models.items()}
    return explain(run.spec.plan, run.spec.catalog, estimates=actual, models=names).text()


def _picture(run: Run) -> Picture:
    """As this process saw the run, else as the one that worked on it wrote it down, else from its parts."""
    from apwa_dask.observe.keeping import kept_picture
    from apwa_dask.observe.stored_picture import picture_of_parts

    if run.seen is not None:
        return run.seen.picture()
    return kept_picture(run.folder) or picture_of_parts(run)


def estimate_rows(manifest: Mapping[str, Any]) -> list[EstimateRow]:
    """What the manifest says that the run was thought to come to, beside what it came to; empty without."""
    estimate, actual = manifest.get("estimate"), manifest.get("actual") or {}
    if not estimate:
        return []
    return [
        _estimate_row(words, estimate.get(key), actual.get(key), money_text if key == "cost_usd" else _count)
        for key, words in _ESTIMATED.items()
    ] + [_estimate_row("Minutes", estimate.get("minutes"), actual.get("minutes"), _minutes)]


def _estimate_row(
    words: str, found: Mapping[str, float] | None, actual: float | None, text: Callable[[float | None], str]
) -> EstimateRow:
    low, expected, high = (text(None if found is None else found.get(k)) for k in ("low", "expected", "high"))
    return EstimateRow(words, low, expected, high, text(actual))


def _minutes(figure: float | None) -> str:
    return "unknown" if figure is None else f"{figure:,.0f}" if figure >= 10 else f"{figure:.2f}"


def _count(figure: float | None) -> str:
    return "unknown" if figure is None else count_text(round(figure))


def local_label(models: Iterable[Model]) -> str:
    """What results by the embedded model are labelled with; empty when no such model took part."""
    names = [model.name for model in models if model.is_local]
    return ", ".join(
        CATALOGUE[name].label if name in CATALOGUE else f"embedded model {name}" for name in names
    )


def failure_reports(failures: pd.DataFrame) -> list[FailureReport]:
    """Failures grouped by outcome and message, most frequent first, with a few rows of each."""
    from apwa_dask.execution.failures import groups_of

    return [_group(outcome, message, rows) for outcome, _, message, rows in groups_of(failures)]


def _group(outcome: str, message: str, rows: pd.DataFrame) -> FailureReport:
    samples = [_sample(row) for row in _records(rows.head(_SAMPLES_OF_A_GROUP))]
    return FailureReport(outcome, message, len(rows), samples)


def _sample(row: Mapping[str, Any]) -> dict[str, Any]:
    """One failed row: its place, what the model was given, and what it answered."""
    return {
        "row": row["row_id"],
        "step": row["step"],
        "given": row["inputs"],
        "answer": row["raw"],
        "attempts": row["attempts"],
    }


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    names = [str(name) for name in frame.columns]
    return [dict(zip(names, row, strict=True)) for row in frame.itertuples(index=False, name=None)]


def _last_reason(history: list[dict[str, Any]]) -> str:
    return next((str(entry["why"]) for entry in reversed(history) if entry.get("why")), "")


def _iso(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).isoformat(sep=" ", timespec="seconds")
