"""U5: what a plan looks like, in text and in HTML, is kept in files and reviewed when it changes."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
import pytest

import apwa_dask as apwa

GOLDEN = Path(__file__).parent / "golden"
MODEL = apwa.Model("gpt-x", base_url="http://127.0.0.1:9/v1", price=apwa.Price(1.0, 4.0))


@pytest.fixture
def plan(store, monkeypatch):
    monkeypatch.setenv("APWA_STORE", store)
    frame = pd.DataFrame(
        {"text": [f"review <{k}> & more" for k in range(50)], "stars": [k % 5 for k in range(50)]}
    )
    return (
        apwa.from_pandas(frame, npartitions=2, name="reviews")
        .where("stars < 3")
        .map("Severity 1-5 of the complaint.", inputs="text", output={"severity": int, "product": "string?"})
        .filter("Is it about the battery?", inputs=["text"])
        .reduce("Summarise <b>briefly</b>.", inputs="text", by="product", output={"summary": str})
        .plan("Which products draw complaints?")
    )


def golden(name: str, text: str) -> None:
    """Compare with a kept file; ``APWA_GOLDEN=write`` renews it for review."""
    path = GOLDEN / name
    if os.environ.get("APWA_GOLDEN") == "write":
        path.parent.mkdir(exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")
    assert text + "\n" == path.read_text(encoding="utf-8")


def test_u5_repr_explanation_graph_and_prompt_are_the_kept_ones(plan):
    golden("repr.txt", repr(plan))
    explanation = plan.explain(model=MODEL)
    golden("explain.txt", explanation.text())
    golden("explain.html", explanation.html())
    golden("graph.txt", repr(plan.graph()))
    golden("graph.html", plan.graph()._repr_html_())
    row = {"text": "review <7> & {more}", "stars": 1}
    golden("prompt.json", plan.prompt_for(row, "map_1", model=MODEL).decode())
    golden("plan.yaml", plan.to_yaml())


def test_u5_html_has_no_script_and_no_live_text_of_the_plan(plan):
    for html in (plan._repr_html_(), plan.explain(model=MODEL).html(), plan.graph()._repr_html_()):
        assert "<script" not in html
        assert "<b>briefly" not in html
        assert "http" not in html.replace("http://www.w3.org", "")
