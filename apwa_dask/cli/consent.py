"""Whether a run may start: no question where nobody can answer, no large bill without a ceiling."""

from __future__ import annotations

import sys
from typing import Any

import click

from apwa_dask import config
from apwa_dask.cli.contracts import Estimate, Planned
from apwa_dask.errors import BudgetError, ConfigError
from apwa_dask.observe.text import money_text

__all__ = ["agreed_budget", "can_ask", "check_prices"]


def can_ask() -> bool:
    """Somebody sits at both ends."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def check_prices(model: Any, budget_usd: float | None, planned: Planned | None = None) -> None:
    """Refuse ``--budget`` where it could not be kept, before anything is planned, asked or run.

    Parameters
    ----------
    model : Model, str or mapping, optional
        As in a run.
    budget_usd : float or None
        The ceiling as given.
    planned : Planned, optional
        Only the models that it calls are looked at; without one, the model that would draft it.

    Raises
    ------
    BudgetError
        A price is unknown.
    """
    if budget_usd is None:
        return
    from apwa_dask.execution.priced import asked_models
    from apwa_dask.models.defaults import resolve_models
    from apwa_dask.models.prices import require_prices, with_prices

    found = resolve_models(config.get("model", None) if model is None else model)
    models = {alias: with_prices(one, config.get("prices")) for alias, one in found.items()}
    require_prices([models[""]] if planned is None else asked_models(planned.plan, models), budget_usd)


def agreed_budget(estimate: Estimate, budget_usd: float | None, *, yes: bool) -> float | None:
    """The ceiling to run under, after asking where somebody can answer.

    Raises
    ------
    ConfigError
        The estimate is above the setting ``apwa.budget-required-above-usd`` and there is no ``--budget``.
    BudgetError
        Even the low end of the estimate is above the budget.
    click.Abort
        The answer was no.
    """
    asking = can_ask() and not yes
    _check_affordable(estimate, budget_usd)
    high_usd = None if estimate.cost_usd is None else estimate.cost_usd.high
    threshold_usd = config.get("budget-required-above-usd")
    if budget_usd is None and high_usd is not None and high_usd > threshold_usd:
        needed = _ceiling_for(high_usd)
        if not asking:
            raise _needs_budget(high_usd, threshold_usd, needed)
        click.confirm(f"Run with a ceiling of {money_text(needed)}?", default=False, abort=True, err=True)
        return needed
    if asking:
        click.confirm("Run this plan?", default=True, abort=True, err=True)
    return budget_usd


def _check_affordable(estimate: Estimate, budget_usd: float | None) -> None:
    cost = estimate.cost_usd
    if budget_usd is None or cost is None or cost.low <= budget_usd:
        return
    raise BudgetError(
        f"the budget of {money_text(budget_usd)} is too small: at least {money_text(cost.low)} are needed",
        why=f"the estimate is {money_text(cost.low)} to {money_text(cost.high)}",
        fix=f"--budget {_ceiling_for(cost.high):g}, or fewer rows with --sample N, or a cheaper --model",
        saved="nothing was run or paid",
        code="BUDGET-ESTIMATE",
    )


def _needs_budget(high_usd: float, threshold_usd: float, needed_usd: float) -> ConfigError:
    return ConfigError(
        f"this run may cost up to {money_text(high_usd)} and has no ceiling",
        why=f"above {money_text(threshold_usd)} (apwa.budget-required-above-usd) a ceiling must be given",
        fix=f"--budget {needed_usd:g}",
        saved="nothing was run or paid",
        code="CONFIG-BUDGET",
    )


def _ceiling_for(high_usd: float) -> float:
    """The high estimate, rounded up to cents, so that the number printed is a number that works."""
    cents = int(high_usd * 100)
    return (cents + (cents < high_usd * 100)) / 100
