"""Money on a wire that loses, delays and doubles messages: none is made, and none is lost for good."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apwa_dask.errors import BudgetError
from apwa_dask.models.budget import Budget, Wallet
from apwa_dask.models.coordinator import Coordinator, LocalLease
from apwa_dask.models.leases import Funds, Money, MoneyReport
from apwa_dask.models.purses import _Lease

Virtual = Callable[..., Any]
ONE = Money(calls=1)


class Wire:
    """A way to a coordinator that does with its next messages what it is told to, and with the others nothing.

    ``question`` is lost before it is heard, ``answer`` after it was booked; ``late`` is heard after the sender has
    given up, ``twice`` two times.
    """

    def __init__(self, coordinator: Coordinator, *fates: str, holder: str = "worker") -> None:
        self.coordinator, self.holder, self.fates = coordinator, holder, list(fates)
        self.late: list[tuple[Any, ...]] = []

    async def fund(self, *question: Any) -> Funds:
        fate = self.fates.pop(0) if self.fates else ""
        if fate == "late":
            self.late.append(question)
        if fate in ("late", "question"):
            raise TimeoutError
        answer = self.coordinator.fund(self.holder, *question)
        if fate == "twice":
            self.coordinator.fund(self.holder, *question)
        if fate == "answer":
            raise TimeoutError
        return answer

    def deliver(self) -> None:
        """What was late arrives now."""
        for question in self.late:
            self.coordinator.fund(self.holder, *question)
        self.late.clear()


def opened(budget: Budget, spent: Money | None = None) -> Coordinator:
    coordinator = Coordinator(clock=asyncio.get_running_loop().time)
    coordinator.open_account("run", budget, spent)
    return coordinator


def left(coordinator: Coordinator, account: str = "run") -> Money:
    return coordinator.fund("who looks", account, Money(), Money(), MoneyReport()).left


async def spend_all(wallet: Wallet, each: Money = ONE, actual: Money | None = None) -> int:
    """Calls until the budget is reached; one at a time."""
    made = 0
    while True:
        try:
            await wallet.reserve(each)
        except BudgetError:
            return made
        await asyncio.sleep(0.01)
        wallet.settle(each, actual or each)
        made += 1


@pytest.mark.parametrize("fate", ["question", "answer", "late", "twice"])
@pytest.mark.parametrize("at", range(6))
def test_a_message_that_is_lost_late_or_doubled_changes_no_budget(
    virtual_time: Virtual, fate: str, at: int
) -> None:
    async def story() -> None:
        coordinator = opened(Budget(calls=100))
        wire = Wire(coordinator, *[""] * at, fate)
        wallet = Wallet(Budget(calls=100), account="run", fund=wire.fund)
        made = 0
        for _ in range(60):  # with rests, in which money goes back
            await wallet.reserve(ONE)
            wallet.settle(ONE, ONE)
            made += 1
            if not made % 10:
                await asyncio.sleep(5)
                wire.deliver()
        made += await spend_all(wallet)
        await asyncio.sleep(60)
        assert made == 100
        assert coordinator.spent("run").calls == 100
        assert left(coordinator).calls == 0

    virtual_time(story())


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 2**32), wallets=st.integers(1, 4), calls=st.integers(0, 120))
def test_however_bad_the_wire_is_the_budget_is_spent_once_and_whole(
    virtual_time: Virtual, seed: int, wallets: int, calls: int
) -> None:
    rng = random.Random(seed)
    fates = ["", "", "", "question", "answer", "late", "twice"]

    async def story() -> None:
        coordinator = opened(Budget(calls=calls))
        wires = [
            Wire(coordinator, *rng.choices(fates, k=rng.randrange(30)), holder=f"worker-{i}")
            for i in range(wallets)
        ]
        purses = [Wallet(Budget(calls=calls), account="run", fund=wire.fund) for wire in wires]

        async def deliver_at_times() -> None:
            while True:
                await asyncio.sleep(rng.uniform(0.1, 5.0))
                rng.choice(wires).deliver()

        post = asyncio.create_task(deliver_at_times())
        made = await asyncio.gather(*(spend_all(purse) for purse in purses))
        await asyncio.sleep(600)
        post.cancel()
        assert sum(made) == calls
        assert coordinator.spent("run").calls == calls

    virtual_time(story())


@pytest.mark.parametrize("actual", [50, 600])
def test_what_calls_came_to_beyond_their_reservation_is_taken_from_what_is_left(
    virtual_time: Virtual, actual: int
) -> None:
    """Each of many short-lived wallets overruns once, also its whole lease: only the last call passes the budget."""

    async def story() -> None:
        coordinator = opened(Budget(tokens=1000))
        spent = 0
        for k in range(100):
            wallet = Wallet(Budget(tokens=1000), account="run", fund=Wire(coordinator, holder=f"w{k}").fund)
            try:
                await wallet.reserve(Money(tokens=10, calls=1))
            except BudgetError:
                break
            wallet.settle(Money(tokens=10, calls=1), Money(tokens=actual, calls=1))
            spent += actual
            await asyncio.sleep(5)
            coordinator.release_holder(f"w{k}")
        assert 1000 <= spent < 1000 + actual
        assert coordinator.spent("run").tokens == spent

    virtual_time(story())


def test_a_grant_that_nobody_waits_for_any_more_goes_back(virtual_time: Virtual) -> None:
    async def story() -> None:
        coordinator = opened(Budget(calls=10))
        slow = Wire(coordinator)

        async def fund(*question: Any) -> Funds:
            answer = await slow.fund(*question)
            await asyncio.sleep(3)
            return answer

        gone = Wallet(Budget(calls=10), account="run", fund=fund)
        asking = asyncio.create_task(gone.reserve(ONE))
        await asyncio.sleep(1)
        asking.cancel()
        other = Wallet(Budget(calls=10), account="run", fund=Wire(coordinator, holder="other").fund)
        assert await asyncio.wait_for(spend_all(other), 60) == 10

    virtual_time(story())


def test_a_silence_at_rest_keeps_no_money_from_others(virtual_time: Virtual) -> None:
    async def story() -> None:
        coordinator = opened(Budget(calls=10))
        wire = Wire(coordinator, "", "question", "question", "question")
        idle = Wallet(Budget(calls=10), account="run", fund=wire.fund)
        await idle.reserve(ONE)
        idle.settle(ONE, ONE)
        other = Wallet(Budget(calls=10), account="run", fund=Wire(coordinator, holder="other").fund)
        assert await asyncio.wait_for(spend_all(other), 60) == 9

    virtual_time(story())


def test_a_new_wallet_of_the_same_process_waits_for_what_the_old_one_gives_back(
    virtual_time: Virtual,
) -> None:
    """A run that is stopped and resumed in one process is not told that its budget is used up."""

    async def story() -> None:
        coordinator = opened(Budget(calls=2))
        local = LocalLease(coordinator)
        old = Wallet(Budget(calls=2), account="run", fund=local.fund)
        await old.reserve(ONE)
        await old.reserve(ONE)
        new = Wallet(Budget(calls=2), account="run", fund=local.fund)
        asking = asyncio.create_task(new.reserve(ONE))
        await asyncio.sleep(3)
        old.settle(ONE, ONE)
        old.settle(ONE, Money())  # it was not sent
        await asyncio.wait_for(asking, 10)

    virtual_time(story())


def test_a_holder_that_was_given_up_and_wakes_is_lent_nothing_more(virtual_time: Virtual) -> None:
    async def story() -> None:
        coordinator = opened(Budget(calls=100))
        zombie = Wallet(Budget(calls=100), account="run", fund=Wire(coordinator).fund)
        await zombie.reserve(ONE)
        coordinator.release_holder("worker")
        given_up = coordinator.spent("run").calls
        other = Wallet(Budget(calls=100), account="run", fund=Wire(coordinator, holder="other").fund)
        taken = await spend_all(other)
        assert given_up + taken == 100
        zombie.settle(ONE, ONE)
        for _ in range(given_up - 1):
            await zombie.reserve(ONE)
            zombie.settle(ONE, ONE)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(zombie.reserve(ONE), 60)
        assert coordinator.spent("run").calls == 100

    virtual_time(story())


def test_what_a_process_gives_back_as_it_leaves_is_for_the_others(virtual_time: Virtual) -> None:
    """A worker that is retired is off the scheduler's list before it has ended its calls."""

    async def story() -> None:
        coordinator = opened(Budget(calls=100))
        leaving = Wallet(Budget(calls=100), account="run", fund=Wire(coordinator).fund)
        await leaving.reserve(ONE)
        coordinator.release_holder("worker")
        other = Wallet(Budget(calls=100), account="run", fund=Wire(coordinator, holder="other").fund)
        rest = asyncio.create_task(spend_all(other))
        await asyncio.sleep(20)
        leaving.settle(ONE, ONE)
        await leaving.close()
        assert await rest == 99
        assert coordinator.spent("run").calls == 100

    virtual_time(story())


