"""From a started run to its last word: wait, stop on Ctrl-C, show, write, and say where it is kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
import dask.config

from apwa_dask import config
from apwa_dask.cli.contracts import Run, Status
from apwa_dask.cli.exits import Exit, exit_of_run
from apwa_dask.cli.options import Output, RunChoices
from apwa_dask.cli.output import emit_json, frame_rows, note, show_frame
from apwa_dask.observe.text import count_text, money_text, safe_text

__all__ = ["conclude", "failure_groups", "follow", "progress_settings"]

_DRAIN_TIMEOUT_S = 60.0
_SHOWN_GROUPS = 5


@contextmanager
def progress_settings(*, quiet: bool) -> Iterator[None]:
    """Progress for the time of a command; the command itself says how the run ended."""
    changes: dict[str, Any] = {"apwa.progress-summary": False}
    if quiet:
        changes["apwa.progress"] = "silent"
    with dask.config.set(changes):
        yield


def follow(run: Run) -> bool:
    """Wait for the end of `run`; True when it came by itself.

    The first Ctrl-C stops dispatch and lets the calls in flight, which are paid for, come in. A second one
    leaves at once. Either way the run can be resumed.
    """
    try:
        run.wait()
        return True
    except KeyboardInterrupt:
        note("\nstopping: waiting for the calls in flight (Ctrl-C again leaves at once)")
    try:
        run.stop()
        run.wait(timeout=_DRAIN_TIMEOUT_S)
    except (KeyboardInterrupt, TimeoutError):
        note("left before the last calls came in; those are asked again on resume")
    note(f"the run is kept; go on with: apwa resume {run.id}")
    return False


def conclude(
    run: Run,
    choices: RunChoices,
    output: Output,
    *,
    as_json: bool,
    more: dict[str, Any] | None = None,
) -> Exit:
    """Show how a run ended, write its result, and give the exit code.

    Parameters
    ----------
    more : dict, optional
        Further entries of the JSON document, such as the plan.
    """
    status = run.status()
    is_done = status["status"] == "done"
    max_rows = config.get("show-rows", choices.show)
    head = run.frame.head(max_rows, npartitions=-1) if is_done else None
    groups = failure_groups(run.failures) if status["rows_failed"] else []
    written = _write(run, output) if is_done else None
    code = exit_of_run(
        status["status"],
        status["rows_failed"],
        status["rows_done"],
        config.get("max-failed-fraction", choices.max_failed),
    )
    if as_json:
        emit_json(
            {
                **(more or {}),
                "run": status,
                "rows": None if head is None else frame_rows(head),
                "failures": groups,
                "output": written,
                "exit_code": int(code),
            }
        )
    else:
        if head is not None and max_rows:
            show_frame(head, max_rows=max_rows, total_rows=status.get("rows_out"))
        _say(status, groups, written)
    return code


def failure_groups(failures: Any) -> list[dict[str, Any]]:
    """Failures that say the same, most frequent first: class, message, rows."""
    if not len(failures):
        return []
    counts = failures.groupby(["class", "message"], sort=True, dropna=False).size()
    groups = [
        {"class": kind, "message": message, "rows": int(rows)} for (kind, message), rows in counts.items()
    ]
    return sorted(groups, key=lambda group: -int(group["rows"]))


def _write(run: Run, output: Output) -> str | None:
    if output.path is None:
        return None
    run.export(output.path)
    return output.path


def _say(status: Status, groups: list[dict[str, Any]], written: str | None) -> None:
    run_id = status["run_id"]
    for label, words in (
        ("status", _status_words(status)),
        ("rows", _row_words(status)),
        ("cost", _cost_words(status)),
        ("answers", f"by the {status['local_model']}" if status.get("local_model") else ""),
        ("written", written or ""),
        ("kept", f"{status['folder']}  (apwa status {run_id})"),
    ):
        if words:
            note(f"{label:<8} {safe_text(words)}")
    for group in groups[:_SHOWN_GROUPS]:
        words = safe_text(f"{group['class']}: {group['message']}", max_chars=160)
        note(f"{'failed':<8} {count_text(group['rows'])} rows, {words}")
    if groups:
        more = f"{len(groups) - _SHOWN_GROUPS} more kinds; " if len(groups) > _SHOWN_GROUPS else ""
        note(f"{'':<8} {more}all of them: apwa failures {run_id}; try them again: apwa retry {run_id}")
    if status["status"] in ("stopped", "budget", "failed"):
        note(f"{'go on':<8} apwa resume {run_id}" + (" --budget USD" if status["status"] == "budget" else ""))


def _status_words(status: Status) -> str:
    message = status.get("message", "")
    words = {"budget": "stopped by the budget"}.get(status["status"], status["status"])
    return f"{words}: {message}" if message else words


def _row_words(status: Status) -> str:
    total = "" if status["rows_total"] is None else f" of {count_text(status['rows_total'])}"
    return (
        f"{count_text(status['rows_done'])}{total}, {count_text(status['rows_failed'])} failed, "
        f"{count_text(status['rows_cached'])} from the journal"
    )


def _cost_words(status: Status) -> str:
    ceiling = "" if status["budget_usd"] is None else f" of {money_text(status['budget_usd'])}"
    return f"{money_text(status['cost_usd'])}{ceiling}, {count_text(status['calls'])} calls"


def leave(code: Exit) -> None:
    """End the command with `code`."""
    click.get_current_context().exit(code)
