"""The ceiling of a run, and the purse that keeps it: reserve before a call, settle after it."""

from __future__ import annotations

import asyncio
import copy
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from apwa_dask.errors import BudgetError, ConfigError
from apwa_dask.models.leases import Funds, Money, MoneyFn, MoneyReport
from apwa_dask.models.types import OutcomeClass, Usage

__all__ = ["Budget", "Tally", "Wallet"]

INFINITE = float("inf")

BLOCK_CALLS, BLOCK_S = 64, 5.0
"""A process leases money for so many calls at a time, or for those of so many seconds, whichever is more."""

IDLE_S = 1.0
"""A process without a call in flight gives its money back after so long."""

RECHECK_S = 0.5
"""How often to ask again while other processes hold money that may come back."""

SILENCES = 8
"""Questions in a row without an answer, at growing intervals; then the coordinator is gone, or counts us as gone."""


@dataclass(frozen=True, slots=True)
class Budget:
    """Ceilings of a run; None is no ceiling.

    Parameters
    ----------
    usd : float, optional
        US dollars, by the price of each model.
    tokens : int, optional
        Input and output together.
    calls : int, optional
        Requests, retries included.
    name : str
        Runs that give the same name spend from one purse, whichever clients of the process or cluster they
        belong to; the latest ceilings count. Without a name a budget is for one run.

    Examples
    --------
    >>> Budget.of(5)
    Budget(usd=5.0, tokens=None, calls=None, name='')
    """

    usd: float | None = None
    tokens: int | None = None
    calls: int | None = None
    name: str = ""

    def __post_init__(self) -> None:
        for name in ("usd", "tokens", "calls"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                fix = "a number >= 0, or None for no ceiling"
                raise ConfigError(f"{name}={value!r} is no budget", fix=fix, code="CONFIG-BUDGET")

    @classmethod
    def of(cls, budget: Budget | float | None) -> Budget:
        """A budget from what users write: dollars, a `Budget`, or None."""
        if budget is None:
            return cls()
        if isinstance(budget, Budget):
            return budget
        if isinstance(budget, bool) or not isinstance(budget, int | float):
            fix = "budget=5.00 (US dollars), or Budget(usd=..., tokens=..., calls=...)"
            raise ConfigError("a budget is a number of US dollars or a Budget", fix=fix, code="CONFIG-BUDGET")
        return cls(usd=float(budget))

    @property
    def limited(self) -> tuple[bool, bool, bool]:
        """Which of usd, tokens and calls have a ceiling."""
        return self.usd is not None, self.tokens is not None, self.calls is not None

    @property
    def money(self) -> Money:
        """The amounts, zero where there is no ceiling."""
        return Money(self.usd or 0.0, self.tokens or 0, self.calls or 0)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for specs and manifests."""
        return {"usd": self.usd, "tokens": self.tokens, "calls": self.calls, "name": self.name}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Budget:
        """Inverse of `as_dict`; what is missing has no ceiling."""
        return cls(**data)

    def __bool__(self) -> bool:
        return any(self.limited)


@dataclass(slots=True)
class Tally:
    """What calls of one step, model and outcome came to. ``unpriced_calls`` are not in ``cost_usd``."""

    calls: int = 0
    attempts: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cost_usd: float = 0.0
    unpriced_calls: int = 0
    estimated_calls: int = 0

    def add(self, usage: Usage, cost_usd: float | None, attempts: int) -> None:
        """Count one call with all its attempts."""
        self.calls += 1
        self.attempts += attempts
        self.input_tokens += usage.input
        self.output_tokens += usage.output
        self.cached_tokens += usage.cached
        self.estimated_calls += usage.estimated
        if cost_usd is None:
            self.unpriced_calls += 1
        else:
            self.cost_usd += cost_usd


class Wallet:
    """A run's money in one process, drawn in blocks from the run's account.

    Spending stays within the budget plus what calls in flight come to beyond their reservation. Made and used
    on one event loop.

    Parameters
    ----------
    budget : Budget
        All None: nothing is reserved, only counted.
    account : str
        The run's id.
    fund : callable, optional
        Way to the coordinator; without it the whole budget is in this wallet.
    """

    def __init__(self, budget: Budget = Budget(), *, account: str = "", fund: MoneyFn | None = None) -> None:
        self.budget = budget
        self.limited = bool(budget)
        self.totals: dict[tuple[str, str, OutcomeClass], Tally] = {}
        self.account = account
        self._fund = fund
        self._have = Money() if fund is not None else budget.money
        self._granted = self._spent = self._returned = Money()
        """In all, of what the coordinator is told and tells."""
        self._series, self._number, self._heard = secrets.randbits(60), 0, 0
        self._silences = 0
        self._reserved_calls = 0
        self._taken, self._taken_before, self._asked_s = 0, 0, -INFINITE
        self._low = Money()
        """With less than this at hand, more is asked for ahead of need."""
        self._queue = asyncio.Lock()
        self._settled = asyncio.Event()
        self._exhausted: BudgetError | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._returning: asyncio.Task[None] | None = None
        self._asking: asyncio.Future[Funds | None] | None = None

    @property
    def spent(self) -> Money:
        """What all calls that ended have come to; those without a price count as nothing in ``usd``."""
        tallies = self.totals.values()
        return Money(
            sum(tally.cost_usd for tally in tallies),
            sum(tally.input_tokens + tally.output_tokens for tally in tallies),
            sum(tally.attempts for tally in tallies),
        )

    # -- reserving

    def try_reserve(self, money: Money) -> bool:
        """Reserve at once, if the money is at hand and nobody waits for it."""
        if self._exhausted is not None or self._queue.locked() or not self._covers(money):
            return False
        self._take(money)
        return True

    def try_replace(self, reserved: Money, money: Money) -> bool:
        """Reserve this much in place of `reserved`, if what is missing is at hand."""
        # a nanodollar for rounding: what was just reserved must not be refused, or its call would try for ever
        if not self._covers(money - reserved - Money(1e-9)):
            return False
        self._have = self._have + reserved - money
        return True

    async def reserve(self, money: Money) -> None:
        """Reserve, waiting for money of calls in flight to come back where that is all there is.

        Raises
        ------
        BudgetError
            When it is not there and will not come back. The run can be resumed with a larger budget.
        """
        async with self._queue:
            while True:
                if self._exhausted is not None:
                    raise copy.copy(self._exhausted)
                if self._covers(money) or await self._refill(money):
                    self._take(money)
                    return

    async def _refill(self, money: Money) -> bool:
        """One step towards having this much; False to look again after it."""
        may_return = False
        if self._is_asking:
            assert self._asking is not None
            await asyncio.wait([self._asking])
            return False
        if self._fund is not None:
            # A question once asked is seen through, or the money granted in answer would be lost to everyone.
            self._asking = asyncio.ensure_future(self._ask(money))
            funds = await asyncio.shield(self._asking)
            if funds is not None and funds.enough:
                return self._covers(money)
            may_return = funds is None or funds.may_return
        if self._reserved_calls:
            self._settled.clear()
            await self._settled.wait()
        elif may_return:
            await asyncio.sleep(RECHECK_S)
        else:
            self._exhausted = self._explain(money)
        return False

    async def _ask(self, money: Money, *, needed: bool = True) -> Funds | None:
        """Report, and lease a block of calls like this one, where `needed` at least the one; None while the
        coordinator does not answer.
        """
        assert self._fund is not None
        # Two processes that each hold a part of what they need must not wait for each other.
        report = self._report(returning=not self._reserved_calls)
        missing = (money - self._have).at_least(Money()) if needed else Money()
        try:
            funds = await self._fund(self.account, missing, money.times(self._block_calls()), report)
        except OSError:
            self._silences += 1
            self._return_later()
            return None
        self._silences = 0
        if report.number > self._heard:
            self._heard = report.number
            self._have += funds.granted - self._granted
            self._granted = funds.granted
            self._low = self._have.times(0.5)
            self._return_later()  # who asked may wait for it no more
        return funds

    @property
    def _is_asking(self) -> bool:
        return self._asking is not None and not self._asking.done()

    def _ask_ahead(self, money: Money) -> None:
        """Ask before the money is gone: no call waits for an answer, nor for a coordinator that stalls."""
        self._low = Money()  # once
        self._asking = asyncio.ensure_future(self._ask(money, needed=False))
        self._asking.add_done_callback(_heard_by_who_needs_it)

    def _block_calls(self) -> int:
        """As many as were begun since the last question, in `BLOCK_S`."""
        now_s, taken = asyncio.get_running_loop().time(), self._taken - self._taken_before
        since_s = max(now_s - self._asked_s, 1.0)
        self._asked_s, self._taken_before = now_s, self._taken
        return max(BLOCK_CALLS, int(taken * BLOCK_S / since_s))

    def settle(self, reserved: Money, actual: Money) -> None:
        """Replace a reservation by what the call really came to."""
        self._reserved_calls -= 1
        self._spent += actual
        self._have = self._have + reserved - actual
        self._settled.set()
        if self._fund is not None and not self._reserved_calls and self._idle is None:
            self._idle = asyncio.get_running_loop().call_later(IDLE_S, self._return_soon)

    def book(
        self,
        step_id: str,
        model: str,
        outcome: OutcomeClass,
        usage: Usage,
        cost_usd: float | None,
        attempts: int,
    ) -> None:
        """Enter one call into the totals, whatever its outcome."""
        key = (step_id, model, outcome)
        tally = self.totals.get(key)
        if tally is None:
            tally = self.totals[key] = Tally()
        tally.add(usage, cost_usd, attempts)

    async def close(self) -> None:
        """Return what is not used to the account, and report what is."""
        if self._fund is None or not self.limited:
            return
        if self._idle is not None:
            self._idle.cancel()
        for question in (self._asking, self._returning):
            if question is not None:
                await question
        await self._return()

    def _return_later(self) -> None:
        """What nobody uses goes back, and what the coordinator has not heard is told again."""
        owes = 0 < self._silences <= SILENCES or (not self._silences and self._have.is_something)
        if owes and self._idle is None:
            wait_s = IDLE_S * 2**self._silences
            self._idle = asyncio.get_running_loop().call_later(wait_s, self._return_soon)

    def _return_soon(self) -> None:
        self._idle = None
        if not self._reserved_calls and (self._returning is None or self._returning.done()):
            self._returning = asyncio.create_task(self._return())

    async def _return(self) -> None:
        """Give back what is not in use: others may wait for it."""
        if self._fund is None or self._queue.locked() or self._is_asking:
            return  # who waits for money asks, and returns before that; who has asked returns after it
        try:
            await self._ask(Money())
        except BudgetError:
            return  # nobody keeps the account any more

    def _report(self, *, returning: bool) -> MoneyReport:
        self._number += 1
        if returning:
            self._returned = self._returned.at_least(self._granted - self._spent)
            self._have = self._granted - self._spent - self._returned
        return MoneyReport(self._spent, self._returned, self._granted, self._series, self._number)

    def _covers(self, money: Money) -> bool:
        usd, tokens, calls = self.budget.limited
        have = self._have
        return (
            (not usd or money.usd <= have.usd + 1e-12)
            and (not tokens or money.tokens <= have.tokens)
            and (not calls or money.calls <= have.calls)
        )

    def _take(self, money: Money) -> None:
        self._have -= money
        self._reserved_calls += 1
        self._taken += 1
        if self._fund is not None and not self._covers(self._low) and not self._is_asking:
            self._ask_ahead(money)

    def _explain(self, money: Money) -> BudgetError:
        budget, spent = self.budget, self.spent
        parts = []
        if budget.usd is not None:
            parts.append(f"{spent.usd:.4f} of {budget.usd:.4f} USD (the next call may need {money.usd:.4f})")
        if budget.tokens is not None:
            parts.append(f"{spent.tokens} of {budget.tokens} tokens (the next call may need {money.tokens})")
        if budget.calls is not None:
            parts.append(f"{spent.calls} of {budget.calls} calls")
        return BudgetError(
            "the budget is used up",
            why="spent by this process: " + ", ".join(parts),
            fix="resume the run with a larger budget: finished rows are not paid again",
            saved="all answers so far",
            code="BUDGET-REACHED",
        )


def _heard_by_who_needs_it(asking: asyncio.Future[Funds | None]) -> None:
    """What went wrong with a question ahead of need goes wrong again, and is told, when there is need."""
    if not asking.cancelled():
        asking.exception()
