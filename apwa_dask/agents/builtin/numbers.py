"""Arithmetic that a model should not do in its head: one SQL scalar expression without any column."""

from __future__ import annotations

from typing import Annotated, Any

import pyarrow as pa
from pydantic import Field

from apwa_dask.errors import PlanError
from apwa_dask.plans.expressions import evaluate

__all__ = ["calculate"]

_ONE_ROW = pa.table({"_": [True]})
Expression = Annotated[
    str, Field(min_length=1, max_length=500, description="such as round(19.99 * 3 / 1.19, 2)")
]


def calculate(expression: Expression) -> dict[str, Any]:
    """Work out one arithmetic expression: + - * / % **, round, sqrt, ln, greatest, CASE, comparisons."""
    try:
        (value,) = evaluate({"value": expression}, _ONE_ROW)["value"].to_pylist()
    except PlanError as error:
        raise ValueError(error.what) from None
    return {"value": value}
