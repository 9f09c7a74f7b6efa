"""The client of a run in this process: endpoints and gates belong to the process, the wallet to the run."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from weakref import WeakSet

from apwa_dask.execution.crew import resting
from apwa_dask.models.budget import Budget, Wallet
from apwa_dask.models.client import Client

if TYPE_CHECKING:
    from apwa_dask.execution.runtime import Runtime
    from apwa_dask.execution.spec import RunSpec

__all__ = ["client_for", "return_money"]

_WALLETS: WeakSet[Wallet] = WeakSet()
"""Of all runs of this process."""


def client_for(runtime: Runtime, run_id: str, spec: RunSpec) -> Client:
    """A client that spends from the run's budget, through this process's gates."""
    budget = Budget(**spec.budget)
    wallet = Wallet(budget, account=run_id, fund=runtime.fund_for(run_id, budget))
    _WALLETS.add(wallet)
    return Client(runtime.endpoints, wallet, resting=resting)


async def return_money() -> None:
    """Account for all that the wallets of this process were lent, and give the rest back. On their loop."""
    await asyncio.gather(*(wallet.close() for wallet in list(_WALLETS)), return_exceptions=True)
