"""What a question needs of each text and no column holds is read out first; then columns decide."""

from __future__ import annotations

import asyncio
from typing import Any

import jsonschema
import pandas as pd
import pyarrow as pa
import pytest

from apwa_dask.errors import RefusalError
from apwa_dask.manager import Drafted, draft_async
from apwa_dask.manager.guided import said
from apwa_dask.manager.guided.asked import asked_of, first_of_order
from apwa_dask.manager.guided.sketch import Sketch
from apwa_dask.tables import profile_frame

LETTER = "Dear sir or madam, with this letter of today I want to tell you that the lamp came broken. " * 4
LETTERS = pd.DataFrame(
    {
        "id": [f"l{n}" for n in range(12)],
        "year": [1990 + n for n in range(12)],
        "kind": ["letter", "reply"] * 6,
        "path": [f"in/north-sea/{n}.txt" for n in range(12)],
        "body": [f"{n} {LETTER}" for n in range(12)],
    }
)


def catalog(frame: pd.DataFrame = LETTERS, alias: str = "letters") -> Any:
    schema = pa.Schema.from_pandas(frame, preserve_index=False).remove_metadata()
    return {alias: (schema, profile_frame(frame, name=alias))}


def sketch(frame: pd.DataFrame = LETTERS) -> Sketch:
    return Sketch.of("letters", *catalog(frame)["letters"])


def form(
    write: str = "nothing", keep: str = "all", result: str = "rows", order: str = "no"
) -> dict[str, str]:
    return {"write": write, "keep": keep, "result": result, "order": order}


def draft(kit: Any, question: str, *answers: Any, frame: pd.DataFrame = LETTERS) -> Drafted:
    """Every scripted answer must be one that the schema of its call allows."""
    planner = kit.Planner(answers)
    drafted = asyncio.run(draft_async(question, catalog(frame), kit.small, planner))
    assert len(planner.requests) == len(answers), "all answers are used"
    for request, answer in zip(planner.requests, answers, strict=True):
        jsonschema.validate(answer, request.template.schema)
    return drafted


def ops(drafted: Drafted) -> list[str]:
    return [step.op for step in drafted.plan.steps]


@pytest.mark.parametrize(
    ("question", "found"),
    [
        ("Which supplier sent the most letters?", [("supplier", "text", "group", "")]),
        ("Who are the two clerks with the fewest letters?", [("clerk", "text", "group", "")]),
        ("Count the letters by language.", [("language", "text", "group", "")]),
        ("How many letters are there per month of the letter's arrival?", [("arrival", "date", "group", "month")]),
        ("How many different products are there?", [("product", "text", "distinct", "")]),
        ("Which letters name a price above 50?", [("price", "number", "bound", "")]),
        ("How many letters have the priority High?", [("priority", "text", "equal", "")]),
        ("What is the sum of the fees of all letters signed by A. B. Cole?",
         [("fee", "number", "number", ""), ("signer", "text", "equal", "")]),
        ("What is the average total of the orders?", [("total", "number", "number", "")]),
        ("How many letters are there per year?", []),
        ("Count the letters by kind.", []),
        ("Which letters complain about a lamp?", []),
        ("What is the average length of the ten longest letters?", []),
        ("Which letter has the most characters?", []),
    ],
)  # fmt: skip
def test_what_no_column_holds_is_found_by_how_the_question_says_it(question: str, found: list[Any]) -> None:
    asked = asked_of(question, sketch())
    assert [(one.name, one.kind, one.use, one.part) for one in asked] == found


def test_a_table_of_short_texts_holds_no_amounts(kit: Any) -> None:
    short = LETTERS.assign(body=[f"the lamp {n} broke" for n in range(12)])
    assert asked_of("What is the average salary by department?", sketch(short)) == ()
    planner = kit.Planner([form(result="number"), {"column": "none of these"}])
    with pytest.raises(RefusalError):
        asyncio.run(
            draft_async("What is the average salary by department?", catalog(short), kit.small, planner)
        )


def test_the_one_with_the_most_is_read_grouped_by_letters_and_digits_and_sorted(kit: Any) -> None:
    drafted = draft(
        kit,
        "Which supplier sent the most letters?",
        form(write="values", result="count"),
        {"supplier": "who sent the goods", "many": "one"},
    )
    assert ops(drafted) == ["map", "assign", "where", "aggregate", "sort", "limit", "select"]
    assert drafted.plan.steps[0].contract.output.names == ("supplier",)
    assert drafted.plan.steps[-1].columns == ("supplier", "count")
    assert first_of_order("the three clerks with the fewest letters") == (False, 3)


