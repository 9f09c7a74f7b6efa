"""The money of a run in batches: reserved for each request, for hours, and settled when its batch has ended.

Only one process drives such a run, and it knows all that the run has used, found batches included. So it leases
nothing: where runs share a budget it says its total, at the place that keeps the budget, before it uses more.
"""

from __future__ import annotations

from apwa_dask.errors import BudgetError
from apwa_dask.execution.frame_purse import PursePlace
from apwa_dask.models.budget import BLOCK_CALLS, Budget
from apwa_dask.models.leases import Funds, Money

__all__ = ["BatchPurse"]

FREE = Money()


class BatchPurse:
    """A run's ceiling, and what is spent or may be spent of it.

    Parameters
    ----------
    budget : Budget
        With a name it is shared with the runs that name it too.
    run_id : str
    place : PursePlace
        Where shared budgets are kept. The run is known there.

    Attributes
    ----------
    spent, reserved : Money
        By requests that are answered, and for those that are in batches.
    """

    def __init__(self, budget: Budget, run_id: str, place: PursePlace) -> None:
        self.spent = self.reserved = FREE
        self._budget, self._run_id = budget, run_id
        self._place = place if budget.name else None
        self._charged = FREE
        self._funds = Funds(FREE, enough=True)

    @property
    def used(self) -> Money:
        """Spent or reserved."""
        return self.spent + self.reserved

    @property
    def may_return(self) -> bool:
        """Processes of other runs hold money that they may give back."""
        return self._place is not None and self._funds.may_return

    def reserve(self, money: Money) -> bool:
        """Set this much aside for a request, if it is there."""
        wanted = self.used + money
        if self._place is None:
            covered = _covers(self._budget, self._budget.money, wanted)
        else:
            covered = _covers(self._budget, self._charged, wanted) or self._is_lent(money)
        if covered:
            self.reserved += money
        return covered

    def found(self, spent: Money, reserved: Money) -> None:
        """Count what an earlier process has spent, and reserved for batches that are still at work."""
        self.spent += spent
        self.reserved += reserved
        self.say()

    def settle(self, reserved: Money, spent: Money) -> None:
        """A batch has ended: replace its reservation by what it came to."""
        self.spent += spent
        self.reserved -= reserved
        self.say()

    def leave(self, reserved: Money) -> None:
        """Nobody drives the run any more: of what was reserved this much is in batches that go on."""
        self.reserved = reserved
        self.say()

    def say(self) -> None:
        """Leave to others what is not used: nothing more is reserved for a while."""
        if self._place is not None and self._charged != self.used:
            self._charge(self.used, force=True)

    def used_up(self, needed: Money) -> BudgetError:
        """The error for a request that is not covered."""
        used, most, words = self.used, self._budget, "spent"
        if self._place is not None:
            used = (most.money - self._funds.left).at_least(FREE)
            words = "spent, or reserved for requests under way, by the runs that share it"
        parts = [
            f"{used_:{form}} of {most_:{form}} {unit} (the next request may need {need:{form}})"
            for used_, most_, need, form, unit in (
                (used.usd, most.usd, needed.usd, ".4f", "USD"),
                (used.tokens, most.tokens, needed.tokens, "", "tokens"),
                (used.calls, most.calls, needed.calls, "", "calls"),
            )
            if most_ is not None
        ]
        return BudgetError(
            "the budget is used up",
            why=f"{words}: " + ", ".join(parts),
            fix="resume the run with a larger budget: finished rows are not paid again",
            saved="all answers so far",
            code="BUDGET-REACHED",
        )

    def _is_lent(self, money: Money) -> bool:
        """Money for a block of such requests, so that not each is a question to a cluster; at least for this one."""
        return self._charge(self.used + money.times(BLOCK_CALLS)) or self._charge(self.used + money)

    def _charge(self, total: Money, *, force: bool = False) -> bool:
        assert self._place is not None
        try:
            self._funds = self._place.charge(self._run_id, total, force=force)
        except (OSError, BudgetError) as lost:
            if force:
                return False  # more is charged there than is used, or nothing: the next question tells
            if isinstance(lost, BudgetError):
                raise
            raise BudgetError(
                "the budget that this run shares with others cannot be asked for money",
                where=f"Budget(name={self._budget.name!r})",
                why=f"the cluster that keeps it does not answer ({type(lost).__name__})",
                fix="resume the run when the cluster is there again: batches at work are found",
                saved="all answers so far",
                code="BUDGET-ACCOUNT",
            ) from lost
        if self._funds.enough:
            self._charged = total
        return self._funds.enough


def _covers(budget: Budget, most: Money, used: Money) -> bool:
    usd, tokens, calls = budget.limited
    return (
        (not usd or used.usd <= most.usd + 1e-12)
        and (not tokens or used.tokens <= most.tokens)
        and (not calls or used.calls <= most.calls)
    )
