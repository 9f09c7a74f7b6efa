"""The face: read tables, write or draft plans, run them. Imports the rooms; nothing imports it but the command line."""

from __future__ import annotations

from apwa_dask.api.asking import ask, load_plan, plan
from apwa_dask.api.kept import attach, purge, runs, sweep_lazy
from apwa_dask.api.planned import PlannedQuery
from apwa_dask.api.reading import from_dask, from_pandas, read
from apwa_dask.api.table import Table, TableSet

__all__ = [
    "PlannedQuery",
    "Table",
    "TableSet",
    "ask",
    "attach",
    "from_dask",
    "from_pandas",
    "load_plan",
    "plan",
    "purge",
    "read",
    "runs",
    "sweep_lazy",
]
