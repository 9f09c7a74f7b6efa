"""Commands that begin with files: profile, plan, explain, estimate, preview, run, ask."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from apwa_dask.cli.command import ApwaCommand
from apwa_dask.cli.consent import agreed_budget, check_prices
from apwa_dask.cli.contracts import Planned, Tables, api
from apwa_dask.cli.exits import Exit
from apwa_dask.cli.following import conclude, follow, leave, progress_settings
from apwa_dask.cli.options import (
    Ending,
    ModelChoice,
    Place,
    RunChoices,
    Sources,
    ending_options,
    model_options,
    place_options,
    quiet_option,
    run_options,
    source_options,
    store_option,
    yes_option,
)
from apwa_dask.cli.output import emit_json, frame_rows, note, show_frame, show_text
from apwa_dask.cli.place import place_of

__all__ = ["COMMANDS"]

_PLAN_SUFFIXES = (".yaml", ".yml", ".json")
_question_or_plan = click.argument("question_or_plan", metavar="QUESTION|PLAN.yaml")


@click.command(cls=ApwaCommand)
@source_options
def profile(sources: Sources, as_json: bool) -> None:
    """Show what a planner would see of FILES: columns, types, sizes. Calls no model."""
    profiles = {name: table.profile() for name, table in _named(sources.read()).items()}
    if as_json:
        emit_json({name: found.to_dict() for name, found in profiles.items()})
        return
    for found in profiles.values():
        show_text(found)


@click.command(cls=ApwaCommand)
@click.argument("question")
@source_options
@model_options
@click.option("--plan-out", metavar="FILE", help="Write the plan there, and explain it on standard output.")
@store_option
def plan(
    question: str,
    sources: Sources,
    model: ModelChoice,
    plan_out: str | None,
    store: str | None,
    as_json: bool,
) -> None:
    """Turn QUESTION into a plan over FILES, as YAML to read, edit and run. Calls the planner only."""
    planned = _drafted(question, sources.read(), model, store)
    if plan_out is not None:
        _write_plan(planned, plan_out)
    if as_json:
        explanation = str(planned.explain())
        emit_json({"plan": planned.to_yaml(), "explanation": explanation, "plan_out": plan_out})
    else:
        show_text(planned.to_yaml() if plan_out is None else planned.explain())


@click.command(cls=ApwaCommand)
@_question_or_plan
@source_options
@model_options
@store_option
def explain(
    question_or_plan: str, sources: Sources, model: ModelChoice, store: str | None, as_json: bool
) -> None:
    """Say what a plan does, step by step."""
    planned = _planned(question_or_plan, sources.read(), model, store)
    if as_json:
        emit_json({"plan": planned.to_yaml(), "explanation": str(planned.explain())})
    else:
        show_text(planned.explain())


@click.command(cls=ApwaCommand)
@_question_or_plan
@source_options
@model_options
@store_option
def estimate(
    question_or_plan: str, sources: Sources, model: ModelChoice, store: str | None, as_json: bool
) -> None:
    """Say what a plan would cost: calls, tokens, money, minutes. No data is sent to the model."""
    found = _planned(question_or_plan, sources.read(), model, store).estimate(
        model=model.resolve(), store=store
    )
    if as_json:
        emit_json(found.to_dict())
    else:
        show_text(found)


@click.command(cls=ApwaCommand)
@_question_or_plan
@source_options
@model_options
@click.option("-n", "--rows", default=20, show_default=True, type=click.IntRange(min=1), help="Rows to try.")
@click.option("--seed", default=0, show_default=True, help="Another seed takes other rows.")
@store_option
def preview(
    question_or_plan: str,
    sources: Sources,
    model: ModelChoice,
    rows: int,
    seed: int,
    store: str | None,
    as_json: bool,
) -> None:
    """Try a plan on a few rows: input beside output. The run that follows does not pay for them again.

    Then says what the whole run would cost, now that some of it was seen.
    """
    planned = _planned(question_or_plan, sources.read(), model, store)
    with progress_settings(quiet=as_json):
        frame = planned.preview(rows, seed=seed, model=model.resolve(), store=store)
    if as_json:
        emit_json({"rows": frame_rows(frame), "estimate": frame.estimate.to_dict()})
    else:
        show_frame(frame, max_rows=rows)
        note(f"the whole run, after this preview: {frame.estimate}")


@click.command(cls=ApwaCommand)
@click.argument("plan_file", metavar="PLAN.yaml", type=click.Path(exists=True, dir_okay=False))
@source_options
@model_options
@run_options
@place_options
@ending_options
@store_option
@yes_option
@quiet_option
def run(
    plan_file: str,
    sources: Sources,
    model: ModelChoice,
    choices: RunChoices,
    place: Place,
    ending: Ending,
    store: str | None,
    yes: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Run a plan over FILES."""
    planned = api().load_plan(plan_file, sources.read())
    leave(_carried_out(planned, model, choices, place, ending, store, yes=yes, quiet=quiet, as_json=as_json))


