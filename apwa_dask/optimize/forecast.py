"""`Estimate`: what a plan will probably cost, as low, expected and high. Unknown stays unknown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from apwa_dask.plans.explain import Range, StepEstimate, total_range

__all__ = ["Estimate"]


@dataclass(frozen=True)
class Estimate:
    """Expected work of a plan's model steps, made without any call.

    Parameters
    ----------
    steps : mapping of str to StepEstimate
        By step id.
    """

    steps: Mapping[str, StepEstimate]

    @property
    def calls(self) -> Range | None:
        """Requests, retries not included; None when unknown."""
        return self._sum("calls")

    @property
    def input_tokens(self) -> Range | None:
        """Tokens sent; None when unknown."""
        return self._sum("input_tokens")

    @property
    def output_tokens(self) -> Range | None:
        """Tokens answered; None when unknown."""
        return self._sum("output_tokens")

    @property
    def cost_usd(self) -> Range | None:
        """US dollars; None when a price or a row count is unknown."""
        return self._sum("cost_usd")

    def _sum(self, figure: str) -> Range | None:
        return total_range([getattr(step, figure) for step in self.steps.values()])

    def to_dict(self) -> dict[str, Any]:
        """Plain data: totals and steps, null for unknown."""
        totals = {
            name: getattr(self, name) for name in ("calls", "input_tokens", "output_tokens", "cost_usd")
        }
        return {
            **{name: None if figure is None else asdict(figure) for name, figure in totals.items()},
            "steps": {step_id: asdict(step) for step_id, step in self.steps.items()},
        }

    def __str__(self) -> str:
        if not self.steps:
            return "no model calls, no cost"
        tokens = f"{_words(self.input_tokens)} in, {_words(self.output_tokens)} out"
        return f"calls {_words(self.calls)}; tokens {tokens}; cost {_dollars(self.cost_usd)}"

    __repr__ = __str__


def _words(figure: Range | None) -> str:
    if figure is None:
        return "unknown"
    if figure.low == figure.high:
        return f"{figure.expected:,.0f}"
    return f"{figure.expected:,.0f} ({figure.low:,.0f} to {figure.high:,.0f})"


def _dollars(figure: Range | None) -> str:
    if figure is None:
        return "unknown (no price is known for the model)"
    digits = 2 if figure.high >= 1 or figure.high == 0 else 4
    if figure.low == figure.high:
        return f"${figure.expected:,.{digits}f}"
    return f"${figure.expected:,.{digits}f} (${figure.low:,.{digits}f} to ${figure.high:,.{digits}f})"
