"""A late request is sent once more where that is asked for: seldom, on the bill, and never into trouble."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import orjson
import pytest

from apwa_dask.models.budget import Budget, Wallet
from apwa_dask.models.client import Client
from apwa_dask.models.endpoints import Endpoints
from apwa_dask.models.hedge import LEAST_SEEN, SHARE, Lateness
from apwa_dask.models.leases import Grant, LeaseFn, Report, Want
from apwa_dask.models.model import Model
from apwa_dask.models.transport import Raw
from apwa_dask.models.types import Message, OutcomeClass, Purpose, Reply, Request, Template

Virtual = Callable[..., Any]
ANSWER = orjson.dumps(
    {
        "choices": [{"message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 1},
        "model": "m",
    }
)
MODEL = Model("m", base_url="http://127.0.0.1:9/v1", api_key_env="", max_concurrency=8)


class Endpoint:
    """Answers after a tenth of a second, but each 40th request after five."""

    def __init__(self, *, every: int = 40, status: int = 200) -> None:
        self.every, self.status = every, status
        self.posts = self.cancelled = 0

    async def post(self, body: bytes, timeout_s: float) -> Raw:
        self.posts += 1
        slow = self.posts % self.every == 0
        try:
            await asyncio.sleep(5.0 if slow else 0.1 + (self.posts % 7) / 1000)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return Raw(200 if slow else self.status, {}, ANSWER)

    async def get_models(self, timeout_s: float) -> Raw:
        return Raw(404, {}, b"")

    async def close(self) -> None:
        return None


async def sent(
    endpoint: Endpoint,
    model: Model,
    rows: int,
    budget: Budget | None = None,
    wave: int = 4,
    lease: LeaseFn | None = None,
    **template: Any,
) -> tuple[list[Reply], Wallet, float]:
    """Replies, the wallet, and the virtual seconds it took."""
    endpoints = Endpoints(lease, environ={})
    lane = await endpoints.lane(model)
    await lane.transport.close()
    lane.transport = endpoint
    client = Client(endpoints, Wallet(budget or Budget()))
    made = Template(model, (), **template)
    begun_s = asyncio.get_running_loop().time()
    requests = [Request(made, (Message("user", f"row {k}"),)) for k in range(rows)]
    replies: list[Reply] = []
    for k in range(0, rows, wave):
        calls = [client.call(request, Purpose()) for request in requests[k : k + wave]]
        replies += await asyncio.gather(*calls)
    took_s = asyncio.get_running_loop().time() - begun_s
    await endpoints.close()
    return replies, client.wallet, took_s


def test_nothing_is_late_before_enough_was_seen() -> None:
    lateness = Lateness()
    for _ in range(LEAST_SEEN - 1):
        lateness.observe(0.1)
    assert lateness.delay_s is None
    for k in range(64):
        lateness.observe(0.1 if k % 10 else 1.0)
    assert lateness.delay_s is not None
    assert 0.1 <= lateness.delay_s <= 1.0


def test_it_is_off_unless_a_model_asks_for_it(virtual_time: Virtual) -> None:
    endpoint = Endpoint()
    replies, _, _ = virtual_time(sent(endpoint, MODEL, 200))
    assert endpoint.posts == 200
    assert {reply.attempts for reply in replies} == {1}


def test_late_requests_are_sent_once_more_seldom_and_all_are_on_the_bill(virtual_time: Virtual) -> None:
    endpoint = Endpoint()
    replies, wallet, took_s = virtual_time(sent(endpoint, replace(MODEL, hedge=True), 1000))
    _, _, plain_s = virtual_time(sent(Endpoint(), MODEL, 1000))

    hedges = endpoint.posts - 1000
    assert {reply.outcome for reply in replies} == {OutcomeClass.OK}
    assert 5 <= hedges <= SHARE * 1000
    assert endpoint.cancelled == hedges, "the loser is cancelled"
    assert sum(reply.attempts for reply in replies) == endpoint.posts
    assert wallet.spent.calls == endpoint.posts
    assert sum(reply.usage.estimated for reply in replies) == hedges, "what the loser cost is estimated"
    assert took_s < plain_s


def test_no_late_call_takes_a_slot_that_others_wait_for(virtual_time: Virtual) -> None:
    endpoint = Endpoint()
    virtual_time(sent(endpoint, replace(MODEL, hedge=True), 1000, wave=1000))
    assert endpoint.posts - 1000 <= 8, "only those that are left in flight when the queue is empty"


def test_contracts_with_tools_are_never_sent_twice(virtual_time: Virtual) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    endpoint = Endpoint()
    virtual_time(sent(endpoint, replace(MODEL, hedge=True), 200, tools=(tool,)))
    assert endpoint.posts == 200


class SlowAtLast(Endpoint):
    """Ever faster, so that nothing is late; and the request of this number, and what is sent after it, after five."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    async def post(self, body: bytes, timeout_s: float) -> Raw:
        self.posts += 1
        await asyncio.sleep(5.0 if self.posts >= self.number else 0.5 - self.posts / 1000)
        return Raw(200, {}, ANSWER)


