"""One limit for the whole cluster: fair shares of concurrency, one pace, one pause, one purse. Pure and
synchronous.

The same object serves a single process directly, and a cluster from inside the scheduler: processes
("holders") lease blocks, never single permits. Nothing here awaits, and the clock is injected.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from apwa_dask.errors import BudgetError
from apwa_dask.models.budget import Budget
from apwa_dask.models.lanes import Lane
from apwa_dask.models.leases import Funds, Grant, Money, MoneyReport, Notice, Report, Want

__all__ = ["Coordinator", "LocalLease"]

HOLDERS_PER_RENEWAL_SECOND = 200
"""One lease costs about 0.3 ms of a scheduler's CPU: at this density renewals take at most 6 % of it."""


@dataclass(slots=True)
class _Account:
    """The money of one run, or of all runs that name one budget.

    ``leased`` is what each holder has for each run, and has not reported as spent.
    """

    budget: Budget
    left: Money
    spent: Money = field(default_factory=Money)
    leased: dict[tuple[str, str], Money] = field(default_factory=dict)


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
        self._accounts: dict[str, _Account] = {}
        self._shared: dict[str, _Account] = {}
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

    def release_holder(self, holder: str) -> None:
        """A process is gone: its share returns, and money it had not accounted for counts as spent."""
        for gate_key, lane in self._lanes.items():
            if holder in lane.holders:
                lane.forget(holder)
                self._call(gate_key, lane, holder, self._clock())
        for account in self._accounts.values():
            for key in [key for key in account.leased if key[0] == holder]:
                account.spent += account.leased.pop(key)

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
        now on.

        Parameters
        ----------
        account : str
            The run's id.
        spent : Money, optional
            What the run spent before this coordinator knew it, from its ledger.
        """
        known, before = self._accounts.get(account), spent or Money()
        if known is None and budget.name in self._shared:
            known = self._accounts[account] = self._shared[budget.name]
            known.left -= before
            known.spent += before
        if known is None:
            known = self._accounts[account] = _Account(budget, budget.money - before, before)
            if budget.name:
                self._shared[budget.name] = known
            return
        known.left += budget.money - known.budget.money
        known.budget = budget

    def fund(self, holder: str, account: str, least: Money, wanted: Money, report: MoneyReport) -> Funds:
        """Book what a holder spent and returned; lease it `wanted` if there is plenty, else `least`."""
        purse = self._accounts.get(account)
        if purse is None:
            raise BudgetError(
                "the run's money is not known to the coordinator",
                why="the scheduler was restarted, or the run was never opened here",
                fix="resume the run",
                code="BUDGET-ACCOUNT",
            )
        leased = purse.leased.get((holder, account), Money())
        purse.spent += report.spent
        purse.left += report.returned
        leased = leased - report.spent - report.returned
        granted = _affordable(purse, least, wanted, holders=len(purse.leased) or 1)
        enough = granted is not None
        if granted is not None:
            purse.left -= granted
            leased += granted
        purse.leased[holder, account] = leased
        others = any(_holds(money) for key, money in purse.leased.items() if key != (holder, account))
        return Funds(granted or Money(), enough, others, purse.left)

    def spent(self, account: str) -> Money:
        """Settled, plus what dead holders left unaccounted for."""
        return self._accounts[account].spent


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


def _holds(money: Money) -> bool:
    """More than what rounding leaves."""
    return money.usd > 1e-9 or money.tokens > 0 or money.calls > 0


def _affordable(purse: _Account, least: Money, wanted: Money, holders: int) -> Money | None:
    """`wanted`, cut to half a fair share of what is left, so that its last is leased in small pieces."""
    usd, tokens, calls = purse.budget.limited
    parts = []
    for limited, left, lowest, desired in (
        (usd, purse.left.usd, least.usd, wanted.usd),
        (tokens, purse.left.tokens, least.tokens, wanted.tokens),
        (calls, purse.left.calls, least.calls, wanted.calls),
    ):
        if limited and lowest > left + 1e-12:
            return None
        parts.append(0.0 if not limited else max(lowest, min(desired, left / (2 * holders))))
    return Money(parts[0], int(parts[1]), int(parts[2]))
