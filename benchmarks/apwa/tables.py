"""Measurements as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from math import isnan

from benchmarks.apwa.jobs import PRICE, WINDOW_TOKENS
from benchmarks.apwa.measures import Measured
from benchmarks.apwa.workloads import WORKLOADS

__all__ = ["endings", "report", "table"]

_COLUMNS: Sequence[tuple[str, Callable[[Measured], str]]] = (
    ("client", lambda m: m.client),
    ("right", lambda m: f"{m.verdict.right:,}"),
    ("wrong", lambda m: f"{m.verdict.wrong:,}"),
    ("missing", lambda m: f"{m.verdict.missing:,}"),
    ("leaks", lambda m: f"{m.verdict.leaked:,}"),
    ("calls", lambda m: f"{m.calls:,}"),
    ("depth", lambda m: f"{m.verdict.depth or '-'}"),
    ("longest prompt", lambda m: f"{m.longest_prompt_tokens:,}"),
    ("tokens in", lambda m: _million(m.prompt_tokens)),
    ("of them repeated", lambda m: _share(m.cached_tokens, m.prompt_tokens)),
    ("tokens out", lambda m: _million(m.completion_tokens)),
    ("$", lambda m: f"{m.cost_usd:,.2f}"),
    ("$ per 1,000 right", lambda m: _each(m)),
    ("peak MiB", lambda m: _figure(m.peak_mib)),
    ("wall s", lambda m: _figure(m.wall_s)),
    ("CPU s", lambda m: _figure(m.cpu_s)),
)


def table(found: Sequence[Measured]) -> str:
    """One line a client."""
    lines = [
        "| " + " | ".join(title for title, _ in _COLUMNS) + " |",
        "|---|" + "--:|" * (len(_COLUMNS) - 1),
    ]
    lines += ["| " + " | ".join(cell(m) for _, cell in _COLUMNS) + " |" for m in found]
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
    words = f"`{m.ending}` after {m.items_sent:,} items read, {verdict.right:,} of {verdict.wanted:,} right, "
    words += f"${m.cost_usd:,.2f} spent"
    return words


def _million(tokens: int) -> str:
    return f"{tokens / 1e6:,.2f} M"


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if part else "-"


def _each(m: Measured) -> str:
    return f"{1000 * m.cost_usd / m.verdict.right:,.3f}" if m.verdict.right else "-"


def _figure(value: float) -> str:
    return "-" if isnan(value) else f"{value:,.1f}" if value < 100 else f"{value:,.0f}"
