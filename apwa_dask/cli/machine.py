"""Commands about this machine: doctor, serve, setup."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from types import FrameType

import click

from apwa_dask.cli import doctor as looking
from apwa_dask.cli.command import ApwaCommand
from apwa_dask.cli.exits import Exit
from apwa_dask.cli.following import leave
from apwa_dask.cli.options import ModelChoice, model_options, store_option
from apwa_dask.cli.output import emit_json, note, show_text
from apwa_dask.cli.place import connected
from apwa_dask.errors import LocalModelError

__all__ = ["COMMANDS"]

_LOOK_EVERY_S = 5.0

_local_model = click.option(
    "--model", "-m", help="Name of an embedded model; default the one made for the job."
)
_model_file = click.option(
    "--path", type=click.Path(exists=True, dir_okay=False), help="A GGUF file of your own instead."
)


@click.command(cls=ApwaCommand)
@model_options
@store_option
@click.option("--client", metavar="ADDRESS", help="Compare versions with this Dask cluster.")
@click.option(
    "--call/--no-call",
    default=True,
    help="Whether to ask the model for one word, where an endpoint or a model is named (the default).",
)
def doctor(model: ModelChoice, store: str | None, client: str | None, call: bool, as_json: bool) -> None:
    """Look for what is missing or wrong here; one tiny call at most. Shows no secret."""
    with connected(client) if client else nullcontext() as cluster:
        found = looking.checks(
            store=store, client=cluster, model=model.resolve() if call else None, call=call
        )
    failed = [check for check in found if check.state == "fail"]
    code = Exit.USAGE if failed else Exit.OK
    if as_json:
        emit_json(
            {
                "ok": not failed,
                "exit_code": int(code),
                "checks": [dataclasses.asdict(check) for check in found],
            }
        )
    else:
        width = max(len(check.name) for check in found)
        for check in found:
            show_text(f"{check.state:<5} {check.name:<{width}}  {check.detail}")
            if check.fix and check.state != "ok":
                show_text(f"{'':<5} {'':<{width}}  do this: {check.fix}")
    leave(code)


@click.command(cls=ApwaCommand)
@_local_model
@_model_file
def setup(model: str | None, path: str | None, as_json: bool) -> None:
    """Fetch the embedded model's weights once, with their size told before, and check them."""
    from apwa_dask.models.local import DEFAULT_MODEL, ensure_weights

    file = ensure_weights(model or DEFAULT_MODEL, path=path)
    if as_json:
        emit_json(
            {"model": file.name, "path": str(file.path), "verified": file.verified, "label": file.label}
        )
    else:
        note(f"{file.label} is ready")
        show_text(file.path)


@click.command(cls=ApwaCommand)
@_local_model
@_model_file
@click.option(
    "--slots", default=4, show_default=True, type=click.IntRange(min=1), help="Requests worked on at a time."
)
@click.option("--threads", default=0, type=click.IntRange(min=0), help="Compute threads; 0 takes every core.")
def serve(model: str | None, path: str | None, slots: int, threads: int, as_json: bool) -> None:
    """Serve the embedded model as an OpenAI-compatible endpoint on loopback, until Ctrl-C."""
    from apwa_dask.models.local import DEFAULT_MODEL, local_server

    with local_server(model or DEFAULT_MODEL, path=path, slots=slots, threads=threads) as endpoint:
        if as_json:
            emit_json(
                {"base_url": endpoint.base_url, "api_key": endpoint.api_key, "model": endpoint.model_name}
            )
        else:
            note(f"{endpoint.model_name} answers, {slots} requests at a time, until Ctrl-C; to use it:")
            show_text(f"export OPENAI_BASE_URL={endpoint.base_url}")
            show_text(f"export OPENAI_API_KEY={endpoint.api_key}")
            show_text(f"export OPENAI_MODEL={endpoint.model_name}")
        with _until_signalled() as ended:
            while not ended.wait(_LOOK_EVERY_S):
                _check_alive(endpoint.pid)


def _check_alive(pid: int) -> None:
    import psutil  # type: ignore[import-untyped]

    if not psutil.pid_exists(pid):
        raise LocalModelError(
            "the server of the embedded model has ended by itself",
            why="often too little memory",
            fix="start it again: apwa serve, with fewer --slots where memory is short",
            code="LOCAL-ENDED",
        )


@contextlib.contextmanager
def _until_signalled() -> Iterator[threading.Event]:
    """An event set by Ctrl-C or a polite kill: once it serves, both are its normal end, exit code 0."""
    ended = threading.Event()

    def end(_number: int, _frame: FrameType | None) -> None:
        if ended.is_set():
            raise KeyboardInterrupt  # a second one, while the first is still being obeyed
        ended.set()

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield ended
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


COMMANDS = (doctor, serve, setup)
