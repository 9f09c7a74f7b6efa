"""One limit for the whole cluster: fair shares of concurrency, one pace, one pause, one purse. Pure and
synchronous.

The same object serves a single process directly, and a cluster from inside the scheduler: processes
("holders") lease blocks, never single permits. Nothing here awaits, and the clock is injected.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from apwa_dask.models.budget import Budget
from apwa_dask.models.lanes import Lane
from apwa_dask.models.leases import Funds, Grant, Money, MoneyReport, Notice, Report, Want
from apwa_dask.models.purses import Purses

__all__ = ["Coordinator", "LocalLease"]

HOLDERS_PER_RENEWAL_SECOND = 200
"""One lease costs about 0.3 ms of a scheduler's CPU: at this density renewals take at most 6 % of it."""


class Coordinator:
    """Leases capacity and money to holders.

    Parameters
    ----------
    clock : callable
        Monotonic seconds.
    expires_s : float
        A holder that is silent for so long loses its share; for so long a holder can work while we are
        silent.
    tell : callable, optional
        ``tell(notice, holders)`` carries to all holders but the one that asks what must not wait for their
        renewals.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        expires_s: float = 15.0,
        tell: Callable[[Notice, list[str]], None] | None = None,
    ) -> None:
        self._clock = clock
        self._tell = tell
        self._expires_s = expires_s
        self._lanes: dict[str, Lane] = {}
        self._purses = Purses()
        self._stops: dict[str, str] = {}

    # -- capacity

    def lease(self, holder: str, gate_key: str, want: Want, report: Report) -> Grant:
        """Take in what happened at a holder's gate, and grant it the next block."""
        now = self._clock()
        lane = self._lanes.setdefault(gate_key, Lane())
        mine = lane.holder(holder, now)
        if lane.is_late(mine, want):
            return Grant(concurrency=0, requests=0, tokens=0)
        mine.expires_s = now + self._expires_s
        is_repeated = lane.is_repeated(mine, want)
        news = lane.learn(report.beyond(mine.booked) if is_repeated else report, now)
        share = lane.shares.lease(holder, want, now)
        wanted = want if share else _without_permits(want)
        permits = lane.again(mine, wanted, now) if is_repeated else None
        permits = permits or lane.permits(mine, wanted, now)
        lane.keep(mine, want, report, permits, now)
        pause_s = max(0.0, lane.pause_until_s - now)
        if news and self._tell is not None:
            self._tell(Notice(gate_key, pause_s, lane.penalties), [h for h in lane.holders if h != holder])
        self._call(gate_key, lane, holder, now)
        return Grant(
            concurrency=share,
            requests=permits.requests,
            tokens=permits.tokens,
            start_in_s=permits.start_in_s,
            paced=permits.paced,
            requests_per_s=permits.requests_per_s,
            tokens_per_s=permits.tokens_per_s,
            epoch=lane.epoch,
            pause_s=pause_s,
            penalties=lane.penalties,
            renew_s=self._renew_s(lane, permits.ask_in_s, lane.shares.ask_in_s(holder)),
            expires_s=self._expires_s,
            stop=self._stops.get(gate_key, ""),
            answered=lane.answered,
            holders=len(lane.holders),
            counts_most=lane.accounting.counts_most,
        )

    def release_holder(self, holder: str, *, is_leaving: bool = True) -> None:
        """A process is gone: its share returns, and money it had not accounted for counts as spent.

        Parameters
        ----------
        is_leaving : bool
            It was sent away alive, and may give money back when it has drained: who needs it waits a while. Of one
            that died nothing is waited for.
        """
        for gate_key, lane in self._lanes.items():
            if holder in lane.holders:
                lane.forget(holder)
                self._call(gate_key, lane, holder, self._clock())
        self._purses.release(holder, self._clock(), is_leaving=is_leaving)

    def stop(self, gate_key: str, why: str) -> None:
        """Carry a reason to stop to every holder of a gate; an empty reason takes it back."""
        self._stops[gate_key] = why

    def in_flight_share(self, gate_key: str) -> dict[str, int]:
        """Shares as they stand, for a status page."""
        lane = self._lanes.get(gate_key, Lane())
        return {name: part.share for name, part in lane.shares.parts.items()}

    def _call(self, gate_key: str, lane: Lane, asking: str, now: float) -> None:
        """Who holds what others wait for, or waits for what is free, need not wait for its renewal."""
        if self._tell is None:
            return
        pause_s = max(0.0, lane.pause_until_s - now)
        for name, share in lane.shares.calls(asking, now):
            self._tell(Notice(gate_key, pause_s, lane.penalties, share), [name])

    def _renew_s(self, lane: Lane, *sooner_s: float | None) -> float:
        """About a second, so that a pause, a penalty or a newcomer reaches all in time."""
        usual_s = min(self._expires_s / 3, max(1.0, len(lane.holders) / HOLDERS_PER_RENEWAL_SECOND))
        return min((seconds for seconds in sooner_s if seconds is not None), default=usual_s)

    # -- money

    def open_account(self, account: str, budget: Budget, spent: Money | None = None) -> None:
        """Give a run its purse.

        Opening it again (a second client, a resume) does not fill it again, but a changed budget counts from
        now on, for all that the run has spent.

        Parameters
        ----------
        account : str
            The run's id.
        spent : Money, optional
            What the run has spent, by its ledger: before this coordinator knew it, or without a ceiling.
        """
        self._purses.open(account, budget, spent or Money())

    def close_account(self, account: str) -> Money:
        """Lend nothing more to a run; what it has spent, with all that its wallets hold: they may spend that still."""
        return self._purses.close(account)

    def forget_holder(self, holder: str) -> None:
        """A process is gone that may come back, as a client does: the money that it held counts as spent."""
        self._purses.forget(holder)

    def fund(self, holder: str, account: str, least: Money, wanted: Money, report: MoneyReport) -> Funds:
        """Book what a holder spent and returned; lease it `wanted` if there is plenty, else `least`."""
        return self._purses.fund(holder, account, least, wanted, report, self._clock())

    def charge(self, account: str, used: Money, *, force: bool) -> Funds:
        """Book all that a run without holders has used, as batches are; see `Purses.charge`."""
        return self._purses.charge(account, used, self._clock(), force=force)

    def spent(self, account: str) -> Money:
        """Settled, plus what dead holders left unaccounted for."""
        return self._purses.spent(account)


class LocalLease:
    """One holder's way to a coordinator in the same process: the calls of a cluster without a wire."""

    def __init__(self, coordinator: Coordinator, holder: str = "local") -> None:
        self.coordinator, self.holder = coordinator, holder

    async def lease(self, gate_key: str, want: Want, report: Report) -> Grant:
        """See `Coordinator.lease`."""
        return self.coordinator.lease(self.holder, gate_key, want, report)

    async def fund(self, account: str, least: Money, wanted: Money, report: MoneyReport) -> Funds:
        """See `Coordinator.fund`."""
        return self.coordinator.fund(self.holder, account, least, wanted, report)


def _without_permits(want: Want) -> Want:
    """Of a holder without a share: permits would lie idle."""
    return replace(want, concurrency=0, requests=0, tokens=0, hungry=False, tokens_per_call=0)