def test_of_a_process_that_died_nothing_is_waited_for(virtual_time: Virtual) -> None:
    """Its money is spent for all that anybody knows: who needs it hears at once that the budget is used up."""

    async def story() -> None:
        coordinator = opened(Budget(calls=100))
        dead = Wallet(Budget(calls=100), account="run", fund=Wire(coordinator).fund)
        await dead.reserve(ONE)
        coordinator.release_holder("worker", is_leaving=False)
        lost = coordinator.spent("run").calls
        other = Wallet(Budget(calls=100), account="run", fund=Wire(coordinator, holder="other").fund)
        for _ in range(100 - lost):
            await other.reserve(ONE)
            other.settle(ONE, ONE)
        before_s = asyncio.get_running_loop().time()
        with pytest.raises(BudgetError, match="used up"):
            await other.reserve(ONE)
        assert asyncio.get_running_loop().time() == before_s
        assert coordinator.spent("run").calls == 100

    virtual_time(story())


@pytest.mark.parametrize("name", ["", "team"])
def test_a_purse_that_moves_to_another_coordinator_is_spent_once(virtual_time: Virtual, name: str) -> None:
    """What is lent at the old place may be spent still, and is; nothing more is lent there."""

    async def story() -> None:
        budget = Budget(calls=100, name=name)
        places = [opened(budget), Coordinator(clock=asyncio.get_running_loop().time)]
        at = 0

        async def fund(*question: Any) -> Funds:
            return places[at].fund("worker", *question)

        wallet = Wallet(budget, account="run", fund=fund)
        for _ in range(10):
            await wallet.reserve(ONE)
            wallet.settle(ONE, ONE)
        places[1].open_account("run", budget, places[0].close_account("run"))
        stays = Wallet(budget, account="run", fund=Wire(places[0], holder="other").fund)
        with pytest.raises(BudgetError, match="not known"):
            await stays.reserve(ONE)
        at = 1
        lent_before = places[1].spent("run").calls
        moved = await spend_all(wallet)
        assert 10 + moved == 100
        assert places[1].spent("run").calls == 100
        assert 10 <= lent_before < 100

    virtual_time(story())


