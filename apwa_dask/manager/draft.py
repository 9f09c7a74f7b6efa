"""From a question to a checked plan: guards before the first call, then the strategy that suits the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from apwa_dask.agents.capabilities import Capability
from apwa_dask.agents.clean import clean_text
from apwa_dask.errors import PlanError, RefusalError
from apwa_dask.manager.briefing import Tables, shows_samples
from apwa_dask.manager.guided import draft_guided
from apwa_dask.manager.session import Session
from apwa_dask.manager.whole import draft_whole
from apwa_dask.models.model import Model
from apwa_dask.models.types import Caller, Usage
from apwa_dask.plans.infer import visible
from apwa_dask.plans.plan import Plan
from apwa_dask.plans.validate import validate
from apwa_dask.tables.profile import Profile

__all__ = ["MOST_QUESTION_CHARACTERS", "Drafted", "draft_async", "drafted_by"]

MOST_QUESTION_CHARACTERS = 20_000


@dataclass(frozen=True, slots=True)
class Drafted:
    """A valid plan and how it came about.

    Parameters
    ----------
    plan : Plan
    notes : tuple of str
        What the user should know: who drafted it, what was shown, what to look at.
    rounds : int
        Repair rounds.
    calls : int
        Calls to the planner.
    usage : Usage
        Tokens of these calls.
    """

    plan: Plan
    notes: tuple[str, ...]
    rounds: int
    calls: int
    usage: Usage


async def draft_async(
    query: str,
    catalog: Mapping[str, tuple[pa.Schema, Profile]],
    model: Model,
    caller: Caller,
    *,
    tools: Sequence[Capability] = (),
    repairs: int = 2,
) -> Drafted:
    """Draft a plan for a question; nothing but the planner is called, and no data is read.

    Models whose ``prompts`` are ``small`` are led through small choices; others write the whole plan at once.

    Parameters
    ----------
    query : str
    catalog : mapping of str to (pyarrow.Schema, Profile)
        Tables by alias. The prompt's size does not depend on their number of rows.
    model : Model
        The planner.
    caller : Caller
        What turns requests into replies.
    tools : sequence of Capability
        What steps may be given. `small` models are offered none.
    repairs : int
        Most rounds in which the planner mends a plan that is not valid.

    Raises
    ------
    RefusalError
        The data cannot answer: the planner says so, or there is no row (then without any call).
    PlanError
        No valid plan came out: the answer was cut off, no plan at all, or not mended in time.
    """
    question = clean_text(query).strip()
    if not question or len(question) > MOST_QUESTION_CHARACTERS:
        raise PlanError(
            f"a question has 1 to {MOST_QUESTION_CHARACTERS:,} characters, not {len(question):,}",
            fix='say what you want to know, such as "Which of these messages are complaints?"',
            code="PLAN-QUERY",
        )
    tables, empty = _readable(catalog)
    session = Session(caller, model)
    if model.prompts == "small":
        plan, rounds = await draft_guided(question, tables, session), 0
    else:
        plan, rounds = await draft_whole(question, tables, session, tools, repairs)
    warnings = validate(
        plan, {alias: schema for alias, (schema, _) in tables.items()}, tools=[tool.name for tool in tools]
    )
    notes = [*drafted_by(model, tables, rounds), *empty, *(str(warning) for warning in warnings)]
    return Drafted(plan, tuple(notes), rounds, session.calls, session.usage)


def _readable(catalog: Mapping[str, tuple[pa.Schema, Profile]]) -> tuple[Tables, list[str]]:
    """The tables that have rows and columns, and a note for each other one."""
    empty = {alias: _emptiness(schema, profile) for alias, (schema, profile) in catalog.items()}
    tables = {alias: catalog[alias] for alias, why in empty.items() if not why}
    notes = [f"the table {alias} {why}; it was left out" for alias, why in empty.items() if why]
    if tables:
        return tables, notes
    raise RefusalError(
        "there is nothing to answer the question from",
        where=", ".join(catalog) or "no table was given",
        why="; ".join(f"the table {alias} {why}" for alias, why in empty.items()),
        fix="give tables that have rows",
        saved="no call was made",
    )


def _emptiness(schema: pa.Schema, profile: Profile) -> str:
    if not len(visible(schema)):
        return "has no columns"
    return "has no rows" if profile.rows == 0 and profile.exact else ""


def drafted_by(model: Model, tables: Tables, rounds: int) -> list[str]:
    who = f"the embedded model {model.name}" if model.is_local else model.name
    notes = [f"drafted by {who}: check it before you run it"]
    if rounds:
        notes.append(f"mended in {rounds} repair round{'s' if rounds > 1 else ''}")
    if shows_samples(tables):
        notes.append("sample values were shown to the planner")
    return notes
