"""Small models: one form, then narrowed details; conditions are rendered by us, nothing is invented."""

from __future__ import annotations

import asyncio
from typing import Any

import jsonschema
import pandas as pd
import pyarrow as pa
import pytest

from apwa_dask.errors import PlanError, RefusalError
from apwa_dask.manager import Drafted, draft_async
from apwa_dask.manager.guided.said import bounds, names, numbers
from apwa_dask.manager.guided.sketch import Sketch
from apwa_dask.models.types import OutcomeClass
from apwa_dask.plans.expressions import mask
from apwa_dask.plans.plan import Plan
from apwa_dask.tables import profile_frame


def form(
    write: str = "nothing", keep: str = "all", result: str = "rows", order: str = "no"
) -> dict[str, str]:
    return {"write": write, "keep": keep, "result": result, "order": order}


def draft(kit: Any, question: str, *answers: Any, catalog: Any = None) -> tuple[Drafted, Any]:
    """Every scripted answer must be one that the schema of its call allows."""
    planner = kit.Planner(answers)
    drafted = asyncio.run(draft_async(question, catalog or kit.catalog(), kit.small, planner))
    assert len(planner.requests) == len(answers), "all answers are used"
    for request, answer in zip(planner.requests, answers, strict=True):
        jsonschema.validate(answer, request.template.schema)
    return drafted, planner


def ops(plan: Plan) -> list[str]:
    return [step.op for step in plan.steps]


def test_labels_with_meanings_from_the_question_take_two_calls(kit: Any) -> None:
    question = (
        "Give each a topic: billing (charges, refunds), defect (broken) or praise. And a product: tent?"
    )
    drafted, _ = draft(
        kit,
        question,
        form(write="labels"),
        {
            "answers": [
                {"name": "topic", "labels": ["billing", "defect", "praise"]},
                {"name": "product", "labels": ["tent", "lamp"]},
            ]
        },
    )
    (step,) = drafted.plan.steps
    assert step.op == "map"
    assert step.contract.inputs == ("text",)
    assert step.contract.output.names == ("topic", "product")
    assert step.contract.output.fields[0].labels == {
        "billing": "charges, refunds",
        "defect": "broken",
        "praise": "",
    }
    assert all(field.description for field in step.contract.output)
    assert (drafted.calls, drafted.rounds) == (2, 0)


def test_meanings_are_asked_for_when_the_question_gives_none(kit: Any) -> None:
    drafted, _ = draft(
        kit,
        "Is each review friendly or angry?",
        form(write="labels"),
        {"answers": [{"name": "mood", "labels": ["friendly", "angry"]}]},
        {"friendly": "kind words", "angry": "complains"},
    )
    assert drafted.plan.steps[0].contract.output.fields[0].labels == {
        "friendly": "kind words",
        "angry": "complains",
    }


def test_how_many_is_a_filter_and_a_count(kit: Any) -> None:
    drafted, _ = draft(
        kit,
        "How many reviews ask for money back?",
        form(keep="by reading", result="count"),
        {"condition": "the review asks for money back"},
        {"each": "all rows"},
    )
    assert ops(drafted.plan) == ["filter", "aggregate"]
    assert all(step.reason for step in drafted.plan.steps)
    assert "the review asks for money back" in drafted.plan.steps[0].contract.instruction


def test_what_columns_decide_calls_no_model(kit: Any) -> None:
    drafted, _ = draft(
        kit,
        "Which cities have more than 3 reviews with at least 2 stars?",
        form(keep="by column", result="count"),
        {"keep": [{"column": "stars", "is": "at least", "value": 2}]},
        {"each": "city", "only": {"is": "above", "value": 3}},
    )
    assert not drafted.plan.llm_steps
    assert [getattr(step, "condition", "") for step in drafted.plan.steps] == [
        '"stars" >= 2',
        "",
        '"count" > 3',
    ]


