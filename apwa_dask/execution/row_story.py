"""`RowStory`: all that is known of one row, as plain values that show themselves."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from apwa_dask.execution.lineage import Lineage
from apwa_dask.execution.replay import Exchange

__all__ = ["DROPPED", "UNKNOWN", "RowStory", "StepStory"]

DROPPED = "dropped"
"""Status of a row that a filter left out."""
UNKNOWN = "unknown"
"""Outcome of a step whose answer the journal does not hold any more."""


@dataclass(frozen=True, slots=True)
class StepStory:
    """What one step did with the row, or with the row it was made of.

    Attributes
    ----------
    step, op : str
    row_id : str
        The row's id before the step.
    outcome : str
        Class of the end: ``ok``, ``dropped``, a failure, or ``unknown`` where the journal lost it.
    message : str
        Why it failed.
    answer : Any
        The typed answer: a dict, a list of dicts for a flat_map, ``{"keep": ...}`` for a filter.
    exchanges : tuple of Exchange
        Requests and answers in order; empty for a step that calls no model. A request that several rows shared is
        told to each of them whole.
    """

    step: str
    op: str
    row_id: str
    outcome: str = "ok"
    message: str = ""
    answer: Any = None
    exchanges: tuple[Exchange, ...] = ()


@dataclass(frozen=True)
class RowStory:
    """One row of a run; at a prompt and in a notebook it shows itself.

    Attributes
    ----------
    run_id, row_id : str
    status : str
        ``ok``, ``dropped`` or the class of the failure.
    message : str
    values : dict
        The row as it is stored last; empty where a filter dropped it.
    steps : tuple of StepStory
    lineage : Lineage
    """

    run_id: str
    row_id: str
    status: str
    message: str
    values: dict[str, Any]
    steps: tuple[StepStory, ...]
    lineage: Lineage = field(repr=False)

    @property
    def exchanges(self) -> tuple[Exchange, ...]:
        """All requests and answers, in order."""
        return tuple(exchange for step in self.steps for exchange in step.exchanges)

    @property
    def attempts(self) -> int:
        """Requests sent, retries included, whichever run sent them."""
        return sum(exchange.attempts for exchange in self.exchanges)

    @property
    def input_tokens(self) -> int:
        return sum(exchange.input_tokens for exchange in self.exchanges)

    @property
    def output_tokens(self) -> int:
        return sum(exchange.output_tokens for exchange in self.exchanges)

    @property
    def cost_usd(self) -> float | None:
        """What its answers cost, whichever run paid; None where a price is unknown."""
        costs = [exchange.cost_usd for exchange in self.exchanges]
        return None if None in costs else sum(cost or 0.0 for cost in costs)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, prompts included."""
        return {
            **{name: getattr(self, name) for name in ("run_id", "row_id", "status", "message", "values")},
            "attempts": self.attempts,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "cost_usd": self.cost_usd,
            "steps": [asdict(step) for step in self.steps],
            "hops": [asdict(hop) for hop in self.lineage.hops],
            "origins": self.lineage.origins.to_dict("records"),
        }

    def __repr__(self) -> str:
        from apwa_dask.observe.row_report import story_text

        return story_text(self)

    def _repr_html_(self) -> str:
        from apwa_dask.observe.row_report import story_html

        return story_html(self)
