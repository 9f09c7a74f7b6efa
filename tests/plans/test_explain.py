"""What a plan says of itself: golden texts, and nothing hidden, executed or spent."""

from __future__ import annotations

import os
import re
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pytest

from apwa_dask.plans.explain import Range, StepEstimate, explain, summary
from apwa_dask.plans.loading import load
from apwa_dask.plans.plan import Plan

GOLDEN = Path(__file__).parent / "golden"
CATALOG = {"reviews": pa.schema([("_apwa_row", pa.string()), ("text", pa.string()), ("stars", pa.int64())])}
PLAN = load(
    """
query: Which products draw battery complaints?
sources: [reviews]
steps:
- op: where
  condition: stars < 3
  reason: only unhappy customers
- id: severity
  op: map
  contract:
    instruction: |-
      How severe is the complaint?
      1 is mild, 5 is dangerous.
    inputs: [text]
    output: {severity: integer, product: "string?"}
    tools: [search]
    model: big
- op: filter
  contract: {instruction: Is it about the battery?, inputs: [text], unit: pack(8)}
- op: aggregate
  by: [product]
  aggregates: {complaints: {fn: count}, worst: {fn: max, column: severity}}
- {op: sort, by: [{column: complaints, descending: true}]}
- {op: limit, n: 10}
""".replace("instruction: Is it about the battery?,", 'instruction: "Is it about the battery?",')
)
ESTIMATES = {
    "severity": StepEstimate(
        rows=Range.exactly(1200),
        calls=Range(1000, 1100, 1200),
        input_tokens=Range.exactly(90_000),
        output_tokens=Range(8_000, 12_000, 20_000),
        cost_usd=Range(0.02, 0.031, 0.05),
    )
}


def golden(name: str, text: str) -> None:
    """Compare with a kept file; ``APWA_GOLDEN=write`` renews it for review."""
    path = GOLDEN / name
    if os.environ.get("APWA_GOLDEN") == "write":
        path.parent.mkdir(exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")
    assert text + "\n" == path.read_text(encoding="utf-8")


def test_text_and_html_are_the_golden_ones() -> None:
    shown = explain(PLAN, CATALOG, estimates=ESTIMATES, models={"big": "gpt-x"}, tools={"search": "reads"})
    golden("explain.txt", shown.text())
    golden("explain.html", shown.html())
    golden("summary.txt", summary(PLAN))


def test_unknown_costs_are_said_to_be_unknown_and_never_summed() -> None:
    text = explain(PLAN, CATALOG, estimates=ESTIMATES).text()
    assert "cost: $0.0200 - $0.0310 - $0.0500" in text
    assert "Cost: unknown" in text
    assert "Model calls: none" in explain(load("sources: [reviews]"), CATALOG).text()


def test_an_invalid_plan_is_explained_with_its_problems() -> None:
    broken = load("sources: [reviews]\nsteps: [{op: where, condition: starz > 1}]")
    text = explain(broken, CATALOG).text()
    assert "Problem: where_1.condition: no column 'starz'; did you mean 'stars'" in text


def test_reprs_are_short_and_need_no_table() -> None:
    assert repr(PLAN) == summary(PLAN) == str(PLAN)
    assert "<b>1. where_1 </b>where reviews: keep rows with stars &lt; 3" in PLAN._repr_html_()
    assert "unknown columns" in PLAN._repr_html_()


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.depth = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.depth += 1

    def handle_endtag(self, tag: str) -> None:
        self.depth -= 1


HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "</div></style><svg onload=alert(1)>",
    '" onmouseover="alert(1)',
    "javascript:alert(1)",
    "\x1b]8;;http://evil\x07click\x1b]8;;\x07",
    "\u202egnp.exe",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_of_a_plan_becomes_markup_or_a_terminal_command(text: str) -> None:
    quoted = "'" + text.replace("'", "''") + "'"
    plan = Plan.model_validate(
        {
            "query": text,
            "sources": ["reviews"],
            "steps": [
                {
                    "id": "w",
                    "op": "where",
                    "input": "reviews",
                    "condition": f"text = {quoted}",
                    "reason": text,
                },
                {
                    "id": "m",
                    "op": "map",
                    "input": "w",
                    "contract": {
                        "instruction": text,
                        "inputs": [text],
                        "output": {"a": {"type": "string", "description": text}},
                        "tools": [text],
                        "model": text,
                    },
                },
                {"id": "s", "op": "select", "input": "w", "columns": [text]},
            ],
        }
    )
    catalog = {"reviews": pa.schema([("text", pa.string()), (text, pa.string())])}
    shown = explain(plan, catalog, models={text: text}, tools={text: text})
    parser = _Tags()
    parser.feed(shown.html())
    parser.feed(plan._repr_html_())
    assert parser.tags <= {"div", "span", "b", "strong"}
    assert parser.attributes <= {"style"}
    assert parser.depth == 0
    for plain in (shown.text(), repr(plan), shown.html()):
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\u202a-\u202e]", plain)


def test_long_texts_and_wide_tables_are_cut() -> None:
    wide = {"reviews": pa.schema([(f"c{i}", pa.string()) for i in range(500)])}
    step = {
        "id": "m",
        "op": "map",
        "input": "reviews",
        "contract": {"instruction": "x" * 100_000, "inputs": ["c1"], "output": {"a": "string"}},
    }
    shown = explain(Plan.model_validate({"sources": ["reviews"], "steps": [step]}), wide)
    assert len(shown.text()) < 5_000
    assert len(shown.html()) < 8_000
    assert "500 columns" in shown.text()
    assert "100,000 characters" in shown.text()
