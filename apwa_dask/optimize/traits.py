"""What rewrites may rely on, step by step. A kind of step that is not named here may do anything."""

from __future__ import annotations

from typing import Any

from apwa_dask.errors import PlanError
from apwa_dask.plans.expressions import columns_of
from apwa_dask.plans.steps import Assign, Filter, FlatMap, Limit, Map, Select, Where

__all__ = ["judges_rows_alone", "keeps_each_row", "reads", "written_over"]


def judges_rows_alone(step: Any) -> bool:
    """Whether taking rows out before the step changes nothing for the rows that stay.

    Agents that see several rows (packs, partitions, groups) are not trusted with it: a row can sway its
    neighbours.
    """
    if isinstance(step, (Map, Filter, FlatMap)):
        return step.contract.unit == "row"
    return isinstance(step, (Assign, Select, Where))


def keeps_each_row(step: Any) -> bool:
    """Whether each row comes out once and in its place (a row that fails too: with nulls)."""
    return isinstance(step, (Assign, Select)) or (isinstance(step, Map) and step.contract.unit == "row")


def reads(step: Any) -> set[str] | None:
    """Columns a step that moves needs; None where they are not known."""
    if isinstance(step, Where):
        try:
            return columns_of(step.condition)
        except PlanError:
            return None
    return set() if isinstance(step, Limit) else None


def written_over(step: Any) -> set[str] | None:
    """Columns that differ before and after the step, or exist on one side only; None: unknown."""
    if isinstance(step, (Map, FlatMap)):
        return set(step.contract.output.names)
    if isinstance(step, (Filter, Where)):
        return set()
    if isinstance(step, Assign):
        return set(step.columns)
    if isinstance(step, Select):
        return {name for pair in step.rename.items() for name in pair}
    return None
