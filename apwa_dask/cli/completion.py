"""The command ``completion``: what a shell needs to complete commands, options and their values."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from apwa_dask.cli.command import ApwaCommand
from apwa_dask.cli.output import emit_json

__all__ = ["COMMANDS"]

SHELLS = ("bash", "zsh", "fish")
_PROGRAM, _VARIABLE = "apwa", "_APWA_COMPLETE"


@click.command(cls=ApwaCommand)
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str, as_json: bool) -> None:
    """Write the script by which SHELL completes commands and options: bash (4.4 or newer), zsh or fish.

    \b
    bash:  echo 'eval "$(apwa completion bash)"' >> ~/.bashrc
    zsh:   echo 'eval "$(apwa completion zsh)"' >> ~/.zshrc
    fish:  apwa completion fish > ~/.config/fish/completions/apwa.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None, "click knows the shells listed above"
    made = kind(ctx.find_root().command, {}, _PROGRAM, _VARIABLE)
    # not `source()`: it would start a bash to learn its version, and a script may be made for another machine
    script = made.source_template % made.source_vars()
    if as_json:
        emit_json({"shell": shell, "script": script})
    else:
        click.echo(script)


COMMANDS = (completion,)
