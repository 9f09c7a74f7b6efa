"""Adaptive mode: after a step has run, its counts and profile go to the planner, which may change the rest."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from apwa_dask.agents.capabilities import Capability
from apwa_dask.errors import PlanError
from apwa_dask.manager.as_answer import live_steps
from apwa_dask.manager.briefing import Tables, magnitude
from apwa_dask.manager.draft import Drafted, drafted_by
from apwa_dask.manager.editing import shown_plan
from apwa_dask.manager.guided.edits import edit_guided
from apwa_dask.manager.keeping import keep
from apwa_dask.manager.session import Session
from apwa_dask.manager.whole import brief, whole_plan
from apwa_dask.models.model import Model
from apwa_dask.models.types import Caller
from apwa_dask.plans.infer import infer, visible
from apwa_dask.plans.plan import Plan
from apwa_dask.plans.validate import validate
from apwa_dask.tables.profile import Profile, profile_frame

__all__ = ["Seen", "revise_async"]


@dataclass(frozen=True, slots=True)
class Seen:
    """What came of a step: counts and metadata, no row.

    Attributes
    ----------
    step : str
        Its id.
    schema : pyarrow.Schema
        Columns after it.
    profile : Profile
        Of the rows that came out, with as many sample values as the user allows.
    rows_in, rows_out : int
        Rows of the tables that went in, and rows that came out.
    failures : mapping of str to int
        Failed rows by class.
    sampled : bool
        Whether only a sample of the rows has run.
    """

    step: str
    schema: pa.Schema
    profile: Profile
    rows_in: int
    rows_out: int
    failures: Mapping[str, int] = field(default_factory=dict)
    sampled: bool = False

    def words(self) -> str:
        """One line of counts."""
        failed = ", ".join(f"{name} {magnitude(count)}" for name, count in sorted(self.failures.items()))
        share = f"{self.rows_out / self.rows_in:.0%}" if self.rows_in else "?"
        of = "of a sample of" if self.sampled else "of"
        return (
            f"Run so far: the steps up to {self.step}. {magnitude(self.rows_out)} rows came {of} "
            f"{magnitude(self.rows_in)} ({share}). Failed rows: {failed or 'none'}."
        )


async def revise_async(
    plan: Plan,
    seen: Seen,
    catalog: Mapping[str, tuple[pa.Schema, Profile]],
    model: Model,
    caller: Caller,
    *,
    tools: Sequence[Capability] = (),
    models: Collection[str] = (),
    repairs: int = 2,
) -> Drafted:
    """Draft the rest of `plan` anew, given what came of one of its steps. What has run stays as it is.

    The rows that came out are one more table to the planner, named as the step: it sees their columns, counts
    and statistics.

    Parameters
    ----------
    plan : Plan
    seen : Seen
    catalog : mapping of str to (pyarrow.Schema, Profile)
        The plan's tables.
    model, caller, tools, models, repairs
        As in `apwa_dask.manager.edit_async`.

    Raises
    ------
    RefusalError
        What came out cannot answer the question, says the planner.
    PlanError
        Nothing is left to revise; or no valid plan came out.
    """
    done, rest = _halves(plan, seen.step)
    if not rest:
        raise PlanError(
            f"nothing comes after {seen.step}",
            fix="revise after an earlier step, or change the plan with edit(...)",
            saved="no call was made",
            code="PLAN-INPUT",
        )
    tables = _tables(plan, done, rest, seen, catalog)
    read = {name for step in rest for name in step.inputs_from}
    later = Plan(query=plan.query, sources=tuple(t for t in tables if t in read), steps=rest)
    session = Session(caller, model)
    if model.prompts == "small":
        drafted, rounds = (
            await edit_guided(
                later, "what these counts call for, if anything", tables, session, seen.words()
            ),
            0,
        )
    else:
        told = (
            f"{brief(plan.query or 'none was given', tables, tools)}\n\n{seen.words()}\n"
            f"Its rows are the table {seen.step}. The rest of the plan:\n{shown_plan(later, tables)}\n\n"
            "Give this rest again: as it is, unless the counts and columns show that it cannot answer the "
            "question well or pays for more than it needs."
        )
        drafted, rounds = await whole_plan(told, plan.query, tables, session, tools, repairs)
    new = _whole(plan, done, keep(later, drafted, [step.id for step in plan.steps]))
    schemas = {alias: schema for alias, (schema, _) in catalog.items()}
    warnings = validate(new, schemas, tools=[tool.name for tool in tools], models=models)
    notes = (*drafted_by(model, tables, rounds), *(str(warning) for warning in warnings))
    return Drafted(new, notes, rounds, session.calls, session.usage)


def _halves(plan: Plan, step_id: str) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """The step with all that it needs; and the other steps that the result needs."""
    done = live_steps(plan.model_copy(update={"output": step_id}))
    names = {step.id for step in done}
    return done, tuple(step for step in live_steps(plan) if step.id not in names)


def _tables(
    plan: Plan,
    done: Sequence[Any],
    rest: Sequence[Any],
    seen: Seen,
    catalog: Mapping[str, tuple[pa.Schema, Profile]],
) -> Tables:
    """What the rest may read: the rows that came out first, other earlier steps that it reads, the tables."""
    read = {name for step in rest for name in step.inputs_from}
    schemas = infer(plan, {alias: schema for alias, (schema, _) in catalog.items()})
    earlier = [step.id for step in done if step.id in read and step.id != seen.step]
    bare = {
        name: profile_frame(visible(schemas[name]).empty_table(), name=name, rows=None) for name in earlier
    }
    return {
        seen.step: (seen.schema, seen.profile),
        **{name: (schemas[name], replace(profile, exact=False)) for name, profile in bare.items()},
        **catalog,
    }


def _whole(plan: Plan, done: Sequence[Any], rest: Plan) -> Plan:
    steps = (*done, *rest.steps)
    read = {name for step in steps for name in step.inputs_from} | {rest.result}
    return plan.model_copy(
        update={
            "sources": tuple(alias for alias in plan.sources if alias in read) or plan.sources,
            "steps": steps,
            "output": None if plan.output is None else rest.result,
        }
    )