def test_a_client_that_comes_back_is_lent_money_again(virtual_time: Virtual) -> None:
    async def story() -> None:
        coordinator = opened(Budget(calls=100))
        wallet = Wallet(Budget(calls=100), account="run", fund=Wire(coordinator, holder="client").fund)
        await wallet.reserve(ONE)
        wallet.settle(ONE, ONE)
        coordinator.forget_holder("client")
        assert 1 + await spend_all(wallet) == 100
        assert coordinator.spent("run").calls == 100

    virtual_time(story())


def test_wallets_of_runs_that_have_ended_do_not_make_blocks_smaller(virtual_time: Virtual) -> None:
    async def story() -> None:
        budget = Budget(calls=10_000, name="team")
        coordinator = Coordinator(clock=asyncio.get_running_loop().time)
        for k in range(200):
            coordinator.open_account(f"run {k}", budget)
            wallet = Wallet(budget, account=f"run {k}", fund=LocalLease(coordinator).fund)
            await wallet.reserve(ONE)
            wallet.settle(ONE, ONE)
            await asyncio.sleep(2)
        funds = coordinator.fund("worker", "run 7", ONE, Money(calls=64), MoneyReport(series=1, number=1))
        assert funds.granted.calls == 64

    virtual_time(story())


@pytest.mark.parametrize("wallets", [10, 500])
def test_a_question_looks_at_no_other_wallet_however_many_there_are(
    monkeypatch: pytest.MonkeyPatch, wallets: int
) -> None:
    looks = 0
    held = _Lease.held.fget
    assert held is not None

    def counted(lease: _Lease) -> Money:
        nonlocal looks
        looks += 1
        return held(lease)

    monkeypatch.setattr(_Lease, "held", property(counted))
    coordinator = Coordinator(clock=lambda: 0.0)
    coordinator.open_account("run", Budget(calls=10_000))
    for k in range(wallets):
        coordinator.fund(f"w{k}", "run", ONE, Money(calls=8), MoneyReport(series=1, number=1))
    looks = 0
    report = MoneyReport(Money(calls=6), Money(), Money(calls=8), series=1, number=2)
    funds = coordinator.fund("w0", "run", ONE, Money(calls=64), report)
    assert looks <= 5
    share = (10_000 - 8 * wallets) // (2 * wallets)
    assert funds.granted.calls == 8 + min(64, share)


