"""From a started run to its last word: wait, stop on Ctrl-C, show, write, and say where it is kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import click
import dask.config

from apwa_dask.cli.contracts import Run
from apwa_dask.cli.exits import Exit, exit_of_rows
from apwa_dask.cli.options import Ending
from apwa_dask.cli.output import emit_json, frame_rows, note, show_frame
from apwa_dask.errors import ApwaError
from apwa_dask.observe.first_rows import first_rows
from apwa_dask.observe.run_report import local_label
from apwa_dask.observe.text import count_text, money_text, safe_text, things_text

__all__ = ["conclude", "failure_groups", "follow", "leave", "progress_settings"]

_SHOWN_GROUPS = 5


@contextmanager
def progress_settings(*, quiet: bool) -> Iterator[None]:
    """Progress for the time of a command; the command itself says how the run ended."""
    changes: dict[str, Any] = {"apwa.progress-summary": False}
    if quiet:
        changes["apwa.progress"] = "silent"
    with dask.config.set(changes):
        yield


def follow(run: Run) -> None:
    """Wait for the end of `run`; where it does not end well, say how to go on.

    The run's own ``wait`` turns a first Ctrl-C into a stop that lets the calls in flight, which are paid for,
    come in, and a second one into leaving at once.
    """
    try:
        run.wait()
    except KeyboardInterrupt:
        note(f"\nstopped; the run is kept. Go on with: apwa resume {run.id}")
        raise
    except ApwaError:
        note(f"the run is kept. Go on with: apwa resume {run.id}")
        raise


def conclude(run: Run, ending: Ending, *, as_json: bool, more: Mapping[str, Any] | None = None) -> Exit:
    """Show a finished run's result, write it where asked, and give the exit code.

    Parameters
    ----------
    run : Run
        A run that has ended well.
    ending : Ending
        What to show and write.
    as_json : bool
        One JSON document instead of a table.
    more : mapping, optional
        Further entries of the JSON document, such as the plan.
    """
    status = run.status()
    head = first_rows(run.frame, ending.show_rows) if ending.show_rows else None
    groups = failure_groups(run.failures) if status["rows_failed"] else []
    if ending.output is not None:
        run.export(ending.output, overwrite=ending.overwrite)
    code = exit_of_rows(status["rows_failed"], status["rows_out"], ending.max_failed_fraction)
    if as_json:
        rows = [] if head is None else frame_rows(head)
        emit_json(
            {
                **(more or {}),
                "run": {**status, "folder": run.folder.url},
                "rows": rows,
                "failures": groups,
                "output": ending.output,
                "exit_code": int(code),
            }
        )
        return code
    if head is not None:
        show_frame(head, max_rows=ending.show_rows, total_rows=status["rows_out"])
    _say(run, status, groups, ending.output)
    return code


def failure_groups(failures: Any) -> list[dict[str, Any]]:
    """Failures that say the same, most frequent first: outcome, message, rows."""
    if not len(failures):
        return []
    from apwa_dask.execution.failures import groups_of

    return [
        {"outcome": outcome, "message": message, "rows": len(rows)}
        for outcome, _, message, rows in groups_of(failures)
    ]


def leave(code: Exit) -> None:
    """End the command with `code`."""
    click.get_current_context().exit(int(code))


def _say(run: Run, status: Mapping[str, Any], groups: list[dict[str, Any]], written: str | None) -> None:
    label = local_label(run.spec.models.values())
    lines = {
        "rows": f"{count_text(status['rows_in'])} in, {count_text(status['rows_out'])} out, "
        f"{count_text(status['rows_failed'])} failed",
        "cost": _cost_words(run, status),
        "answers": f"by the {label}; check a sample before you rely on them" if label else "",
        "written": written or "",
        "kept": f"{run.folder.url}  (apwa status {run.id}, apwa report {run.id})",
    }
    for name, words in lines.items():
        if words:
            note(f"{name:<8} {safe_text(words)}")
    for group in groups[:_SHOWN_GROUPS]:
        words = safe_text(f"{group['outcome']}: {group['message']}", max_chars=160)
        note(f"{'failed':<8} {things_text(group['rows'], 'row')}, {words}")
    if groups:
        more = f"{len(groups) - _SHOWN_GROUPS} more kinds; " if len(groups) > _SHOWN_GROUPS else ""
        note(f"{'':<8} {more}all of them: apwa failures {run.id}; try them again: apwa retry {run.id}")


def _cost_words(run: Run, status: Mapping[str, Any]) -> str:
    ceiling_usd = run.spec.budget.get("usd")
    ceiling = "" if ceiling_usd is None else f" of at most {money_text(ceiling_usd)}"
    return f"{money_text(status['cost_usd'])}{ceiling}, {things_text(status['calls'], 'call')}"