@pytest.mark.parametrize(("calls", "posts"), [(101, 101), (102, 102)])
def test_what_the_budget_does_not_hold_is_not_sent_a_second_time(
    virtual_time: Virtual, calls: int, posts: int
) -> None:
    endpoint, model = SlowAtLast(101), replace(MODEL, hedge=True)
    replies, wallet, _ = virtual_time(sent(endpoint, model, 101, Budget(calls=calls), wave=1))
    assert {reply.outcome for reply in replies} == {OutcomeClass.OK}
    assert endpoint.posts == wallet.spent.calls == posts


@pytest.mark.parametrize("rows", [300])
def test_a_second_request_is_paid_from_the_budget_or_not_sent(virtual_time: Virtual, rows: int) -> None:
    endpoint = Endpoint()
    replies, wallet, _ = virtual_time(
        sent(endpoint, replace(MODEL, hedge=True), rows, Budget(calls=rows + 20))
    )
    assert {reply.outcome for reply in replies} == {OutcomeClass.OK}
    assert rows < wallet.spent.calls == endpoint.posts <= rows + 20


class Refusing(Endpoint):
    """Ever faster; requests of these numbers take so long, and some of them are refused."""

    def __init__(self, late: Mapping[int, tuple[float, int]]) -> None:
        super().__init__()
        self.late = late
        self.sent_s: list[float] = []

    async def post(self, body: bytes, timeout_s: float) -> Raw:
        self.posts += 1
        self.sent_s.append(asyncio.get_running_loop().time())
        delay_s, status = self.late.get(self.posts, (0.5 - self.posts / 1000, 200))
        await asyncio.sleep(delay_s)
        return Raw(status, {"retry-after": "20"} if status == 429 else {}, ANSWER)


@pytest.mark.parametrize(
    ("late", "refusals", "refused_s"),
    [
        pytest.param({100: (1.0, 429), 101: (5.0, 200)}, 1, 1.0, id="the first is refused"),
        pytest.param({100: (5.0, 200), 101: (0.0, 429)}, 1, 0.4, id="the second is refused"),
        pytest.param({100: (1.0, 429), 101: (3.0, 429)}, 2, 3.6, id="both are refused"),
    ],
)
def test_a_refusal_is_told_to_all_whichever_of_two_answers_is_taken(
    virtual_time: Virtual, late: Mapping[int, tuple[float, int]], refusals: int, refused_s: float
) -> None:
    reports: list[Report] = []

    async def lease(gate_key: str, want: Want, report: Report) -> Grant:
        reports.append(report)
        return Grant(concurrency=8, renew_s=1.0)

    endpoint, model = Refusing(late), replace(MODEL, hedge=True)
    replies, wallet, _ = virtual_time(sent(endpoint, model, 101, wave=1, lease=lease))
    assert {reply.outcome for reply in replies} == {OutcomeClass.OK}
    assert sum(report.throttled for report in reports) == refusals
    assert max(report.pause_s for report in reports) == 20.0
    paused_s = endpoint.sent_s[101] - endpoint.sent_s[99] - refused_s
    assert 19.5 <= paused_s <= 21.5, "from the refusal on, not from the answer that came after it"
    assert sum(reply.attempts for reply in replies) == wallet.spent.calls == endpoint.posts == 101 + refusals
    assert sum(tally.calls for tally in wallet.totals.values()) == 101
