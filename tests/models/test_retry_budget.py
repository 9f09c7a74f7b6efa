"""An endpoint in trouble is not sent more because of it; a row that always fails is told from an outage."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from apwa_dask.models.checkup import EVERY_S, Checkup
from apwa_dask.models.client import Client
from apwa_dask.models.endpoints import Endpoints
from apwa_dask.models.retry_budget import RetryBudget
from apwa_dask.models.types import Message, OutcomeClass, Purpose, Reply, Request
from apwa_dask.testing import Fault, On, ScriptedServer

Serve = Callable[..., ScriptedServer]
Ask = Callable[..., Any]


def test_a_tenth_of_what_was_answered_may_be_tried_again() -> None:
    budget = RetryBudget(floor=0, floor_per_s=0.0)
    budget.take(1.0, 0)
    assert [budget.take(1.0, 100) for _ in range(12)] == [True] * 10 + [False] * 2


def test_a_short_run_has_the_floor_and_the_floor_fills_again() -> None:
    budget = RetryBudget(floor=3, floor_per_s=1.0)
    assert [budget.take(0.0, 0) for _ in range(4)] == [True, True, True, False]
    assert not budget.take(0.5, 0)
    assert budget.take(1.5, 0)


def test_what_was_answered_long_ago_pays_for_nothing_now() -> None:
    budget = RetryBudget(floor=0, floor_per_s=0.0)
    budget.take(0.0, 0)
    budget.take(10.0, 1000)
    assert not budget.take(400.0, 1000)


def test_answers_of_a_long_quiet_time_count_for_the_part_that_is_recent() -> None:
    budget = RetryBudget(floor=0, floor_per_s=0.0)
    granted = sum(budget.take(3000.0, 1000) for _ in range(200))
    assert granted == 10, "of 1,000 answers in 3,000 s the last 300 s have 100"


def test_processes_share_the_floor_and_not_the_share() -> None:
    budgets = [RetryBudget(floor=8, floor_per_s=0.0) for _ in range(4)]
    for budget in budgets:
        budget.holders = 4
    assert sum(budget.take(0.0, 0) for budget in budgets for _ in range(20)) == 8


@given(st.lists(st.tuples(st.floats(0, 30), st.integers(0, 500), st.integers(0, 100)), max_size=30))
def test_retries_stay_within_share_and_floor_whatever_comes(story: list[tuple[float, int, int]]) -> None:
    budget = RetryBudget(floor=10, floor_per_s=1.0)
    now = answers = granted = 0.0
    for wait_s, answered, asked in story:
        now, answers = now + wait_s, answers + answered
        granted += sum(budget.take(now, int(answers)) for _ in range(asked))
    assert granted <= 0.1 * answers + 10 + now + 1e-6


def test_a_retry_over_the_budget_waits_and_its_row_does_not_fail(serve: Serve, ask: Ask) -> None:
    server = serve(faults=(Fault("status", status=500, on="^bad", times=1),), latency_s=0.002)
    rows = [f"{'bad' if i % 3 == 0 else 'good'} {i}" for i in range(90)]

    async def story() -> RetryBudget:
        asked = ask(server, settings={"max_concurrency": 8})
        endpoints = Endpoints()
        client, template = Client(endpoints, policy=asked.policy), asked.template()
        gate = (await endpoints.lane(template.model)).gate
        gate.retries = RetryBudget(floor=1, floor_per_s=20.0)
        calls = [client.call(Request(template, (Message("user", row),)), Purpose()) for row in rows]
        replies = await asyncio.gather(*calls)
        assert {reply.outcome for reply in replies} == {OutcomeClass.OK}
        await endpoints.close()
        return gate.retries

    budget = asyncio.run(story())
    assert budget.refused > 0
    assert len(server.log().matching("^(bad|good)")) == 90 + 30


def test_a_checkup_is_due_once_in_a_while() -> None:
    checkup = Checkup()
    assert [checkup.due(0.0), checkup.due(1.0), checkup.due(EVERY_S)] == [True, False, True]


def test_the_last_rows_fail_soon_when_only_they_fail(serve: Serve, ask: Ask) -> None:
    """Six rows that always fail come last and look like an outage; one tiny question tells the difference."""
    server = serve(faults=(Fault("status", status=500, on="^bad"),), latency_s=0.005)

    async def story() -> list[Reply]:
        asked = ask(server, settings={"max_concurrency": 8})
        endpoints = Endpoints()
        client, template = Client(endpoints, policy=asked.policy), asked.template()

        async def send(kind: str) -> list[Reply]:
            tails = [(Message("user", f"{kind} {i}"),) for i in range(6)]
            return await asyncio.gather(*(client.call(Request(template, tail), Purpose()) for tail in tails))

        replies = [*await send("good"), *await send("bad")]
        await endpoints.close()
        return replies

    replies = asyncio.run(asyncio.wait_for(story(), 60))

    assert [reply.outcome for reply in replies[6:]] == [OutcomeClass.TRANSIENT] * 6
    assert len(server.log().matching("^Answer with the word yes")) == 1
    assert sum(reply.attempts for reply in replies) == server.calls, "the question is on a row's bill"
    assert max(reply.attempts for reply in replies) <= 9


def test_rows_wait_on_while_the_question_is_not_answered_either(serve: Serve, ask: Ask) -> None:
    server = serve(faults=(Fault("status", status=503, on=On(between_s=(0.4, 4.0))),), latency_s=0.02)
    replies = ask(server, settings={"max_concurrency": 4})(*[f"row {i}" for i in range(120)])
    assert {reply.outcome for reply in replies} == {OutcomeClass.OK}
