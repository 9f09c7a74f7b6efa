"""Arithmetic that a model should not do in its head: one SQL scalar expression without any column."""

from __future__ import annotations

from typing import Annotated, Any

import pyarrow as pa
from pydantic import Field

from apwa_dask.agents.builtin.select_syntax import objects_of
from apwa_dask.errors import PlanError
from apwa_dask.plans.expression_syntax import parse, tree_of
from apwa_dask.plans.expressions import evaluate
from apwa_dask.plans.functions import ARITHMETIC

__all__ = ["calculate"]

_ONE_ROW = pa.table({"_": [True]})
Expression = Annotated[
    str, Field(min_length=1, max_length=500, description="such as round(19.99 * 3 / 1.19, 2)")
]


def calculate(expression: Expression) -> dict[str, Any]:
    """Work out one arithmetic expression: + - * / % **, round, sqrt, ln, greatest, CASE, comparisons."""
    try:
        _refuse_more_than_arithmetic(expression)
        (value,) = evaluate({"value": expression}, _ONE_ROW)["value"].to_pylist()
    except PlanError as error:
        raise ValueError(error.what) from None
    return {"value": value}


def _refuse_more_than_arithmetic(expression: str) -> None:
    """Texts and lists can grow without end in a short expression, at the cost of every other row."""
    problem = parse(expression).problem
    if problem:
        raise ValueError(problem)
    for node in objects_of(tree_of(expression)):
        name = str(node.get("function_name", "")).lower()
        if node.get("class") == "LAMBDA" or (name and name not in ARITHMETIC):
            raise ValueError(f"{name or 'a lambda'} is no arithmetic")
