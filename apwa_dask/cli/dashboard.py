"""The command ``dashboard``: a run's page in a browser."""

from __future__ import annotations

import click

from apwa_dask.cli.command import ApwaCommand
from apwa_dask.cli.kept_runs import attached
from apwa_dask.cli.options import store_option
from apwa_dask.cli.output import emit_json, note, show_text

__all__ = ["COMMANDS"]


@click.command(cls=ApwaCommand)
@click.argument("run_id", metavar="[RUN]", required=False)
@store_option
@click.option(
    "--port",
    default=0,
    type=click.IntRange(min=0, max=65535),
    help="Listen here, on this machine only; default: a free port.",
)
@click.option("--open", "show", is_flag=True, help="Open the page in a browser.")
def dashboard(run_id: str | None, store: str | None, port: int, show: bool, as_json: bool) -> None:
    """Serve the page of a run until Ctrl-C: throughput, limits, money, latency; the latest run if RUN is omitted.

    The run may be finished, or at work in another process. On a Dask cluster the same page is on the
    scheduler's own dashboard, at /apwa.
    """
    run = attached(run_id, store)
    with run.dashboard(port=port, show=show) as served:
        if as_json:
            emit_json({"id": run.id, "url": served.url})
        else:
            show_text(served.url)
        note("Ctrl-C ends the page; the run goes on")
        served.wait()


COMMANDS = (dashboard,)
