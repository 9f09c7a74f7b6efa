"""The words and tables of the dashboard page, as HTML with everything escaped."""

from __future__ import annotations

from html import escape

from apwa_dask.observe.history import Picture, in_flight_at_once
from apwa_dask.observe.latency import QUANTILES, quantile_s
from apwa_dask.observe.page_parts import table_html
from apwa_dask.observe.sample import median_and_most
from apwa_dask.observe.text import (
    count_text,
    duration_text,
    money_text,
    rate_text,
    safe_text,
    seconds_text,
    things_text,
)

__all__ = ["slowest_table", "steps_table", "summary_html", "workers_table"]

_SHOWN_WORKERS = 40
_OK = "ok"
_NOTE = (
    "<div class='none'>Times are UTC. Counts, names and ids only: no text of any row is on this page.</div>"
)


def summary_html(picture: Picture, now_s: float) -> str:
    """What a glance should tell."""
    state = picture.state
    if not state.run_id and state.started_s is None:
        return "<div class='none'>No run has been seen yet. This page fills when one begins.</div>"
    total = "" if state.rows_total is None else f"of {count_text(state.rows_total)}"
    ceiling = "no ceiling" if state.budget_usd is None else f"of at most {money_text(state.budget_usd)}"
    if state.forecast_usd is not None and not state.is_over:
        ceiling = f"about {money_text(max(state.forecast_usd, state.cost_usd))} in all, {ceiling}"
    rate = state.rate_per_s if not state.is_over else None
    eta = state.eta_s
    # begun calls wait for a slot too: the workers tell which are on the wire
    on_wire = min(state.in_flight, _on_wire(picture) or state.in_flight)
    tiles = [
        ("Run", state.run_id, state.model),
        ("State", state.words, duration_text(state.elapsed_s(now_s))),
        ("Rows", count_text(state.rows_done), total),
        ("Failed", count_text(state.rows_failed), ""),
        ("Rate", "" if rate is None else rate_text(rate), "" if eta is None else _left(*eta)),
        ("In flight", count_text(on_wire), _of_calls(picture)),
        ("Cost", money_text(None if state.cost_unknown else state.cost_usd), ceiling),
        (
            "Tokens",
            count_text(state.input_tokens + state.output_tokens),
            f"{things_text(state.calls, 'call')}",
        ),
    ]
    return "<div class='tiles'>" + "".join(_tile(*tile) for tile in tiles) + f"</div>{_NOTE}"


def _of_calls(picture: Picture) -> str:
    """The ceiling of one endpoint; several workers speak at moments of their own."""
    most = picture.endpoints[0].most if len(picture.endpoints) == 1 else 0
    calls = f"of {count_text(most)} calls" if most else "calls"
    return f"{calls}, as last told" if len({worker.worker for worker in picture.workers}) > 1 else calls


def _on_wire(picture: Picture) -> int:
    most = {endpoint.endpoint: endpoint.most for endpoint in picture.endpoints}
    told: dict[str, list[int]] = {}
    for worker in picture.workers:
        told.setdefault(worker.endpoint, []).append(worker.in_flight)
    return sum(in_flight_at_once(sum(all_), len(all_), most.get(at, 0)) for at, all_ in told.items())


def _left(low_s: float, high_s: float) -> str:
    low, high = duration_text(low_s), duration_text(high_s)
    return f"{low} left" if low == high else f"{low} to {high} left"


def _tile(name: str, figure: str, small: str) -> str:
    figure, small = (escape(safe_text(words, max_chars=80)) for words in (figure, small))
    return f"<div><span>{escape(name)}</span><b>{figure or '&ndash;'}</b><span>{small}</span></div>"


def steps_table(picture: Picture) -> str:
    """Queue, outcomes by class and latency of each step."""
    classes = sorted({name for step in picture.steps for name in step.outcomes} - {_OK})
    quantiles = [f"p{100 * q:.0f}" for q in QUANTILES]
    rows = [
        [
            step.step,
            count_text(step.waiting),
            count_text(step.reused),
            *(count_text(step.outcomes.get(name, 0)) for name in (_OK, *classes)),
            *(seconds_text(quantile_s(step.latency, q)) for q in QUANTILES),
            *(seconds_text(waited) for waited in median_and_most([took[1] for took in step.sample.values()])),
        ]
        for step in picture.steps
    ]
    columns = ["step", "open", "from the journal", _OK, *classes, *quantiles, "waited p50", "waited p90"]
    return table_html(
        "Steps: units of work still open and by outcome, latency of their calls, waiting of their rows",
        columns,
        rows,
    )


def workers_table(picture: Picture) -> str:
    """What each worker was leased, and uses; the busiest first."""
    ordered = sorted(picture.workers, key=lambda worker: (-worker.in_flight, worker.worker))
    rows = [
        [
            worker.worker,
            worker.endpoint,
            count_text(worker.share),
            count_text(worker.in_flight),
            count_text(worker.waiting),
        ]
        for worker in ordered[:_SHOWN_WORKERS]
    ]
    more = len(ordered) - len(rows)
    caption = "Workers and their leases" + (f" ({count_text(more)} more)" if more else "")
    columns = ["worker", "endpoint", "leased", "in flight", "waiting"]
    return table_html(caption, columns, rows, none="no worker holds a lease")


def slowest_table(picture: Picture) -> str:
    """Ids of the rows that were longest in calls, and how long they waited besides; ``run.row(id)`` tells why."""
    rows = [
        [row_id, step, seconds_text(calls_s), seconds_text(waited_s)]
        for row_id, step, calls_s, waited_s in picture.slowest
    ]
    return table_html("Slowest rows", ["row", "step", "in calls", "waited"], rows)