def test_wallets_that_gave_all_back_and_those_of_the_dead_make_no_blocks_smaller() -> None:
    coordinator = Coordinator(clock=lambda: 0.0)
    coordinator.open_account("run", Budget(calls=400))
    for k in range(6):
        coordinator.fund(f"w{k}", "run", ONE, ONE, MoneyReport(series=1, number=1))
    for k in (1, 2):  # one has spent it, one gives it back
        given, back = (ONE, Money()) if k == 1 else (Money(), ONE)
        coordinator.fund(f"w{k}", "run", Money(), Money(), MoneyReport(given, back, ONE, 1, 2))
    coordinator.release_holder("w3")
    funds = coordinator.fund("w0", "run", ONE, Money(calls=400), MoneyReport(ONE, Money(), ONE, 1, 2))
    assert funds.granted.calls == 1 + (400 - 5) // (2 * 3)


def test_a_ceiling_given_later_counts_what_was_spent_without_one(virtual_time: Virtual) -> None:
    async def story() -> None:
        coordinator = opened(Budget())
        coordinator.open_account("run", Budget(usd=5.0), Money(usd=3.0, calls=30))
        assert left(coordinator).usd == pytest.approx(2.0)
        coordinator.open_account("run", Budget(usd=5.0, calls=40), Money(usd=3.0, calls=30))
        assert left(coordinator).usd == pytest.approx(2.0)
        assert left(coordinator).calls == 10

    virtual_time(story())


def test_a_ceiling_in_another_currency_counts_what_was_spent_under_the_first(virtual_time: Virtual) -> None:
    async def story() -> None:
        coordinator = opened(Budget(calls=30))
        wallet = Wallet(Budget(calls=30), account="run", fund=Wire(coordinator).fund)
        assert await spend_all(wallet, Money(0.2, 10, 1), Money(0.1, 10, 1)) == 30
        await asyncio.sleep(5)
        coordinator.open_account("run", Budget(usd=5.0), Money(3.0, 300, 30))
        assert left(coordinator).usd == pytest.approx(2.0)

    virtual_time(story())


