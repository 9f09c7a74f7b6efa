"""The client of a run in this process: endpoints and gates belong to the process, the wallet to the run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apwa_dask.execution.crew import resting
from apwa_dask.models.budget import Budget, Wallet
from apwa_dask.models.client import Client

if TYPE_CHECKING:
    from apwa_dask.execution.runtime import Runtime
    from apwa_dask.execution.spec import RunSpec

__all__ = ["client_for"]


def client_for(runtime: Runtime, run_id: str, spec: RunSpec) -> Client:
    """A client that spends from the run's budget, through this process's gates."""
    budget = Budget(**spec.budget)
    wallet = Wallet(budget, account=run_id, fund=runtime.fund_for(run_id, budget))
    return Client(runtime.endpoints, wallet, resting=resting)
