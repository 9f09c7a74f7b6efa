"""The planner benchmark itself: what its shares are of, and that a wrong plan is seen."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from apwa_dask.testing import ChatRequest, Script, ScriptedServer  # noqa: E402
from benchmarks import planner  # noqa: E402
from benchmarks.planner import Judged, judged, rates  # noqa: E402
from benchmarks.planner_gold import DATA, QUERIES  # noqa: E402


def one(outcome: str, right: bool, single: bool = True) -> Judged:
    return Judged("q", single, outcome, right, 0, 1.0)


def test_a_refusal_is_valid_and_only_plans_over_one_table_count_for_the_bar() -> None:
    found = [one("plan", True), one("refused", True), one("invalid", False), one("plan", False, single=False)]
    shares = rates(found)
    assert shares["valid"] == 3 / 4
    assert shares["right"] == 2 / 4
    assert shares["right_single_table"] == 2 / 3


def test_an_unknown_query_is_named_and_nothing_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert planner.main(["--ids", "no-such-query"]) == 2
    assert "no such queries" in capsys.readouterr().err


@pytest.mark.skipif(not QUERIES, reason=f"the shared data are not at {DATA}")
@pytest.mark.parametrize(
    ("steps", "outcome", "right"),
    [
        (
            [{"op": "aggregate", "by": [], "aggregates": [{"name": "n", "fn": "count", "column": None}]}],
            "plan",
            True,
        ),
        ([{"op": "limit", "n": 3}], "plan", False),
        ([], "refused", False),
        ([{"op": "where", "condition": "no_column > 3"}], "invalid", False),
    ],
    ids=["right", "wrong", "refused", "invalid"],
)
def test_right_wrong_refused_and_invalid_plans_are_told_apart(
    steps: list[dict[str, Any]], outcome: str, right: bool, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import json

    import apwa_dask as apwa

    monkeypatch.setenv("OPENAI_API_KEY", "sk-only-for-loopback")
    query = next(query for query in QUERIES if query["id"] == "sms-rows")
    written = [{"reason": "r", "input": "smsspamcollection", **step} for step in steps]
    answer = json.dumps({"refusal": None if steps else "no such thing", "steps": written})

    def respond(request: ChatRequest) -> str:
        return answer

    with (
        ScriptedServer(Script(respond=respond), in_process=True) as plans,
        ScriptedServer(in_process=True) as rows,
    ):
        found = judged(query, apwa.Model("m", base_url=plans.base_url), rows, store)
    assert (found.outcome, found.right, found.data_calls) == (outcome, right, 0)
