"""The command group ``apwa`` with all its commands."""

from __future__ import annotations

import click

from apwa_dask import __version__
from apwa_dask.cli import codes, completion, dashboard, kept_runs, machine, questions
from apwa_dask.cli.command import ApwaGroup

__all__ = ["main"]


_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


# Dask lists a command under its own name, not under its entry point's.
@click.group("apwa", cls=ApwaGroup, context_settings=_CONTEXT, invoke_without_command=True)
@click.version_option(__version__, "--version", prog_name="apwa")
@click.pass_context
def main(ctx: click.Context) -> None:
    """Ask a question of your data in plain language; get a table back.

    \b
    apwa ask "Which reviews complain about the battery?" reviews/*.parquet --budget 2 -o out.parquet

    Exit codes: 0 ok, 1 usage or plan error, 2 more rows failed than allowed, 3 stopped by the budget,
    4 refused by the endpoint, 130 interrupted (the run can be resumed).
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


for command in (
    *questions.COMMANDS,
    *kept_runs.COMMANDS,
    *dashboard.COMMANDS,
    *machine.COMMANDS,
    *codes.COMMANDS,
    *completion.COMMANDS,
):
    main.add_command(command)
