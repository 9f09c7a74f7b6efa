"""A list in an output schema is the set of labels that an answer may be."""

from __future__ import annotations

from typing import Any, Literal

import pandas as pd
import pytest

import apwa_dask as apwa
from apwa_dask.errors import PlanError
from apwa_dask.plans.plan import Plan
from apwa_dask.plans.schema import Schema


@pytest.mark.parametrize("labels", [["low", "high"], ("low", "high"), {"type": ["low", "high"]}])
def test_a_list_of_labels_is_its_literal_and_comes_back_equal(labels: Any) -> None:
    schema = Schema.of({"mood": labels, "n": int})
    assert schema == Schema.of({"mood": Literal["low", "high"], "n": int})
    assert Schema.of(schema.model_dump()) == schema
    assert schema.json_schema()["properties"]["mood"] == {"type": "string", "enum": ["low", "high"]}


def test_labels_of_a_verb_and_of_a_yaml_plan_are_the_same_plan() -> None:
    table = apwa.from_pandas(pd.DataFrame({"text": ["a"]}))
    planned = table.map("judge", inputs="text", output={"mood": ["low", "high"]})
    written = planned.to_yaml() if hasattr(planned, "to_yaml") else planned.plan().to_yaml()
    assert Plan.from_yaml(written) == planned.plan().plan
    short = """
sources: [data]
steps:
- op: map
  contract: {instruction: judge, inputs: [text], output: {mood: [low, high]}}
"""
    assert (
        Plan.from_yaml(short).llm_steps[0].contract.output == planned.plan().plan.llm_steps[0].contract.output
    )


@pytest.mark.parametrize(
    "wrong", [[], [1, 2], ["low", None], [str], {"low", "high"}, {"type": {"low": 1}}, [True, False]]
)
def test_what_is_no_label_is_a_plan_error_that_says_what_is_right(wrong: Any) -> None:
    with pytest.raises(PlanError, match="mood") as caught:
        Schema.of({"mood": wrong})
    assert caught.value.code == "PLAN-SCHEMA"
    assert caught.value.fix
