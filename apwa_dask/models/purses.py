"""The money of runs: leased to wallets in blocks, and kept in running totals. Pure: time is given.

A question may come twice, late, or never, and so may its answer. Wallets therefore tell all that they have ever spent
and returned, and hear all that they were ever granted: what one message did not bring the next one does, and nothing
is booked twice. At every moment the ceiling is what is left, what was paid, and what wallets hold.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from apwa_dask.errors import BudgetError
from apwa_dask.models.budget import Budget
from apwa_dask.models.leases import Funds, Money, MoneyReport

__all__ = ["Purses"]

FORGOTTEN_S = 600.0
"""A wallet that holds nothing and is silent for so long is forgotten; no message is under way for as long as that."""

LEAVING_S = 30.0
"""For so long others wait for what a process that is leaving may give back: it drains first."""

LOOK_S = 60.0

NOTHING = Money()

_WalletKey = tuple[str, str, int]
"""Holder, account, and the series of the wallet's questions."""


@dataclass(slots=True)
class _Lease:
    """One wallet, in totals since it was first heard of."""

    key: _WalletKey
    granted: Money
    spent: Money
    returned: Money
    number: int = 0
    heard_s: float = 0.0
    is_gone: bool = False
    """Its process has left: what it holds counts as spent, unless it says otherwise yet."""
    is_leaving: bool = False
    """It was sent away alive, and is expected to say what it did not spend."""

    @property
    def held(self) -> Money:
        """What it may still spend; below zero what calls have come to beyond their reservations."""
        return self.granted - self.spent - self.returned


@dataclass(slots=True)
class _Purse:
    """The money of one run, or of all runs that name one budget."""

    budget: Budget
    left: Money
    paid: dict[str, Money] = field(default_factory=dict)
    """By account: what its wallets have reported, and what those that are forgotten had left unaccounted for."""
    leases: dict[_WalletKey, _Lease] = field(default_factory=dict)
    holding: set[_WalletKey] = field(default_factory=set)
    """Those that have money and a process. Kept up to date: a question costs the same however many there are."""
    looked_s: float = 0.0

    @property
    def spent(self) -> Money:
        """By all accounts; what is with processes that are gone may all be spent."""
        lost = (lease.held.at_least(NOTHING) for lease in self.leases.values() if lease.is_gone)
        return sum(lost, sum(self.paid.values(), NOTHING))

    def accounted(self, account: str) -> Money:
        """What a run has paid, and what its wallets hold and may have paid by now."""
        held = (lease.held for key, lease in self.leases.items() if key[1] == account)
        return sum(held, self.paid.get(account, NOTHING))

    def allow(self, budget: Budget) -> None:
        """Change the ceiling."""
        self.left += budget.money - self.budget.money
        self.budget = budget

    def bring(self, account: str, spent: Money) -> None:
        """A run's own ledger says what it has spent: what is not accounted for here is booked now."""
        beyond = (spent - self.accounted(account)).at_least(NOTHING)
        self.paid[account] = self.paid.get(account, NOTHING) + beyond
        self.left -= beyond

    def lease_of(self, key: _WalletKey, report: MoneyReport, now: float) -> _Lease:
        """A wallet that is not known begins with nothing: if it was forgotten, what it held was booked as spent."""
        if now - self.looked_s >= LOOK_S:
            self._look(now)
        known = self.leases.get(key)
        if known is None:
            known = _Lease(key, report.spent + report.returned, report.spent, report.returned)
            self.leases[key] = known
        known.heard_s = now
        return known

    def _look(self, now: float) -> None:
        self.looked_s = now
        for key, lease in list(self.leases.items()):
            if now - lease.heard_s > FORGOTTEN_S and (lease.is_gone or not lease.held.is_something):
                self.forget(key)

    def forget(self, key: _WalletKey) -> None:
        """What the wallet holds counts as spent; if it is heard of again, it begins with nothing."""
        self.paid[key[1]] = self.paid.get(key[1], NOTHING) + self.leases.pop(key).held.at_least(NOTHING)
        self.holding.discard(key)

    def book(self, account: str, lease: _Lease, report: MoneyReport) -> None:
        """Take in a wallet's totals; what it spent beyond its leases comes out of what is left."""
        self.paid[account] = self.paid.get(account, NOTHING) + report.spent - lease.spent
        self.left += report.returned - lease.returned
        lease.number, lease.spent, lease.returned = report.number, report.spent, report.returned
        beyond = (NOTHING - lease.held).at_least(NOTHING)
        if beyond:
            self.grant(lease, beyond)
        else:
            self._count(lease)

    def grant(self, lease: _Lease, money: Money) -> None:
        self.left -= money
        lease.granted += money
        self._count(lease)

    def _count(self, lease: _Lease) -> None:
        if lease.held.is_something and not lease.is_gone:
            self.holding.add(lease.key)
        else:
            self.holding.discard(lease.key)

    def release(self, holder: str, now: float, *, is_leaving: bool) -> None:
        """Its process is gone."""
        for key, lease in self.leases.items():
            if key[0] == holder:
                lease.is_gone, lease.is_leaving, lease.heard_s = True, is_leaving, now
                self.holding.discard(key)

    def affordable(self, least: Money, wanted: Money, asking: _WalletKey) -> Money | None:
        """`wanted`, cut to half a fair share of what is left, so that its last is leased in small pieces; None
        where not even `least` is there.
        """
        holders = len(self.holding) + (asking not in self.holding)
        usd, tokens, calls = self.budget.limited
        parts = []
        for limited, left, lowest, desired in (
            (usd, self.left.usd, least.usd, wanted.usd),
            (tokens, self.left.tokens, least.tokens, wanted.tokens),
            (calls, self.left.calls, least.calls, wanted.calls),
        ):
            if limited and lowest > left + 1e-12:
                return None
            parts.append(0.0 if not limited else max(lowest, min(desired, left / (2 * holders))))
        return Money(parts[0], int(parts[1]), int(parts[2]))

    def has(self, more: Money) -> bool:
        """This much is left."""
        usd, tokens, calls = self.budget.limited
        return (
            (not usd or more.usd <= max(0.0, self.left.usd) + 1e-12)
            and (not tokens or more.tokens <= max(0, self.left.tokens))
            and (not calls or more.calls <= max(0, self.left.calls))
        )

    def others_hold(self, asking: _WalletKey, now: float) -> bool:
        """Money that may come back."""
        if len(self.holding) > (asking in self.holding):
            return True
        return any(
            lease.is_leaving and now - lease.heard_s <= LEAVING_S and lease.held.is_something
            for key, lease in self.leases.items()
            if key != asking
        )