def test_columns_come_before_reading_so_that_fewer_rows_are_paid(kit: Any) -> None:
    drafted, _ = draft(
        kit,
        "Return the rude reviews from Oslo with fewer than 35 characters.",
        form(keep="both"),
        {
            "keep": [
                {"column": "city", "is": "equal to", "value": "Oslo"},
                {"column": "length of text", "is": "below", "value": 35},
            ]
        },
        {"condition": "the review is rude"},
    )
    assert ops(drafted.plan) == ["assign", "where", "filter"]
    assert drafted.plan.step("where_1").condition == '"city" = \'Oslo\' AND "text_length" < 35'


def test_the_number_of_the_longest_orders_first(kit: Any) -> None:
    drafted, _ = draft(
        kit,
        "What is the average length of the ten longest reviews?",
        form(result="number", order="yes"),
        {"column": "length of text", "fn": "average", "each": "all rows"},
        {"column": "length of text", "order": "largest", "first": 10},
    )
    assert ops(drafted.plan) == ["assign", "sort", "limit", "aggregate"]


def test_the_largest_group_orders_last(kit: Any) -> None:
    drafted, _ = draft(
        kit,
        "Which city has the most reviews?",
        form(result="count", order="yes"),
        {"each": "city", "only": "all counts"},
        {"column": "count", "order": "largest", "first": 1},
    )
    assert ops(drafted.plan) == ["aggregate", "sort", "limit"]


def test_labels_can_be_counted_at_once(kit: Any) -> None:
    drafted, _ = draft(
        kit,
        "What is the most frequent wish: refund (money back) or repair?",
        form(write="labels", result="count", order="yes"),
        {"answers": [{"name": "wish", "labels": ["refund", "repair"]}]},
        {"each": "wish", "only": "all counts"},
        {"column": "count", "order": "largest", "first": 1},
    )
    assert ops(drafted.plan) == ["map", "aggregate", "sort", "limit"]
    assert drafted.plan.steps[1].by == ("wish",)


def test_values_are_as_written_and_typed_only_where_they_are_reckoned_with(kit: Any) -> None:
    value = {"name": "amount", "meaning": "the amount"}
    plain, _ = draft(kit, "Extract the amount.", form(write="values"), {"values": [value]})
    assert plain.plan.steps[0].contract.output.fields[0].type == "string"
    total, _ = draft(
        kit,
        "What is the total amount?",
        form(write="values", result="number"),
        {"values": [{"name": "amount", "kind": "number", "meaning": "the amount"}]},
        {"column": "amount", "fn": "total", "each": "all rows"},
    )
    assert total.plan.steps[0].contract.output.fields[0].type == "number"
    assert ops(total.plan) == ["map", "aggregate"]


def test_what_a_column_holds_already_is_not_extracted(kit: Any) -> None:
    drafted, _ = draft(
        kit,
        "Extract the amount. Return id and amount.",
        form(write="values"),
        {"values": [{"name": "id", "meaning": "id of it"}, {"name": "amount", "meaning": "the amount"}]},
    )
    assert drafted.plan.steps[0].contract.output.names == ("amount",)


def test_a_new_text_and_an_overview(kit: Any) -> None:
    text, _ = draft(
        kit,
        "Redact text.",
        form(write="text"),
        {"name": "text", "task": "Replace names by [NAME]."},
    )
    assert text.plan.steps[0].contract.output.names == ("text_2",), (
        "a column that is there is not overwritten"
    )
    overview, _ = draft(
        kit,
        "What do they say in each city?",
        form(result="overview"),
        {"each": "city", "name": "gist", "task": "Say what the texts have in common."},
    )
    assert overview.plan.steps[0].op == "reduce"
    assert overview.plan.steps[0].by == ("city",)


def test_no_column_for_the_number_is_a_refusal(kit: Any) -> None:
    planner = kit.Planner([form(result="number"), {"column": "none of these"}])
    with pytest.raises(RefusalError) as caught:
        asyncio.run(draft_async("Average salary by department?", kit.catalog(), kit.small, planner))
    assert "id, stars, city, text" in caught.value.fix


