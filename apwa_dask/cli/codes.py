"""The command that says what an error code means."""

from __future__ import annotations

import dataclasses

import click

from apwa_dask.cli.command import ApwaCommand
from apwa_dask.cli.output import emit_json, show_text

__all__ = ["COMMANDS"]


@click.command("explain-error", cls=ApwaCommand)
@click.argument("code")
def explain_error(code: str, as_json: bool) -> None:
    """Say what an error CODE means, such as PLAN-COLUMN: its cause, what to do, what is lost."""
    from apwa_dask import error_catalogue

    entry = error_catalogue.explain_error(code)
    if as_json:
        emit_json(dataclasses.asdict(entry) | {"lost": entry.cost})
    else:
        show_text(entry)


COMMANDS = (explain_error,)
