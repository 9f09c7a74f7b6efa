"""Budgets: what is reserved, what is settled, and that the ceiling holds whatever the schedule."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apwa_dask.errors import BudgetError, ConfigError
from apwa_dask.models.budget import Budget, Wallet
from apwa_dask.models.client import Client
from apwa_dask.models.coordinator import Coordinator, LocalLease
from apwa_dask.models.endpoints import Endpoints
from apwa_dask.models.leases import Money, MoneyReport
from apwa_dask.models.model import Model, Price
from apwa_dask.models.transport import Raw
from apwa_dask.models.types import Message, OutcomeClass, Purpose, Request, Template, Usage
from apwa_dask.testing import Fault, ScriptedServer

Virtual = Callable[..., Any]
PRICE = Price(1000.0, 1000.0)
"""A tenth of a cent a token, so that small budgets end soon."""


# -- what users write


@pytest.mark.parametrize(
    ("written", "meant"),
    [(None, Budget()), (5, Budget(usd=5.0)), (0.5, Budget(usd=0.5)), (Budget(calls=3), Budget(calls=3))],
)
def test_a_budget_is_written_as_dollars_or_in_full(written: Any, meant: Budget) -> None:
    assert Budget.of(written) == meant
    assert Budget.from_dict(meant.as_dict()) == meant


@pytest.mark.parametrize("nonsense", ["5", True, [], float("nan"), -1, float("inf")])
def test_what_is_no_budget_is_refused(nonsense: Any) -> None:
    with pytest.raises(ConfigError):
        Budget.of(nonsense)


def test_a_budget_of_nothing_is_a_ceiling_and_no_budget_is_none() -> None:
    assert Budget.of(0)
    assert not Budget.of(None)


# -- one process


@dataclass
class Call:
    """One call of a schedule: what it reserves, what it costs, how long it takes."""

    reserved: int
    actual: int
    seconds: int
    cancelled: bool


def calls(overrun: int) -> st.SearchStrategy[list[Call]]:
    def call(reserved: int, share: int, seconds: int, cancelled: bool) -> Call:
        return Call(reserved, reserved * share * overrun // 4, seconds, cancelled)

    one = st.builds(call, st.integers(1, 40), st.integers(0, 4), st.integers(1, 9), st.booleans())
    return st.lists(one, max_size=40)


async def spend(wallet: Wallet, call: Call, flying: set[int], seen: list[int]) -> str:
    money = Money(call.reserved / 100, call.reserved, 1)
    if not wallet.try_reserve(money):
        await wallet.reserve(money)
    flying.add(id(call))
    try:
        await asyncio.sleep(call.seconds)
    finally:
        flying.discard(id(call))
        seen.append(call.actual)
        wallet.settle(money, Money(call.actual / 100, call.actual, 1))
    return "done"


async def schedule(wallets: list[Wallet], plan: list[Call]) -> tuple[int, list[Any]]:
    flying: set[int] = set()
    seen: list[int] = []
    tasks = [
        asyncio.create_task(spend(wallets[i % len(wallets)], c, flying, seen)) for i, c in enumerate(plan)
    ]
    await asyncio.sleep(2.5)
    for task, call in zip(tasks, plan, strict=True):
        if call.cancelled:
            task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert not flying
    for wallet in wallets:
        await wallet.close()
    return sum(seen), results


def wallets_of(budget: Budget, count: int) -> tuple[list[Wallet], Coordinator]:
    coordinator = Coordinator(clock=asyncio.get_running_loop().time)
    coordinator.open_account("run", budget)
    leases = [LocalLease(coordinator, f"worker-{i}") for i in range(count)]
    return [Wallet(budget, account="run", fund=lease.fund) for lease in leases], coordinator


@settings(max_examples=60, deadline=None)
@given(plan=calls(overrun=1), tokens=st.integers(0, 300), processes=st.integers(1, 4))
def test_the_ceiling_holds_when_no_call_passes_its_reservation(
    virtual_time: Virtual, plan: list[Call], tokens: int, processes: int
) -> None:
    async def story() -> None:
        wallets, coordinator = wallets_of(Budget(usd=tokens / 100, tokens=tokens), processes)
        spent, results = await schedule(wallets, plan)
        assert spent <= tokens
        assert coordinator.spent("run").tokens == spent
        stopped = [r for r in results if isinstance(r, BudgetError)]
        assert all(isinstance(r, BudgetError | asyncio.CancelledError | str) for r in results)
        if not stopped and not any(c.cancelled for c in plan):
            assert spent == sum(c.actual for c in plan)

    virtual_time(story())


@settings(max_examples=60, deadline=None)
@given(plan=calls(overrun=5), tokens=st.integers(0, 300), processes=st.integers(1, 4))
def test_it_is_passed_at_most_by_calls_in_flight(
    virtual_time: Virtual, plan: list[Call], tokens: int, processes: int
) -> None:
    async def story() -> None:
        wallets, _ = wallets_of(Budget(tokens=tokens), processes)
        spent, _results = await schedule(wallets, plan)
        in_flight_at_most = sum(c.actual for c in plan if c.actual > c.reserved)
        assert spent <= tokens + in_flight_at_most

    virtual_time(story())


async def calls_until_refused(wallet: Wallet, money: Money) -> int:
    made = 0
    while True:
        try:
            await wallet.reserve(money)
        except BudgetError:
            return made
        wallet.settle(money, money)
        made += 1


def test_the_last_of_the_money_waits_for_what_comes_back(virtual_time: Virtual) -> None:
    """Two reservations fill the budget; both settle lower, so a third call fits and is not refused."""

    async def story() -> None:
        plan = [Call(50, 10, 1, False), Call(50, 10, 2, False), Call(50, 50, 1, False)]
        spent, results = await schedule([Wallet(Budget(tokens=100))], plan)
        assert results == ["done"] * 3
        assert spent == 70

    virtual_time(story())


def test_money_of_another_process_is_waited_for_and_its_end_is_heard(virtual_time: Virtual) -> None:
    async def story() -> None:
        (rich, poor), _ = wallets_of(Budget(tokens=100), 2)
        await rich.reserve(Money(tokens=60, calls=1))
        waiting = asyncio.create_task(poor.reserve(Money(tokens=80, calls=1)))
        await asyncio.sleep(5)
        assert not waiting.done()
        rich.settle(Money(tokens=60, calls=1), Money(tokens=10, calls=1))
        await rich.close()
        await asyncio.sleep(1)
        assert waiting.done()
        await waiting
        poor.settle(Money(tokens=80, calls=1), Money(tokens=80, calls=1))
        with pytest.raises(BudgetError):
            await asyncio.wait_for(rich.reserve(Money(tokens=50, calls=1)), 60)

    virtual_time(story())


def test_a_dead_process_is_booked_as_having_spent_all_it_held(virtual_time: Virtual) -> None:
    async def story() -> None:
        (dead, alive), coordinator = wallets_of(Budget(tokens=1000), 2)
        await dead.reserve(Money(tokens=10, calls=1))
        coordinator.release_holder("worker-0")
        lost = coordinator.spent("run").tokens
        assert 10 <= lost <= 500
        spent = 10 * await calls_until_refused(alive, Money(tokens=10, calls=1))
        assert lost + spent <= 1000
        assert lost + spent > 980

    virtual_time(story())


def test_a_resumed_run_with_a_larger_budget_goes_on_where_it_stood(virtual_time: Virtual) -> None:
    async def story() -> None:
        coordinator = Coordinator()
        for budget, expected in ((Budget(calls=3), 3), (Budget(calls=5), 2), (Budget(calls=5), 0)):
            coordinator.open_account("run", budget)
            wallet = Wallet(budget, account="run", fund=LocalLease(coordinator).fund)
            assert await calls_until_refused(wallet, Money(calls=1)) == expected
            await wallet.close()

    virtual_time(story())


def test_money_is_leased_in_blocks(virtual_time: Virtual) -> None:
    async def story() -> None:
        coordinator = Coordinator()
        coordinator.open_account("run", Budget(calls=10_000))
        asked = 0
        local = LocalLease(coordinator)

        async def fund(*question: Any) -> Any:
            nonlocal asked
            asked += 1
            return await local.fund(*question)

        wallet = Wallet(Budget(calls=10_000), account="run", fund=fund)
        for _ in range(5000):
            if not wallet.try_reserve(Money(calls=1)):
                await wallet.reserve(Money(calls=1))
            wallet.settle(Money(calls=1), Money(calls=1))
        assert asked <= 5000 / 64 + 1

    virtual_time(story())


# -- the whole client


Serve = Callable[..., ScriptedServer]
Ask = Callable[..., Any]


def test_a_budget_of_calls_is_kept_to_the_call(serve: Serve, ask: Ask) -> None:
    server = serve()
    asked = ask(server, wallet=Wallet(Budget(calls=7)))
    outcomes = asked.outcomes(*[f"row {i}" for i in range(30)])
    assert server.calls == 7
    assert sum(isinstance(outcome, BudgetError) for outcome in outcomes) == 23


def test_every_retry_is_paid_from_the_budget_like_a_first_attempt(serve: Serve, ask: Ask) -> None:
    server = serve(faults=(Fault("status", status=500),))
    (outcome,) = ask(server, wallet=Wallet(Budget(calls=3))).outcomes("row")
    assert isinstance(outcome, BudgetError)
    assert server.calls == 3


def test_a_budget_of_dollars_is_not_passed_by_more_than_calls_in_flight(serve: Serve, ask: Ask) -> None:
    server = serve(latency_s=0.01)
    wallet = Wallet(Budget(usd=2.0))
    asked = ask(server, wallet=wallet, max_output_tokens=100, settings={"price": PRICE, "max_concurrency": 8})
    outcomes = asked.outcomes(*[f"row {i}" for i in range(400)])
    bill = sum((c.prompt_tokens + c.completion_tokens) / 1000 for c in server.log() if c.billed)
    assert any(isinstance(outcome, BudgetError) for outcome in outcomes)
    assert wallet.spent.usd == pytest.approx(bill)
    assert 1.5 <= bill <= 2.0 + 8 * 0.1


@pytest.mark.parametrize("least", [0.1, 0.3, 0.7, 1.1])
def test_what_was_just_reserved_is_not_refused_for_rounding(virtual_time: Virtual, least: float) -> None:
    async def story() -> None:
        wallet = Wallet(Budget(usd=least))
        money = Money(least + 1e-12)
        assert wallet.try_reserve(money)
        assert wallet.try_replace(money, money)

    virtual_time(story())


def test_what_waits_gives_way_where_others_have_spent_its_money(virtual_time: Virtual) -> None:
    async def story() -> None:
        wallet = Wallet(Budget(tokens=100))
        assert wallet.try_reserve(Money(tokens=50))
        assert wallet.try_reserve(Money(tokens=50))
        wallet.settle(Money(tokens=50), Money(tokens=80))
        assert not wallet.try_replace(Money(tokens=50), Money(tokens=50))

    virtual_time(story())


FLAG = {"type": "object", "properties": {"fits": {"type": "boolean"}}}


def test_what_waits_for_a_slot_reserves_what_others_turned_out_to_cost(serve: Serve, ask: Ask) -> None:
    # a schema that suggests a few tokens, and answers of a thousand
    server = serve(latency_s=0.01, respond=lambda request: {"fits": "x" * 4000})
    wallet = Wallet(Budget(tokens=20_000))
    asked = ask(server, wallet=wallet, schema=FLAG, settings={"max_concurrency": 1})
    outcomes = asked.outcomes(*[f"row {i}" for i in range(200)])
    bills = [call.prompt_tokens + call.completion_tokens for call in server.log() if call.billed]
    assert any(isinstance(outcome, BudgetError) for outcome in outcomes)
    assert 20_000 - 3 * max(bills) <= sum(bills) <= 20_000
    assert wallet.spent.tokens == sum(bills)


class Uneven:
    """Answers whose tokens vary, in what was read or in what was made."""

    def __init__(self, varies: str) -> None:
        self.varies, self.rng = varies, random.Random(7)

    async def post(self, body: bytes, timeout_s: float) -> Raw:
        await asyncio.sleep(0.1)
        factor = min(4.0, self.rng.lognormvariate(0.0, 0.4))
        read = len(body) / 4 * (factor if self.varies == "input" else 1.0)
        made = 100 * (factor if self.varies == "output" else 1.0)
        choice = {"message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}
        usage = {"prompt_tokens": int(read), "completion_tokens": int(made)}
        return Raw(200, {}, orjson.dumps({"choices": [choice], "usage": usage, "model": "m"}))

    async def get_models(self, timeout_s: float) -> Raw:
        return Raw(404, {}, b"")

    async def close(self) -> None:
        return None


class Watched(Wallet):
    """Keeps what was set aside for each call, and what it came to."""

    def __init__(self, budget: Budget) -> None:
        super().__init__(budget)
        self.settled: list[tuple[int, int]] = []

    def settle(self, reserved: Money, actual: Money) -> None:
        self.settled.append((reserved.tokens, actual.tokens))
        super().settle(reserved, actual)


@pytest.mark.parametrize("varies", ["input", "output"])
def test_money_is_set_aside_for_more_than_the_usual_call(virtual_time: Virtual, varies: str) -> None:
    """At the mean each second call would come to more than was kept for it, and the last ones pass the ceiling."""

    async def story() -> list[tuple[int, int]]:
        model = Model("m", base_url="http://127.0.0.1:9/v1", api_key_env="", max_concurrency=8)
        endpoints, wallet = Endpoints(environ={}), Watched(Budget(tokens=10**9))
        lane = await endpoints.lane(model)
        await lane.transport.close()
        lane.transport = Uneven(varies)
        client, template = Client(endpoints, wallet), Template(model, (), max_output_tokens=1000)
        rows = [Request(template, (Message("user", "a row of usual length " * 20),), k) for k in range(800)]
        for k in range(0, len(rows), 8):
            await asyncio.gather(*(client.call(row, Purpose()) for row in rows[k : k + 8]))
        await endpoints.close()
        return wallet.settled[200:]

    settled = virtual_time(story())
    assert len(settled) == 600
    assert sum(actual > reserved for reserved, actual in settled) <= 0.1 * len(settled)
    most = max(actual for _, actual in settled)
    assert sum(reserved for reserved, _ in settled) < 0.9 * most * len(settled), "nor at the most"


def test_an_unknown_price_makes_a_budget_of_dollars_an_error_with_advice(serve: Serve, ask: Ask) -> None:
    server = serve()
    with pytest.raises(BudgetError, match=r"Price\(.*Budget\(tokens"):
        ask(server, wallet=Wallet(Budget(usd=1.0)))("hello")
    assert server.calls == 0


def test_the_ledger_lists_every_billed_attempt_under_its_step(serve: Serve, ask: Ask) -> None:
    server = serve(faults=(Fault("length", on="row 1"), Fault("null_content", on="row 2", times=1)))
    wallet = Wallet()
    ask(server, wallet=wallet)("row 0", "row 1", "row 2")
    billed = [call for call in server.log() if call.billed]
    assert set(wallet.totals) == {
        ("step", "test-model", OutcomeClass.OK),
        ("step", "test-model", OutcomeClass.TRUNCATED),
    }
    assert sum(t.attempts for t in wallet.totals.values()) == len(billed) == 4
    assert sum(t.input_tokens for t in wallet.totals.values()) == sum(c.prompt_tokens for c in billed)
    assert sum(t.output_tokens for t in wallet.totals.values()) == sum(c.completion_tokens for c in billed)
    assert all(t.unpriced_calls == t.calls for t in wallet.totals.values())


def test_a_call_given_up_in_flight_is_booked_as_an_estimate(serve: Serve, ask: Ask) -> None:
    server = serve(latency_s=30.0)
    wallet = Wallet(Budget(tokens=10_000))
    asked = ask(server, wallet=wallet)

    async def story() -> None:
        task = asyncio.create_task(asked._all(("row",)))
        await asyncio.to_thread(server.wait_until, lambda stats: stats.in_flight == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(story())
    (tally,) = wallet.totals.values()
    assert list(wallet.totals) == [("step", "test-model", OutcomeClass.STOPPED)]
    assert tally.estimated_calls == 1
    assert wallet.spent.tokens > 0


def test_usage_is_priced_with_the_cached_part_at_its_own_rate() -> None:
    price = Price(2.0, 8.0, cached_input_usd=0.5)
    usage = Usage(1_000_000, 100_000, cached=400_000)
    assert price.cost_usd(usage.input, usage.output, usage.cached) == pytest.approx(0.6 * 2 + 0.4 * 0.5 + 0.8)


def test_tokens_that_the_endpoint_kept_are_taken_from_the_budget_at_their_own_rate(
    serve: Serve, ask: Ask
) -> None:
    server = serve(keeps_prompts=1)
    wallet = Wallet(Budget(usd=1.0))
    price = Price(10.0, 20.0, cached_input_usd=1.0)
    beginning = "the same document " * 200
    texts = [f"{beginning}: question {k}" for k in range(6)]
    replies = ask(server, wallet=wallet, settings={"max_concurrency": 1, "price": price})(*texts)
    calls = server.log()
    kept = sum(call.cached_tokens for call in calls)
    paid_usd = sum(price.cost_usd(c.prompt_tokens, c.completion_tokens, c.cached_tokens) for c in calls)
    assert kept >= 5 * 768
    assert sum(reply.usage.cached for reply in replies) == kept
    assert sum(reply.cost_usd or 0.0 for reply in replies) == pytest.approx(paid_usd)
    assert wallet.spent.usd == pytest.approx(paid_usd)


def test_runs_that_name_one_budget_spend_from_one_purse(virtual_time: Virtual) -> None:
    async def story() -> tuple[list[int], int]:
        coordinator = Coordinator(asyncio.get_running_loop().time)
        budget = Budget(calls=100, name="team")
        wallets = []
        for run, holder in (("r1", "worker a"), ("r2", "worker a"), ("r3", "worker b")):
            coordinator.open_account(run, budget)
            wallets.append(Wallet(budget, account=run, fund=LocalLease(coordinator, holder).fund))
        spent = await asyncio.gather(*(until_it_is_used_up(wallet) for wallet in wallets))
        return spent, coordinator.spent("r1").calls

    spent, booked = virtual_time(story())
    assert sum(spent) == 100, "no more, and no less while anyone has any"
    assert min(spent) > 0
    assert booked <= 100


async def until_it_is_used_up(wallet: Wallet) -> int:
    """Calls until the budget is reached; one at a time."""
    calls, one = 0, Money(0.0, 10, 1)
    try:
        while True:
            await wallet.reserve(one)
            await asyncio.sleep(0.01)
            wallet.settle(one, one)
            calls += 1
    except BudgetError:
        await wallet.close()
        return calls


def test_a_run_that_comes_back_brings_what_it_has_spent_to_the_named_budget() -> None:
    coordinator, budget = Coordinator(), Budget(calls=100, name="team")
    coordinator.open_account("r1", budget, Money(calls=30))
    coordinator.open_account("r2", budget, Money(calls=25))
    coordinator.open_account("r1", budget, Money(calls=30))
    funds = coordinator.fund("worker", "r2", Money(), Money(), MoneyReport())
    assert funds.left.calls == 45, "r1 is known: it is not counted again"


def test_budgets_without_a_name_are_apart() -> None:
    coordinator = Coordinator()
    coordinator.open_account("r1", Budget(calls=10), Money(calls=9))
    coordinator.open_account("r2", Budget(calls=10))
    assert coordinator.fund("worker", "r2", Money(), Money(), MoneyReport()).left.calls == 10
