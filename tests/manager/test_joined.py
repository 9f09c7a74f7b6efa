"""Small models over several tables: which tables, on which columns; the rest is as with one."""

from __future__ import annotations

import asyncio
from typing import Any

import jsonschema
import pandas as pd
import pytest

import apwa_dask as apwa
from apwa_dask.errors import PlanError
from apwa_dask.manager import draft_async
from apwa_dask.manager.guided.joins import MOST_PAIRS, key_pairs, partners

CARS = pd.DataFrame({"id": [1, 2, 3], "make": ["Audi", "Ford", "Ford"], "price": [10.0, 20.0, 30.0]})
SALES = pd.DataFrame({"id": [7, 8, 9, 10], "car_id": [1, 2, 2, 3], "note": ["went well and quickly"] * 4})
WEATHER = pd.DataFrame({"degrees": [1.5, 2.5], "wind": [3.0, 4.0]})


def tables(kit: Any, **frames: pd.DataFrame) -> Any:
    return {
        name: table for alias, frame in frames.items() for name, table in kit.catalog(frame, alias).items()
    }


def form(**given: str) -> dict[str, str]:
    return {"write": "nothing", "keep": "all", "result": "count", "order": "no", **given}


def draft(kit: Any, question: str, catalog: Any, *answers: Any) -> Any:
    planner = kit.Planner(answers)
    plan = asyncio.run(draft_async(question, catalog, kit.small, planner)).plan
    assert len(planner.requests) == len(answers)
    for request, answer in zip(planner.requests, answers, strict=True):
        jsonschema.validate(answer, request.template.schema)
    return plan


def test_two_tables_are_merged_on_the_columns_that_belong_together(kit: Any) -> None:
    plan = draft(
        kit,
        "How many cars of each make were sold?",
        tables(kit, cars=CARS, sales=SALES),
        {"table": "sales", "joined": "cars"},
        {"equal": "sales.car_id = cars.id"},
        form(),
        {"each": "make", "only": "all counts"},
    )
    merge, count = plan.steps
    assert (merge.op, merge.input, merge.right) == ("merge", "sales", "cars")
    assert (merge.left_on, merge.right_on) == (("car_id",), ("id",))
    assert count.by == ("make",)
    assert plan.sources == ("cars", "sales")


def test_only_pairs_that_something_speaks_for_are_offered(kit: Any) -> None:
    catalog = tables(kit, cars=CARS, sales=SALES, weather=WEATHER)
    assert [keys.words("sales", "cars") for keys in key_pairs("sales", "cars", catalog)] == [
        "sales.car_id = cars.id",
        "sales.id = cars.id",
    ]
    assert partners(catalog) == {"cars": ["sales"], "sales": ["cars"], "weather": []}


@pytest.mark.parametrize(
    ("question", "said", "ids"),
    [
        ("Which cars have no sale?", "rows of cars that have no row of sales", [3]),
        ("Which cars had at least one sale?", "rows of cars that have any row of sales, each once", [1, 2]),
        (
            "List all cars with their notes, even those without a sale.",
            "all rows of cars, also those that have no row of sales",
            [1, 2, 2, 3],
        ),
    ],
)
def test_which_rows_stay_is_asked_in_words_where_the_question_hints_at_it(
    kit: Any, tmp_path: Any, question: str, said: str, ids: list[int]
) -> None:
    frames = {"cars": CARS, "sales": SALES.drop(columns="id").iloc[:3]}
    plan = draft(
        kit,
        question,
        tables(kit, **frames),
        {"table": "cars", "joined": "sales"},
        {"rows": said},
        form(result="rows"),
    )
    sources = {name: apwa.from_pandas(frame, npartitions=1, name=name) for name, frame in frames.items()}
    planned = apwa.load_plan(plan, {name: sources[name] for name in plan.sources})
    found = planned.run(store=str(tmp_path), scheduler="threads", progress=False).result()
    assert found["id"].tolist() == ids
    assert "has_partner" not in found.columns


def test_a_single_pair_is_not_asked_for(kit: Any) -> None:
    plan = draft(
        kit,
        "How many cars of each make were sold?",
        tables(kit, cars=CARS, sales=SALES.drop(columns="id")),
        {"table": "sales", "joined": "cars"},
        form(),
        {"each": "make", "only": "all counts"},
    )
    assert plan.steps[0].left_on == ("car_id",)


def test_one_table_is_enough_where_the_model_says_so(kit: Any) -> None:
    plan = draft(
        kit,
        "How many cars are there of each make?",
        tables(kit, cars=CARS, sales=SALES),
        {"table": "cars", "joined": "no other table"},
        form(),
        {"each": "make", "only": "all counts"},
    )
    assert [step.op for step in plan.steps] == ["aggregate"]
    assert plan.sources == ("cars",)


@pytest.mark.parametrize("said", [{"table": "cars", "joined": "weather"}, {"table": "planes"}, {}])
def test_tables_that_cannot_be_joined_end_the_draft(kit: Any, said: Any) -> None:
    planner = kit.Planner([said])
    catalog = tables(kit, cars=CARS, sales=SALES, weather=WEATHER)
    with pytest.raises(PlanError, match="names no table, or one that cannot be joined"):
        asyncio.run(draft_async("How many?", catalog, kit.small, planner))


def test_the_pairs_of_wide_tables_are_bounded(kit: Any) -> None:
    wide = pd.DataFrame({f"key_{n}": [1, 2] for n in range(60)})
    assert len(key_pairs("a", "b", tables(kit, a=wide, b=wide))) == MOST_PAIRS
