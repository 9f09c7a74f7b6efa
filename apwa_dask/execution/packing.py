"""Texts to be embedded share requests, and each gets its own reply: a caller before the client.

Who asks, asks about one text, and the journal is keyed by one text; so a row that is inserted re-pays itself and
nothing else. The texts that are missing at the same time travel together. Their bill is divided by their lengths.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Coroutine, Sequence
from contextvars import Context
from dataclasses import dataclass, field, replace
from typing import Any

from apwa_dask.execution.crew import resting
from apwa_dask.models.tokens import estimate_tokens
from apwa_dask.models.types import Caller, OutcomeClass, Purpose, Reply, Request
from apwa_dask.models.vectors import MOST_TEXTS

__all__ = ["PackingCaller", "divided"]

MOST_TOKENS = 8_000
"""Of one request, estimated: within what one text may have at the common endpoints."""
GATHERING_S = 0.01
"""How long a request waits for more texts."""
_OF_ONE_TEXT = (
    OutcomeClass.BAD_INPUT,
    OutcomeClass.TOO_LARGE,
    OutcomeClass.FILTERED,
    OutcomeClass.INVALID_OUTPUT,
)
"""How a request ends by the fault of one of its texts: then each is asked about alone."""


@dataclass(slots=True)
class _Pack:
    """Texts of one template on their way into a request."""

    purpose: Purpose
    requests: list[Request] = field(default_factory=list)
    replies: list[asyncio.Future[Reply]] = field(default_factory=list)
    tokens: int = 0
    timer: asyncio.TimerHandle | None = None


class PackingCaller:
    """A `Caller` that sends requests for embeddings together; all others go straight to the client.

    Lives on the event loop that makes the calls.

    Parameters
    ----------
    client : Caller
    """

    def __init__(self, client: Caller) -> None:
        self._client = client
        self._packs: dict[tuple[int, str], _Pack] = {}
        self._sending: set[asyncio.Task[None]] = set()

    def call(self, request: Request, purpose: Purpose) -> Coroutine[Any, Any, Reply]:
        """As the client's; an embedding waits `GATHERING_S` for company."""
        if request.template.kind == "chat":
            return self._client.call(request, purpose)
        return self._call_together(request, purpose)

    async def _call_together(self, request: Request, purpose: Purpose) -> Reply:
        loop = asyncio.get_running_loop()
        tokens = _tokens(request)
        key = (id(request.template), purpose.step_id)
        pack = self._packs.get(key)
        if pack is not None and pack.tokens + tokens > MOST_TOKENS:
            self._send(key)
            pack = None
        if pack is None:
            pack = self._packs[key] = _Pack(purpose)
            pack.timer = loop.call_later(GATHERING_S, self._send, key)
        reply: asyncio.Future[Reply] = loop.create_future()
        pack.requests.append(request)
        pack.replies.append(reply)
        pack.tokens += tokens
        if len(pack.requests) >= MOST_TEXTS:
            self._send(key)
        with resting():  # the request that they share has a slot, not each of them
            return await reply

    def _send(self, key: tuple[int, str]) -> None:
        pack = self._packs.pop(key)
        if pack.timer is not None:
            pack.timer.cancel()
        task = asyncio.get_running_loop().create_task(self._answer(pack), context=Context())
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _answer(self, pack: _Pack) -> None:
        """Give every text its reply, or the error that stops the run."""
        try:
            replies = await self._asked(pack)
        except asyncio.CancelledError:
            for waiting in pack.replies:
                waiting.cancel()
            raise
        except Exception as error:
            # each who waits raises it: whoever gave up (a deadline) is told nothing
            for waiting in pack.replies:
                if not waiting.done():
                    waiting.set_exception(copy.copy(error))
            return
        for waiting, reply in zip(pack.replies, replies, strict=True):
            if waiting.done():
                continue
            if isinstance(reply, BaseException):
                waiting.set_exception(reply)
            else:
                waiting.set_result(reply)

    async def _asked(self, pack: _Pack) -> Sequence[Reply | BaseException]:
        """What each text came to: where they were asked about alone, an error of one leaves the others' answers."""
        if len(pack.requests) == 1:
            return [await self._client.call(pack.requests[0], pack.purpose)]
        first = pack.requests[0]
        together = Request(first.template, tuple(text for request in pack.requests for text in request.tail))
        reply = await self._client.call(together, pack.purpose)
        vectors = (reply.text or "").split("\n") if reply.ok else []
        if reply.ok and len(vectors) == len(pack.requests):
            shares = divided(reply, [_tokens(request) for request in pack.requests])
            return [share._replace(text=vector) for share, vector in zip(shares, vectors, strict=True)]
        if reply.ok or reply.outcome in _OF_ONE_TEXT:
            alone = await asyncio.gather(
                *(self._client.call(request, pack.purpose) for request in pack.requests),
                return_exceptions=True,
            )
            spent = divided(reply, [_tokens(request) for request in pack.requests])
            return [_with(of, before) for of, before in zip(alone, spent, strict=True)]
        return divided(reply, [_tokens(request) for request in pack.requests])


def divided(reply: Reply, weights: Sequence[int]) -> list[Reply]:
    """The reply once for each text: tokens and money by weight, adding up to the whole.

    Examples
    --------
    >>> whole = Reply(OutcomeClass.OK, usage=Usage(10), cost_usd=1.0)
    >>> [share.usage.input for share in divided(whole, [1, 1, 2])]
    [2, 3, 5]
    """
    total, usage = sum(weights), reply.usage
    shares: list[Reply] = []
    passed = tokens = cached = 0
    for weight in weights:
        passed += weight
        tokens_to, cached_to = usage.input * passed // total, usage.cached * passed // total
        share = replace(usage, input=tokens_to - tokens, cached=cached_to - cached, output=0)
        tokens, cached = tokens_to, cached_to
        cost = None if reply.cost_usd is None else reply.cost_usd * weight / total
        shares.append(reply._replace(usage=share, cost_usd=cost))
    return shares


def _with(reply: Reply | BaseException, before: Reply) -> Reply | BaseException:
    """A text's own reply, with its share of the request that failed before."""
    if isinstance(reply, BaseException):
        return reply
    known = reply.cost_usd is not None and before.cost_usd is not None
    return reply._replace(
        usage=reply.usage + before.usage,
        cost_usd=(reply.cost_usd or 0.0) + (before.cost_usd or 0.0) if known else None,
        attempts=reply.attempts + before.attempts,
    )


def _tokens(request: Request) -> int:
    return 1 + sum(estimate_tokens(text.content) for text in request.tail if isinstance(text.content, str))
