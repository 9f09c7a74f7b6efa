"""The life of one chat call: checked, limited, struck by a fault, queued for a slot, answered."""

from __future__ import annotations

import asyncio
import hashlib
import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

import orjson

from apwa_dask.testing.answers import Answer, answer_for, chat_request, count_tokens
from apwa_dask.testing.completions import completion_body
from apwa_dask.testing.embeddings import embeddings_body, embeddings_request
from apwa_dask.testing.faults import Strike, refused, spoiled_answer, spoiled_reply, struck
from apwa_dask.testing.kept_prompts import KeptPrompts
from apwa_dask.testing.limits import Limiter, Verdict, retry_hint
from apwa_dask.testing.log import Call, CallBook
from apwa_dask.testing.script import ChatRequest, Fault, Lognormal, Script
from apwa_dask.testing.wire import Header, Reply, Request, error_reply, html_reply, json_reply

__all__ = ["EMBEDDINGS", "Client", "Desk", "Exchange", "key_refusal"]

EMBEDDINGS = "/v1/embeddings"
Clock = Callable[[], float]
P99_SIGMAS = 2.326347874  # the 99th percentile of the standard normal distribution


class Client(Protocol):
    """What a desk needs of a connection."""

    number: int
    exchange: Exchange | None

    def answer(self, reply: Reply) -> None:
        """Send the reply; the connection calls `Exchange.done` when it is sent, or the client is gone."""


class Exchange:
    """One call from its arrival until its reply is sent or its client is gone."""

    def __init__(self, desk: Desk, call: Call, client: Client) -> None:
        self.desk, self.book, self.call, self.client = desk, desk.book, call, client
        self.holds_slot = False
        self.begin: Callable[[], None] | None = None
        self.timer: asyncio.TimerHandle | None = None

    def reply(self, reply: Reply) -> None:
        """Send the reply, and with it end the call."""
        self.call.status = reply.status
        self.client.answer(reply)

    def after(self, delay_s: float, work: Callable[[], None]) -> None:
        """Do the work later, unless the client is gone by then."""
        if delay_s <= 0:
            work()
            return
        self.timer = asyncio.get_running_loop().call_later(delay_s, work)

    def done(self, *, aborted: bool) -> None:
        """The reply is sent, or the client is gone."""
        if self.timer is not None:
            self.timer.cancel()
        self.call.aborted = aborted
        self.desk.finished(self)


