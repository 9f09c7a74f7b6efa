"""Commands about runs that are kept: runs, status, resume, retry, failures, row, report, purge."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import click

from apwa_dask.cli.command import ApwaCommand
from apwa_dask.cli.consent import can_ask
from apwa_dask.cli.contracts import Run, api
from apwa_dask.cli.following import conclude, failure_groups, follow, leave, progress_settings
from apwa_dask.cli.options import (
    Ending,
    Place,
    ending_options,
    place_options,
    quiet_option,
    store_option,
    yes_option,
)
from apwa_dask.cli.output import emit_json, frame_rows, note, show_frame, show_rows, show_text
from apwa_dask.cli.place import place_of
from apwa_dask.errors import RunError
from apwa_dask.observe.reprs import run_text

__all__ = ["COMMANDS", "attached"]

_run_id = click.argument("run_id", metavar="RUN")
_on_change = click.option(
    "--on-change",
    type=click.Choice(["refuse", "redo"]),
    help="When input files have changed: refuse to go on (the default), or redo what changed.",
)
_run_id_or_latest = click.argument("run_id", metavar="[RUN]", required=False)


@click.command(cls=ApwaCommand)
@store_option
@click.option("--limit", default=20, show_default=True, type=click.IntRange(min=1), help="How many.")
def runs(store: str | None, limit: int, as_json: bool) -> None:
    """List the runs that are kept, newest first."""
    found = sorted(api().runs(store), key=lambda info: info.created_s, reverse=True)
    shown = found[:limit]
    if as_json:
        emit_json(
            [
                {
                    "id": info.run_id,
                    "status": str(info.status),
                    "created": _utc(info.created_s).isoformat(),
                    "name": info.name,
                }
                for info in shown
            ]
        )
    elif shown:
        rows = [[info.run_id, str(info.status), _local_time(info.created_s), info.name] for info in shown]
        show_rows(["run", "status", "created", "name"], rows, max_rows=limit, total_rows=len(found))
    else:
        note("no runs are kept")


@click.command(cls=ApwaCommand)
@_run_id_or_latest
@store_option
def status(run_id: str | None, store: str | None, as_json: bool) -> None:
    """Say how a run stands; the latest one when RUN is omitted."""
    run = attached(run_id, store)
    found = run.status()
    if as_json:
        emit_json({**found, "folder": run.folder.url})
        return
    show_text(run_text(found))
    note(f"  kept    {run.folder.url}")
    if found["status"] in ("stopped", "failed", "created"):
        note(f"  go on   apwa resume {run.id}")


@click.command(cls=ApwaCommand)
@_run_id_or_latest
@click.option(
    "--budget", type=click.FloatRange(min=0), metavar="USD", help="A new ceiling for the whole run."
)
@click.option(
    "--max-failure-rate",
    type=click.FloatRange(0, 1),
    metavar="SHARE",
    help="Another share of rows that may fail.",
)
@click.option(
    "--early-stop/--no-early-stop",
    default=None,
    help="Whether to stop when the first 50 calls all fail alike.",
)
@_on_change
@place_options
@ending_options
@store_option
@quiet_option
def resume(
    run_id: str | None,
    budget: float | None,
    max_failure_rate: float | None,
    early_stop: bool | None,
    on_change: str | None,
    place: Place,
    ending: Ending,
    store: str | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Go on with a run that was stopped; nothing that was paid is paid again."""
    with place_of(place) as where, progress_settings(quiet=quiet):
        given = {
            "budget": budget,
            "max_failure_rate": max_failure_rate,
            "early_stop": early_stop,
            "on_change": on_change,
        }
        going = attached(run_id, store, **where).resume(
            **{name: value for name, value in given.items() if value is not None}
        )
        follow(going)
        leave(conclude(going, ending, as_json=as_json))


