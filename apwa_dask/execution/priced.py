"""Which models a plan calls, and so which prices a ceiling in dollars needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from apwa_dask.models.budget import Budget
from apwa_dask.models.model import Model
from apwa_dask.models.prices import require_prices
from apwa_dask.plans.plan import Plan
from apwa_dask.plans.steps import Join, Resolve

__all__ = ["asked_models", "kept_budget"]


def asked_models(plan: Plan, models: Mapping[str, Model]) -> list[Model]:
    """The models that steps of the plan call, each once.

    Parameters
    ----------
    plan : Plan
    models : mapping of str to Model
        By alias; the default under ``""``. An alias that is missing is for validation to name.
    """
    aliases = [step.contract.model or "" for step in plan.llm_steps]
    aliases += [step.embed for step in plan.steps if isinstance(step, Join | Resolve) and step.embed]
    return [models[alias] for alias in dict.fromkeys(aliases) if alias in models]


def kept_budget(budget: Budget | float, plan: Plan, models: Mapping[str, Model]) -> dict[str, Any]:
    """A ceiling as a run's spec holds it.

    Raises
    ------
    BudgetError
        It is in dollars, and the price of a model that the plan calls is unknown.
    """
    found = Budget.of(budget)
    require_prices(asked_models(plan, models), found.usd)
    return found.as_dict()
