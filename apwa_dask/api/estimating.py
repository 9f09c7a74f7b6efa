"""What a plan will take: its tables, prices and limits, and what previews and runs have taught about its steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from apwa_dask import config
from apwa_dask.api.learning import contract_key, lessons_key, source_mark
from apwa_dask.api.settings import ModelLike, batch_terms, models_of, store_url
from apwa_dask.api.teaching import pace_label
from apwa_dask.models.batch_terms import BatchTerms
from apwa_dask.models.model import Model
from apwa_dask.models.prices import priced_in_batches
from apwa_dask.optimize import estimate as estimate_steps
from apwa_dask.optimize import optimize
from apwa_dask.optimize.duration import Pace, StepWork, minutes_of
from apwa_dask.optimize.forecast import Estimate
from apwa_dask.optimize.lessons import Lesson
from apwa_dask.plans.plan import Plan

if TYPE_CHECKING:
    from apwa_dask.api.planned import PlannedQuery

__all__ = ["estimate_of"]


def estimate_of(
    planned: PlannedQuery,
    *,
    model: ModelLike = None,
    mode: BatchTerms | str | None = None,
    store: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    max_concurrency: int | None = None,
) -> Estimate:
    """`PlannedQuery.estimate`."""
    if not planned.plan.llm_steps:
        return Estimate({})
    profiles = planned._profiles()
    catalog = planned._catalog()
    plan = optimize(planned.plan, catalog).plan
    models = models_of(model)
    lessons = _known(planned, plan, models, store_url(store), storage_options)
    in_batches = batch_terms(mode) is not None
    priced = {alias: priced_in_batches(one) for alias, one in models.items()} if in_batches else models
    found = estimate_steps(plan, catalog, profiles, priced, lessons)
    steps = {step.id: found[step.id] for step in plan.llm_steps if step.id in found}
    if in_batches:  # how long the endpoint leaves a batch lying is its own affair
        return Estimate(steps)
    most = config.get("max-concurrency", max_concurrency)
    work = []
    for step in plan.llm_steps:
        one = models.get(step.contract.model or "", models[""])
        at_once = one.max_concurrency if most is None else most
        pace = lessons[step.id].pace if step.id in lessons else Pace()
        work.append(StepWork(pace_label(one), steps[step.id], at_once, pace))
    return Estimate(steps, minutes_of(work))


def _known(
    planned: PlannedQuery, plan: Plan, models: Mapping[str, Model], store: str, options: Any
) -> dict[str, Lesson]:
    """Lessons by step: of this plan, else of any plan with the same contract at the same model."""
    mark, notebook = source_mark(planned.sources), planned._notebook
    found = notebook.read(lessons_key(plan, planned._catalog(), models), mark, store, options)
    for step in plan.llm_steps:
        if step.id in found and found[step.id].paid:
            continue
        key = contract_key(step, models.get(step.contract.model or "", models[""]))
        elsewhere = notebook.read(key, mark, store, options).get("")
        if elsewhere is not None:
            here = found.get(step.id, elsewhere)
            found[step.id] = replace(elsewhere, rows_of_one=here.rows_of_one, rows_seen=here.rows_seen)
    return found