@click.command(cls=ApwaCommand)
@_run_id_or_latest
@_on_change
@place_options
@ending_options
@store_option
@quiet_option
def retry(
    run_id: str | None,
    on_change: str | None,
    place: Place,
    ending: Ending,
    store: str | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Try the failed rows of a run again, and only those, in a run of its own."""
    with place_of(place) as where, progress_settings(quiet=quiet):
        going = attached(run_id, store, **where).retry_failed(
            **({} if on_change is None else {"on_change": on_change})
        )
        follow(going)
        leave(conclude(going, ending, as_json=as_json))


@click.command(cls=ApwaCommand)
@_run_id_or_latest
@store_option
@click.option("--limit", default=20, show_default=True, type=click.IntRange(min=0), help="Rows to show.")
@click.option("--summary", is_flag=True, help="One line for all rows that failed alike, with what to do.")
def failures(run_id: str | None, store: str | None, limit: int, summary: bool, as_json: bool) -> None:
    """Show the rows that failed, and why: first by kind, then one by one."""
    found = attached(run_id, store).failures
    if summary:
        _show_summary(found, as_json=as_json)
        return
    groups = failure_groups(found)
    if as_json:
        emit_json({"groups": groups, "total": len(found), "rows": frame_rows(found.head(limit))})
        return
    if not groups:
        note("no row failed")
        return
    show_rows(["rows", "outcome", "message"], [[g["rows"], g["outcome"], g["message"]] for g in groups])
    if limit:
        click.echo()
        show_frame(found.head(limit), max_rows=limit, total_rows=len(found))


def _show_summary(found: Any, *, as_json: bool) -> None:
    from apwa_dask.execution.failures import summary_of

    groups = summary_of(found)
    if as_json:
        emit_json({"groups": frame_rows(groups), "total": len(found)})
    elif len(groups):
        show_frame(groups, max_rows=len(groups))
    else:
        note("no row failed")


@click.command(cls=ApwaCommand)
@_run_id
@click.argument("row_id", metavar="ROW")
@store_option
def row(run_id: str, row_id: str, store: str | None, as_json: bool) -> None:
    """Tell all about one row: prompts, answers, tools, cost and where it came from.

    ROW is an id as `apwa failures` shows it, or a position in the result, from 0.
    """
    story = api().attach(run_id, store).row(int(row_id) if row_id.isdigit() else row_id)
    if as_json:
        emit_json(story.to_dict())
    else:
        show_text(str(story))


@click.command(cls=ApwaCommand)
@_run_id_or_latest
@click.option("--output", "-o", "path", metavar="FILE", help="Default: apwa-report-RUN.html in this folder.")
@store_option
def report(run_id: str | None, path: str | None, store: str | None, as_json: bool) -> None:
    """Write the HTML report of a run: one file that needs no network."""
    run = attached(run_id, store)
    target = path or f"apwa-report-{run.id}.html"
    run.report(target)
    if as_json:
        emit_json({"id": run.id, "report": target})
    else:
        show_text(target)


@click.command(cls=ApwaCommand)
@_run_id
@store_option
@click.option("--answers", is_flag=True, help="Also delete every answer it paid for from the journal.")
@yes_option
def purge(run_id: str, store: str | None, answers: bool, yes: bool, as_json: bool) -> None:
    """Delete a run and its results. Answers it paid for stay in the journal, for other runs to use."""
    run = api().attach(run_id, store)  # a wrong id must fail here, not after the question
    if not yes:
        if not can_ask():
            why = "nobody can be asked here"
            raise RunError(f"run {run_id} was not deleted", why=why, fix="add --yes", code="RUN-PURGE")
        click.confirm(f"Delete run {run_id} and its results?", default=False, abort=True, err=True)
    purged = api().purge(run.id, run.store, answers=answers)
    records = None if purged.answers is None else purged.answers.records
    if as_json:
        emit_json({"id": run.id, "purged": True, "answers": records})
    else:
        note(f"run {run.id} is deleted" + ("" if records is None else f", and {records} answers of it"))


def attached(run_id: str | None, store: str | None, **where: Any) -> Run:
    """The run with this id, or the latest one."""
    if run_id is not None:
        return api().attach(run_id, store, **where)
    latest = max(api().runs(store), key=lambda info: info.created_s, default=None)
    if latest is None:
        raise RunError("no runs are kept", fix='start one: apwa ask "..." FILES', code="RUN-NONE")
    return api().attach(latest.run_id, store, **where)


def _utc(unix_s: float) -> datetime:
    return datetime.fromtimestamp(unix_s, UTC)


def _local_time(unix_s: float) -> str:
    return _utc(unix_s).astimezone().strftime("%Y-%m-%d %H:%M")


COMMANDS = (runs, status, resume, retry, failures, row, report, purge)
