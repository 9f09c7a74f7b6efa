"""The whole client against a server that really limits, and one that goes away and comes back."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from apwa_dask.models.budget import Budget, Wallet
from apwa_dask.models.client import Client
from apwa_dask.models.endpoints import Endpoints
from apwa_dask.models.retry import RetryPolicy
from apwa_dask.models.types import Message, OutcomeClass, Purpose, Reply, Request
from apwa_dask.testing import Fault, On, ScriptedServer

Serve = Callable[..., ScriptedServer]
Ask = Callable[..., Any]

ROWS = [f"row {i}" for i in range(60)]


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
@pytest.mark.parametrize("hint", ["seconds", "ms", "date"])
def test_an_announced_rate_is_kept_to_nearly_without_a_429(
    serve: Serve, ask: Ask, dialect: str, hint: str
) -> None:
    server = serve(rpm=1800, limit_headers=dialect, retry_after=hint, latency_s=0.02)
    replies = ask(server)(*ROWS)
    assert {reply.outcome for reply in replies} == {OutcomeClass.OK}
    assert server.stats().by_status.get("429", 0) <= 2


def test_a_rate_that_nobody_announces_costs_some_429s_and_no_row(serve: Serve, ask: Ask) -> None:
    server = serve(rpm=1800, limit_headers="none", retry_after="none", limit_html=True, latency_s=0.02)
    replies = ask(server, settings={"max_concurrency": 32})(*ROWS)
    assert {reply.outcome for reply in replies} == {OutcomeClass.OK}
    assert server.stats().by_status["200"] == len(ROWS)


def test_a_limit_of_tokens_is_kept_to(serve: Serve, ask: Ask) -> None:
    server = serve(tpm=60_000, latency_s=0.02)
    asked = ask(server, max_output_tokens=50)
    replies = asked(*[f"{i} " + "word " * 60 for i in range(30)])
    assert {reply.outcome for reply in replies} == {OutcomeClass.OK}
    assert server.stats().by_status.get("429", 0) <= 6


def test_a_burst_of_failures_loses_no_row(serve: Serve, ask: Ask) -> None:
    """Fault 8: everything fails for a while, for longer than a row's own attempts would last."""
    server = serve(faults=(Fault("status", status=503, on=On(between_s=(0.5, 3.0))),), latency_s=0.02)
    asked = ask(server, policy=RetryPolicy(attempts=2, base_s=0.01), settings={"max_concurrency": 4})
    replies = asked(*[f"row {i}" for i in range(200)])
    failed = [reply for reply in replies if not reply.ok]
    by_status = server.stats().by_status
    assert len(failed) <= 4, "those in flight when it began may have used up their attempts"
    assert by_status["503"] <= 0.1 * 200 + 8


def test_a_row_that_always_fails_is_not_taken_for_an_outage(serve: Serve, ask: Ask) -> None:
    server = serve(faults=(Fault("status", status=500, on="^bad"),), latency_s=0.005)
    replies = ask(server)(*[f"{'bad' if i % 4 == 0 else 'good'} {i}" for i in range(80)])
    assert sum(reply.ok for reply in replies) == 60
    # While only bad rows are left it looks like an outage for a moment.
    assert {reply.attempts for reply in replies if not reply.ok} <= {6, 7, 8}
    assert server.calls <= 60 + 20 * 8


def test_a_run_waits_for_a_provider_that_went_away(serve: Serve, ask: Ask) -> None:
    """Fault 9: connections are refused in the middle; no row fails, and the state is told."""
    server = serve(latency_s=0.02)
    port = int(server.base_url.split(":")[2].split("/")[0])
    wallet = Wallet()
    asked = ask(server, wallet=wallet, settings={"max_concurrency": 4})
    came_back: list[ScriptedServer] = []

    def outage() -> None:
        server.wait_until(lambda stats: stats.calls >= 40)
        server.close()
        again = ScriptedServer(in_process=True, port=port)
        threading.Event().wait(1.0)
        came_back.append(again.start())

    thread = threading.Thread(target=outage)
    thread.start()
    try:
        outcomes = asked.outcomes(*[f"row {i}" for i in range(120)])
    finally:
        thread.join()
        for again in came_back:
            again.close()
    assert [outcome for outcome in outcomes if isinstance(outcome, BaseException)] == []
    assert {outcome.outcome for outcome in outcomes} == {OutcomeClass.OK}


