"""Measurements as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from math import isnan

from benchmarks.apwa.client import ENGINES
from benchmarks.apwa.jobs import PRICE, WINDOW_TOKENS
from benchmarks.apwa.measures import Measured
from benchmarks.apwa.workloads import WORKLOADS

__all__ = ["endings", "report", "table"]

_Cell = Callable[[Measured, Measured | None], str]
"""Of a measurement, and of the engine's on the same job, where there is one."""

_COLUMNS: Sequence[tuple[str, _Cell]] = (
    ("client", lambda m, _: m.client),
    ("right", lambda m, _: f"{m.verdict.right:,}"),
    ("wrong", lambda m, _: f"{m.verdict.wrong:,}"),
    ("missing", lambda m, _: f"{m.verdict.missing:,}"),
    ("leaks", lambda m, _: f"{m.verdict.leaked:,}"),
    ("$ a right item, engine = 1", lambda m, engine: _ratio(m, engine)),
    ("calls", lambda m, _: f"{m.calls:,}"),
    ("depth", lambda m, _: f"{m.verdict.depth:,}" if m.verdict.right else "-"),
    ("longest prompt", lambda m, _: f"{m.longest_prompt_tokens:,}"),
    ("tokens in", lambda m, _: _million(m.prompt_tokens)),
    ("repeated", lambda m, _: _share(m.cached_tokens, m.prompt_tokens)),
    ("tokens out", lambda m, _: _million(m.completion_tokens)),
    ("$", lambda m, _: f"{m.cost_usd:,.2f}"),
    ("peak MiB", lambda m, _: _figure(m.peak_mib)),
    ("CPU s", lambda m, _: _figure(m.cpu_s)),
    ("wall s", lambda m, _: _figure(m.wall_s)),
)


def table(found: Sequence[Measured]) -> str:
    """One line a client, of one job."""
    engine = next((m for m in found if m.client in ENGINES and m.verdict.right), None)
    lines = [
        "| " + " | ".join(title for title, _ in _COLUMNS) + " |",
        "|---|" + "--:|" * (len(_COLUMNS) - 1),
    ]
    lines += ["| " + " | ".join(cell(m, engine) for _, cell in _COLUMNS) + " |" for m in found]
    return "\n".join(lines)


def endings(found: Sequence[Measured]) -> str:
    """How those ended that did not finish: after how much, and what it would have come to."""
    return "\n".join(f"- **{m.client}**: {_ending(m)}" for m in found if m.ending)


def report(found: Sequence[Measured]) -> str:
    """A section for each job."""
    parts = []
    for (name, size), group in groupby(found, key=lambda m: (m.workload, m.size)):
        some = list(group)
        parts.append(
            f"## {name}: {size:,} {WORKLOADS[name].unit}\n\n{table(some)}\n\n{endings(some)}".strip()
        )
    parts.append(
        f"Window {WINDOW_TOKENS:,} tokens unless told; ${PRICE.input_usd} and ${PRICE.output_usd} for a million "
        f"tokens in and out, ${PRICE.cached_input_usd} for a repeated beginning."
    )
    return "\n\n".join(parts)


def _ending(m: Measured) -> str:
    verdict = m.verdict
    words = f"`{m.ending}` after {m.items_sent:,} items sent, {verdict.right:,} of {verdict.wanted:,} right, "
    words += f"${m.cost_usd:,.2f} spent"
    return words


def _million(tokens: int) -> str:
    return f"{tokens / 1e6:,.2f} M"


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if part else "-"


def _ratio(m: Measured, engine: Measured | None) -> str:
    if engine is None or not m.verdict.right or not engine.cost_usd:
        return "-"
    ratio = (m.cost_usd / m.verdict.right) / (engine.cost_usd / engine.verdict.right)
    return f"{ratio:,.2f}" if ratio < 10 else f"{ratio:,.0f}"


def _figure(value: float) -> str:
    return "-" if isnan(value) else f"{value:,.1f}" if value < 100 else f"{value:,.0f}"
