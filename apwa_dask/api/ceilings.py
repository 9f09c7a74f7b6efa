"""A word about a large bill without a ceiling. A program is never asked, and not refused: the caller decides."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from apwa_dask import config
from apwa_dask.errors import BudgetWarning

__all__ = ["warn_without_ceiling"]


_PACKAGE = str(Path(__file__).parents[1])


def warn_without_ceiling(estimate: Mapping[str, Any] | None, budget: Mapping[str, Any] | None) -> None:
    """Warn where the high estimate is above ``apwa.budget-required-above-usd`` and no ceiling is set.

    Parameters
    ----------
    estimate : mapping, optional
        Plain data of an `Estimate`; None, or an unknown price, says nothing.
    budget : mapping
        Ceilings in USD, tokens or calls; any of them is one.
    """
    cost = None if estimate is None else estimate.get("cost_usd")
    ceilings = budget or {}
    if cost is None or any(ceilings.get(kind) is not None for kind in ("usd", "tokens", "calls")):
        return
    threshold_usd = config.get("budget-required-above-usd")
    if cost["high"] <= threshold_usd:
        return
    warnings.warn(
        f"this run may cost up to ${cost['high']:,.2f} and has no ceiling: give budget=..., in dollars "
        f"(above ${threshold_usd:,.2f}, the setting apwa.budget-required-above-usd)",
        BudgetWarning,
        stacklevel=_callers_level(),
    )


def _callers_level() -> int:
    """How far up the line is that is not this package's: `Table.run` and `ask` lead here too."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame, level = frame.f_back, level + 1
    return level