def test_several_values_of_a_text_are_a_row_each(kit: Any) -> None:
    drafted = draft(
        kit,
        "Who are the two clerks with the most letters?",
        form(write="values", result="count"),
        {"clerk": "who worked on it", "many": "several"},
    )
    assert ops(drafted)[0] == "flat_map"
    assert next(step.n for step in drafted.plan.steps if step.op == "limit") == 2


def test_a_bound_on_what_is_read_is_a_condition_and_no_judgement(kit: Any) -> None:
    drafted = draft(
        kit,
        "Which letters name a price above 50?",
        form(write="values"),
        {"price": "the price of the goods"},
    )
    assert ops(drafted) == ["map", "where"]
    assert drafted.plan.steps[0].contract.output.fields[0].type == "number"
    assert drafted.plan.steps[1].condition == '"price" > 50'


def test_names_are_compared_by_letters_and_digits(kit: Any) -> None:
    drafted = draft(
        kit,
        "What is the sum of the fees of all letters signed by A. B. Cole?",
        form(write="values", result="number"),
        {"fee": "the fee that is asked for", "signer": "who signed it"},
    )
    assert ops(drafted) == ["map", "where", "aggregate"]
    assert "'abcole'" in drafted.plan.steps[1].condition


def test_a_share_is_the_mean_of_a_judgement(kit: Any) -> None:
    drafted = draft(
        kit,
        "Of the letters longer than 140 characters, what share is rude?",
        form(keep="by column", result="share"),
        {"keep": [{"column": "length of body", "is": "above", "value": 140}]},
        {"condition": "the letter is rude"},
    )
    assert ops(drafted) == ["assign", "where", "map", "aggregate"]
    assert drafted.plan.steps[-1].aggregates["share"].fn == "mean"


def test_occurrences_of_a_word_are_counted_and_no_row_is_read(kit: Any) -> None:
    question = "Which letters of the kind reply use the word 'lamp' at least three times?"
    drafted = draft(kit, question, form(keep="by column"))
    assert ops(drafted) == ["assign", "where"]
    assert drafted.plan.steps[0].columns == {
        "times": "len(regexp_extract_all(lower(\"body\"), '\\blamp\\b'))"
    }
    assert drafted.plan.steps[1].condition == '"kind" = \'reply\' AND "times" >= 3'


def test_rows_before_and_from_a_year_are_two_groups(kit: Any) -> None:
    drafted = draft(
        kit,
        "What is the average length of the letters before 1995, and from 1995 on?",
        form(result="number"),
        {"column": "length of body", "fn": "average", "each": "period"},
    )
    assert ops(drafted) == ["assign", "assign", "aggregate"]
    assert said.split_at("before 1995, and from 1996 on") is None


def test_a_text_for_each_decade_is_grouped_by_it(kit: Any) -> None:
    drafted = draft(
        kit,
        "For each decade of the letters, summarise the main complaint.",
        form(result="overview"),
        {"each": "decade", "name": "complaint", "task": "Say what the main complaint is."},
    )
    assert ops(drafted) == ["assign", "reduce"]
    assert drafted.plan.steps[1].by == ("decade",)


def test_a_folder_that_is_named_is_a_condition_on_the_path(kit: Any) -> None:
    drafted = draft(
        kit,
        "How many different products are in the letters of the folder north-sea?",
        form(write="values", keep="by column", result="count"),
        {"product": "what was bought"},
    )
    assert drafted.plan.steps[0].condition == "contains(lower(\"path\"), 'north-sea')"


def test_pictures_are_read_and_not_their_paths(kit: Any) -> None:
    pictures = pd.DataFrame({"path": ["a.png", "b.png"], "media": [b"\x89PNG1", b"\x89PNG2"]})
    drafted = draft(
        kit,
        "Which of the pictures show a dog?",
        form(keep="by reading"),
        {"condition": "the picture shows a dog"},
        frame=pictures,
    )
    assert drafted.plan.steps[0].contract.inputs == ("media",)


def test_the_column_that_the_question_speaks_of_is_the_one_judged(kit: Any) -> None:
    cars = pd.DataFrame(
        {"maker": ["Audi", "Ford", "Fiat"], "paint": ["sky", "Black", "jet"], "motor": ["V6", "V8", "R4"]}
    )
    drafted = draft(
        kit,
        "How many have a shade of black?",
        form(keep="by reading", result="count"),
        {"column": "paint", "condition": "the paint is a shade of black"},
        {"each": "all rows"},
        frame=cars,
    )
    assert drafted.plan.steps[0].contract.inputs == ("paint",)
