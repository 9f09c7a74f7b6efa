"""Plans that change: edited in words, or revised after a look at what a step gives."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa

from apwa_dask.agents.capabilities import find_capability
from apwa_dask.api.proposal import Proposal
from apwa_dask.api.settings import ModelLike, models_of, profile_of, store_url
from apwa_dask.errors import ConfigError, PlanError, candidates
from apwa_dask.models.budget import Budget
from apwa_dask.plans.plan import Plan
from apwa_dask.plans.steps import Select
from apwa_dask.tables.profile import Profile, profile_frame

if TYPE_CHECKING:
    from apwa_dask.api.planned import PlannedQuery
    from apwa_dask.execution.run import Run
    from apwa_dask.manager import Drafted, Seen

__all__ = ["MOST_REVISIONS", "adapted", "edit", "revise"]

MOST_REVISIONS = 2
"""Revisions of an adaptive plan, unless the caller says another number."""

LOOK_ROWS = 50
_PROFILE_ROWS = 2_000


def edit(
    planned: PlannedQuery,
    change: str,
    *,
    model: ModelLike = None,
    samples: int = 3,
    store: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> Proposal:
    """See `PlannedQuery.edit`."""
    from apwa_dask.manager import edit_async

    catalog = _catalog(planned, samples)

    def draft(manager: Any, caller: Any) -> Any:
        return edit_async(planned.plan, change, catalog, manager, caller, **_known(planned.plan))

    drafted, calls = _drafted(draft, model, store, storage_options)
    return _proposal(planned, drafted, change, calls, planned.revisions)


def revise(
    planned: PlannedQuery,
    after: str | None = None,
    *,
    model: ModelLike = None,
    rows: int | None = LOOK_ROWS,
    samples: int = 0,
    store: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> Proposal:
    """See `PlannedQuery.revise`."""
    from apwa_dask.manager import revise_async

    _check_adaptive(planned)
    step = _step_to_look_at(planned.plan, after)
    seen = _look(
        planned, step, rows, samples, model=model, store=store, storage_options=storage_options, **options
    )
    catalog = _catalog(planned, samples)

    def draft(manager: Any, caller: Any) -> Any:
        return revise_async(planned.plan, seen, catalog, manager, caller, **_known(planned.plan))

    drafted, calls = _drafted(draft, model, store, storage_options)
    return _proposal(planned, drafted, seen.words(), calls, planned.revisions - 1)


def adapted(
    planned: PlannedQuery,
    approve: Callable[[Proposal], bool],
    *,
    budget: Budget | float | None = None,
    **options: Any,
) -> tuple[PlannedQuery, Budget | None]:
    """The plan after its revisions, each looked at on a sample and approved by the caller.

    Returns
    -------
    PlannedQuery
    Budget or None
        The purse that the looks have spent from and the run is to spend from too.
    """
    purse = None if budget is None else Budget.of(budget)
    if purse is not None and not purse.name:
        purse = replace(purse, name=f"adaptive-{uuid.uuid4().hex}")
    looked: set[str] = set()
    while planned.revisions:
        step = next((s.id for s in planned.plan.llm_steps[:-1] if s.id not in looked), None)
        if step is None and not looked and planned.plan.llm_steps:
            step = planned.plan.llm_steps[-1].id
        if step is None or step == planned.plan.result:
            break
        looked.add(step)
        proposal = revise(planned, step, budget=purse, **options)
        wanted = bool(proposal.diff) and approve(proposal)
        planned = proposal.accept() if wanted else replace(planned, revisions=planned.revisions - 1)
    return planned, purse


def _check_adaptive(planned: PlannedQuery) -> None:
    if planned.revisions < 1:
        raise ConfigError(
            "this plan is not to be revised",
            why="it is static, or its revisions are used up",
            fix='plan(..., mode="adaptive", revisions=2), or change it yourself with edit("...")',
            saved="no call was made",
            code="CONFIG-MODE",
        )


def _step_to_look_at(plan: Plan, after: str | None) -> str:
    ids = [step.id for step in plan.steps]
    if after is None and plan.llm_steps:
        return plan.llm_steps[0].id
    if after in ids:
        return str(after)
    known = candidates(after or "", ids, noun="steps")
    raise PlanError(
        f"no step {after!r} to look at" if after else "no step reads texts, so there is nothing to look at",
        fix=f"revise(after=...); {known}",
        code="PLAN-INPUT",
    )


def _look(planned: PlannedQuery, step: str, rows: int | None, samples: int, **options: Any) -> Seen:
    """What comes of the plan up to a step, on some rows or on all. Its answers are kept: the run pays none anew."""
    from apwa_dask.manager import Seen
    from apwa_dask.manager.as_answer import live_steps

    whole = planned.plan
    steps = live_steps(whole.model_copy(update={"output": step}))
    read = {name for one in steps for name in one.inputs_from}
    sources = tuple(alias for alias in whole.sources if alias in read)
    part = replace(
        planned,
        plan=whole.model_copy(update={"sources": sources, "steps": steps, "output": step}),
        sources={alias: planned.sources[alias] for alias in sources},
    )
    run = (part if rows is None else part.sampled(rows)).run(**{"progress": False, **options})
    frame = run.frame.head(_PROFILE_ROWS, npartitions=-1)
    counts = run.status()
    schema = _schema_after(part, step)
    return Seen(
        step=step,
        schema=schema,
        profile=profile_frame(frame, name=step, rows=counts["rows_out"], samples=samples),
        rows_in=counts["rows_in"],
        rows_out=counts["rows_out"],
        failures=_failures(run),
        sampled=rows is not None,
    )


def _schema_after(part: PlannedQuery, step: str) -> pa.Schema:
    from apwa_dask.plans.infer import infer

    catalog = {alias: source.schema for alias, source in part.sources.items()}
    return infer(part.plan, catalog)[step]


def _failures(run: Run) -> dict[str, int]:
    outcomes: pd.Series[str] = run.failures["outcome"].astype(str)
    return {str(name): int(count) for name, count in outcomes.value_counts().items()}


def _known(plan: Plan) -> dict[str, Any]:
    """Tools and model aliases that the plan has already; a planner gets no others."""
    return {"tools": [find_capability(name) for name in plan.tools], "models": set(plan.models)}


def _drafted(
    draft: Callable[[Any, Any], Any],
    model: ModelLike,
    store: str | None,
    storage_options: Mapping[str, Any] | None,
) -> tuple[Drafted, int]:
    """What the manager says, and the calls that were paid for it."""
    from apwa_dask.execution.loop import run_sync
    from apwa_dask.execution.single import PlanningCaller

    models = models_of(model)
    manager = models.get("manager", models[""])
    caller = PlanningCaller(store_url(store), storage_options=storage_options)
    try:
        return run_sync(draft(manager.pinned(), caller)), caller.paid_calls
    finally:
        caller.flush()


def _proposal(planned: PlannedQuery, drafted: Drafted, change: str, calls: int, revisions: int) -> Proposal:
    sources = {alias: planned.sources[alias] for alias in drafted.plan.sources}
    after = replace(
        planned, plan=drafted.plan, sources=sources, notes=drafted.notes, calls=calls, revisions=revisions
    )
    return Proposal(planned, after, change, drafted.notes, calls)


def _catalog(planned: PlannedQuery, samples: int) -> dict[str, tuple[pa.Schema, Profile]]:
    """Tables as the manager may see them: a column that no step of the plan keeps is not in it."""
    catalog = {}
    for alias in planned.plan.sources:
        source = planned.sources[alias]
        shown = _shown(planned.plan, alias, source.schema.names)
        schema = pa.schema([source.schema.field(name) for name in source.schema.names if name in shown])
        profile = profile_of(source, samples)
        columns = tuple(column for column in profile.columns if column.name in shown)
        catalog[alias] = (schema, replace(profile, columns=columns))
    return catalog


def _shown(plan: Plan, alias: str, names: list[str]) -> set[str]:
    """Columns of a table that are not hidden: those that some first step over it keeps."""
    readers = [step for step in plan.steps if alias in step.inputs_from]
    if not readers or not all(isinstance(step, Select) for step in readers) or plan.result == alias:
        return set(names)
    return {name for step in readers if isinstance(step, Select) for name in step.columns}
