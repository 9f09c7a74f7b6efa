"""Keep rows by columns before a model reads them: each row taken out earlier is a call not paid."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import pyarrow as pa

from apwa_dask.optimize.graph import movable_run, moved
from apwa_dask.optimize.sure import never_fails
from apwa_dask.optimize.traits import traits_of
from apwa_dask.plans.infer import Catalog, infer
from apwa_dask.plans.plan import Plan
from apwa_dask.plans.steps import LLMStep, Where

__all__ = ["where_first"]


def where_first(plan: Plan, catalog: Catalog) -> tuple[Plan, str] | None:
    """One `where` moved before the first model step that it does not depend on; None where there is none.

    It passes steps that treat each row alone and write none of its columns. It must have a value on every
    row: one that fails on some would fail on rows that an earlier step drops, or take a model's answer away.
    """
    schemas = infer(plan, catalog)
    for step in plan.steps:
        if not isinstance(step, Where):
            continue
        needs = traits_of(step, [schemas[step.input]]).reads
        if needs is None:
            continue
        run = movable_run(plan, step, partial(_may_pass, needs=needs, schemas=schemas))
        models = [before for before in run if isinstance(before, LLMStep)]
        if not models:
            continue
        target = models[-1]
        if not never_fails(step.condition, schemas[target.input]):
            continue
        passed = ", ".join(before.id for before in reversed(models))
        return moved(plan, step, target), f"{step.id} moved before {passed}: fewer rows are paid"
    return None


def _may_pass(before: Any, needs: frozenset[str], schemas: Mapping[str, pa.Schema]) -> bool:
    traits = traits_of(before, [schemas[name] for name in before.inputs_from])
    return traits.row_local and traits.writes is not None and not traits.writes & needs
