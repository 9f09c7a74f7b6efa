"""The demo from a terminal: it scores itself honestly, and a second run calls nobody."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import apwa_dask.demo
from apwa_dask import api
from apwa_dask.demo.__main__ import QUESTION
from apwa_dask.demo.scoring import LABELS, PASS_SHARE, score
from apwa_dask.testing import Rule, Script

HOME = Path(apwa_dask.demo.__file__).parent
GOLD = pd.read_csv(HOME / "gold.csv")
TOPICS, PRODUCTS = (sorted(GOLD[label].unique()) for label in LABELS)


def field(name: str, labels: list[str]) -> dict:
    return {
        "name": name,
        "type": "string",
        "description": name,
        "nullable": False,
        "labels": [{"label": label, "meaning": label} for label in labels],
        "fields": None,
    }


PLAN = {
    "refusal": None,
    "steps": [
        {
            "reason": "labels",
            "op": "map",
            "input": "messages",
            "instruction": "Label the message.",
            "inputs": ["text"],
            "output": [field("topic", TOPICS), field("product", PRODUCTS)],
        }
    ],
}


@pytest.fixture(scope="module")
def documents() -> pd.DataFrame:
    """The texts of the demo with their gold labels."""
    table = api.read(str(HOME / "data"), documents=True)
    frame = table.to_dask().compute(scheduler="sync")
    frame = frame.assign(
        path=frame["path"].map(lambda path: Path(path).name), page=frame["page"].astype("Int64")
    )
    return frame.merge(
        GOLD.astype({"page": "Int64"}), on=["path", "page"], how="outer", validate="one_to_one"
    )


def script_of(documents: pd.DataFrame, *, wrong: int = 0) -> Script:
    """A good manager, and a model that is right but for the first `wrong` rows."""

    def answer(request):
        if QUESTION in request.text:
            return PLAN
        (number,) = [n for n, text in enumerate(documents["text"]) if text[:60] in request.text]
        row = documents.iloc[number]
        other = TOPICS[(TOPICS.index(row["topic"]) + 1) % len(TOPICS)]
        return {"topic": other if number < wrong else row["topic"], "product": row["product"]}

    return Script(respond=answer, rules=(Rule(match="never", answer="never"),))


def demo(server, output: Path) -> subprocess.CompletedProcess[str]:
    known = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}
    return subprocess.run(
        [sys.executable, "-m", "apwa_dask.demo", "--model", "scripted", "--output", str(output)],
        env={**known, "OPENAI_BASE_URL": server.base_url},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def test_every_gold_row_is_a_document_and_the_other_way_round(documents):
    assert 20 <= len(documents) <= 40
    assert documents[["text", *LABELS]].notna().all(axis=None)


def test_the_demo_shows_the_whole_way_and_a_second_run_calls_nobody(documents, scripted_server, tmp_path):
    server = scripted_server(script_of(documents, wrong=1), in_process=True)

    first = demo(server, tmp_path / "out")

    assert first.returncode == 0, first.stdout + first.stderr
    rows = len(documents)
    for shown in (
        "letters.pdf",
        f"Plan: {QUESTION}",
        "Calls:",
        f"Result ({rows} rows)",
        "Failures: none",
        "Cost:",
        f"Right against the gold columns: {rows - 1} of {rows} rows (96%); enough",
        f"Calls to the model: 1 for the plan, {rows} for the rows",
    ):
        assert shown in first.stdout
    assert "done" in first.stderr  # the line of progress
    assert server.calls == rows + 1
    assert len(pd.read_parquet(tmp_path / "out" / "result.parquet")) == rows
    assert "<html" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")

    second = demo(server, tmp_path / "out")

    assert second.returncode == 0, second.stdout + second.stderr
    assert "Calls to the model: 0 for the plan, 0 for the rows" in second.stdout
    assert server.calls == rows + 1


def test_a_demo_that_is_right_too_seldom_says_so_and_fails(documents, scripted_server, tmp_path):
    wrong = int(len(documents) * (1 - PASS_SHARE)) + 1
    server = scripted_server(script_of(documents, wrong=wrong), in_process=True)

    run = demo(server, tmp_path / "out")

    assert run.returncode == 1
    assert "NOT enough" in run.stdout


def test_without_an_answer_from_the_endpoint_the_demo_ends_with_one_clear_message(tmp_path, scripted_server):
    server = scripted_server(Script(api_key="another"))

    run = demo(server, tmp_path / "out")

    assert run.returncode == 1
    assert "[PROVIDER" in run.stderr
    assert "Traceback" not in run.stderr


def test_a_row_is_right_only_when_all_of_its_labels_are():
    gold = pd.DataFrame(
        {"path": ["a", "a", "b"], "page": [0, 1, None], "topic": ["x"] * 3, "product": ["y"] * 3}
    )
    result = pd.DataFrame(
        {
            "path": ["/d/a", "/d/a", "/d/b"],
            "page": [0, 1, None],
            "topic": [" X ", "x", "z"],
            "product": ["y", None, "y"],
        }
    )
    found = score(result, gold)
    assert (found.right, found.rows) == (1, 3)
    assert list(found.wrong["path"]) == ["a", "b"]


def test_missing_rows_columns_and_doubled_rows_do_not_raise_the_score():
    gold = pd.DataFrame({"path": ["a", "b"], "page": [0, 0], "topic": ["x", "x"], "product": ["y", "y"]})
    right = pd.DataFrame({"path": ["a", "a"], "page": [0, 0], "topic": ["x", "x"], "product": ["y", "y"]})
    assert score(right, gold).right == 1
    assert score(right.drop(columns="topic"), gold).right == 0
    assert score(right.iloc[:0], gold).share == 0
