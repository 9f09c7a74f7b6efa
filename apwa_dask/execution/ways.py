"""A process's ways to its coordinator. They are looked up for each question: workers that live in a client's process
come and go, and their ways with them.
"""

from __future__ import annotations

from apwa_dask.execution.frame_purse import FramePurses, LocalPurses
from apwa_dask.execution.sharing import ClaimFn
from apwa_dask.models.budget import Budget
from apwa_dask.models.coordinator import Coordinator, LocalLease
from apwa_dask.models.leases import Funds, Grant, LeaseFn, Money, MoneyFn, MoneyReport, Report, Want

__all__ = ["Ways"]


class Ways:
    """To the scheduler's coordinator on a cluster, else to the one of this process.

    Parameters
    ----------
    holder : str
        What this process is called where it leases from its own coordinator.

    Attributes
    ----------
    lease, fund, claim : callable, optional
        Set on Dask workers: to the scheduler, about capacity, money, and which requests are sent here.
    own : set of str
        Runs of this process without a cluster: whatever cluster lives in it too, their money is here, and they stay
        when its workers leave.
    """

    def __init__(self, holder: str) -> None:
        self.coordinator = Coordinator()
        self.purses = LocalPurses(self.coordinator, holder)
        self.frame_purses = FramePurses()
        self.own: set[str] = set()
        self.lease: LeaseFn | None = None
        self.fund: MoneyFn | None = None
        self.claim: ClaimFn | None = None
        self._here = LocalLease(self.coordinator, holder)

    def fund_for(self, run_id: str, budget: Budget) -> MoneyFn | None:
        """A run's way to its money: where its frame's purse is, else the cluster's account, else this process's."""
        if not budget:
            return None
        if run_id in self.own:
            return self.purses.fund
        return self.frame_purses.fund_for(run_id) or self._ask_for_money

    async def ask_for_capacity(self, gate_key: str, want: Want, report: Report) -> Grant:
        """See `Coordinator.lease`."""
        return await (self.lease or self._here.lease)(gate_key, want, report)

    async def ask_who_sends(self, room: str, asked: bytes, answered: bytes, dropped: bytes) -> bytes:
        """See `ClaimBook.exchange`.

        Raises
        ------
        ConnectionError
            No worker lives in this process any more.
        """
        if self.claim is None:
            raise ConnectionError("the worker of this process is gone")
        return await self.claim(room, asked, answered, dropped)

    async def _ask_for_money(self, account: str, least: Money, wanted: Money, report: MoneyReport) -> Funds:
        return await (self.fund or self.purses.fund)(account, least, wanted, report)
