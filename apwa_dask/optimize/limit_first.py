"""Take the first rows before a model reads them, where every row would come out once and in its place."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import pyarrow as pa

from apwa_dask.optimize.graph import movable_run, moved
from apwa_dask.optimize.traits import traits_of
from apwa_dask.plans.infer import Catalog, infer
from apwa_dask.plans.plan import Plan
from apwa_dask.plans.steps import Limit, LLMStep

__all__ = ["limit_first"]


def limit_first(plan: Plan, catalog: Catalog) -> tuple[Plan, str] | None:
    """One `limit` moved before the model steps whose rows it cuts; None where there is none."""
    schemas = infer(plan, catalog)
    for step in plan.steps:
        if not isinstance(step, Limit):
            continue
        run = movable_run(plan, step, partial(_may_pass, schemas=schemas))
        models = [before for before in run if isinstance(before, LLMStep)]
        if not models:
            continue
        passed = ", ".join(before.id for before in reversed(models))
        return moved(
            plan, step, models[-1]
        ), f"{step.id} moved before {passed}: only {step.n:,} rows are paid"
    return None


def _may_pass(before: Any, schemas: Mapping[str, pa.Schema]) -> bool:
    traits = traits_of(before, [schemas[name] for name in before.inputs_from])
    return traits.keeps_each_row and traits.order_preserving
