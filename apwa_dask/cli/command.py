"""What every command shares: ``--json``, ``--debug``, and the turning of errors into words and exits."""

from __future__ import annotations

import traceback
from typing import Any

import click

from apwa_dask.cli.exits import Exit, exit_of_error
from apwa_dask.cli.output import emit_json
from apwa_dask.errors import ApwaError
from apwa_dask.observe.text import safe_text

__all__ = ["ApwaCommand", "ApwaGroup", "WrongUsage"]


class WrongUsage(click.UsageError):
    """Wrong usage, at this package's exit code for it (click's own is 2, which means failed rows here)."""

    exit_code = int(Exit.USAGE)

    @classmethod
    def of(cls, error: click.UsageError) -> WrongUsage:
        """The same words at the other exit code."""
        return cls(error.format_message(), ctx=error.ctx)


class ApwaCommand(click.Command):
    """A command whose errors speak, and end in the documented exit codes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += [
            click.Option(["--json", "as_json"], is_flag=True, help="One JSON document on standard output."),
            click.Option(["--debug"], is_flag=True, expose_value=False, callback=_keep, help="Tracebacks."),
        ]

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Parse the arguments; wrong usage ends in exit code 1."""
        try:
            return super().make_context(*args, **kwargs)
        except click.UsageError as error:
            raise WrongUsage.of(error) from None

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; turn its errors into words and an exit code."""
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            raise WrongUsage.of(error) from None
        except ApwaError as error:
            code = exit_of_error(error)
            _tell(error, code, as_json=ctx.params["as_json"], debug=ctx.meta.get(_DEBUG, False))
        except (KeyboardInterrupt, click.Abort):
            click.echo("interrupted", err=True)
            code = Exit.INTERRUPTED
        ctx.exit(code)


class ApwaGroup(click.Group):
    """The group, with usage errors at the documented exit code."""

    command_class = ApwaCommand

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Parse the group's own arguments."""
        try:
            return super().make_context(*args, **kwargs)
        except click.UsageError as error:
            raise WrongUsage.of(error) from None

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Find the command; an unknown one is wrong usage."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            raise WrongUsage.of(error) from None


_DEBUG = f"{__name__}.debug"


def _keep(ctx: click.Context, _option: click.Parameter, value: bool) -> None:
    ctx.meta[_DEBUG] = value


def _tell(error: ApwaError, code: Exit, *, as_json: bool, debug: bool) -> None:
    if debug:
        click.echo(safe_text("".join(traceback.format_exception(error)), keep_lines=True), err=True)
    else:
        more = "" if error.fix else f"\n  do this: apwa explain-error {error.code}"
        click.echo(safe_text(f"{error}{more}", keep_lines=True), err=True)
    if as_json:
        names = ("code", "what", "where", "why", "fix", "saved")
        emit_json({"error": {name: getattr(error, name) for name in names} | {"exit_code": int(code)}})
