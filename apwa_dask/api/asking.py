"""From a question, or a plan in text, to a `PlannedQuery`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import dask.dataframe as dd
import pandas as pd

from apwa_dask.api.changing import MOST_REVISIONS, adapted
from apwa_dask.api.naming import free_name, renamed_step
from apwa_dask.api.planned import PlannedQuery
from apwa_dask.api.proposal import Proposal
from apwa_dask.api.reading import from_dask, from_pandas
from apwa_dask.api.settings import ModelLike, check_plan, models_of, store_url
from apwa_dask.api.table import Table, TableSet
from apwa_dask.errors import ConfigError, candidates
from apwa_dask.execution import launch as engine
from apwa_dask.execution.run import Run
from apwa_dask.models.batch_terms import BatchTerms
from apwa_dask.models.budget import Budget
from apwa_dask.models.prices import require_prices
from apwa_dask.plans.plan import Plan
from apwa_dask.plans.steps import (
    Step,
)

__all__ = ["PlanMode", "ask", "load_plan", "plan"]

PlanMode = Literal["static", "adaptive"]


def plan(
    query: str,
    *tables: Table | TableSet,
    model: ModelLike = None,
    samples: int = 3,
    mode: PlanMode = "static",
    revisions: int = MOST_REVISIONS,
    store: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    **named: Table,
) -> PlannedQuery:
    """Let a manager model draft a plan for a question, over profiles of the tables, and check it.

    Parameters
    ----------
    query : str
        What you want to know or to have done, in plain language.
    *tables, **named : Table
        What it is about; names given as keywords are the names in the plan.
    model : Model, str or mapping, optional
        The manager (its default entry, or the alias ``manager``).
    samples : int
        Values of each column shown to the manager; 0 for none.
    mode : str
        ``static`` (default): one plan. ``adaptive``: `PlannedQuery.revise` may propose another rest of it after
        a look at what a step gives; nothing is taken over unless you accept it.
    revisions : int
        How often an adaptive plan may be revised.
    store : str, optional
        Where drafts are kept: the same question over the same profiles is not paid twice.

    Raises
    ------
    RefusalError
        The data cannot answer the question, says the manager.
    PlanError
        No valid plan came out after the repair rounds; nothing runs. No data call is made in any case.
    """
    from apwa_dask.agents.capabilities import pure_capabilities
    from apwa_dask.execution.loop import run_sync
    from apwa_dask.execution.single import PlanningCaller
    from apwa_dask.manager import draft_async

    if mode not in get_args(PlanMode) or revisions < 0:
        raise ConfigError(
            f"mode={mode!r} with {revisions} revisions is no way to plan",
            fix=f"{candidates(str(mode), get_args(PlanMode), noun='modes')}; revisions >= 0",
            code="CONFIG-MODE",
        )
    given = _named_tables(tables, named)
    models = models_of(model)
    manager = models.get("manager", models[""])
    caller = PlanningCaller(store_url(store), storage_options=storage_options)
    catalog = {name: (table.schema, table.profile(samples=samples)) for name, table in given.items()}
    try:
        drafted = run_sync(draft_async(query, catalog, manager.pinned(), caller, tools=pure_capabilities()))
    finally:
        caller.flush()
    merged, sources = _inlined(drafted.plan, given)
    left = revisions if mode == "adaptive" else 0
    return PlannedQuery(merged, sources, drafted.notes, caller.paid_calls, left)


def ask(
    query: str,
    *tables: Table | TableSet,
    model: ModelLike = None,
    budget: Budget | float | None = None,
    mode: BatchTerms | str | None = None,
    approve: Callable[[Proposal], bool] | None = None,
    revisions: int = MOST_REVISIONS,
    **options: Any,
) -> Run:
    """Plan and run in one breath: ``ask("Which are complaints?", reviews, budget=2).result()``.

    Parameters
    ----------
    query, *tables, model
        As in `plan`.
    budget : float or Budget, optional
        As in `PlannedQuery.run`; what an adaptive plan spends on looking comes from the same purse.
    mode : str or BatchTerms, optional
        As in `plan` (``static``, ``adaptive``) or as in `PlannedQuery.run` (``live``, ``batch``).
    approve : callable
        For an adaptive plan: called with each `Proposal`; true takes it over.
    revisions : int
        As in `plan`.
    **options
        As in `PlannedQuery.run`, and tables by name.
    """
    adaptive = mode == "adaptive"
    if adaptive and approve is None:
        raise ConfigError(
            "an adaptive plan needs somebody who approves its changes",
            fix="approve=lambda proposal: input(f'{proposal} [y/n] ') == 'y', or plan(..., mode='adaptive')",
            saved="no call was made",
            code="CONFIG-MODE",
        )
    named = {
        name: options.pop(name) for name in list(options) if isinstance(options[name], (Table, TableSet))
    }
    # the drafting would be paid before the run could refuse
    require_prices([models_of(model)[""]], Budget.of(budget).usd)
    where = {name: options[name] for name in ("store", "storage_options") if name in options}
    drafting: PlanMode = "adaptive" if adaptive else "static"
    planned = plan(query, *tables, model=model, mode=drafting, revisions=revisions, **where, **named)
    if adaptive and approve is not None:
        planned, budget = adapted(planned, approve, model=model, budget=budget, **options)
    price_mode = None if mode in get_args(PlanMode) else mode
    return planned.run(model=model, budget=budget, mode=price_mode, **options)


def load_plan(path_or_yaml: str | Plan, tables: Table | TableSet | Mapping[str, Table]) -> PlannedQuery:
    """A plan from a YAML file, from text, or as a program makes it, checked against these tables."""
    loaded = path_or_yaml if isinstance(path_or_yaml, Plan) else _read_plan(path_or_yaml)
    given = _named_tables(
        (tables,) if isinstance(tables, (Table, TableSet)) else (),
        dict(tables) if isinstance(tables, Mapping) and not isinstance(tables, TableSet) else {},
    )
    if len(given) == 1 and len(loaded.sources) == 1:
        given = {loaded.sources[0]: next(iter(given.values()))}
    check_plan(loaded, {name: table.schema for name, table in given.items()})
    merged, sources = _inlined(loaded, given)
    return PlannedQuery(merged, sources)


def _read_plan(path_or_yaml: str) -> Plan:
    if "\n" in path_or_yaml:
        return Plan.from_yaml(path_or_yaml)
    with open(path_or_yaml, encoding="utf-8") as file:
        return Plan.from_yaml(file.read())


def _named_tables(tables: Sequence[Any], named: Mapping[str, Any]) -> dict[str, Table]:
    given: dict[str, Table] = {}
    for table in tables:
        if isinstance(table, TableSet):
            given.update(table)
        elif isinstance(table, Table):
            given[free_name(table._head if not table._steps else next(iter(table._sources)), set(given))] = (
                table
            )
        elif isinstance(table, pd.DataFrame):
            given[free_name("table", set(given))] = from_pandas(table)
        elif isinstance(table, dd.DataFrame):
            given[free_name("table", set(given))] = from_dask(table)
        else:
            raise ConfigError(
                f"{type(table).__name__} is no table",
                fix="pass what apwa.read(...) gives, a pandas frame or a Dask frame",
                code="CONFIG-TABLE",
            )
    for name, table in named.items():
        given[name] = _named_tables((table,), {}).popitem()[1]
    if not given:
        raise ConfigError("no table was given", fix="apwa.ask(query, apwa.read(...))", code="CONFIG-TABLE")
    return given


def _inlined(drafted: Plan, given: Mapping[str, Table]) -> tuple[Plan, dict[str, engine.Source]]:
    """The drafted plan over the tables' own sources and earlier steps."""
    sources: dict[str, engine.Source] = {}
    steps: list[Step] = []
    renamed: dict[str, str] = {}
    taken = {step.id for step in drafted.steps}
    for name in drafted.sources:
        table = given[name]
        inner: dict[str, str] = {}
        for alias, source in table._sources.items():
            wanted = name if len(table._sources) == 1 else alias
            inner[alias] = free_name(wanted, taken)
            taken.add(inner[alias])
            sources[inner[alias]] = source
        for step in table._steps:
            inner[step.id] = free_name(f"{name}_{step.id}" if step.id in taken else step.id, taken)
            taken.add(inner[step.id])
            steps.append(renamed_step(step, inner))
        renamed[name] = inner[table._head]
    own = [renamed_step(step, renamed, keep_id=True) for step in drafted.steps]
    result = renamed.get(drafted.result, drafted.result)
    merged = Plan(query=drafted.query, sources=tuple(sources), steps=(*steps, *own), output=result)
    return merged, sources
