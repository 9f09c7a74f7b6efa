"""Strong models: the whole plan in one answer, bounded repair, refusals, and endings without a plan."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import jsonschema
import pandas as pd
import pytest

from apwa_dask.agents.capabilities import Capability
from apwa_dask.errors import PlanError, RefusalError
from apwa_dask.manager import Drafted, draft_async
from apwa_dask.models.types import OutcomeClass

GOOD = {
    "refusal": None,
    "steps": [
        {"reason": "", "op": "where", "input": "reviews", "condition": "stars < 3"},
        {
            "reason": "",
            "op": "filter",
            "input": "#1",
            "instruction": "The review asks for money back",
            "inputs": ["text"],
            "unit": "row",
        },
        {
            "reason": "",
            "op": "aggregate",
            "input": "#2",
            "by": ["city"],
            "aggregates": [{"name": "reviews", "fn": "count", "column": None}],
        },
    ],
}
UNKNOWN_COLUMN = {
    "refusal": None,
    "steps": [{"reason": "", "op": "where", "input": "reviews", "condition": "star < 3"}],
}


def draft(kit: Any, answers: Any, *, repairs: int = 2, **options: Any) -> tuple[Drafted, Any]:
    planner = kit.Planner(answers)
    catalog = options.pop("catalog", None) or kit.catalog()
    drafting = draft_async(
        "How many bad reviews a city?", catalog, kit.strong, planner, repairs=repairs, **options
    )
    return asyncio.run(drafting), planner


def test_a_good_answer_is_a_plan_after_one_call(kit: Any) -> None:
    drafted, planner = draft(kit, [GOOD])
    assert [step.op for step in drafted.plan.steps] == ["where", "filter", "aggregate"]
    assert [step.id for step in drafted.plan.steps] == ["where_1", "filter_1", "aggregate_1"]
    assert [step.input for step in drafted.plan.steps] == ["reviews", "where_1", "filter_1"]
    assert (drafted.calls, drafted.rounds, len(planner.requests)) == (1, 0, 1)
    assert drafted.usage.input == 100
    assert drafted.plan.query == "How many bad reviews a city?"
    assert "drafted by strong: check it before you run it" in drafted.notes
    assert "sample values were shown to the planner" in drafted.notes


def test_a_wrong_column_is_mended_with_the_candidates_quoted(kit: Any) -> None:
    drafted, planner = draft(kit, [UNKNOWN_COLUMN, GOOD])
    assert (drafted.rounds, drafted.calls) == (1, 2)
    assert "mended in 1 repair round" in drafted.notes
    told = planner.requests[1].tail[-1].content
    assert "no column 'star'" in told
    assert "did you mean 'stars'?" in told
    assert json.loads(planner.requests[1].tail[-2].content) == UNKNOWN_COLUMN


def test_repair_ends_with_an_error_that_holds_the_draft(kit: Any) -> None:
    planner = kit.Planner(lambda request: UNKNOWN_COLUMN)
    with pytest.raises(PlanError, match="after 2 repair rounds") as caught:
        asyncio.run(draft_async("q", kit.catalog(), kit.strong, planner))
    assert len(planner.requests) == 3
    assert "condition: star < 3" in caught.value.fix
    assert caught.value.code == "PLAN-DRAFT"
    assert not isinstance(caught.value, RefusalError)


@pytest.mark.parametrize("repairs", [0, 1, 3])
def test_calls_are_bounded_by_the_repair_rounds(kit: Any, repairs: int) -> None:
    planner = kit.Planner(lambda request: UNKNOWN_COLUMN)
    with pytest.raises(PlanError):
        asyncio.run(draft_async("q", kit.catalog(), kit.strong, planner, repairs=repairs))
    assert len(planner.requests) == 1 + repairs


@pytest.mark.parametrize(
    "outcome",
    [
        OutcomeClass.TRUNCATED,
        OutcomeClass.DEADLINE,
        OutcomeClass.TRANSIENT,
        OutcomeClass.REFUSED,
        OutcomeClass.FILTERED,
        OutcomeClass.TOO_LARGE,
    ],
)
def test_a_planner_that_fails_runs_nothing_and_the_class_is_named(kit: Any, outcome: OutcomeClass) -> None:
    planner = kit.Planner([kit.failed(outcome)])
    with pytest.raises(PlanError, match=str(outcome)):
        asyncio.run(draft_async("q", kit.catalog(), kit.strong, planner))
    assert len(planner.requests) == 1


@pytest.mark.parametrize("nonsense", ["I would rather not.", "[1, 2]", '"where"', "{", ""])
def test_an_answer_that_is_no_object_ends_the_draft(kit: Any, nonsense: str) -> None:
    planner = kit.Planner([nonsense])
    with pytest.raises(PlanError, match="invalid_output"):
        asyncio.run(draft_async("q", kit.catalog(), kit.strong, planner))
    assert len(planner.requests) == 1


@pytest.mark.parametrize(
    "misshapen",
    [
        {},
        {"steps": "where"},
        {"steps": []},
        {"steps": [7]},
        {"steps": [{"op": "where"}]},
        {"steps": [{"op": "drop_table", "input": "reviews"}]},
        {
            "steps": [
                {"op": "map", "input": "reviews", "inputs": [{"made": 3}], "output": 4, "instruction": "x"}
            ]
        },
        {"steps": [{"op": "aggregate", "input": "#9", "by": [], "aggregates": [{"name": None}]}]},
        {"steps": [{"op": "limit", "input": ["reviews"], "n": 3}]},
    ],
)
def test_an_answer_of_another_shape_is_sent_back_and_never_crashes(kit: Any, misshapen: Any) -> None:
    drafted, planner = draft(kit, [misshapen, GOOD])
    assert drafted.rounds == 1
    assert planner.requests[1].tail[-1].content.startswith("This plan cannot run:\n")


def test_a_refusal_carries_the_reason_and_the_columns(kit: Any) -> None:
    planner = kit.Planner([{"refusal": "There is no salary here.", "steps": []}])
    with pytest.raises(RefusalError) as caught:
        asyncio.run(draft_async("Average salary?", kit.catalog(), kit.strong, planner))
    assert caught.value.why == "There is no salary here."
    assert "id, stars, city, text" in caught.value.fix


def test_a_bare_refusal_is_understood_too(kit: Any) -> None:
    with pytest.raises(RefusalError):
        draft(kit, [{"refusal": "no"}])


def test_tables_without_rows_are_refused_without_a_call(kit: Any) -> None:
    planner = kit.Planner([])
    for catalog in ({}, kit.catalog(kit.frame.head(0)), kit.catalog(pd.DataFrame())):
        with pytest.raises(RefusalError, match="nothing to answer the question from"):
            asyncio.run(draft_async("q", catalog, kit.strong, planner))
    assert planner.requests == []


def test_one_empty_table_among_others_is_left_out_and_named(kit: Any) -> None:
    catalog = kit.catalog() | kit.catalog(kit.frame.head(0), alias="old")
    drafted, planner = draft(kit, [GOOD], catalog=catalog)
    assert "the table old has no rows; it was left out" in drafted.notes
    assert '"old"' not in kit.body(planner.requests[0])


@pytest.mark.parametrize("query", ["", "  \n", "x" * 20_001])
def test_a_question_without_words_or_without_end_makes_no_call(kit: Any, query: str) -> None:
    planner = kit.Planner([])
    with pytest.raises(PlanError, match="a question has"):
        asyncio.run(draft_async(query, kit.catalog(), kit.strong, planner))
    assert planner.requests == []


def test_an_invented_column_or_table_cannot_be_written(kit: Any) -> None:
    _, planner = draft(kit, [GOOD])
    schema = planner.requests[0].template.schema
    jsonschema.validate(GOOD, schema)
    for broken in (
        {**GOOD["steps"][1], "inputs": ["txt"]},
        {**GOOD["steps"][1], "input": "review"},
        {**GOOD["steps"][1], "input": "s3://bucket/reviews"},
        {**GOOD["steps"][2], "by": ["town"]},
        {**GOOD["steps"][0], "op": "shell"},
        {**GOOD["steps"][0], "path": "/etc/passwd"},
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"refusal": None, "steps": [broken]}, schema)


def test_tools_are_an_enumeration_of_those_given(kit: Any) -> None:
    tool = Capability("lookup", "Look a city up.", len, "reads", "1")
    with_tool = {
        **GOOD,
        "steps": [GOOD["steps"][0], {**GOOD["steps"][1], "tools": ["lookup"]}, GOOD["steps"][2]],
    }
    drafted, planner = draft(kit, [with_tool], tools=[tool])
    assert drafted.plan.step("filter_1").contract.tools == ("lookup",)
    assert "- lookup: Look a city up." in planner.requests[0].tail[0].content
    unknown = {
        **GOOD,
        "steps": [GOOD["steps"][0], {**GOOD["steps"][1], "tools": ["shell"]}, GOOD["steps"][2]],
    }
    jsonschema.validate(with_tool, planner.requests[0].template.schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(unknown, planner.requests[0].template.schema)
    with pytest.raises(PlanError, match="no tool 'shell'"):
        draft(kit, lambda request: unknown, tools=[tool])


def test_steps_of_a_table_that_is_called_like_a_step_keep_their_names_apart(kit: Any) -> None:
    answer = {"refusal": None, "steps": [{"reason": "", "op": "limit", "input": "limit_1", "n": 3}]}
    drafted, _ = draft(kit, [answer], catalog=kit.catalog(alias="limit_1"))
    assert drafted.plan.steps[0].id == "limit_2"
    assert drafted.plan.steps[0].input == "limit_1"
