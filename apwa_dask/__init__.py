"""Ask a question of your data in plain language; agents on Dask partitions answer it; you get a dataframe back.

The public names are loaded on first use, so that ``import apwa_dask`` stays quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "ApwaError": "errors",
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
    "plan": "api",
    "read": "api",
    "runs": "api",
}
__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
