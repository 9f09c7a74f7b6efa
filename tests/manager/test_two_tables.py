"""Small models over two tables that no pair of equal columns joins: records of the same things, and lists of labels."""

from __future__ import annotations

import asyncio
from typing import Any

import jsonschema
import pandas as pd
import pytest

from apwa_dask.manager import draft_async
from apwa_dask.manager.guided.forms import count_schema, form_schema, text_columns
from apwa_dask.manager.guided.joins import join, key_pairs
from apwa_dask.manager.guided.listed import label_table
from apwa_dask.manager.guided.returned import returned
from apwa_dask.manager.guided.sketch import Sketch
from apwa_dask.manager.guided.twins import twins_of

ROWS = 12
FORM = {"write": "nothing", "keep": "all", "result": "rows", "order": "no"}


def records(prefix: str) -> pd.DataFrame:
    """Records with an id, a sentence, a short category that repeats, and a number."""
    titles = [f"{prefix} handbook number {n} of the care of old wooden boats" for n in range(ROWS)]
    return pd.DataFrame(
        {
            "id": range(ROWS),
            "title": titles,
            "press": ["Oak", "Elm"] * (ROWS // 2),
            "year": [1990, 1991, 1992] * 4,
        }
    )


def catalog(kit: Any, **frames: pd.DataFrame) -> Any:
    return {
        name: table for alias, frame in frames.items() for name, table in kit.catalog(frame, alias).items()
    }


def draft(kit: Any, question: str, tables: Any, *answers: Any) -> Any:
    planner = kit.Planner(answers)
    plan = asyncio.run(draft_async(question, tables, kit.small, planner)).plan
    assert len(planner.requests) == len(answers)
    for request, answer in zip(planner.requests, answers, strict=True):
        jsonschema.validate(answer, request.template.schema)
    return plan


@pytest.fixture
def shelves(kit: Any) -> Any:
    return catalog(kit, north_shelf=records("A"), south_shelf=records("The"))


def test_records_of_the_same_thing_are_judged_among_those_most_alike(kit: Any, shelves: Any) -> None:
    plan = draft(
        kit,
        "Which rows of north_shelf and south_shelf are the same book? Return north_id and south_id.",
        shelves,
        FORM,
    )
    joined, select = plan.steps
    assert (joined.op, joined.input, joined.right, joined.how) == (
        "join",
        "north_shelf",
        "south_shelf",
        "inner",
    )
    assert joined.similar_left == joined.similar_right == ("title",)
    assert joined.contract.instruction == "Both records describe the same book, whatever the spelling."
    assert joined.contract.inputs == ("title", "press", "year", "title_right", "press_right", "year_right")
    assert select.columns == ("id", "id_right")
    assert select.rename == {"id": "north_id", "id_right": "south_id"}


@pytest.mark.parametrize(
    ("question", "how"),
    [
        ("For each press in north_shelf, how many of its books also occur in south_shelf?", "semi"),
        ("For each press in north_shelf, how many of its books do not occur in south_shelf?", "anti"),
        ("For each press, how many books of north_shelf are missing from south_shelf?", "anti"),
    ],
)
def test_rows_with_or_without_a_twin_are_those_of_the_table_named_first(
    kit: Any, shelves: Any, question: str, how: str
) -> None:
    counted = {**FORM, "result": "count"}
    plan = draft(
        kit, question, dict(reversed(shelves.items())), counted, {"each": "press", "only": "all counts"}
    )
    joined, count = plan.steps
    assert (joined.input, joined.right, joined.how) == ("north_shelf", "south_shelf", how)
    assert count.by == ("press",)


def test_what_the_words_leave_open_is_asked(kit: Any, shelves: Any) -> None:
    question = "Find duplicates across the shelves."
    for said, how in (
        ("pairs of rows that are the same", "inner"),
        ("rows of north_shelf that are also in south_shelf", "semi"),
    ):
        assert draft(kit, question, shelves, {"result": said}, FORM).steps[0].how == how


def test_tables_that_share_no_sentence_are_no_twins(kit: Any, shelves: Any) -> None:
    parts = pd.DataFrame({"id": [1, 2, 3], "code": ["a", "b", "c"]})
    assert (
        twins_of(catalog(kit, parts=parts, stock=parts), "Which rows of parts and stock are the same?")
        is None
    )
    assert twins_of(shelves, "How many books of each press are there?") is None


# --- a table that lists labels


def test_labels_of_another_table_are_put_beside_each_row(kit: Any) -> None:
    notes = pd.DataFrame(
        {"id": range(6), "note": [f"Note {n}: please mend the gate by the road" for n in range(6)]}
    )
    moods = pd.DataFrame({"value": ["mend", "buy", "call_back"]})
    plan = draft(
        kit,
        "Give each note exactly one of the labels in moods. Return id and mood for every row.",
        catalog(kit, notes=notes, moods=moods),
        {"name": "mood"},
    )
    assert [step.op for step in plan.steps] == [
        "reduce",
        "assign",
        "assign",
        "merge",
        "map",
        "select",
        "select",
    ]
    assert plan.steps[4].contract.inputs == ("note", "label_list")
    assert plan.steps[-1].columns == ("id", "mood")
    assert plan.sources == ("notes", "moods")


@pytest.mark.parametrize(
    "moods",
    [
        pd.DataFrame({"value": ["mend", "mend", "buy"]}),
        pd.DataFrame({"value": ["a long story " * 40, "b", "c"]}),
        pd.DataFrame({"value": ["mend", "buy", "call"], "weight": [1, 2, 3]}),
    ],
    ids=["repeats", "texts", "more columns"],
)
def test_other_tables_are_no_lists_of_labels(kit: Any, moods: pd.DataFrame) -> None:
    notes = pd.DataFrame({"note": ["please mend the gate by the road", "call me back about the gate"]})
    tables = catalog(kit, notes=notes, moods=moods)
    assert not label_table(tables, "Give each note one of the labels in moods.")


def test_a_list_is_one_of_labels_only_where_the_question_names_it_so(kit: Any) -> None:
    notes = pd.DataFrame(
        {"note": ["please mend the gate by the road", "call me back about the gate"], "n": [1, 2]}
    )
    tables = catalog(kit, notes=notes, moods=pd.DataFrame({"value": ["mend", "buy", "call"]}))
    assert label_table(tables, "Give each note one of the labels in moods.") == "moods"
    assert not label_table(tables, "Give each note a label.")
    assert not label_table(tables, "How many moods are there?")


# --- narrower choices after a join by equal columns


@pytest.fixture
def sold(kit: Any) -> Sketch:
    cars = pd.DataFrame({"id": [1, 2, 3], "make": ["Audi", "Ford", "Fiat"], "colour": ["navy", "red", "sky"]})
    sales = pd.DataFrame(
        {"car_id": [1, 2, 2, 3], "day": pd.to_datetime(["2023-01-01"] * 4), "price": [5, 6, 7, 8]}
    )
    tables = catalog(kit, cars=cars, sales=sales)
    return join(Sketch.of("cars", *tables["cars"]), "sales", key_pairs("cars", "sales", tables)[0], tables)


def keeps(sketch: Sketch, question: str) -> set[str]:
    schema = form_schema(sketch, question)
    return {value for form in schema.get("anyOf", [schema]) for value in form["properties"]["keep"]["enum"]}


def test_what_the_join_says_is_not_read_or_compared_once_more(sold: Sketch) -> None:
    assert keeps(sold, "How many cars of each make were sold?") == {"all"}


def test_a_date_is_compared_only_where_the_question_says_one(sold: Sketch) -> None:
    assert "by column" in keeps(sold, "How many cars of each make were sold after 2023-05-01?")


def test_a_kind_of_something_is_read(sold: Sketch) -> None:
    assert keeps(sold, "What is the average price of cars whose color is a shade of blue?") == {"by reading"}


def test_rows_that_meet_several_others_repeat_and_can_be_grouped_by(sold: Sketch) -> None:
    schema = count_schema(sold, "How many cars of each make were sold?")
    assert schema["properties"]["each"]["enum"] == ["make"]


def test_a_count_of_what_is_so_is_one_number(sold: Sketch) -> None:
    schema = count_schema(sold, "How many different cars are a shade of black?")
    assert schema["properties"] == {"each": {"type": "string", "enum": ["all rows"]}}


def test_ids_and_what_is_grouped_by_are_not_read(kit: Any) -> None:
    frame = pd.DataFrame(
        {"id": ["p-0001", "p-0002"], "title": ["Acme red boots", "Bolt tea bags"], "kind": ["Shoe", "Tea"]}
    )
    (schema, profile) = kit.catalog(frame, "data")["data"]
    question = "How many different brands are there in each kind?"
    assert text_columns(Sketch.of("data", schema, profile), question) == ["title"]


@pytest.mark.parametrize(
    ("question", "names"),
    [
        ("Extract it. Return file (without ending) and the four fields.", ["file", "four fields"]),
        ("Which are late? Return the id, city and label for every row.", ["id", "city", "label"]),
        ("How many are there?", []),
    ],
)
def test_what_is_to_be_returned_is_read_from_the_question(question: str, names: list[str]) -> None:
    assert returned(question) == names