def test_one_of_several_tables_is_chosen_first(kit: Any) -> None:
    catalog = kit.catalog() | kit.catalog(pd.DataFrame({"name": ["a", "b"]}), alias="people")
    drafted, _ = draft(
        kit,
        "How many people?",
        {"table": "people"},
        form(result="count"),
        {"each": "all rows"},
        catalog=catalog,
    )
    assert drafted.plan.sources == ("people",)


# --- narrowing


def test_the_form_cannot_ask_for_nothing_nor_for_reading_without_text(kit: Any) -> None:
    planner = kit.Planner([form(result="count"), {"each": "all rows"}])
    numbers_only = kit.catalog(pd.DataFrame({"stars": [1, 2, 3]}))
    asyncio.run(draft_async("How many with 2?", numbers_only, kit.small, planner))
    schema = planner.requests[0].template.schema
    for wanted in (form(), form(write="labels"), form(keep="by reading"), form(result="overview")):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wanted, schema)
    jsonschema.validate(form(keep="by column", result="count"), schema)


def test_conditions_are_typed_and_their_values_come_from_question_or_profile(kit: Any) -> None:
    _, planner = draft(
        kit,
        'Which are from Oslo, with 5 stars and "tent" in them?',
        form(keep="by column"),
        {"keep": [{"column": "city", "is": "equal to", "value": "Oslo"}]},
    )
    schema = planner.requests[1].template.schema
    allowed = [
        ("stars", "above", 5),
        ("text", "containing", "tent"),
        ("id", "starting with", "tent"),
        ("city", "not equal to", "Rome"),
    ]
    refused = [
        ("stars", "containing", "5"),
        ("stars", "above", 6),
        ("text", "above", 5),
        ("town", "equal to", "Oslo"),
    ]
    refused += [("text", "equal to", "Wilson"), ("city", "containing", "Oslo"), ("city", "equal to", "Paris")]
    for column, how, value in allowed:
        jsonschema.validate({"keep": [{"column": column, "is": how, "value": value}]}, schema)
    for column, how, value in refused:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"keep": [{"column": column, "is": how, "value": value}]}, schema)


def test_each_call_continues_the_one_before(kit: Any) -> None:
    _, planner = draft(
        kit,
        "How many are rude?",
        form(keep="by reading", result="count"),
        {"condition": "the review is rude"},
        {"each": "all rows"},
    )
    for before, after in zip(planner.requests, planner.requests[1:], strict=False):
        assert after.tail[: len(before.tail)] == before.tail
        assert after.template.prefix == before.template.prefix


def test_the_most_involved_form_takes_seven_calls(kit: Any) -> None:
    drafted, _ = draft(
        kit,
        "Of the reviews of more than 5 characters that are rude, which mood is the most frequent?",
        form(write="labels", keep="both", result="count", order="yes"),
        {"keep": [{"column": "length of text", "is": "above", "value": 5}]},
        {"condition": "the review is rude"},
        {"answers": [{"name": "mood", "labels": ["sad", "angry"]}]},
        {"sad": "is unhappy", "angry": "is furious"},
        {"each": "mood", "only": "all counts"},
        {"column": "count", "order": "largest", "first": 1},
    )
    assert drafted.calls == 7


# --- endings without a plan


@pytest.mark.parametrize(
    "answers",
    [
        [{"write": "labels"}],
        [{"nonsense": True}],
        [form()],
        [form(keep="sometimes")],
        [form(write="poems")],
        [form(keep="by column"), {"keep": [{"column": "town", "is": "equal to", "value": "Oslo"}]}],
        [form(keep="by column"), {"keep": "stars > 3"}],
        [form(write="labels"), {"answers": [{"name": "x"}]}],
        [form(result="count"), {"each": "galaxy"}],
        [
            form(result="count", order="yes"),
            {"each": "city"},
            {"column": "size", "order": "largest", "first": 1},
        ],
        [form(result="overview"), {}],
    ],
)
def test_choices_outside_their_schema_end_the_draft_with_a_plan_error(kit: Any, answers: Any) -> None:
    planner = kit.Planner(answers)
    with pytest.raises(PlanError):
        asyncio.run(draft_async("How many are rude?", kit.catalog(), kit.small, planner))
    assert len(planner.requests) == len(answers)


