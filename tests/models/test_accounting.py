"""How an endpoint counts tokens: guessed high, found out from headers, and taken back after a refusal."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from apwa_dask.models.accounting import Accounting, counted_less
from apwa_dask.models.client import Client
from apwa_dask.models.coordinator import Coordinator, LocalLease
from apwa_dask.models.endpoints import Endpoints
from apwa_dask.models.headers import Window
from apwa_dask.models.model import Model
from apwa_dask.models.types import Message, OutcomeClass, Purpose, Request, Template, Usage
from apwa_dask.testing import Call, ScriptedServer

Serve = Callable[..., ScriptedServer]

TPM = 180_000
CEILING = 400


def test_the_most_is_reserved_until_an_answer_shows_that_less_was_counted() -> None:
    accounting = Accounting()
    assert accounting.counts_most
    assert not accounting.learn(0, 3), "a refusal says nothing new while the most is reserved"
    assert accounting.learn(1, 0)
    assert not accounting.counts_most


def test_each_refusal_makes_it_harder_to_believe_that_less_is_counted() -> None:
    accounting, needed = Accounting(), []
    for _ in range(3):
        signs = 0
        while accounting.counts_most:
            accounting.learn(1, 0)
            signs += 1
        needed.append(signs)
        assert accounting.learn(5, 1), "a refusal outweighs the signs of the same report"
    assert needed == [1, 8, 64]


@pytest.mark.parametrize(
    ("remaining", "reset_s", "less"),
    [
        (59_480.0, 0.52, False),  # 100 in and the ceiling of 420
        (59_880.0, 0.12, True),  # 100 in, and 20 out
        (480.0, 0.52, False),  # a bucket of a second's tokens
        (880.0, 0.12, True),
        (0.0, 1.0, False),
        (59_880.0, 0.0, True),  # no word about the reset
        (480.0, 0.0, False),
    ],
)
def test_what_a_call_was_counted_for_is_missing_from_the_bucket(
    remaining: float, reset_s: float, less: bool
) -> None:
    assert counted_less(Window(60_000.0, remaining, reset_s), Usage(100, 20), 420) is less


def test_where_the_ceiling_is_hardly_more_than_the_answer_there_is_nothing_to_tell() -> None:
    assert not counted_less(Window(60_000.0, 60_000.0, 0.0), Usage(1000, 100), 200)


def through(server: ScriptedServer, holders: int, rows: int) -> tuple[list[Call], set[bool]]:
    """So many rows through processes that share a coordinator; the calls, and what the gates believe then."""

    async def story() -> set[bool]:
        coordinator = Coordinator()
        model = Model("m", base_url=server.base_url, api_key_env="", max_concurrency=32)
        endpoints = [Endpoints(LocalLease(coordinator, f"worker {k}").lease) for k in range(holders)]
        clients = [Client(each) for each in endpoints]
        template = Template(model, (Message("system", "Answer."),), max_output_tokens=CEILING)
        requests = [Request(template, (Message("user", f"{k} " + "word " * 60),)) for k in range(rows)]
        try:
            replies = await asyncio.gather(
                *(clients[k % holders].call(request, Purpose()) for k, request in enumerate(requests))
            )
            assert {reply.outcome for reply in replies} == {OutcomeClass.OK}
            return {gate.counts_most for each in endpoints for gate in each.gates()}
        finally:
            for each in endpoints:
                await each.close()

    believed = asyncio.run(story())
    return list(server.log()), believed


def used(calls: list[Call], counted: Callable[[Call], int]) -> float:
    """Share of the limit, after the first two seconds."""
    begin = calls[0].t_start + 2.0
    good = [call for call in calls if call.status == 200 and call.t_start >= begin]
    return sum(map(counted, good[1:])) / (TPM / 60 * (good[-1].t_start - good[0].t_start))


@pytest.mark.parametrize("holders", [1, 2])
def test_an_endpoint_that_counts_the_ceiling_hardly_refuses_and_is_used(serve: Serve, holders: int) -> None:
    server = serve(tpm=TPM, counts_tokens="most", latency_s=0.1)
    calls, believed = through(server, holders, rows=30)
    assert believed == {True}
    assert sum(call.status == 429 for call in calls) <= holders - 1
    assert used(calls, lambda call: call.prompt_tokens + CEILING) >= 0.9


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
@pytest.mark.parametrize("holders", [1, 2])
def test_an_endpoint_that_counts_what_is_made_is_used_though_the_ceiling_is_high(
    serve: Serve, holders: int, dialect: str
) -> None:
    server = serve(tpm=TPM, counts_tokens="made", latency_s=0.1, limit_headers=dialect)
    calls, believed = through(server, holders, rows=220)
    assert believed == {False}
    assert sum(call.status == 429 for call in calls) <= 1
    assert used(calls, lambda call: call.prompt_tokens + call.completion_tokens) >= 0.85


def test_headers_that_mislead_are_seen_through_by_refusals(serve: Serve) -> None:
    """Of a dialect that counts what is made, from a server that counts the ceiling. Where a machine stands still for a
    moment several are under way when the first refusal comes.
    """
    server = serve(tpm=TPM, counts_tokens="most", latency_s=0.1, limit_headers="anthropic")
    calls, believed = through(server, 1, rows=30)
    assert believed == {True}
    assert 1 <= sum(call.status == 429 for call in calls) <= 15