class Desk:
    """Serves the calls of one server: its script, limits, slots and book."""

    def __init__(
        self, script: Script, clock: Clock, wall: Clock, sink: Callable[[Call], None] | None
    ) -> None:
        self.clock, self.wall, self.sink = clock, wall, sink
        self.waiting: deque[Exchange] = deque()
        self.answering = 0
        self.filling = False
        self.script = script
        self.reset()

    def reset(self) -> None:
        """Forget book, attempts and spent limits. Calls in flight go on, in the old book."""
        self.book = CallBook(self.script.keep_bodies, self.script.keep_calls)
        self.attempts: dict[bytes, int] = {}
        self.started = self.clock()
        self.max_answering = self.answering
        self.use(self.script)

    def use(self, script: Script) -> None:
        """Follow another script from now on, with full buckets; calls that have a slot end as they began."""
        self.script = script
        self.limiter = Limiter(script, self.clock())
        self.kept = KeptPrompts(script.keeps_prompts)
        self.random = random.Random(script.latency_s.seed if isinstance(script.latency_s, Lognormal) else 0)
        self.counts_attempts = any(fault.times is not None for fault in script.faults)
        self.book.keep_bodies, self.book.keep_calls = script.keep_bodies, script.keep_calls
        self._fill_slots()

    def serve(self, request: Request, client: Client) -> None:
        """Take a call in. Its reply may be sent before this returns, or later."""
        call = self.book.open(self.clock(), request.path, client.number)
        exchange = client.exchange = Exchange(self, call, client)
        call.retry_count = _number(request.headers.get(b"x-stainless-retry-count", b"0"))
        key = bearer(request)
        call.key_hash = hashlib.sha256(key).hexdigest()[:16] if key else ""
        refusal = key_refusal(self.script, key)
        call.key_ok = refusal is None
        if refusal is not None:
            exchange.reply(refusal)
            return
        try:
            read = embeddings_request if request.path == EMBEDDINGS else chat_request
            asked = read(orjson.loads(request.body))
        except (KeyError, TypeError, ValueError, AttributeError) as why:
            exchange.reply(error_reply(400, f"We could not parse the body of your request: {why!r}"))
            return
        self._note(call, asked)
        refusal = self._unfit(asked, call)
        if refusal is not None:
            exchange.reply(refusal)
            return
        self._admit(exchange, asked)

    def take_line(self, asked: ChatRequest, batch: str, custom_id: str) -> Call:
        """Enter a line of a batch into the book."""
        call = self.book.open(self.clock(), "/v1/chat/completions", 0)
        call.batch, call.custom_id, call.key_ok = batch, custom_id, True
        self._note(call, asked)
        return call

    def answer_line(self, call: Call, asked: ChatRequest) -> tuple[int, bytes]:
        """Status and body of the answer to a line. Limits and slots are not for batches."""
        reply = self._unfit(asked, call) or self._struck_line(call, asked)
        call.status = reply.status or 500
        self.end_line(call)
        return call.status, reply.payload.partition(b"\r\n\r\n")[2]

    def end_line(self, call: Call) -> None:
        """Close a line's entry, answered or not."""
        self.book.close(call, self.clock())
        if self.sink is not None:
            self.sink(call)

    def _struck_line(self, call: Call, asked: ChatRequest) -> Reply:
        attempt = self._attempt(asked) if self.counts_attempts else 1
        strike = Strike(call.n, self.clock() - self.started, attempt, asked)
        fault = struck(self.script.faults, strike)
        call.fault = "" if fault is None else fault.kind
        refusal = None if fault is None else refused(fault)
        return self._answer(call, asked, fault, ()) if refusal is None else refusal

    def finished(self, exchange: Exchange) -> None:
        """Close the call's entry and pass its slot on."""
        call = exchange.call
        call.billed = call.billed and not (call.aborted and self.script.cancel_is_free)
        exchange.book.close(call, self.clock())
        if self.sink is not None:
            self.sink(call)
        if exchange.holds_slot:
            self.answering -= 1
            exchange.holds_slot = False
            self._fill_slots()
        elif exchange.begin is not None:
            self.waiting.remove(exchange)
            exchange.begin = None

    def _note(self, call: Call, asked: ChatRequest) -> None:
        call.model = asked.model
        call.text_hash = hashlib.blake2b(asked.text.encode(), digest_size=8).hexdigest()
        call.prompt_tokens = count_tokens(asked.prompt)
        if self.script.keep_bodies:
            call.text, call.body = asked.text, asked.body

    def _unfit(self, asked: ChatRequest, call: Call) -> Reply | None:
        """The refusal of a request that can never be answered."""
        script = self.script
        if script.models and asked.model not in script.models:
            message = f"The model `{asked.model}` does not exist or you do not have access to it."
            return error_reply(404, message, code="model_not_found")
        if asked.body.get("stream"):
            return error_reply(400, "this server does not stream", param="stream")
        if asked.body.get("n", 1) not in (1, None):
            return error_reply(400, "this server gives one choice", param="n")
        if asked.schema is not None and not script.supports_json_schema:
            message = "'response_format' of type 'json_schema' is not supported with this model."
            return error_reply(400, message, param="response_format")
        wanted = call.prompt_tokens + (_max_tokens(asked) or 0)
        if script.context_tokens is not None and wanted > script.context_tokens:
            message = (
                f"This model's maximum context length is {script.context_tokens} tokens. However, you "
                f"requested {wanted} tokens. Please reduce the length of the messages or completion."
            )
            return error_reply(400, message, code="context_length_exceeded", param="messages")
        return None

    def _admit(self, exchange: Exchange, asked: ChatRequest) -> None:
        call = exchange.call
        reserved = (_max_tokens(asked) or 0) if self.script.counts_tokens == "most" else 0
        verdict = self.limiter.admit(call.prompt_tokens + reserved, self.clock())
        if verdict.wait_s > 0:
            call.fault = "rate_limit"
            exchange.reply(self._over_limit(verdict))
            return
        attempt = self._attempt(asked) if self.counts_attempts else 1
        strike = Strike(call.n, self.clock() - self.started, attempt, asked)
        fault = struck(self.script.faults, strike)
        if fault is not None:
            call.fault = fault.kind
            refusal = refused(fault)
            if refusal is not None:
                exchange.after(fault.delay_s, lambda: exchange.reply(refusal))
                return
        exchange.begin = lambda: self._begin(exchange, asked, fault, verdict.headers)
        self.waiting.append(exchange)
        self._fill_slots()

    def _over_limit(self, verdict: Verdict) -> Reply:
        extra = (*verdict.headers, *retry_hint(self.script.retry_after, verdict.wait_s, self.wall()))
        if self.script.limit_html:
            return html_reply(429, extra)
        message = f"Rate limit reached on {verdict.limit} per min. Please try again in {verdict.wait_s:.3f}s."
        return error_reply(429, message, kind=verdict.limit, code="rate_limit_exceeded", extra=extra)

    def _attempt(self, asked: ChatRequest) -> int:
        """Count a conversation's attempts. Re-asks append messages: its first user message names it."""
        messages: list[dict[str, Any]] = asked.body.get("messages") or [
            {"role": "user", "content": asked.text}
        ]
        first_user = next((i for i, message in enumerate(messages) if message.get("role") == "user"), 0)
        head = orjson.dumps([asked.model, messages[: first_user + 1]])
        key = hashlib.blake2b(head, digest_size=12).digest()
        self.attempts[key] = self.attempts.get(key, 0) + 1
        return self.attempts[key]

    def _fill_slots(self) -> None:
        if self.filling:  # an instant answer frees its slot inside this loop, which then goes on by itself
            return
        self.filling = True
        try:
            while self.waiting and (self.script.slots is None or self.answering < self.script.slots):
                self._start(self.waiting.popleft())
        finally:
            self.filling = False

    def _start(self, exchange: Exchange) -> None:
        begin, exchange.begin = exchange.begin, None
        exchange.holds_slot = True
        self.answering += 1
        self.max_answering = max(self.max_answering, self.answering)
        if begin is not None:
            begin()

    def _begin(
        self, exchange: Exchange, asked: ChatRequest, fault: Fault | None, extra: tuple[Header, ...]
    ) -> None:
        call = exchange.call
        try:
            reply = self._answer(call, asked, fault, extra)
        except Exception as why:  # a scripted callable may raise anything: its client must hear of it
            call.fault = "script_error"
            exchange.reply(error_reply(500, f"the script has no answer: {why!r}", kind="script_error"))
            return
        delay_s = self._latency_s() + (fault.delay_s if fault is not None else 0.0)
        exchange.after(delay_s, lambda: exchange.reply(reply))

    def _answer(
        self, call: Call, asked: ChatRequest, fault: Fault | None, extra: tuple[Header, ...]
    ) -> Reply:
        """Make the tokens, and with them the bill."""
        if "input" in asked.body:
            return self._embedded(call, asked, fault, extra)
        answer = answer_for(self.script, asked)
        if answer is None:
            call.fault = "unmatched"
            message = "no mapping and no rule of the script matches this prompt, and answers='fail'"
            return error_reply(500, message, kind="script_error", code="unmatched")
        if fault is not None:
            answer = spoiled_answer(fault, answer, asked.schema)
        limit = _max_tokens(asked)
        if limit is not None and answer.tokens > limit:
            answer = _cut(answer, limit)
        if limit is None or self.script.counts_tokens == "made":
            self.limiter.charge(answer.tokens)
        call.billed, call.completion_tokens = True, answer.tokens
        call.cached_tokens = self.kept.cached_tokens(asked.prompt)
        call.finish_reason = answer.finish_reason
        if self.script.keep_bodies:
            call.answer = answer.content or ""
        body = completion_body(
            answer,
            n=call.n,
            created=int(self.wall()),
            model=_resolved(self.script, fault, asked),
            prompt_tokens=call.prompt_tokens if self.script.usage else None,
            cached_tokens=call.cached_tokens,
        )
        return json_reply(200, body, extra) if fault is None else spoiled_reply(fault, body, extra)

    def _embedded(
        self, call: Call, asked: ChatRequest, fault: Fault | None, extra: tuple[Header, ...]
    ) -> Reply:
        """Make the vectors; only the texts are billed."""
        call.billed = True
        body = embeddings_body(
            asked,
            dimensions=self.script.dimensions,
            model=_resolved(self.script, fault, asked),
            prompt_tokens=call.prompt_tokens if self.script.usage else None,
        )
        return json_reply(200, body, extra) if fault is None else spoiled_reply(fault, body, extra)

    def _latency_s(self) -> float:
        latency = self.script.latency_s
        if not isinstance(latency, Lognormal):
            return latency
        sigma = math.log(latency.p99_s / latency.p50_s) / P99_SIGMAS
        return self.random.lognormvariate(math.log(latency.p50_s), sigma)


