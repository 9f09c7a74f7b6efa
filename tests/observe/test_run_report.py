"""The report and the reprs of real runs against the scripted server."""

from __future__ import annotations

import dask.dataframe as dd
import pandas as pd
import pytest

from apwa_dask import api
from apwa_dask.errors import ProviderError
from apwa_dask.models.model import Model, Price
from apwa_dask.observe.first_rows import first_rows
from apwa_dask.observe.report import EstimateRow
from apwa_dask.observe.reprs import run_html, run_text
from apwa_dask.observe.run_report import estimate_rows, failure_reports, local_label, report_facts, report_of
from apwa_dask.testing import Fault, Script, ScriptedServer, grep_canary

KEY = "sk-CANARY-report-0123456789abcdef"
EVIL = "<script>alert(1)</script>"


@pytest.fixture
def key(monkeypatch) -> str:
    monkeypatch.setenv("APWA_REPORT_KEY", KEY)
    return KEY


def severity(server: ScriptedServer, rows: int = 40) -> api.Table:
    frame = pd.DataFrame({"text": [f"message {i} {EVIL}" for i in range(rows)], "id": range(rows)})
    return api.from_pandas(frame, npartitions=4).map("How severe?", inputs=["text"], output={"severity": int})


def model(server: ScriptedServer) -> Model:
    return Model("gpt-test", base_url=server.base_url, api_key_env="APWA_REPORT_KEY", price=Price(1.0, 2.0))


def test_the_report_of_a_finished_run_agrees_with_the_bill(tmp_path, key):
    with ScriptedServer(Script(faults=(Fault("refusal", on="message 7 "),))) as server:
        run = severity(server).run(model=model(server), store=str(tmp_path), budget=5, progress=False)
        run.wait()
        billed = len(server.log())
    facts = report_facts(run)
    assert facts.calls == sum(row.calls for row in facts.costs) == billed
    assert (facts.rows_done, facts.rows_out, facts.rows_failed) == (40, 40, 1)
    assert facts.budget_usd == 5
    assert facts.cost_usd == pytest.approx(sum(row.cost_usd for row in facts.costs))
    assert 0 < facts.cost_usd < 0.1
    assert facts.local_model == ""
    (group,) = facts.failures
    assert (group.outcome, group.rows) == ("refused", 1)
    assert group.samples[0]["given"] == f"text=message 7 {EVIL}"
    assert len(facts.sample_rows) == 40


def test_a_report_holds_no_key_and_no_live_markup(tmp_path, key):
    with ScriptedServer(Script()) as server:
        run = severity(server).run(model=model(server), store=str(tmp_path / "store"), progress=False)
        run.wait()
        run.report(str(tmp_path / "report.html"))
    document = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert grep_canary(tmp_path, KEY) == []
    assert EVIL not in document
    assert "&lt;script&gt;alert(1)" in document


def test_a_run_that_was_refused_has_a_report_that_says_why(tmp_path, key):
    with ScriptedServer(Script(faults=(Fault("status", status=401),))) as server:
        run = severity(server).run(model=model(server), store=str(tmp_path), progress=False)
        with pytest.raises(ProviderError):
            run.wait()
    facts = report_facts(run)
    assert facts.status == "failed"
    assert facts.message
    assert facts.sample_rows == []
    assert facts.message[:20] in report_of(run)


def test_a_report_can_be_made_by_another_process_from_the_store_alone(tmp_path, key):
    with ScriptedServer(Script()) as server:
        run = severity(server).run(model=model(server), store=str(tmp_path), progress=False)
        run.wait()
    found = api.attach(run.id, str(tmp_path), progress=False)
    assert report_facts(found).rows_out == 40


def test_looking_at_things_calls_no_model(tmp_path, key):
    with ScriptedServer(Script()) as server:
        table = severity(server)
        for shown in (table, table.plan(), table.where("severity > 2")):
            assert "severity" in repr(shown)
            assert "<script" not in shown._repr_html_()
        assert len(server.log()) == 0


def test_a_run_looks_the_same_at_a_prompt_and_in_a_notebook():
    status = {
        "id": "calm-otter",
        "name": EVIL,
        "status": "stopped",
        "stages": 2,
        "stages_done": 1,
        "rows_in": 1000,
        "rows_out": 990,
        "rows_failed": 10,
        "calls": 1200,
        "cost_usd": None,
        "local_model": True,
    }
    text, html = run_text(status), run_html(status)
    for words in ("calm-otter", "1,000 in, 990 out", "unknown for 1,200 calls", "1 of 2", "embedded model"):
        assert words in text
        assert words in html
    assert "run.resume()" in html
    assert "<script" not in html


def test_answers_of_an_embedded_model_carry_its_label():
    assert (
        local_label([Model("gpt-test"), Model.local()]) == "embedded model qwen2.5-coder-1.5b-instruct-q4_k_m"
    )
    assert local_label([Model.local("my-own")]) == "embedded model my-own"


def test_failures_are_grouped_with_the_most_frequent_first_and_five_samples_of_each():
    failures = pd.DataFrame(
        {
            "row_id": [str(i) for i in range(12)],
            "step": "map_1",
            "outcome": ["refused"] * 2 + ["truncated"] * 10,
            "message": ["no"] * 2 + ["512 tokens"] * 10,
            "attempts": 1,
            "raw": [None] * 12,
            "inputs": ["text=a", None, *["text=b"] * 10],
        }
    )
    first, second = failure_reports(failures)
    assert (first.outcome, first.rows, len(first.samples)) == ("truncated", 10, 5)
    assert second.samples[0]["given"] == "text=a"
    assert len(second.samples) == 2
    assert failure_reports(failures.head(0)) == []


@pytest.mark.parametrize("n", [0, 1, 3, 100])
def test_the_first_rows_are_found_behind_empty_parts_without_reading_the_rest(n):
    read = []

    def part(i: int) -> pd.DataFrame:
        read.append(i)
        return pd.DataFrame({"n": [10 * i, 10 * i + 1] if i % 2 else []}, dtype="int64")

    frame = dd.from_map(part, range(16), meta={"n": "int64"})
    expected = [10 * i + k for i in range(1, 16, 2) for k in (0, 1)][:n]
    assert first_rows(frame, n)["n"].tolist() == expected
    if n == 1:
        assert set(read) <= {0, 1}


def test_minutes_stand_beside_what_they_came_to_and_are_unknown_where_nobody_knew():
    known = {"calls": None, "minutes": {"low": 1.0, "expected": 2.0, "high": 12.0}}
    assert estimate_rows({"estimate": known, "actual": {"minutes": 1.5}})[-1] == EstimateRow(
        "Minutes", "1.00", "2.00", "12", "1.50"
    )
    assert estimate_rows({"estimate": {"minutes": None}})[-1] == EstimateRow("Minutes", *["unknown"] * 4)
    assert estimate_rows({}) == []
