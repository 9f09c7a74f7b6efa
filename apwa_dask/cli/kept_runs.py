"""Commands about runs that are kept: runs, status, resume, retry, failures, report, purge."""

from __future__ import annotations

import click

from apwa_dask.cli.command import ApwaCommand
from apwa_dask.cli.contracts import Run, api
from apwa_dask.cli.exits import Exit
from apwa_dask.cli.following import conclude, failure_groups, follow, leave, progress_settings
from apwa_dask.cli.options import (
    ModelChoice,
    Output,
    RunChoices,
    model_options,
    output_option,
    quiet_option,
    run_options,
    store_option,
    yes_option,
)
from apwa_dask.cli.output import emit_json, frame_rows, note, show_frame, show_rows, show_text
from apwa_dask.cli.place import place_of
from apwa_dask.errors import RunError
from apwa_dask.observe.reprs import facts_text
from apwa_dask.observe.text import money_text

__all__ = ["COMMANDS"]

_run_id = click.argument("run_id", metavar="RUN")
_run_id_or_latest = click.argument("run_id", metavar="[RUN]", required=False)


@click.command(cls=ApwaCommand)
@store_option
@click.option(
    "--limit", default=20, show_default=True, type=click.IntRange(min=1), help="How many, newest first."
)
def runs(store: str | None, limit: int, as_json: bool) -> None:
    """List the runs that are kept, newest first."""
    found = sorted(api().runs(store=store), key=lambda info: str(info.created), reverse=True)
    rows = [[info.run_id, info.name, str(info.created), info.status] for info in found[:limit]]
    if as_json:
        emit_json([dict(zip(("run_id", "name", "created", "status"), row, strict=True)) for row in rows])
    elif rows:
        show_rows(["run", "name", "created", "status"], rows, max_rows=limit, total_rows=len(found))
    else:
        note("no runs are kept")


@click.command(cls=ApwaCommand)
@_run_id_or_latest
@store_option
def status(run_id: str | None, store: str | None, as_json: bool) -> None:
    """Say how a run stands; the latest one when RUN is omitted."""
    found = _attached(run_id, store).status()
    if as_json:
        emit_json(found)
        return
    budget_usd = found["budget_usd"]
    words = {
        **found,
        "rows_total": "unknown" if found["rows_total"] is None else found["rows_total"],
        "cost_usd": money_text(found["cost_usd"]),
        "budget_usd": "no ceiling" if budget_usd is None else money_text(budget_usd),
    }
    facts = {
        name.removesuffix("_usd").replace("_", " "): value for name, value in words.items() if value != ""
    }
    show_text(facts_text(f"run {facts.pop('run id')}", facts))


@click.command(cls=ApwaCommand)
@_run_id_or_latest
@model_options
@run_options
@output_option
@store_option
@quiet_option
def resume(
    run_id: str | None,
    model: ModelChoice,
    choices: RunChoices,
    output: Output,
    store: str | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Go on with a run that was stopped; nothing that was paid is paid again."""
    leave(
        _continued(_attached(run_id, store), "resume", model, choices, output, quiet=quiet, as_json=as_json)
    )


@click.command(cls=ApwaCommand)
@_run_id_or_latest
@model_options
@run_options
@output_option
@store_option
@quiet_option
def retry(
    run_id: str | None,
    model: ModelChoice,
    choices: RunChoices,
    output: Output,
    store: str | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Try the failed rows of a run again, and only those."""
    leave(
        _continued(
            _attached(run_id, store), "retry_failed", model, choices, output, quiet=quiet, as_json=as_json
        )
    )


@click.command(cls=ApwaCommand)
@_run_id_or_latest
@store_option
@click.option("--limit", default=20, show_default=True, type=click.IntRange(min=0), help="Rows to print.")
def failures(run_id: str | None, store: str | None, limit: int, as_json: bool) -> None:
    """Show the rows that failed, and why: first by kind, then one by one."""
    found = _attached(run_id, store).failures
    groups = failure_groups(found)
    if as_json:
        emit_json({"groups": groups, "total": len(found), "rows": frame_rows(found.head(limit))})
        return
    if not groups:
        note("no row failed")
        return
    show_rows(["rows", "class", "message"], [[g["rows"], g["class"], g["message"]] for g in groups])
    if limit:
        click.echo()
        show_frame(found.head(limit), max_rows=limit, total_rows=len(found))


@click.command(cls=ApwaCommand)
@_run_id_or_latest
@click.option("--output", "-o", "path", metavar="FILE", help="Default: apwa-report-RUN.html in this folder.")
@store_option
def report(run_id: str | None, path: str | None, store: str | None, as_json: bool) -> None:
    """Write the HTML report of a run: one file that needs no network."""
    found = _attached(run_id, store)
    target = path or f"apwa-report-{found.id}.html"
    found.report(target)
    if as_json:
        emit_json({"run_id": found.id, "report": target})
    else:
        show_text(target)


@click.command(cls=ApwaCommand)
@_run_id
@store_option
@yes_option
def purge(run_id: str, store: str | None, yes: bool, as_json: bool) -> None:
    """Delete a run and its results. What it paid for is gone too, unless other runs share it."""
    from apwa_dask.cli.consent import can_ask

    api().attach(run_id, store=store)  # a wrong id must fail here, not after the question
    if not yes:
        if not can_ask():
            raise RunError(
                f"run {run_id} was not deleted",
                why="nobody can be asked here",
                fix="add --yes",
                code="RUN-PURGE",
            )
        click.confirm(f"Delete run {run_id} and its results?", default=False, abort=True, err=True)
    api().purge(run_id, store=store)
    if as_json:
        emit_json({"run_id": run_id, "purged": True})
    else:
        note(f"run {run_id} is deleted")


def _attached(run_id: str | None, store: str | None) -> Run:
    """The run with this id, or the latest one."""
    if run_id is not None:
        return api().attach(run_id, store=store)
    kept = api().runs(store=store)
    if not kept:
        raise RunError("no runs are kept", fix='start one: apwa ask "..." FILES', code="RUN-NONE")
    return api().attach(max(kept, key=lambda info: str(info.created)).run_id, store=store)


def _continued(
    found: Run,
    how: str,
    model: ModelChoice,
    choices: RunChoices,
    output: Output,
    *,
    quiet: bool,
    as_json: bool,
) -> Exit:
    chosen = model.resolve()
    options = {**choices.given(), **({} if chosen is None else {"model": chosen})}
    with place_of(choices) as place, progress_settings(quiet=quiet):
        going = getattr(found, how)(**options, **place)
        if not follow(going):
            return Exit.INTERRUPTED
        return conclude(going, choices, output, as_json=as_json)


COMMANDS = (runs, status, resume, retry, failures, report, purge)
