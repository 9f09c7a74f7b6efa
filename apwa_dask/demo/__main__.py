"""Ask a question of the files in ``data/``, show what happens, and say how many answers are right."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import pandas as pd

from apwa_dask import api
from apwa_dask.errors import ApwaError
from apwa_dask.models.defaults import resolve_models

HERE = Path(__file__).parent
QUESTION = (
    "What is each message about: billing (charges, refunds, prices), delivery (parcels that are late, lost or sent to "
    "the wrong place), defect (the product is broken or stopped working) or praise (the customer is happy)? "
    "And which product is it about: kettle, tent, headphones, desk lamp, blender or backpack?"
)


def score(result: pd.DataFrame, gold: pd.DataFrame) -> tuple[int, int, pd.DataFrame]:
    """Rows whose every labelled answer equals the gold column, rows in all, and the wrong ones."""
    answers = result.copy()
    answers["path"] = answers["path"].map(lambda path: Path(str(path)).name)
    both = gold.merge(answers, on=["path", "page"], how="left", suffixes=("_gold", ""))
    right = pd.Series(True, index=both.index)
    for column in ("topic", "product"):
        if column not in both:
            return 0, len(both), both
        right &= both[column].fillna("").str.strip().str.lower() == both[f"{column}_gold"]
    return int(right.sum()), len(both), both[~right]


@click.command()
@click.option(
    "--output", default="demo-output", show_default=True, help="Folder for the result, the report, the run."
)
@click.option(
    "--model", default="local", show_default=True, help="A model's name at OPENAI_BASE_URL instead."
)
def main(output: str, model: str) -> None:
    """Run the main job over a small folder of mixed files."""
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    store = str(folder / "store")
    chosen = resolve_models(model)[""]
    messages = api.read(str(HERE / "data"), documents=True)
    assert isinstance(messages, api.Table)
    click.echo(f"Question: {QUESTION}\n\nFiles read:\n{messages.report.to_frame().to_string(index=False)}\n")
    planned = api.plan(QUESTION, messages=messages, model=chosen, store=store)
    click.echo(f"The plan, drafted by {chosen.name}:\n{planned.explain().text()}\n")
    run = planned.run(model=chosen, store=store, name="demo")
    result = run.result(status=True)
    shown = result.drop(columns=["media", "_apwa_error"], errors="ignore")
    with pd.option_context("display.max_colwidth", 44, "display.width", 160, "display.max_columns", 12):
        click.echo(f"\nResult ({len(result)} rows):\n{shown.to_string(max_rows=30)}\n")
        failures = run.failures
        click.echo(f"Failures: {len(failures) or 'none'}")
        if len(failures):
            click.echo(failures[["row_id", "step", "outcome", "message"]].to_string(index=False))
    click.echo(f"\nCost:\n{run.costs().to_string(index=False)}")
    parquet = run.export(str(folder / "result.parquet"))
    report = folder / "report.html"
    run.report(str(report))
    right, rows, wrong = score(result, pd.read_csv(HERE / "gold.csv").astype({"page": "Int64"}))
    if chosen.is_local:
        click.echo(
            f"\nThese are answers of the embedded model {chosen.name}: small, free, and sometimes wrong."
        )
    click.echo(f"Right against the gold columns: {right} of {rows} rows ({right / rows:.0%}).")
    if len(wrong):
        columns = [
            c for c in ("path", "page", "topic_gold", "topic", "product_gold", "product") if c in wrong
        ]
        click.echo(wrong[columns].to_string(index=False))
    click.echo(
        f"Calls to the model: {planned.calls} for the plan, {run.status()['calls']} for the rows."
        f"\nResult: {parquet}\nReport: {report}\nAgain, or after an interruption: the same command; "
        "paid and finished work is not repeated."
    )


if __name__ == "__main__":
    try:
        main(standalone_mode=False)
    except ApwaError as error:
        sys.exit(str(error))
    except (click.Abort, KeyboardInterrupt):
        sys.exit("interrupted: run the same command again, finished work is kept")
