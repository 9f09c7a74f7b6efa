"""A verb with a wrong argument is refused in the plan's own words, where it is written."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import pytest

import apwa_dask as apwa
from apwa_dask.errors import PlanError
from apwa_dask.plans.yaml_io import from_yaml, to_yaml

LEFT = apwa.from_pandas(pd.DataFrame({"k": ["a"], "n": [1], "text": ["x"]}))
RIGHT = apwa.from_pandas(pd.DataFrame({"k": ["a"], "n": ["1"], "z": [1]}), name="right")

WRONG: dict[str, tuple[Callable[[], apwa.Table], str]] = {
    "merge without keys": (lambda: LEFT.merge(RIGHT), "in both tables: k, n"),
    "merge with keys of one side": (lambda: LEFT.merge(RIGHT, left_on="k"), "left_on=... and right_on=..."),
    "merge on no column": (lambda: LEFT.merge(RIGHT, on="kk"), "merge_1.left_on: no column 'kk'; did you mean"),
    "merge in no known way": (lambda: LEFT.merge(RIGHT, on="k", how="cross"), "'cross' is not one of 'inner'"),
    "merge of two types": (
        lambda: LEFT.merge(RIGHT, on="n"),
        "'n' is int64 on the left and 'n' is string on the right; put an assign step before, such as "
        'n_text: CAST("n" AS VARCHAR)',
    ),
    "concat of nothing": (lambda: LEFT.concat(), "others: give at least 1"),
    "concat of two types": (lambda: LEFT.concat(RIGHT), "'n' is int64 above and string in 'right'"),
    "sample of nothing": (lambda: LEFT.sample(), "give n or fraction"),
    "sample of more than all": (lambda: LEFT.sample(fraction=1.5), "fraction: it must be at most 1"),
    "sample of less than none": (lambda: LEFT.sample(-1), "n: it must be at least 0"),
    "limit below zero": (lambda: LEFT.limit(-1), "n: it must be at least 0"),
    "select of nothing": (lambda: LEFT.select(), "columns: give at least 1"),
    "an empty condition": (lambda: LEFT.where(""), "condition: it must have at least 1 character"),
    "assign of nothing": (lambda: LEFT.assign(), "columns: give at least 1"),
    "pieces too small": (lambda: LEFT.chunk("text", tokens=3), "tokens: it must be at least 16"),
    "a name with a space": (lambda: LEFT.limit(1, id="a b"), "'a b' is no name"),
    "types that clash": (
        lambda: LEFT.assign(size="length(n)"),
        "assign_1.columns.size: the types in length(n) do not fit; columns: n (int64); in place of n: ",
    ),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_argument_of_a_verb_is_a_plan_error_that_says_what_is_right(wrong: str) -> None:
    verb, words = WRONG[wrong]
    with pytest.raises(PlanError) as caught:
        verb()
    assert words in str(caught.value)
    assert "pydantic" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (LEFT.merge(RIGHT, left_on="k", right_on="k", how="left"), "with right: left join on k = k"),
        (LEFT.select("k").concat(RIGHT.select("k")), "concat select_1 with"),
        (LEFT.sample(3, seed=7), "3 rows, seed 7"),
        (LEFT.sample(fraction=0.25), "0.25 of the rows"),
    ],
    ids=["merge", "concat", "sample n", "sample fraction"],
)
def test_steps_over_tables_are_explained_and_come_back_from_yaml(table: apwa.Table, words: str) -> None:
    plan = table.plan().plan
    assert words in str(table.explain())
    assert from_yaml(to_yaml(plan)) == plan