@click.command(cls=ApwaCommand)
@click.argument("question")
@source_options
@model_options
@run_options
@place_options
@ending_options
@click.option("--plan-out", metavar="FILE", help="Keep the plan as YAML, to edit and run again.")
@store_option
@yes_option
@quiet_option
def ask(
    question: str,
    sources: Sources,
    model: ModelChoice,
    choices: RunChoices,
    place: Place,
    ending: Ending,
    plan_out: str | None,
    store: str | None,
    yes: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Ask QUESTION of FILES: plan, estimate, run, and show the table that answers it."""
    check_prices(model.resolve(), choices.budget)
    planned = _drafted(question, sources.read(), model, store)
    if plan_out is not None:
        _write_plan(planned, plan_out)
    leave(_carried_out(planned, model, choices, place, ending, store, yes=yes, quiet=quiet, as_json=as_json))


def _carried_out(
    planned: Planned,
    model: ModelChoice,
    choices: RunChoices,
    place: Place,
    ending: Ending,
    store: str | None,
    *,
    yes: bool,
    quiet: bool,
    as_json: bool,
) -> Exit:
    """Show plan and price, get consent, run, conclude."""
    chosen = model.resolve()
    check_prices(chosen, choices.budget, planned)
    forecast = planned.estimate(model=chosen, store=store, **choices.pace())
    if not quiet:
        note(planned.explain(model=chosen))
        note(forecast)
    budget_usd = agreed_budget(forecast, choices.budget, yes=yes)
    with place_of(place) as where, progress_settings(quiet=quiet):
        handle = planned.run(
            model=chosen, store=store, budget=choices.ceiling(budget_usd), **choices.settled(), **where
        )
        follow(handle)
        more = {"plan": planned.to_yaml(), "estimate": forecast.to_dict()}
        return conclude(handle, ending, as_json=as_json, more=more)


def _planned(question_or_plan: str, tables: Tables, model: ModelChoice, store: str | None) -> Planned:
    """The plan in a file, or the plan a manager drafts for a question."""
    if question_or_plan.endswith(_PLAN_SUFFIXES) and Path(question_or_plan).is_file():
        return api().load_plan(question_or_plan, tables)
    return _drafted(question_or_plan, tables, model, store)


def _drafted(question: str, tables: Tables, model: ModelChoice, store: str | None) -> Planned:
    return api().plan(question, tables, model=model.resolve(), store=store)


def _named(tables: Tables) -> Mapping[str, Any]:
    return tables if isinstance(tables, Mapping) else {"data": tables}


def _write_plan(planned: Planned, path: str) -> None:
    Path(path).write_text(planned.to_yaml(), encoding="utf-8")
    note(f"plan written to {path}")


COMMANDS = (ask, plan, explain, estimate, preview, run, profile)
