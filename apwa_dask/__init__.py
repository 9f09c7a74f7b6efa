"""Ask a question of your data in plain language; agents on Dask partitions answer; you get a dataframe back.

The public names are loaded on first use, so that ``import apwa_dask`` stays quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from apwa_dask import accessors

if TYPE_CHECKING:  # what `_HOME` says, for type checkers and editors
    from apwa_dask.agents.capabilities import capability as capability
    from apwa_dask.api import Table as Table
    from apwa_dask.api import ask as ask
    from apwa_dask.api import attach as attach
    from apwa_dask.api import from_dask as from_dask
    from apwa_dask.api import from_pandas as from_pandas
    from apwa_dask.api import load_plan as load_plan
    from apwa_dask.api import plan as plan
    from apwa_dask.api import purge as purge
    from apwa_dask.api import read as read
    from apwa_dask.api import runs as runs
    from apwa_dask.api import sweep_lazy as sweep_lazy
    from apwa_dask.errors import ApwaError as ApwaError
    from apwa_dask.execution.run import Run as Run
    from apwa_dask.models.batch_terms import BatchTerms as BatchTerms
    from apwa_dask.models.budget import Budget as Budget
    from apwa_dask.models.model import Model as Model
    from apwa_dask.models.model import Price as Price
    from apwa_dask.plans.plan import Plan as Plan
    from apwa_dask.plans.schema import Field as Field
    from apwa_dask.plans.schema import Schema as Schema

__version__ = "0.1.0"

_HOME = {
    "ApwaError": "errors",
    "BatchTerms": "models.batch_terms",
    "Budget": "models.budget",
    "Field": "plans.schema",
    "Model": "models.model",
    "Plan": "plans.plan",
    "Price": "models.model",
    "Run": "execution.run",
    "Schema": "plans.schema",
    "Table": "api",
    "ask": "api",
    "attach": "api",
    "capability": "agents.capabilities",
    "from_dask": "api",
    "from_pandas": "api",
    "load_plan": "api",
    "plan": "api",
    "purge": "api",
    "read": "api",
    "runs": "api",
    "sweep_lazy": "api",
}
__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)


accessors.register()
