"""The money of a run in batches: its own, or of a budget that other runs spend too."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import pytest

from apwa_dask.errors import BudgetError
from apwa_dask.execution.batch_asks import Ask
from apwa_dask.execution.batch_purse import BatchPurse
from apwa_dask.execution.batch_shards import reservation
from apwa_dask.execution.frame_purse import LocalPurses
from apwa_dask.models.budget import Budget, Wallet
from apwa_dask.models.coordinator import Coordinator
from apwa_dask.models.leases import Funds, Money
from apwa_dask.models.model import Price

ONE = Money(calls=1)
NOTHING = Money()
TEAM = Budget(calls=100, name="team")


class Place(LocalPurses):
    """Counts what it is asked."""

    def __init__(self) -> None:
        self.coordinator = Coordinator()
        self.questions = 0
        self.is_deaf = False
        super().__init__(self.coordinator, "here")

    def charge(self, run_id: str, used: Money, *, force: bool) -> Funds:
        self.questions += 1
        if self.is_deaf:
            raise ConnectionResetError
        return super().charge(run_id, used, force=force)

    def purse_of(self, run_id: str, budget: Budget = TEAM, spent: Money = NOTHING) -> BatchPurse:
        """Of a run that begins, or begins again."""
        self.open(run_id, budget, spent)
        return BatchPurse(budget, run_id, self)


def reserved(purse: BatchPurse, each: Money = ONE, most: int = 1000) -> int:
    """How many requests there is money for."""
    count = 0
    while count < most and purse.reserve(each):
        count += 1
    return count


@pytest.mark.parametrize("name", ["", "team"])
@pytest.mark.parametrize(
    ("budget", "covered"),
    [({"calls": 10}, 10), ({"tokens": 3_000}, 9), ({"usd": 0.00155}, 10), ({}, 1000)],
)
def test_each_currency_of_a_budget_bounds_what_is_sent(
    budget: dict[str, Any], covered: int, name: str
) -> None:
    ask = Ask(hashlib.sha256(b"0").digest(), "owner", "step", "", 100, b"x" * 400)
    each = reservation(ask, Price(1.0, 1.0))
    assert each == Money(pytest.approx(301 / 1e6 / 2), 301, 1)
    purse = Place().purse_of("run", Budget(**budget, name=name))
    assert reserved(purse, each) == covered


def test_what_one_run_reserves_another_cannot_and_what_it_did_not_spend_it_can() -> None:
    place = Place()
    one, other = place.purse_of("one"), place.purse_of("other")
    assert reserved(one, most=70) == 70
    one.say()
    assert reserved(other) == 30
    one.settle(Money(calls=70), Money(calls=40))
    assert reserved(other) == 30
    assert not one.reserve(ONE)
    assert "100 of 100 calls" in str(one.used_up(ONE))


def test_a_run_that_is_driven_again_finds_its_batches_paid_for_once() -> None:
    place = Place()
    before = place.purse_of("run")
    assert reserved(before, most=60) == 60
    before.leave(Money(calls=50))  # ten were never sent
    after = place.purse_of("run", spent=Money(calls=2))
    after.found(Money(calls=2), Money())
    after.found(Money(), Money(calls=50))
    assert reserved(place.purse_of("other")) == 48
    after.settle(Money(calls=50), Money(calls=50))
    assert place.coordinator.spent("run").calls == 100


def test_a_place_that_has_forgotten_everything_is_told_what_is_at_work() -> None:
    """The scheduler was restarted, or the run goes on elsewhere."""
    place = Place()
    purse = place.purse_of("run", spent=Money(calls=2))
    purse.found(Money(calls=2), Money())
    purse.found(Money(), Money(calls=150))  # made under another ceiling: it is spent already
    assert not purse.reserve(ONE)
    assert not place.purse_of("other").reserve(ONE)
    purse.settle(Money(calls=150), Money(calls=3))
    assert reserved(purse) == 95


def test_a_live_run_and_one_in_batches_share_to_the_last_call() -> None:
    place = Place()
    purse = place.purse_of("batches")
    place.open("live", TEAM, Money())
    assert reserved(purse, most=60) == 60
    purse.say()

    async def story() -> int:
        wallet, made = Wallet(TEAM, account="live", fund=place.fund), 0
        while True:
            try:
                await wallet.reserve(ONE)
            except BudgetError:
                return made
            wallet.settle(ONE, ONE)
            made += 1

    assert asyncio.run(story()) == 40


def test_what_processes_of_a_live_run_hold_may_come_back() -> None:
    place = Place()
    purse = place.purse_of("batches")
    place.open("live", TEAM, Money())

    async def story() -> None:
        wallet = Wallet(TEAM, account="live", fund=place.fund)
        await wallet.reserve(ONE)
        taken = reserved(purse)
        assert taken < 99
        assert purse.may_return
        wallet.settle(ONE, ONE)
        await wallet.close()
        assert taken + reserved(purse) == 99
        assert not purse.may_return

    asyncio.run(story())


def test_a_place_is_asked_for_many_requests_at_a_time() -> None:
    place = Place()
    budget = Budget(usd=1.0, name="team")
    purse = place.purse_of("run", budget)
    assert reserved(purse, Money(usd=0.0001), most=9000) == 9000
    assert place.questions <= 9000 / 64 + 1


def test_nothing_is_asked_of_others_about_a_budget_of_its_own() -> None:
    place = Place()
    purse = place.purse_of("run", Budget(calls=100))
    assert reserved(purse) == 100
    purse.settle(Money(calls=100), Money(calls=50))
    assert reserved(purse) == 50
    assert place.questions == 0
    assert "spent: 100 of 100 calls" in str(purse.used_up(ONE))


def test_a_place_that_does_not_answer_lends_nothing_and_takes_nothing_away() -> None:
    place = Place()
    purse = place.purse_of("run")
    assert reserved(purse, most=10) == 10
    place.is_deaf = True
    purse.settle(Money(calls=10), Money(calls=4))  # told later
    with pytest.raises(BudgetError, match="cannot be asked for money") as told:
        reserved(purse)
    assert told.value.code == "BUDGET-ACCOUNT"
    place.is_deaf = False
    reserved(purse)
    assert purse.used.calls == 100
