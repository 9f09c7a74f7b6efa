"""The client of a run in this process: endpoints and gates belong to the process, the wallet to the run."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING
from weakref import WeakSet

from apwa_dask.execution.crew import resting
from apwa_dask.models.budget import Budget, Wallet
from apwa_dask.models.client import Client

if TYPE_CHECKING:
    from apwa_dask.execution.runtime import Runtime
    from apwa_dask.execution.spec import RunSpec

__all__ = ["client_for", "return_money"]

_logger = logging.getLogger(__name__)

_WALLETS: WeakSet[Wallet] = WeakSet()
"""Of all runs of this process."""


def client_for(runtime: Runtime, run_id: str, spec: RunSpec) -> Client:
    """A client that spends from the run's budget, through this process's gates."""
    budget = Budget(**spec.budget)
    wallet = Wallet(budget, account=run_id, fund=runtime.fund_for(run_id, budget))
    _WALLETS.add(wallet)
    return Client(runtime.endpoints, wallet, resting=resting)


async def return_money() -> None:
    """Account for all that the wallets of this process were lent, and give the rest back. On their loop.

    What one wallet cannot give back counts as spent, which is logged with the reason; the others give theirs back.
    """
    wallets = list(_WALLETS)
    for wallet, trouble in zip(wallets, await asyncio.gather(*map(_closed, wallets)), strict=True):
        if trouble:
            _logger.warning(
                "run %s: its unused money is not given back, and counts as spent: %s", wallet.account, trouble
            )


async def _closed(wallet: Wallet) -> str:
    """Close a wallet; why that failed, else nothing."""
    try:
        await wallet.close()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""
