"""A change to a plan, told in words: the planner proposes a plan, nobody takes it over."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import pyarrow as pa

from apwa_dask.agents.capabilities import Capability
from apwa_dask.agents.clean import clean_text
from apwa_dask.errors import PlanError
from apwa_dask.manager.as_answer import as_answer
from apwa_dask.manager.briefing import Tables
from apwa_dask.manager.draft import MOST_QUESTION_CHARACTERS, Drafted, drafted_by
from apwa_dask.manager.guided.edits import edit_guided
from apwa_dask.manager.keeping import keep
from apwa_dask.manager.session import Session
from apwa_dask.manager.whole import as_json, brief, whole_plan
from apwa_dask.models.model import Model
from apwa_dask.models.types import Caller
from apwa_dask.plans.infer import visible
from apwa_dask.plans.plan import Plan
from apwa_dask.plans.validate import validate
from apwa_dask.tables.profile import Profile

__all__ = ["edit_async", "shown_plan"]


async def edit_async(
    plan: Plan,
    change: str,
    catalog: Mapping[str, tuple[pa.Schema, Profile]],
    model: Model,
    caller: Caller,
    *,
    tools: Sequence[Capability] = (),
    models: Collection[str] = (),
    repairs: int = 2,
) -> Drafted:
    """Draft `plan` with one change; what the change does not touch keeps its step ids and its settings.

    Models whose ``prompts`` are ``small`` choose one kind of change and its details; others write the plan.

    Parameters
    ----------
    plan : Plan
    change : str
        Such as "only those from Oslo" or "add a label for the tone".
    catalog : mapping of str to (pyarrow.Schema, Profile)
        The plan's tables. The prompt's size does not depend on their number of rows.
    model, caller
        As in `draft_async`.
    tools : sequence of Capability
        What steps may be given.
    models : collection of str
        Model aliases that steps may name.
    repairs : int
        Most rounds in which the planner mends a plan that is not valid.

    Raises
    ------
    RefusalError
        The tables cannot give what is wanted, says the planner.
    PlanError
        No valid plan came out.
    """
    wanted = clean_text(change).strip()
    if not wanted or len(wanted) > MOST_QUESTION_CHARACTERS:
        raise PlanError(
            f"a change has 1 to {MOST_QUESTION_CHARACTERS:,} characters, not {len(wanted):,}",
            fix='say what to change, such as "only the rows from 2024"',
            code="PLAN-QUERY",
        )
    tables = {alias: catalog[alias] for alias in catalog}
    session = Session(caller, model)
    if model.prompts == "small":
        new, rounds = await edit_guided(plan, wanted, tables, session), 0
    else:
        told = (
            f"{brief(plan.query or 'none was given', tables, tools)}\n\n{shown_plan(plan, tables)}\n\n"
            f"Change wanted:\n{wanted}\n"
            "Give the whole plan again with this change made and everything else as it is."
        )
        new, rounds = await whole_plan(told, plan.query, tables, session, tools, repairs)
    return _checked(plan, new, tables, session, rounds, tools, models)


def shown_plan(plan: Plan, tables: Tables) -> str:
    """The plan as the planner would have written it."""
    columns = {name for schema, _ in tables.values() for name in visible(schema).names}
    return f"Current plan:\n{as_json(as_answer(plan, columns))}"


def _checked(
    old: Plan,
    drafted: Plan,
    tables: Tables,
    session: Session,
    rounds: int,
    tools: Sequence[Capability],
    models: Collection[str],
) -> Drafted:
    new = keep(old, drafted)
    schemas = {alias: schema for alias, (schema, _) in tables.items()}
    warnings = validate(new, schemas, tools=[tool.name for tool in tools], models=models)
    notes = (*drafted_by(session.model, tables, rounds), *(str(warning) for warning in warnings))
    return Drafted(new, notes, rounds, session.calls, session.usage)
