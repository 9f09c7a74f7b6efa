"""Figures as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.scaling.cluster import Figures

__all__ = ["table"]


def table(found: Sequence[Figures]) -> str:
    """A row a span, and below it what each was about."""
    lines = [
        "| scenario | span s | leases/s | money/s | kB/s | scheduler core, modelled | of it `Coordinator`, measured "
        "| calls/s | used | 429s | most in flight | slowest answer s | gave up |",
        "|---|" + "--:|" * 12,
    ]
    for f in found:
        lines.append(
            f"| {f.scenario} | {f.span_s:.0f} | {f.leases_per_s:,.0f} | {f.funds_per_s:,.0f} "
            f"| {f.bytes_per_s / 1000:,.0f} | {f.scheduler_share:.1%} | {f.coordinator_share:.1%} "
            f"| {f.calls_per_s:,.0f} | {f.used:.1%} | {f.refused:.2%} | {f.most_in_flight:.1%} "
            f"| {f.longest_wait_s:.2f} | {f.timeouts} |"
        )
    facts = [f"- {f.scenario}: {fact}" for f in found for fact in f.facts]
    return "\n".join([*lines, "", *facts])