class Purses:
    """The purses of all runs that a coordinator knows."""

    def __init__(self) -> None:
        self._of: dict[str, _Purse] = {}
        self._shared: dict[str, _Purse] = {}

    def open(self, account: str, budget: Budget, spent: Money) -> None:
        """Give a run its purse, or change the ceiling of the one that it has."""
        purse, before = self._of.get(account), spent
        if purse is not None and purse.budget.name != budget.name:
            before = purse.accounted(account).at_least(spent)
            purse = None
        if purse is None:
            purse = self._shared.get(budget.name) if budget.name else None
        if purse is None:
            purse = _Purse(budget, budget.money)
            if budget.name:
                self._shared[budget.name] = purse
        self._of[account] = purse
        purse.allow(budget)
        purse.bring(account, before)

    def fund(
        self, holder: str, account: str, least: Money, wanted: Money, report: MoneyReport, now: float
    ) -> Funds:
        """Book what a wallet has spent and returned; lease it `wanted` if there is plenty, else `least`.

        Raises
        ------
        BudgetError
            The run was never opened here.
        """
        purse = self._known(account)
        key = (holder, account, report.series)
        if key not in purse.leases and not least and report.held.is_something:
            # It was forgotten, or comes from another coordinator: what it holds is counted as spent, and may be.
            return Funds(report.granted, enough=False, may_return=True, left=purse.left)
        lease = purse.lease_of(key, report, now)
        if 0 < report.number <= lease.number:  # its successor was here before it: nobody waits for it
            return Funds(lease.granted, enough=False, may_return=True, left=purse.left)
        purse.book(account, lease, report)
        if lease.is_gone:
            return Funds(lease.granted, enough=False, may_return=True, left=purse.left)
        unheard = lease.granted - report.granted
        least, wanted = (least - unheard).at_least(NOTHING), (wanted - unheard).at_least(NOTHING)
        granted = purse.affordable(least, wanted, key)
        if granted is not None:
            purse.grant(lease, granted)
        return Funds(lease.granted, granted is not None, purse.others_hold(key, now), purse.left)

    def charge(self, account: str, used: Money, now: float, *, force: bool) -> Funds:
        """A run without wallets says all that it has used so far, and will have used after its next step.

        Totals, so that to say it twice changes nothing. Where more is used than is left nothing is booked, unless
        `force`: it is spent already.

        Raises
        ------
        BudgetError
            The run was never opened here.
        """
        purse = self._known(account)
        enough = force or purse.has(used - purse.paid.get(account, NOTHING))
        if enough:
            purse.left -= used - purse.paid.get(account, NOTHING)
            purse.paid[account] = used
        return Funds(used, enough, purse.others_hold(("", account, 0), now), purse.left)

    def _known(self, account: str) -> _Purse:
        purse = self._of.get(account)
        if purse is None:
            raise BudgetError(
                "the run's money is not known to the coordinator",
                why="the scheduler was restarted, or the run was never opened here: a lazy frame spends its budget "
                "through the process that made it, or through the cluster of the client it was made with",
                fix="resume the run; make a lazy frame again with to_dask(), here or with client=...",
                saved="all answers so far: they are not paid again",
                code="BUDGET-ACCOUNT",
            )
        return purse

    def release(self, holder: str, now: float, *, is_leaving: bool = True) -> None:
        """A process is gone. What it may still say is booked; others wait for that where it `is_leaving` alive."""
        for purse in {id(purse): purse for purse in self._of.values()}.values():
            purse.release(holder, now, is_leaving=is_leaving)

    def forget(self, holder: str) -> None:
        """Drop the wallets of a process; what they held counts as spent."""
        for purse in self._of.values():
            for key in [key for key in purse.leases if key[0] == holder]:
                purse.forget(key)

    def close(self, account: str) -> Money:
        """Lend nothing more to a run; what it has spent, with all that its wallets hold."""
        purse = self._of.pop(account, None)
        if purse is None:
            return NOTHING
        for key in [key for key in purse.leases if key[1] == account]:
            purse.forget(key)
        return purse.paid.get(account, NOTHING)

    def spent(self, account: str) -> Money:
        """Of the run's purse: settled, plus what dead holders left unaccounted for."""
        return self._of[account].spent
