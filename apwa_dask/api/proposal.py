"""A changed plan that somebody proposes: looked at, priced, and only then taken over by the one who pays."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from apwa_dask.api.settings import ModelLike
from apwa_dask.optimize.forecast import Estimate
from apwa_dask.plans.diff import PlanDiff
from apwa_dask.plans.explain import Explanation
from apwa_dask.plans.plan import Plan

if TYPE_CHECKING:
    from apwa_dask.api.planned import PlannedQuery

__all__ = ["Proposal"]


@dataclass(frozen=True, eq=False)
class Proposal:
    """A change to a plan. Nothing runs and nothing is changed until `accept`, and the old plan stays as it is.

    Attributes
    ----------
    change : str
        What was asked for, or what a run has shown.
    notes : tuple of str
        What the user should know about how the new plan came about.
    calls : int
        Calls that drafting it took.
    """

    _before: PlannedQuery
    _after: PlannedQuery
    change: str
    notes: tuple[str, ...] = ()
    calls: int = 0

    @property
    def old(self) -> Plan:
        """The plan as it is."""
        return self._before.plan

    @property
    def new(self) -> Plan:
        """The plan as it would be."""
        return self._after.plan

    @property
    def diff(self) -> PlanDiff:
        """Typed changes, by step id and field; false where the planner would change nothing."""
        return self.old.diff(self.new)

    @property
    def reasons(self) -> Mapping[str, str]:
        """The planner's reason for each step that is new or changed."""
        touched = set(self.diff.steps)
        return {step.id: step.reason for step in self.new.steps if step.id in touched and step.reason}

    def explain(self, *, model: ModelLike = None) -> Explanation:
        """The new plan in words, with its estimates. Makes no call."""
        return self._after.explain(model=model)

    def estimate(self, *, model: ModelLike = None) -> Estimate:
        """What the new plan would cost. Makes no call."""
        return self._after.estimate(model=model)

    def accept(self) -> PlannedQuery:
        """The new plan with its tables, to run."""
        return self._after

    def __repr__(self) -> str:
        lines = [f"Proposed: {' '.join(self.change.split())[:200]}", self.diff.text()]
        lines += [f"  why {step}: {' '.join(reason.split())}" for step, reason in self.reasons.items()]
        return "\n".join([*lines, *self.notes, "accept() takes it over; nothing has changed yet"])

    def _repr_html_(self) -> str:
        reasons = "".join(
            f"<div>why {html.escape(step)}: {html.escape(reason)}</div>"
            for step, reason in self.reasons.items()
        )
        notes = "".join(f"<div>{html.escape(note)}</div>" for note in self.notes)
        return f"<div><b>Proposed: {html.escape(self.change)}</b>{self.diff.html()}{reasons}{notes}</div>"