@pytest.mark.parametrize("outcome", [OutcomeClass.TRUNCATED, OutcomeClass.DEADLINE])
@pytest.mark.parametrize("good_answers", [0, 1, 2])
def test_a_planner_that_fails_at_any_call_runs_nothing(
    kit: Any, outcome: OutcomeClass, good_answers: int
) -> None:
    answers = [form(keep="by reading", result="count"), {"condition": "it is rude"}][:good_answers]
    planner = kit.Planner([*answers, kit.failed(outcome)])
    with pytest.raises(PlanError, match=str(outcome)):
        asyncio.run(draft_async("How many are rude?", kit.catalog(), kit.small, planner))
    assert len(planner.requests) == good_answers + 1


# --- rendering


@pytest.mark.parametrize(
    ("condition", "kept"),
    [
        ({"column": "name", "is": "equal to", "value": 'o\'neil "x"'}, [1]),
        ({"column": "name", "is": "containing", "value": "O'N"}, [1]),
        ({"column": "name", "is": "starting with", "value": "ann"}, [0]),
        ({"column": "name", "is": "not equal to", "value": "ANN LEE"}, [1, 2]),
        ({"column": "length of name", "is": "below", "value": 8}, [0, 2]),
        ({"column": "born", "is": "before", "value": "2001-01-01"}, [0]),
        ({"column": "born", "is": "on", "value": "2001-01-01"}, [1]),
        ({"column": "odd \"col'umn", "is": "at most", "value": 2}, [0, 1]),
        ({"column": "ok", "is": "equal to", "value": True}, [0]),
        ({"column": "ok", "is": "equal to", "value": False}, [1, 2]),
    ],
)
def test_conditions_are_rendered_to_sql_that_means_them(condition: dict[str, Any], kept: list[int]) -> None:
    from apwa_dask.manager.guided.steps import keep

    frame = pd.DataFrame(
        {
            "name": ["Ann Lee", 'O\'Neil "X"', "Zed"],
            "born": pd.to_datetime(["1999-05-01", "2001-01-01", "2005-01-01"]),
            "odd \"col'umn": [1, 2, 3],
            "ok": [True, False, False],
        }
    )
    table = pa.Table.from_pandas(frame)
    sketch = Sketch.of("t", table.schema, profile_frame(frame, samples=0))
    grown = keep({"keep": [condition]}, sketch, "")
    if grown.measures:
        table = table.append_column("name_length", pa.array([len(name) for name in frame["name"]]))
    found = mask(grown.steps[-1].condition, table).to_pylist()
    assert [row for row, keep_it in enumerate(found) if keep_it] == kept


def test_numbers_bounds_and_names_are_those_of_the_question() -> None:
    assert numbers("the ten of 1,200 longer than 3.5 but not v2 or x10; at least one dozen") == [
        1200,
        3.5,
        10,
        1,
        12,
    ]
    assert bounds("more than five, at most 20") == [(20, ("at most",)), (5, ("above",))]
    assert len(names("Word " * 5_000)) <= 160


def test_ids_and_names_are_not_texts_to_read(kit: Any) -> None:
    (schema, profile) = kit.catalog()["reviews"]
    assert Sketch.of("reviews", schema, profile).readable == ["text"]
    short = kit.catalog(pd.DataFrame({"make": ["Kia", "BMW"], "color": ["navy", "black"]}), alias="cars")[
        "cars"
    ]
    assert Sketch.of("cars", *short).readable == ["make", "color"]