def bearer(request: Request) -> bytes:
    """The API key of a request; empty if there is none."""
    scheme, _, key = request.headers.get(b"authorization", b"").partition(b" ")
    return key.strip() if scheme.lower() == b"bearer" else b""


def key_refusal(script: Script, key: bytes) -> Reply | None:
    """The 401 of a wrong key. It shows no part of the key, unlike some providers'."""
    if script.api_key is None or key == script.api_key.encode():
        return None
    if not key:
        return error_reply(401, "You didn't provide an API key.")
    return error_reply(401, "Incorrect API key provided.", code="invalid_api_key")


def _resolved(script: Script, fault: Fault | None, asked: ChatRequest) -> str:
    if fault is not None and fault.kind == "other_model":
        return fault.content or f"{asked.model}-other"
    return script.resolved_model or asked.model


def _max_tokens(asked: ChatRequest) -> int | None:
    limit = asked.body.get("max_completion_tokens", asked.body.get("max_tokens"))
    return limit if isinstance(limit, int) else None


def _cut(answer: Answer, max_tokens: int) -> Answer:
    return replace(
        answer, content=(answer.content or "")[: max_tokens * 4], tool_calls=(), finish_reason="length"
    )


def _number(digits: bytes) -> int:
    return int(digits) if digits.isdigit() else 0
