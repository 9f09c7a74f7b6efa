"""What a plan will take, and what its previews and runs teach about that."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from apwa_dask import config
from apwa_dask.api.learning import contract_key, lessons_key, source_mark
from apwa_dask.api.settings import ModelLike, batch_terms, models_of, profile_of, store_url
from apwa_dask.errors import ApwaError
from apwa_dask.execution.events import Event, RunFinished
from apwa_dask.execution.pulse import endpoint_label
from apwa_dask.execution.run import Run
from apwa_dask.execution.runtime import runtime
from apwa_dask.models.batch_terms import BatchTerms
from apwa_dask.models.model import Model
from apwa_dask.models.prices import priced_in_batches
from apwa_dask.observe.keeping import kept_picture
from apwa_dask.observe.latency import mean_s
from apwa_dask.optimize import estimate as estimate_steps
from apwa_dask.optimize import optimize
from apwa_dask.optimize.duration import Pace, StepWork, minutes_of
from apwa_dask.optimize.forecast import Estimate
from apwa_dask.optimize.lessons import Lesson, counted, taught
from apwa_dask.plans.plan import Plan

if TYPE_CHECKING:
    from apwa_dask.api.planned import PlannedQuery

__all__ = ["Learner", "estimate_of", "learn_from"]

_logger = logging.getLogger(__name__)


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
    profiles = {alias: profile_of(planned.sources[alias], 0) for alias in planned.plan.sources}
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
        work.append(StepWork(_label(one), steps[step.id], at_once, pace))
    return Estimate(steps, minutes_of(work))


def learn_from(planned: PlannedQuery, sample: PlannedQuery, run: Run) -> None:
    """Keep what a run of `planned` over `sample`, all or some of its rows, says about its estimate."""
    catalog = planned._catalog()
    plan = optimize(planned.plan, catalog).plan
    models = dict(run.spec.models)
    profiles = {alias: profile_of(sample.sources[alias], 0) for alias in plan.sources}
    ledger = run.ledger()
    rows = {alias: profile.rows for alias, profile in profiles.items() if profile.rows and profile.exact}
    counts = counted(plan, ledger, rows)
    thought = estimate_steps(plan, catalog, profiles, models, counts)
    paces = _paces(run, plan, models)
    lessons = {
        step: lesson.at_pace(paces.get(step, Pace()))
        for step, lesson in taught(plan, ledger, counts, thought).items()
    }
    options = runtime().options_of(run.store)
    key, mark = lessons_key(plan, catalog, models), source_mark(planned.sources)
    planned._notebook.write(key, mark, lessons, run.store, options)
    for step in plan.llm_steps:
        if lessons[step.id].paid:
            of_contract = contract_key(step, models.get(step.contract.model or "", models[""]))
            planned._notebook.write(of_contract, "", {"": lessons[step.id]}, run.store, options)


class Learner:
    """Subscriber of a run: when it is done, estimates learn from it."""

    def __init__(self, planned: PlannedQuery) -> None:
        self._planned: PlannedQuery | None = planned
        self.run: Run | None = None

    def __call__(self, event: Event) -> None:
        run, planned = self.run, self._planned
        if run is None or planned is None or not isinstance(event, RunFinished) or event.status != "done":
            return
        self.run = self._planned = None  # the run's handle holds on to no frame
        try:
            learn_from(planned, planned, run)
        except (ApwaError, OSError) as error:  # the run itself is done, and nothing of it depends on this
            _logger.warning("estimates learn nothing of run %s: %s", event.run_id, type(error).__name__)


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


def _paces(run: Run, plan: Plan, models: Mapping[str, Model]) -> dict[str, Pace]:
    """How fast the calls of each step were answered, and under which announced limits."""
    picture = run.seen.picture() if run.seen is not None else kept_picture(run.folder)
    if picture is None:
        return {}
    latencies = {step.step: mean_s(step.latency) for step in picture.steps}
    endpoints = {one.endpoint: one for one in picture.endpoints}
    found = {}
    for step in plan.llm_steps:
        seen = endpoints.get(_label(models.get(step.contract.model or "", models[""])))
        limits = (None, None) if seen is None else (seen.requests_per_s, seen.tokens_per_s)
        found[step.id] = Pace(latencies.get(step.id), *limits)
    return found


def _label(model: Model) -> str:
    return endpoint_label(f"{model.resolved_base_url}||{model.name}")
