"""Apply the rules until none finds anything more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from apwa_dask.optimize.limit_first import limit_first
from apwa_dask.optimize.where_first import where_first
from apwa_dask.plans.infer import Catalog, infer
from apwa_dask.plans.plan import Plan

__all__ = ["RULES", "Optimized", "Rule", "optimize"]

Rule = Callable[[Plan, Catalog], tuple[Plan, str] | None]
"""One rewrite of a valid plan, with its reason; None where it does not apply. Each makes the plan earlier in
some sense that ends, so that applying rules ends too.
"""

RULES: tuple[Rule, ...] = (where_first, limit_first)


@dataclass(frozen=True, slots=True)
class Optimized:
    """A plan with the same result, and what was rewritten and why."""

    plan: Plan
    notes: tuple[str, ...] = ()


def optimize(plan: Plan, catalog: Catalog) -> Optimized:
    """Rewrite a valid plan into a cheaper one with the same rows, order and columns.

    Parameters
    ----------
    plan : Plan
        Valid for `catalog`.
    catalog : mapping of str to pyarrow.Schema

    Raises
    ------
    PlanError
        The plan is not valid.
    """
    promised = infer(plan, catalog)[plan.result]
    notes: list[str] = []
    found = _first(plan, catalog)
    while found is not None:
        plan, note = found
        notes.append(note)
        found = _first(plan, catalog)
    assert infer(plan, catalog)[plan.result].equals(promised), "a rewrite changed the result's columns"
    return Optimized(plan, tuple(notes))


def _first(plan: Plan, catalog: Catalog) -> tuple[Plan, str] | None:
    return next((found for rule in RULES if (found := rule(plan, catalog)) is not None), None)
