"""The quality benchmark of the embedded model: what it counts, without a model."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import embedded
from benchmarks.planner_gold import DATA

SPANS = {"text": "Ada wrote to Bo and Ada.", "spans": [{"text": "Ada"}, {"text": "Bo"}]}


def test_an_answer_is_right_by_its_parts() -> None:
    judge = {name: task.judged for name, task in embedded.TASKS.items()}
    assert judge["spam"]({"text": "win"}, {"gold": False}) == (0, 1)
    assert judge["spam"](None, {"gold": False}) == (1, 1), "a row that was not kept"
    receipt = {"company": "A. B. SDN", "date": "1/2/2018", "address": "x", "total": "9.10"}
    said = {**receipt, "company": "a b sdn", "address": None}
    assert judge["receipts"](said, {"gold": receipt}) == (3, 4)
    assert judge["redaction"]({"redacted": "[NAME] wrote to Bo and Ada."}, SPANS) == (1, 2)
    assert judge["redaction"]({"redacted": "<text>"}, SPANS) == (0, 2), (
        "a text that was dropped is not redacted"
    )
    assert judge["redaction"]({"redacted": None}, SPANS) == (0, 2), (
        "a text that came back as it was is all leaks"
    )


def test_an_unknown_task_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert embedded.main(["--tasks", "poetry"]) == 2
    assert "poetry" not in capsys.readouterr().out


@pytest.mark.skipif(not DATA.is_dir(), reason=f"the shared data are not at {DATA}")
@pytest.mark.parametrize("name", embedded.TASKS)
def test_each_sample_has_texts_and_gold(name: str) -> None:
    task = embedded.TASKS[name]
    row = next(iter(task.rows()))
    assert row["text"].strip()
    answer = {
        "spam": True,
        "redacted": row["text"],
        **dict.fromkeys(("company", "date", "address", "total"), ""),
    }
    right, of = task.judged(answer, row)
    assert 0 <= right <= of
