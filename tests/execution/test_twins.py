"""Identical requests of two runs of a process at once: one is sent, and neither run ends the other's."""

from __future__ import annotations

import asyncio

from apwa_dask.execution.caller import Control, InFlight, JournaledCaller
from apwa_dask.models.model import Model
from apwa_dask.models.types import Message, OutcomeClass, Purpose, Reply, Request, Template, Usage
from apwa_dask.store.journal import Journal

TEMPLATE = Template(Model("m", base_url="http://127.0.0.1:9/v1", api_key_env=""), ())
REQUEST = Request(TEMPLATE, (Message("user", "row 1"),))


class Endpoint:
    """Answers with this outcome when it is let, and counts."""

    def __init__(self, outcome: OutcomeClass) -> None:
        self.outcome, self.sent, self.go = outcome, 0, asyncio.Event()

    async def call(self, request: Request, purpose: Purpose) -> Reply:
        self.sent += 1
        await self.go.wait()
        attempts = int(self.outcome is OutcomeClass.OK)
        return Reply(self.outcome, "yes", usage=Usage(10, 2), cost_usd=0.5, attempts=attempts)


async def two_runs(store: str, outcome: OutcomeClass) -> tuple[list[Endpoint], list[Reply]]:
    """The first run's call ends so; the second run asks the same meanwhile, and would get an answer."""
    journal, in_flight = Journal(store, flush_s=60.0), InFlight()
    endpoints = [Endpoint(outcome), Endpoint(OutcomeClass.OK)]
    callers = [JournaledCaller(end, journal, Control(), "", in_flight=in_flight) for end in endpoints]
    first, second = (asyncio.create_task(caller.call(REQUEST, Purpose())) for caller in callers)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert [endpoint.sent for endpoint in endpoints] == [1, 0]
    for endpoint in endpoints:
        endpoint.go.set()
    replies = [await first, await second]
    journal.close()
    return endpoints, replies


def test_the_second_waits_for_the_answer_to_the_first_and_pays_nothing(store: str) -> None:
    endpoints, (paid, shared) = asyncio.run(two_runs(store, OutcomeClass.OK))
    assert [endpoint.sent for endpoint in endpoints] == [1, 0]
    assert (paid.text, shared.text) == ("yes", "yes")
    assert (paid.attempts, paid.cost_usd) == (1, 0.5)
    assert (shared.source, shared.attempts, shared.usage, shared.cost_usd) == ("shared", 0, Usage(), 0.0)


def test_what_ends_with_the_stop_of_its_own_run_is_sent_by_the_other(store: str) -> None:
    endpoints, (stopped, other) = asyncio.run(two_runs(store, OutcomeClass.STOPPED))
    assert stopped.outcome is OutcomeClass.STOPPED
    assert other.ok
    assert [endpoint.sent for endpoint in endpoints] == [1, 1]