def test_cancelling_a_call_frees_its_slot(serve: Serve, ask: Ask) -> None:
    server = serve(faults=(Fault("hang", on="stuck"),))
    asked = ask(server, settings={"max_concurrency": 1})

    async def story() -> None:
        stuck = asyncio.create_task(asked._all(("stuck",)))
        await asyncio.to_thread(server.wait_until, lambda stats: stats.in_flight == 1)
        gate = asked.client._endpoints.gates()[0]
        assert gate.in_flight == 1
        stuck.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stuck
        assert (gate.in_flight, gate.waiting) == (0, 0)

    asyncio.run(story())


def test_stop_ends_what_waits_and_lets_what_flies_finish(serve: Serve, ask: Ask) -> None:
    server = serve(latency_s=2.0)
    asked = ask(server, settings={"max_concurrency": 2, "timeout_s": 60.0})

    async def story() -> list[Any]:
        work = asyncio.create_task(asked._all(tuple(f"row {i}" for i in range(50))))
        await asyncio.to_thread(server.wait_until, lambda stats: stats.calls == 1)
        asked.client.stop("the user stopped the run")
        outcomes: list[Any] = await work
        return outcomes

    outcomes = asyncio.run(story())
    done = [outcome for outcome in outcomes if outcome.ok]
    stopped = [outcome for outcome in outcomes if outcome.outcome is OutcomeClass.STOPPED]
    assert (len(done), len(stopped), server.calls) == (1, 49, 1)
    assert {(reply.attempts, reply.message) for reply in stopped} == {(0, "the user stopped the run")}


def test_what_is_asked_after_the_stop_is_not_sent_though_a_slot_is_free(serve: Serve, ask: Ask) -> None:
    server = serve()
    template = ask(server).template()

    async def story() -> list[Reply]:
        endpoints = Endpoints()
        client = Client(endpoints)
        before = await client.call(Request(template, (Message("user", "row 1"),)), Purpose())
        client.stop("the user stopped the run")
        after = await client.call(Request(template, (Message("user", "row 2"),)), Purpose())
        await endpoints.close()
        return [before, after]

    outcomes = [(reply.outcome, reply.attempts) for reply in asyncio.run(story())]
    assert outcomes == [(OutcomeClass.OK, 1), (OutcomeClass.STOPPED, 0)]
    assert server.calls == 1


def test_money_of_a_call_that_was_given_up_before_it_had_a_slot_is_there_for_another(
    serve: Serve, ask: Ask
) -> None:
    server = serve()
    template = ask(server).template()
    requests = [Request(template, (Message("user", f"row {k}"),)) for k in range(2)]

    async def story() -> list[Reply]:
        endpoints = Endpoints()
        client = Client(endpoints, Wallet(Budget(calls=1)))
        lane = await client.preflight(template.model)
        number = await lane.gate.acquire()
        waiting = asyncio.create_task(client.call(requests[0], Purpose()))
        while not lane.gate.waiting:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        lane.gate.settle(number, None, None)
        lane.gate.release()
        reply = await asyncio.wait_for(client.call(requests[1], Purpose()), 30)
        await endpoints.close()
        return [reply]

    (reply,) = asyncio.run(story())
    assert reply.ok
    assert server.calls == 1


def test_stop_ends_a_wait_before_a_retry(serve: Serve, ask: Ask) -> None:
    server = serve(faults=(Fault("status", status=500),))
    asked = ask(server, policy=RetryPolicy(base_s=3600.0, cap_s=3600.0))

    async def story() -> list[Any]:
        work = asyncio.create_task(asked._all(("row",)))
        await asyncio.to_thread(server.wait_until, lambda stats: stats.by_status.get("500") == 1)
        await asyncio.sleep(0.05)
        asked.client.stop("the user stopped the run")
        outcomes: list[Any] = await work
        return outcomes

    (reply,) = asyncio.run(story())
    assert (reply.outcome, reply.attempts, server.calls) == (OutcomeClass.STOPPED, 1, 1)


def test_a_task_that_is_cancelled_by_others_is_not_taken_for_stopped(serve: Serve, ask: Ask) -> None:
    server = serve(latency_s=5.0)
    asked = ask(server, settings={"max_concurrency": 1})

    async def story() -> None:
        work = asyncio.create_task(asked._all(("row 1", "row 2")))
        await asyncio.to_thread(server.wait_until, lambda stats: stats.in_flight == 1)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work

    asyncio.run(story())
