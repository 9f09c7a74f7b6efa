"""Keep rows by columns before a model reads them: each row taken out earlier is a call not paid."""

from __future__ import annotations

from typing import Any

from apwa_dask.optimize.graph import movable_run, moved
from apwa_dask.optimize.sure import never_fails
from apwa_dask.optimize.traits import judges_rows_alone, reads, written_over
from apwa_dask.plans.infer import Catalog, infer
from apwa_dask.plans.plan import Plan
from apwa_dask.plans.steps import LLMStep, Where

__all__ = ["where_first"]


def where_first(plan: Plan, catalog: Catalog) -> tuple[Plan, str] | None:
    """One `where` moved before the first model step that it does not depend on; None where there is none.

    It passes steps that treat each row alone and write none of its columns. It must have a value on every
    row: one that fails on some would fail on rows that an earlier step drops, or take a model's answer away.
    """
    for step in plan.steps:
        if not isinstance(step, Where):
            continue
        needs = reads(step)
        if needs is None:
            continue
        run = movable_run(plan, step, lambda before, needs=needs: _may_pass(before, needs))  # type: ignore[misc]
        models = [before for before in run if isinstance(before, LLMStep)]
        if not models:
            continue
        target = models[-1]
        if not never_fails(step.condition, infer(plan, catalog)[target.input]):
            continue
        passed = ", ".join(before.id for before in reversed(models))
        return moved(plan, step, target), f"{step.id} moved before {passed}: fewer rows are paid"
    return None


def _may_pass(before: Any, needs: set[str]) -> bool:
    changes = written_over(before)
    return judges_rows_alone(before) and changes is not None and not changes & needs