def test_a_run_that_takes_a_named_budget_brings_what_it_has_spent(virtual_time: Virtual) -> None:
    async def story() -> None:
        coordinator = opened(Budget(calls=50))
        wallet = Wallet(Budget(calls=50), account="run", fund=Wire(coordinator).fund)
        for _ in range(20):
            await wallet.reserve(ONE)
            wallet.settle(ONE, ONE)
        await asyncio.sleep(5)
        coordinator.open_account("other", Budget(calls=100, name="team"))
        coordinator.open_account("run", Budget(calls=100, name="team"), Money(calls=20))
        assert left(coordinator, "other").calls == 80
        wallet = Wallet(Budget(calls=100), account="run", fund=Wire(coordinator).fund)
        assert await spend_all(wallet) == 80

    virtual_time(story())


class Counted(Wire):
    """A wire that knows how often it was asked, and that does not answer while it is held."""

    def __init__(self, coordinator: Coordinator) -> None:
        super().__init__(coordinator)
        self.questions = 0
        self.free = asyncio.Event()
        self.free.set()

    async def fund(self, *question: Any) -> Funds:
        self.questions += 1
        await self.free.wait()
        return await super().fund(*question)


async def call_at_a_pace(wallet: Wallet, calls: int, per_s: float) -> int:
    """Calls of no length, one after the other; how many found their money at hand."""
    at_hand = 0
    for _ in range(calls):
        if wallet.try_reserve(ONE):
            at_hand += 1
        else:
            await wallet.reserve(ONE)
        await asyncio.sleep(1 / per_s)
        wallet.settle(ONE, ONE)
    return at_hand


def test_money_is_asked_for_ahead_of_need_so_that_no_call_but_the_first_waits(virtual_time: Virtual) -> None:
    async def story() -> None:
        wire = Counted(opened(Budget(calls=100_000)))
        wallet = Wallet(Budget(calls=100_000), account="run", fund=wire.fund)
        assert await call_at_a_pace(wallet, 2000, per_s=10) == 1999

    virtual_time(story())


def test_a_coordinator_that_does_not_answer_for_seconds_holds_up_no_call(virtual_time: Virtual) -> None:
    async def story() -> None:
        wire = Counted(opened(Budget(calls=100_000)))
        wallet = Wallet(Budget(calls=100_000), account="run", fund=wire.fund)
        await call_at_a_pace(wallet, 1000, per_s=100)
        wire.free.clear()
        assert await call_at_a_pace(wallet, 200, per_s=100) == 200
        wire.free.set()
        assert await call_at_a_pace(wallet, 1000, per_s=100) == 1000

    virtual_time(story())


def test_a_fast_process_asks_by_the_second_and_not_by_the_call(virtual_time: Virtual) -> None:
    async def story() -> None:
        wire = Counted(opened(Budget(calls=1_000_000)))
        wallet = Wallet(Budget(calls=1_000_000), account="run", fund=wire.fund)
        await call_at_a_pace(wallet, 100_000, per_s=1000)
        assert wire.questions <= 60  # in 100 seconds; one each 64 calls were 1,562

    virtual_time(story())


def test_the_end_of_a_budget_takes_few_questions(virtual_time: Virtual) -> None:
    async def story() -> None:
        wire = Counted(opened(Budget(calls=64)))
        wallet = Wallet(Budget(calls=64), account="run", fund=wire.fund)
        assert await spend_all(wallet) == 64
        assert wire.questions <= 24  # ahead at each half of what is there, and once when it is gone

    virtual_time(story())


def test_what_fails_ahead_of_need_is_told_to_the_call_that_needs_it(virtual_time: Virtual) -> None:
    async def story() -> None:
        coordinator = opened(Budget(calls=100))
        wallet = Wallet(Budget(calls=100), account="run", fund=Wire(coordinator).fund)
        await wallet.reserve(ONE)
        coordinator.close_account("run")
        assert await call_at_a_pace(wallet, 49, per_s=100) == 49  # what it has, while its question fails
        with pytest.raises(BudgetError, match="not known"):
            await wallet.reserve(ONE)

    virtual_time(story())
