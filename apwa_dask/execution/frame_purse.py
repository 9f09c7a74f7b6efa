"""The budget of a lazy frame is kept in one place, wherever its graph is computed: here, on a cluster, or both at once.

That place is the cluster whose client the frame was made with, else this process. This process asks there too; one
that knows of no place makes no call. A frame that is made again, elsewhere or with another ceiling, takes along what
was paid for it.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Protocol

from pydantic import TypeAdapter

from apwa_dask.errors import BudgetError
from apwa_dask.execution.worker_loop import answered_on
from apwa_dask.models.budget import Budget
from apwa_dask.models.coordinator import Coordinator, LocalLease
from apwa_dask.models.leases import Funds, Money, MoneyFn, MoneyReport

__all__ = ["ClusterPurses", "FramePurses", "LocalPurses", "PursePlace"]

_FUNDS, _MONEY = TypeAdapter(Funds), TypeAdapter(Money)


class PursePlace(Protocol):
    """A coordinator, here or on a cluster's scheduler.

    Attributes
    ----------
    address : str
        Equal for two ways to one coordinator.
    """

    @property
    def address(self) -> str: ...

    def open(self, run_id: str, budget: Budget, spent: Money) -> None:
        """As `Coordinator.open_account`."""

    def close(self, run_id: str) -> Money:
        """As `Coordinator.close_account`."""

    def charge(self, run_id: str, used: Money, *, force: bool) -> Funds:
        """As `Coordinator.charge`."""

    async def fund(self, account: str, least: Money, wanted: Money, report: MoneyReport) -> Funds:
        """As `Coordinator.fund`, from the private loop."""


class LocalPurses:
    """Of this process."""

    address = ""

    def __init__(self, coordinator: Coordinator, holder: str) -> None:
        self._coordinator = coordinator
        self.fund = LocalLease(coordinator, holder).fund

    def open(self, run_id: str, budget: Budget, spent: Money) -> None:
        self._coordinator.open_account(run_id, budget, spent)

    def close(self, run_id: str) -> Money:
        return self._coordinator.close_account(run_id)

    def charge(self, run_id: str, used: Money, *, force: bool) -> Funds:
        return self._coordinator.charge(run_id, used, force=force)


class ClusterPurses:
    """Of a cluster, by way of a `distributed.Client`."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.address = str(client.scheduler.address)

    def open(self, run_id: str, budget: Budget, spent: Money) -> None:
        self._client.sync(
            self._client.scheduler.apwa_open,
            run_id=run_id,
            client=self._client.id,
            budget=budget.as_dict(),
            spent=asdict(spent),
        )

    def close(self, run_id: str) -> Money:
        if self._client.status != "running":
            # what its workers paid is in the journal; they were stopped when their client went
            return Money()
        closed = self._client.sync(self._client.scheduler.apwa_close, run_id=run_id)
        return _MONEY.validate_python(closed)

    def charge(self, run_id: str, used: Money, *, force: bool) -> Funds:
        charge = self._client.scheduler.apwa_charge
        return _FUNDS.validate_python(
            self._client.sync(charge, run_id=run_id, used=asdict(used), force=force)
        )

    async def fund(self, account: str, least: Money, wanted: Money, report: MoneyReport) -> Funds:
        if self._client.status not in ("running", "connecting"):
            raise BudgetError(
                "the budget of this lazy frame is kept by a cluster whose client is closed",
                where=account,
                fix="make the frame again with to_dask(), here or with client=...: paid answers cost nothing",
                saved="all answers so far",
                code="BUDGET-ACCOUNT",
            )

        async def ask() -> Any:
            return await self._client.scheduler.apwa_fund(
                holder=self._client.id,
                account=account,
                least=asdict(least),
                wanted=asdict(wanted),
                report=asdict(report),
            )

        return _FUNDS.validate_python(await answered_on(self._client.loop.asyncio_loop, ask))


class FramePurses:
    """Where the money of the lazy frames is that were made in this process."""

    def __init__(self) -> None:
        self._places: dict[str, PursePlace] = {}

    def keep(self, place: PursePlace, run_id: str, budget: Budget, paid: Money) -> None:
        """Give a frame its purse in `place`, and close the one that it had elsewhere.

        Parameters
        ----------
        paid : Money
            For the frame so far, by the journal.
        """
        before = self._places.get(run_id)
        if before is not None and before.address != place.address:
            paid = paid.at_least(before.close(run_id))
        place.open(run_id, budget, paid)
        self._places[run_id] = place

    def fund_for(self, run_id: str) -> MoneyFn | None:
        """A frame's way to its money; None for any other run."""
        return self._fund if run_id in self._places else None

    async def _fund(self, account: str, least: Money, wanted: Money, report: MoneyReport) -> Funds:
        """Looked up for each question: the purse may move while the frame is computed."""
        return await self._places[account].fund(account, least, wanted, report)
