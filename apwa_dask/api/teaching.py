"""What runs teach later estimates: when one ends, what its calls took is kept beside it, for every process."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from apwa_dask.api.learning import Notebook, contract_key, lessons_key, source_mark
from apwa_dask.api.settings import profile_of
from apwa_dask.errors import ApwaError
from apwa_dask.execution import launch as engine
from apwa_dask.execution.events import Event, RunFinished
from apwa_dask.execution.ledger import UNCOMMITTED, Entry
from apwa_dask.execution.pulse import endpoint_label
from apwa_dask.execution.run import Run
from apwa_dask.execution.runtime import runtime
from apwa_dask.models.model import Model
from apwa_dask.observe.keeping import kept_picture
from apwa_dask.observe.latency import mean_s
from apwa_dask.optimize import estimate as estimate_steps
from apwa_dask.optimize import optimize
from apwa_dask.optimize.duration import Pace
from apwa_dask.optimize.lessons import Lesson, counted, taught, unknown_rows
from apwa_dask.plans.infer import Catalog
from apwa_dask.plans.plan import Plan
from apwa_dask.plans.steps import LLMStep, Reduce
from apwa_dask.tables.manifest import Manifest
from apwa_dask.tables.profile import Profile, profile_frame

if TYPE_CHECKING:
    from apwa_dask.api.planned import PlannedQuery

__all__ = ["Learner", "learn_from_preview", "pace_label", "profiles_of_run"]

Profiles = Mapping[str, Profile]
_OK = "ok"
_logger = logging.getLogger(__name__)


class Learner:
    """Subscriber of a run: when it ends, estimates learn from it.

    A run that is done says all there is to say; one that was stopped says what a call takes, and nothing of how many
    rows reach a step.

    Parameters
    ----------
    notebook : Notebook
    profiles : callable
        Gives the profiles of the run's tables, once, when it ends.
    """

    def __init__(self, notebook: Notebook, profiles: Callable[[Run], Profiles]) -> None:
        self._notebook = notebook
        self._profiles: Callable[[Run], Profiles] | None = profiles
        self._known: Profiles = {}
        self.run: Run | None = None

    def __call__(self, event: Event) -> None:
        run = self.run
        if (
            run is None
            or not isinstance(event, RunFinished)
            or event.run_id != run.id
            or not run.spec.teaches
        ):
            return
        is_done = event.status == "done"
        if is_done:
            self.run = None
        try:
            if self._profiles is not None:
                self._known, self._profiles = self._profiles(run), None  # the handle holds on to no frame
            _learn_from(self._notebook, run, self._known, is_done=is_done)
        except (ApwaError, OSError) as error:  # the run itself has ended, and nothing of it depends on this
            _logger.warning("estimates learn nothing of run %s: %s", event.run_id, type(error).__name__)


def learn_from_preview(planned: PlannedQuery, sample: PlannedQuery, run: Run) -> None:
    """Keep what a run of `planned` over some of its rows says about the estimate of all."""
    catalog = planned._catalog()
    plan = optimize(planned.plan, catalog).plan
    lessons = _lessons(run, plan, catalog, sample._profiles(), is_done=True)
    _write(planned._notebook, run, plan, catalog, source_mark(planned.sources), lessons)


def profiles_of_run(run: Run) -> dict[str, Profile]:
    """Of the tables of a run that was found again, from what lies in its folder; no values are in them."""
    found = {}
    for alias, source in run.spec.sources.items():
        if source.kind != "manifest":  # the caller's own frame is gone
            empty = source.schema.empty_table()
            found[alias] = profile_frame(empty, rows=None, npartitions=source.npartitions, samples=0)
            continue
        manifest = Manifest.load(run.folder.source_manifest_url(alias), runtime().options_of(run.store))
        files = engine.FileSource(manifest, runtime().options_of(f"{run.id}/{alias}"))
        found[alias] = profile_of(files, 0)
    return found


def pace_label(model: Model) -> str:
    """How pictures of runs name the endpoint of a model."""
    return endpoint_label(f"{model.resolved_base_url}||{model.name}")


def _learn_from(notebook: Notebook, run: Run, profiles: Profiles, *, is_done: bool) -> None:
    plan, catalog = run.spec.plan, run.spec.catalog
    lessons = _lessons(run, plan, catalog, profiles, is_done=is_done)
    _write(notebook, run, plan, catalog, run.spec.teaches, lessons)


def _lessons(
    run: Run, plan: Plan, catalog: Catalog, profiles: Profiles, *, is_done: bool
) -> dict[str, Lesson]:
    models = dict(run.spec.models)
    ledger = run.ledger()
    rows = {alias: profile.rows for alias, profile in profiles.items() if profile.rows and profile.exact}
    counts = counted(plan, ledger, rows) if is_done else unknown_rows(plan)
    thought = estimate_steps(plan, catalog, profiles, models, counts)
    paces = _paces(run, plan, models)
    found = taught(plan, _in_units(run, plan, ledger), counts, thought)
    if not is_done:  # a tree that is half built says too little of the other half
        trees = {step.id for step in plan.llm_steps if isinstance(step, Reduce)}
        found = {
            step: lesson.without_rows() for step, lesson in found.items() if lesson.paid and step not in trees
        }
    return {step: lesson.at_pace(paces.get(step, Pace())) for step, lesson in found.items()}


def _write(
    notebook: Notebook,
    run: Run,
    plan: Plan,
    catalog: Catalog,
    mark: str,
    lessons: Mapping[str, Lesson],
) -> None:
    models, options = dict(run.spec.models), runtime().options_of(run.store)
    if not lessons:
        return
    notebook.write(lessons_key(plan, catalog, models), mark, lessons, run.store, options)
    for step in plan.llm_steps:
        if step.id in lessons and lessons[step.id].paid:
            of_contract = contract_key(step, models.get(step.contract.model or "", models[""]))
            notebook.write(of_contract, "", {"": lessons[step.id]}, run.store, options)


def _in_units(run: Run, plan: Plan, ledger: list[Entry]) -> list[Entry]:
    """The ledger, in which calls for partitions that were not committed by who paid them are units too.

    Only where a unit is one call: its kept answers are then counted as units. Elsewhere those lines are left out,
    and the committed ones stand for them.
    """
    plain = {step.id for step in plan.llm_steps if _is_one_call(step)}
    committed = [line for line in ledger if line.outcome != UNCOMMITTED]
    beyond = [line for line in ledger if line.outcome == UNCOMMITTED and line.step in plain]
    if not beyond:
        return committed
    answers = run.good_answers()
    for line in committed:
        if line.outcome == _OK:
            answers[line.step] -= line.units - line.reused
    return committed + [
        Entry(
            line.step,
            line.model,
            line.outcome,
            units=answers[line.step],
            calls=line.calls,
            input_tokens=line.input_tokens,
            output_tokens=line.output_tokens,
        )
        for line in beyond
        if answers[line.step] > 0
    ]


def _is_one_call(step: LLMStep) -> bool:
    return not isinstance(step, Reduce) and step.contract.unit == "row" and not step.contract.tools


def _paces(run: Run, plan: Plan, models: Mapping[str, Model]) -> dict[str, Pace]:
    """How fast the calls of each step were answered, and under which announced limits."""
    picture = run.seen.picture() if run.seen is not None else kept_picture(run.folder)
    if picture is None:
        return {}
    latencies = {step.step: mean_s(step.latency) for step in picture.steps}
    endpoints = {one.endpoint: one for one in picture.endpoints}
    found = {}
    for step in plan.llm_steps:
        seen = endpoints.get(pace_label(models.get(step.contract.model or "", models[""])))
        limits = (None, None) if seen is None else (seen.requests_per_s, seen.tokens_per_s)
        found[step.id] = Pace(latencies.get(step.id), *limits)
    return found
