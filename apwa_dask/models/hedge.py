"""Send a late request once more, and take whichever answer comes first: off unless a model asks for it.

Cuts the tail of an endpoint whose slow answers are slow by chance (Dean and Barroso, "The Tail at Scale",
2013), and helps nothing where everything is slow. So it waits until nearly all answers of this contract would
have come, takes no slot that others wait for, sends nothing while the endpoint refuses, and never more than
`SHARE` of the calls. Both requests are billed, and both are in the ledger.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from apwa_dask.models.leases import Money
from apwa_dask.models.outcomes import classify
from apwa_dask.models.types import Request, Usage

if TYPE_CHECKING:
    from apwa_dask.models.budget import Wallet
    from apwa_dask.models.route import Route, Spent
    from apwa_dask.models.transport import Raw

    Flying = dict[asyncio.Task[Raw], int]
    """Requests on their way, with their numbers at the gate."""

__all__ = ["SHARE", "Lateness", "post_hedged"]

SHARE = 0.02
"""Of the answered calls of a model, how many may have been sent twice."""
QUANTILE = 0.95
LEAST_SEEN = 32
"""A contract's answers before anything is known about which are late."""
KEPT = 256
SORT_EVERY = 16
SHORTEST_S = 0.05
"""Answers that come sooner are not worth a second request."""


class Lateness:
    """When an answer of one contract is late: the quantile of its latest latencies."""

    def __init__(self) -> None:
        self.delay_s: float | None = None
        """Seconds after which a request is late; None while too little is known."""
        self._latencies: deque[float] = deque(maxlen=KEPT)
        self._since_sorted = 0

    def observe(self, latency_s: float) -> None:
        """Learn from one answer."""
        self._latencies.append(latency_s)
        self._since_sorted += 1
        if len(self._latencies) < LEAST_SEEN or self._since_sorted < SORT_EVERY:
            return
        self._since_sorted = 0
        ordered = sorted(self._latencies)
        self.delay_s = ordered[int(QUANTILE * (len(ordered) - 1))]


async def post_hedged(
    route: Route, request: Request, spent: Spent, wallet: Wallet, body: bytes, number: int
) -> Raw:
    """Like the transport's `post`, with a second request where the first is late and there is room for it.

    While other calls wait for a slot there is no room: a late call holds none of them up. It is looked for
    again until the answer comes, so that the last calls of a run find the slots that nobody needs any more.

    `number` is the first request's at the gate, which is told here of an answer that is not returned.
    """
    lane, lateness = route.lane, route.lateness
    assert lateness is not None
    loop = asyncio.get_running_loop()
    begun_s = loop.time()
    first = loop.create_task(lane.transport.post(body, lane.model.timeout_s))
    raw = None
    try:
        while raw is None and lateness.delay_s is not None:
            done, _ = await asyncio.wait({first}, timeout=max(lateness.delay_s, SHORTEST_S))
            if done:
                break
            raw = await _raced(route, request, spent, wallet, body, {first: number})
        if raw is None:
            raw = await first
    finally:
        first.cancel()
    if raw.status == 200:
        lateness.observe(loop.time() - begun_s)
    return raw


async def _raced(
    route: Route, request: Request, spent: Spent, wallet: Wallet, body: bytes, first: Flying
) -> Raw | None:
    """Race a second request against the first; the loser is cancelled and booked. None where none may be sent."""
    lane, gate = route.lane, route.lane.gate
    if lane.hedges + 1 > SHARE * gate.answers:
        return None
    reserved = route.reservation(request)
    if wallet.limited and not wallet.try_reserve(reserved):
        return None
    number = gate.try_acquire(route.input_tokens(request), route.output)
    if not number:
        if wallet.limited:
            wallet.settle(reserved, Money())
        return None
    lane.hedges += 1
    lost = route.abandoned(request)
    second = asyncio.get_running_loop().create_task(lane.transport.post(body, lane.model.timeout_s))
    try:
        raw, loser = await _winner(route, {**first, second: number})
        if loser is not None and loser.status not in (0, 200):
            lost = Usage()
        return raw
    finally:
        second.cancel()
        gate.settle(number, route.output, lost if lost.input else None)
        gate.release()
        spent.attempts += 1
        spent.usage = spent.usage + lost
        if wallet.limited:
            wallet.settle(reserved, route.actual(lost))


async def _winner(route: Route, flying: Flying) -> tuple[Raw, Raw | None]:
    """The first good answer, else the last bad one; and what the loser said, if it said anything."""
    done, left = await asyncio.wait(flying, return_when=asyncio.FIRST_COMPLETED)
    ended = [*sorted(done, key=lambda task: task.result().status == 200), *left]
    if left and ended[0].result().status == 200:
        return ended[0].result(), None
    loser, winner = ended
    _tell(route, loser.result(), flying[loser])
    return await winner, loser.result()


def _tell(route: Route, raw: Raw, number: int) -> None:
    """A refusal is a word to all processes, and at once, whichever answer the row takes."""
    lane = route.lane
    verdict = classify(raw.status, raw.headers, raw.body, raw.trouble, secrets=lane.secrets)
    lane.observe(number, raw, verdict, lane.gate.time_s(), first=False, most_output=route.output.ceiling)
