"""Take the first rows before a model reads them, where every row would come out once and in its place."""

from __future__ import annotations

from apwa_dask.optimize.graph import movable_run, moved
from apwa_dask.optimize.traits import keeps_each_row
from apwa_dask.plans.infer import Catalog
from apwa_dask.plans.plan import Plan
from apwa_dask.plans.steps import Limit, LLMStep

__all__ = ["limit_first"]


def limit_first(plan: Plan, catalog: Catalog) -> tuple[Plan, str] | None:
    """One `limit` moved before the model steps whose rows it cuts; None where there is none."""
    for step in plan.steps:
        if not isinstance(step, Limit):
            continue
        models = [s for s in movable_run(plan, step, keeps_each_row) if isinstance(s, LLMStep)]
        if not models:
            continue
        passed = ", ".join(before.id for before in reversed(models))
        return moved(
            plan, step, models[-1]
        ), f"{step.id} moved before {passed}: only {step.n:,} rows are paid"
    return None
