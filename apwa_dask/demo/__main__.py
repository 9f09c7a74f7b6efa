"""Ask a question of the files in ``data/``, show what happens, and say how many answers are right."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click
import pandas as pd

from apwa_dask import api
from apwa_dask.demo.scoring import PASS_SHARE, Score, score
from apwa_dask.errors import ApwaError
from apwa_dask.execution.run import Run
from apwa_dask.models.defaults import resolve_models
from apwa_dask.models.model import Model

HERE = Path(__file__).parent
# A small model leans to the labels that it sees first: praise, the rarest in complaints, stands there.
QUESTION = (
    "Give each message a topic: praise (the customer is happy with the product), defect (the product is broken "
    "or does not work), delivery (a parcel is late, lost or went to the wrong place) or billing (charges, "
    "refunds, prices). And a product: kettle, tent, headphones, desk lamp, blender or backpack."
)


@click.command()
@click.option(
    "--output", default="demo-output", show_default=True, help="Folder for the result, the report, the run."
)
@click.option(
    "--model", default="local", show_default=True, help="A model's name at OPENAI_BASE_URL instead."
)
def main(output: str, model: str) -> Score:
    """Run the main job over a small folder of mixed files."""
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    store = str(folder / "store")
    chosen = resolve_models(model)[""]
    messages = _messages()
    planned = _planned(messages, chosen, store)
    began_s = time.monotonic()
    run = planned.run(model=chosen, store=store, name="demo")
    result = run.result(status=True)
    _show_run(run, result)
    found = score(result, pd.read_csv(HERE / "gold.csv"))
    _show_score(found, chosen)
    parquet = run.export(str(folder / "result.parquet"), overwrite=True)
    report = folder / "report.html"
    run.report(str(report))
    click.echo(
        f"\nCalls to the model: {planned.calls} for the plan, {run.status()['calls']} for the rows, "
        f"which took {time.monotonic() - began_s:.0f} s."
        f"\nResult: {parquet}\nReport: {report}\nRun:    {run.id} in {store}"
        "\nThe same command again calls the model zero times: paid and finished work is not repeated."
    )
    return found


def _messages() -> api.Table:
    """The files as one table of documents."""
    messages = api.read(str(HERE / "data"), documents=True)
    if not isinstance(messages, api.Table):
        raise TypeError(f"documents are one table, not {type(messages).__name__}")
    files = messages.report.to_frame().drop(columns="reason")
    click.echo(f"Question: {QUESTION}\n\nFiles read:\n{files.to_string(index=False)}\n")
    return messages


def _planned(messages: api.Table, model: Model, store: str) -> api.PlannedQuery:
    """The plan that the model drafts from the table's profile, shown with its estimate."""
    click.echo(f"{model.name} drafts the plan. It sees the table's profile, not its rows ...")
    began_s = time.monotonic()
    planned = api.plan(QUESTION, messages=messages, model=model, store=store)
    took_s = time.monotonic() - began_s
    click.echo(f"... in {took_s:.0f} s. Plan and estimate (low - expected - high):\n")
    click.echo(planned.explain(model=model).text())
    for note in planned.notes:
        click.echo(f"Note: {note}")
    return planned


def _show_run(run: Run, result: pd.DataFrame) -> None:
    shown = result.drop(columns=["media", "_apwa_error"], errors="ignore")
    shown = shown.assign(path=shown["path"].map(lambda path: Path(str(path)).name))
    click.echo(f"\nResult ({len(result)} rows):\n{shown.to_string(max_rows=30, max_colwidth=44)}\n")
    failures = run.failures
    click.echo(f"Failures: {len(failures) or 'none'}")
    if len(failures):
        click.echo(failures[["row_id", "step", "outcome", "message"]].to_string(index=False))
    costs = run.costs().drop(columns="cached_tokens", errors="ignore")
    click.echo(f"\nCost:\n{costs.to_string(index=False)}")


def _show_score(found: Score, model: Model) -> None:
    if model.is_local:
        click.echo(
            f"\nThese are answers of the embedded model {model.name}: small, free, and sometimes wrong."
        )
    verdict = "enough" if found.is_passed else "NOT enough"
    click.echo(
        f"Right against the gold columns: {found.right} of {found.rows} rows ({found.share:.0%}); "
        f"{verdict}: the demo promises {PASS_SHARE:.0%}."
    )
    if len(found.wrong):
        click.echo(f"Wrong:\n{found.wrong.to_string(index=False)}")


if __name__ == "__main__":
    try:
        sys.exit(0 if main(standalone_mode=False).is_passed else 1)
    except ApwaError as error:
        sys.exit(str(error))
    except (click.Abort, KeyboardInterrupt):
        sys.exit("interrupted: run the same command again, finished work is kept")
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
