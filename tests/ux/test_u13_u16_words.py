"""U13 to U16: ceilings, pauses, errors and groups of failures, in words."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pandas as pd
import pytest

import apwa_dask as apwa
from apwa_dask.error_catalogue import LOST, catalogue
from apwa_dask.errors import BudgetError, BudgetWarning, PlanError
from apwa_dask.execution.events import Event, State
from apwa_dask.observe.lines import live_line, summary_lines
from apwa_dask.observe.state import ProgressState
from apwa_dask.testing import Fault, On

ROOT = Path(__file__).parents[2]


@pytest.fixture
def dear_plan(tmp_path):
    """A plan over a file, whose high estimate at 1,000 USD a million tokens is above a dollar."""
    pd.DataFrame({"text": [f"row {k}" for k in range(40)]}).to_csv(tmp_path / "rows.csv", index=False)
    table = apwa.read(str(tmp_path / "rows.csv")).map("rate it", inputs="text", output={"a": int})
    (tmp_path / "plan.yaml").write_text(table.plan().to_yaml(), encoding="utf-8")
    return tmp_path


def apwa_run(folder: Path, server, *more: str) -> subprocess.CompletedProcess[str]:
    prices = {"m": [1000.0, 1000.0]}
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT), "APWA_STORE": str(folder / "store"),
        "OPENAI_BASE_URL": server.base_url, "OPENAI_API_KEY": "sk-only-for-loopback",
        "DASK_APWA__PRICES": json.dumps(prices),
    }  # fmt: skip
    command = [sys.executable, "-m", "apwa_dask.cli", "run", "plan.yaml", "rows.csv", "--model", "m", *more]
    return subprocess.run(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip


def test_u13_a_dear_run_without_a_ceiling_ends_with_the_number_needed_and_asks_nobody(
    dear_plan, scripted_server
):
    server = scripted_server()
    done = apwa_run(dear_plan, server)
    assert done.returncode == 1
    assert "--budget" in done.stderr
    assert re.search(r"\$\d", done.stderr)
    assert server.calls == 0
    done = apwa_run(dear_plan, server, "--budget", "500")
    assert done.returncode == 0, done.stderr
    assert server.calls == 40


def test_u13_in_python_a_dear_run_without_a_ceiling_warns_at_the_callers_line_and_asks_nobody(
    scripted_server, store
):
    server = scripted_server()
    dear = apwa.Model("m", base_url=server.base_url, api_key_env="", price=apwa.Price(1000, 1000))
    table = apwa.from_pandas(pd.DataFrame({"text": [f"row {k}" for k in range(40)]}))
    asked = table.map("rate it", inputs="text", output={"a": int})
    with pytest.warns(BudgetWarning, match=r"up to \$\d.*budget=") as seen:
        asked.run(model=dear, store=store, progress=False).wait()
    assert [Path(warning.filename) for warning in seen] == [Path(__file__)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asked.run(model=dear, store=store, budget=500, progress=False).wait()
        asked.run(model=dear, store=store, budget=apwa.Budget(calls=100), progress=False).wait()


@pytest.mark.parametrize("way", ["run", "to_dask", "preview", "resume"])
def test_u13_a_ceiling_that_no_price_can_keep_is_refused_before_a_call_and_a_run(
    scripted_server, model_at, store, way
):
    server = scripted_server()
    unpriced = model_at(server, price=None)
    table = apwa.from_pandas(pd.DataFrame({"text": ["a", "b"]}))
    planned = table.map("x", inputs="text", output={"a": int}).plan()
    if way == "resume":
        run = planned.run(model=unpriced, store=store, budget=apwa.Budget(calls=1), progress=False)
        with pytest.raises(BudgetError, match="BUDGET-REACHED"):
            run.wait()
        refused = lambda: run.resume(budget=1)  # noqa: E731
    else:
        options = {"progress": False} if way == "run" else {}
        refused = lambda: getattr(planned, way)(model=unpriced, store=store, budget=1.0, **options)  # noqa: E731
    calls, runs = server.calls, len(list(apwa.runs(store)))
    with pytest.raises(BudgetError, match=r"BUDGET-PRICE(.|\n)*Price\(") as refusal:
        refused()
    assert "nothing was run or paid" in str(refusal.value)
    assert (server.calls, len(list(apwa.runs(store)))) == (calls, runs)


def test_u13_a_question_is_not_even_planned_under_a_ceiling_that_no_price_can_keep(
    scripted_server, model_at, store
):
    server = scripted_server()
    table = apwa.from_pandas(pd.DataFrame({"text": ["a", "b"]}))
    with pytest.raises(BudgetError, match="BUDGET-PRICE"):
        apwa.ask("Which are good?", table, model=model_at(server, price=None), budget=1.0, store=store)
    assert server.calls == 0


def test_an_interrupted_wait_says_how_a_run_that_nobody_holds_goes_on(scripted_server, model_at, store):
    server = scripted_server()
    table = apwa.from_pandas(pd.DataFrame({"text": ["a", "b"]}))
    run = table.map("rate it", inputs="text", output={"a": int}).run(
        model=model_at(server), store=store, progress=False
    )

    def interrupt(_deadline: float | None) -> None:
        run._join = type(run)._join.__get__(run)
        raise KeyboardInterrupt

    run._join = interrupt
    with pytest.raises(KeyboardInterrupt) as met:
        run.result()
    (note,) = met.value.__notes__
    again = re.search(r"apwa\.attach\('([^']+)', '([^']+)'\)\.resume\(\)", note)
    assert again is not None, note
    assert len(apwa.attach(*again.groups()).resume().result()) == 2


def test_u14_a_pause_is_told_with_its_reason_and_until_when(scripted_server, model_at, store):
    limited = Fault("status", status=429, retry_after="1", on=On(calls=(2,)), times=1)
    server = scripted_server(faults=(limited,))
    frame = pd.DataFrame({"text": [f"row {k}" for k in range(20)]})
    shown = ProgressState()
    lines: list[str] = []

    def see(event: Event) -> None:
        nonlocal shown
        shown = shown.apply(event)
        if isinstance(event, State):
            lines.append(live_line(shown))

    table = apwa.from_pandas(frame).map("x", inputs="text", output={"a": int})
    table.run(model=model_at(server), store=store, progress=see).wait()
    assert re.search(r"paused until \d\d:\d\d.*rate limit", lines[0])
    assert "running" in lines[-1]


def entries():
    return [entry for group in catalogue() for entry in group.entries]


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.code)
def test_u15_every_error_has_code_cause_fix_and_what_is_saved(entry):
    assert re.fullmatch(r"[A-Z]+(-[A-Z]+)*", entry.code)
    for said in (entry.means, entry.cause, entry.do):
        assert len(said.split()) >= 2
    assert LOST[entry.lost]


def test_u15_an_unknown_column_names_the_columns_there_are():
    table = apwa.from_pandas(pd.DataFrame({"review_text": ["a"], "stars": [1]}))
    with pytest.raises(PlanError) as caught:
        table.map("x", inputs=["reviewtext"], output={"a": int})
    said = str(caught.value)
    assert "review_text" in said
    assert caught.value.code


def test_u16_ten_thousand_equal_failures_are_one_line_everywhere(scripted_server, model_at, store, tmp_path):
    server = scripted_server(faults=(Fault("refusal"),), keep_calls=10)
    frame = pd.DataFrame({"text": [f"row {k}" for k in range(10_000)]})
    shown = ProgressState()

    def see(event: Event) -> None:
        nonlocal shown
        shown = shown.apply(event)

    table = apwa.from_pandas(frame, npartitions=4).map("x", inputs="text", output={"a": int})
    run = table.run(model=model_at(server), store=store, progress=see, early_stop=False).wait(120)

    assert len(run.failures) == 10_000
    (line,) = run.failures.summary().to_dict("records")
    assert (line["rows"], line["outcome"]) == (10_000, "refused")
    assert line["advice"]
    assert [group.rows for group in shown.failure_groups] == [10_000]
    assert sum("10,000" in said and "refused" in said for said in summary_lines(shown, 0.0)) == 1
    assert len(re.findall(r'<p class="group">', run.report())) == 1
