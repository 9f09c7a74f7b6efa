"""The client: budget, gate, transport, classification and retries for one request. The engine's only way to a
model.
"""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import random
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from apwa_dask.errors import ApwaError, BudgetError
from apwa_dask.models.budget import Wallet
from apwa_dask.models.endpoints import LIMITS_EVERY_S, Endpoints, Lane
from apwa_dask.models.fatal import fatal_error, unreachable_error
from apwa_dask.models.headers import announced
from apwa_dask.models.leases import Money
from apwa_dask.models.model import Model, Price
from apwa_dask.models.outcomes import Retry, Verdict, classify
from apwa_dask.models.redact import without_quotes
from apwa_dask.models.retry import RetryPolicy, Tries
from apwa_dask.models.tokens import BYTES_PER_TOKEN_AT_MOST, OutputEstimate, guess_output_tokens
from apwa_dask.models.transport import Raw
from apwa_dask.models.types import OutcomeClass, Purpose, Reply, Request, Template, Usage

__all__ = ["Client"]

MAX_ROUTES = 512

T = TypeVar("T")


class _Stopped(Exception):
    """The run is stopping: what waits is given up."""


@dataclass(slots=True)
class _Route:
    """What all calls of one template share in this client. The template is kept, because routes go by its
    id.
    """

    template: Template
    lane: Lane
    output: OutputEstimate
    adapted_for: object = None
    adapted: Template | None = None

    def wire_template(self) -> Template:
        adaptation = self.lane.adaptation
        if not adaptation:
            return self.template
        if self.adapted is None or self.adapted_for is not adaptation:
            self.adapted, self.adapted_for = adaptation.applied(self.template), adaptation
        return self.adapted

    def size_bytes(self, request: Request) -> int:
        """Of the body, nearly, without encoding it."""
        size = len(self.template.prefix)
        for message in request.tail:
            content = message.content
            size += len(content) if isinstance(content, str) else sum(len(str(part)) for part in content)
        return size


@dataclass(slots=True)
class _Spent:
    """What one call has come to so far, over all its attempts."""

    attempts: int = 0
    usage: Usage = field(default_factory=Usage)
    flying: bool = False


class Client:
    """Turns requests into replies: a `Caller`.

    One for each run and process; endpoints and gates are the process's, the wallet is the run's.

    Parameters
    ----------
    endpoints : Endpoints
        Shared by all clients of the process.
    wallet : Wallet, optional
        The run's budget and ledger; default counts without a ceiling.
    policy : RetryPolicy, optional
        Bounds of retries.
    rng : random.Random, optional
        For jitter.
    """

    def __init__(
        self,
        endpoints: Endpoints,
        wallet: Wallet | None = None,
        *,
        policy: RetryPolicy | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.wallet = wallet or Wallet()
        self._endpoints = endpoints
        self._policy = policy or RetryPolicy()
        self._rng = rng or random.Random()
        self._routes: dict[int, _Route] = {}
        self._fatal: ApwaError | None = None
        self._stopped = ""
        self._idle: set[asyncio.Task[Any]] = set()

    def stop(self, why: str) -> None:
        """Send nothing more: calls that wait (for a slot, money, or before a retry) end as ``stopped``.

        Those in flight finish. Called on the event loop.
        """
        self._stopped = why or "stopped"
        for task in list(self._idle):
            task.cancel()

    async def preflight(self, model: Model) -> Lane:
        """Find everything that can be found without a call: key, address, price, the embedded model's server.

        The first real call is the probe: until it is answered no other is sent, so a wrong key costs one
        call.

        Raises
        ------
        ProviderError, BudgetError, ConfigError, LocalModelError
        """
        lane = await self._endpoints.lane(model)
        if self.wallet.budget.usd is not None and lane.price is None:
            raise _unknown_price(model)
        return lane

    async def call(self, request: Request, purpose: Purpose) -> Reply:
        """Send a request until it has an outcome.

        Raises
        ------
        ProviderError
            The endpoint refuses for good: key, model, quota, address. The run must stop.
        BudgetError
            The ceiling is reached, or cannot be kept because the price is unknown.
        """
        route = self._routes.get(id(request.template))
        if route is None:
            route = await self._route(request.template)
        if self._fatal is not None:
            raise copy.copy(self._fatal)
        reserved = Money()
        wallet = self.wallet
        if wallet.limited:
            reserved = self._estimate(route, request)
            if not wallet.try_reserve(reserved):
                try:
                    await self._wait(wallet.reserve(reserved))
                except _Stopped:
                    return Reply(OutcomeClass.STOPPED, attempts=0, message=self._stopped)
        spent = _Spent()
        outcome = OutcomeClass.STOPPED
        try:
            reply = await self._answer(route, request, spent)
            outcome = reply.outcome
            return reply
        except _Stopped:
            return Reply(
                OutcomeClass.STOPPED,
                usage=spent.usage,
                cost_usd=_cost_usd(route.lane.price, spent.usage),
                attempts=spent.attempts,
                message=self._stopped,
            )
        except ApwaError:
            outcome = OutcomeClass.FATAL
            raise
        finally:
            self._settle(route, request, purpose, reserved, spent, outcome)

    # -- one call

    async def _answer(self, route: _Route, request: Request, spent: _Spent) -> Reply:
        lane = route.lane
        gate = lane.gate
        loop = asyncio.get_running_loop()
        tries: Tries | None = None
        first_sent_s = 0.0
        answers_at_failure = -1
        tokens = lane.ratio.tokens(route.size_bytes(request)) + route.output.tokens
        while True:
            number = gate.try_acquire(tokens) or await self._wait(gate.acquire(tokens))
            try:
                if self._stopped:
                    raise _Stopped
                if self._fatal is not None:
                    raise copy.copy(self._fatal)
                template = route.wire_template()
                body = _encoded(template, request)
                if isinstance(body, Reply):
                    return body
                if _certainly_too_large(lane, body):
                    return _too_large(lane, len(body))
                sent_s = loop.time()
                spent.flying, spent.attempts = True, spent.attempts + 1
                raw = await lane.transport.post(body, lane.model.timeout_s)
                spent.flying = False
                verdict = classify(raw.status, raw.headers, raw.body, raw.trouble, secrets=lane.secrets)
                usage = self._usage(route, verdict, len(body))
                spent.usage = spent.usage + usage if spent.attempts > 1 else usage
                self._tell_gate(lane, number, raw, verdict, first=tries is None)
                if verdict.retry is Retry.NONE:
                    if verdict.fatal:
                        raise await self._stop(lane, request, verdict)
                    return self._reply(lane, request, verdict, spent, loop.time() - sent_s)
                now = loop.time()
                if tries is None:
                    first_sent_s = sent_s
                    tries = Tries(self._policy, first_sent_s, self._rng)
                    answers_at_failure = gate.answers
                if verdict.retry is Retry.STEP_DOWN and not _step_down(lane, verdict, template):
                    return self._reply(lane, request, verdict, spent, now - sent_s)
                # A row that failed while others were answered is at fault itself, whatever happens later.
                outage = gate.outage and gate.answers == answers_at_failure
                wait_s = tries.wait_s(verdict, now, outage=outage and verdict.retry is Retry.TRANSIENT)
                if wait_s is None:
                    if verdict.fatal:
                        raise await self._stop(lane, request, verdict)
                    return self._reply(lane, request, verdict, spent, now - sent_s)
                if raw.trouble == "connect":
                    if not gate.answers and tries.failures >= self._policy.unreachable_attempts:
                        raise self._give_up(lane, unreachable_error(lane.model))
                    await self._endpoints.reopen(lane)
            finally:
                gate.release()
            if wait_s > 0:
                await self._wait(asyncio.sleep(wait_s))

    async def _wait(self, waiting: Coroutine[Any, Any, T]) -> T:
        """Wait for something that is not a call, so that `stop` can end it.

        Raises
        ------
        _Stopped
            Instead of the cancellation that `stop` asked for; one that others ask for passes.
        """
        if self._stopped:
            waiting.close()
            raise _Stopped
        task = asyncio.current_task()
        assert task is not None
        self._idle.add(task)
        try:
            return await waiting
        except asyncio.CancelledError:
            if self._stopped and task.uncancel() == 0:
                raise _Stopped from None
            raise
        finally:
            self._idle.discard(task)

    def _tell_gate(self, lane: Lane, number: int, raw: Raw, verdict: Verdict, *, first: bool) -> None:
        gate = lane.gate
        retry = verdict.retry
        if retry is Retry.THROTTLED:
            self._pass_limits_on(lane, raw)
            gate.throttled(number, verdict.wait_s)
        elif verdict.outcome in (OutcomeClass.TRANSIENT, OutcomeClass.DEADLINE):
            if verdict.overloaded:
                gate.overloaded(number)
            if first or gate.outage:
                gate.failed()
        elif not verdict.fatal:
            if asyncio.get_running_loop().time() - lane.limits_read_s >= LIMITS_EVERY_S:
                self._pass_limits_on(lane, raw)
            gate.succeeded()

    def _pass_limits_on(self, lane: Lane, raw: Raw) -> None:
        lane.limits_read_s = asyncio.get_running_loop().time()
        limits = announced(raw.headers)
        if limits:
            lane.gate.heard(limits)

    async def _stop(self, lane: Lane, request: Request, verdict: Verdict) -> ApwaError:
        """The error of a refusal for good. The slot is still held: nobody probes while models are listed."""
        verdict = dataclasses.replace(verdict, words=_safe(verdict.words, request))
        return self._give_up(lane, await fatal_error(lane, verdict))

    def _give_up(self, lane: Lane, error: ApwaError) -> ApwaError:
        self._fatal = error
        lane.gate.fail(error)
        return copy.copy(error)

    def _reply(
        self, lane: Lane, request: Request, verdict: Verdict, spent: _Spent, latency_s: float
    ) -> Reply:
        completion = verdict.completion
        message = _safe(verdict.words, request) if verdict.words else ""
        cost_usd = _cost_usd(lane.price, spent.usage)
        if completion is None:
            return Reply(
                verdict.outcome,
                usage=spent.usage,
                cost_usd=cost_usd,
                attempts=spent.attempts,
                latency_s=latency_s,
                message=message,
            )
        return Reply(
            verdict.outcome,
            completion.text,
            completion.tool_calls,
            spent.usage,
            cost_usd,
            completion.model,
            completion.finish_reason,
            completion.request_id,
            spent.attempts,
            latency_s,
            "live",
            message,
        )

    # -- money

    async def _route(self, template: Template) -> _Route:
        lane = await self.preflight(template.model)
        if lane.wire_name != template.model.name and not lane.adaptation.wire_name:
            lane.adaptation = dataclasses.replace(lane.adaptation, wire_name=lane.wire_name)
        ceiling = template.max_output_tokens
        output = OutputEstimate(guess_output_tokens(template.schema, ceiling), ceiling)
        if len(self._routes) >= MAX_ROUTES:
            self._routes.clear()
        route = self._routes[id(template)] = _Route(template, lane, output)
        return route

    def _estimate(self, route: _Route, request: Request) -> Money:
        tokens_in = route.lane.ratio.tokens(route.size_bytes(request))
        tokens_out = route.output.tokens
        price = route.lane.price
        usd = price.cost_usd(tokens_in, tokens_out) if price is not None else 0.0
        return Money(usd, tokens_in + tokens_out, 1)

    def _usage(self, route: _Route, verdict: Verdict, size_bytes: int) -> Usage:
        """Of one attempt: as stated; or estimated, where tokens were probably made and nobody says how
        many.
        """
        completion = verdict.completion
        if completion is not None and completion.usage is not None:
            usage = completion.usage
            route.lane.ratio.observe(size_bytes, usage.input)
            route.output.observe(usage.output)
            return usage
        if not verdict.sent:
            return Usage()
        tokens_in = route.lane.ratio.tokens(size_bytes)
        if completion is not None and completion.text:
            return Usage(tokens_in, len(completion.text) // 4 + 1, estimated=True)
        return Usage(tokens_in, route.output.tokens, estimated=True)

    def _settle(
        self,
        route: _Route,
        request: Request,
        purpose: Purpose,
        reserved: Money,
        spent: _Spent,
        outcome: OutcomeClass,
    ) -> None:
        usage = spent.usage
        if spent.flying:  # given up in flight: the endpoint goes on, and bills
            size_bytes = route.size_bytes(request)
            usage += Usage(route.lane.ratio.tokens(size_bytes), route.output.tokens, estimated=True)
        cost_usd = _cost_usd(route.lane.price, usage)
        if spent.attempts:
            self.wallet.book(
                purpose.step_id, route.template.model.name, outcome, usage, cost_usd, spent.attempts
            )
        self.wallet.settle(reserved, Money(cost_usd or 0.0, usage.input + usage.output, spent.attempts))


def _encoded(template: Template, request: Request) -> bytes | Reply:
    """The body, or the outcome of a row that no JSON can carry (a lone surrogate)."""
    try:
        wired = request if template is request.template else Request(template, request.tail, request.ordinal)
        return wired.body()
    except (TypeError, ValueError):
        return Reply(
            OutcomeClass.BAD_INPUT,
            attempts=0,
            message="the text cannot be encoded as UTF-8 JSON (a lone surrogate?)",
        )


def _safe(words: str, request: Request) -> str:
    """The words, unless they quote what this row says."""
    said: list[str] = []
    for message in request.tail:
        content = message.content
        parts = [content] if isinstance(content, str) else [str(part.get("text", "")) for part in content]
        said += parts
    return without_quotes(words, said)


def _certainly_too_large(lane: Lane, body: bytes) -> bool:
    window = lane.context_tokens
    return window is not None and len(body) / BYTES_PER_TOKEN_AT_MOST > window


def _too_large(lane: Lane, size_bytes: int) -> Reply:
    words = (
        f"the prompt of {size_bytes} bytes cannot fit a window of {lane.context_tokens} tokens: no call made"
    )
    return Reply(OutcomeClass.TOO_LARGE, attempts=0, message=words)


def _step_down(lane: Lane, verdict: Verdict, sent: Template) -> bool:
    adaptation = lane.adaptation.after(verdict.step_down, sent)
    if adaptation is None:
        return False
    if adaptation != lane.adaptation:
        lane.adaptation = adaptation
    return True


def _cost_usd(price: Price | None, usage: Usage) -> float | None:
    return None if price is None else price.cost_usd(usage.input, usage.output, usage.cached)


def _unknown_price(model: Model) -> BudgetError:
    return BudgetError(
        f"the price of model {model.name!r} is unknown, so a budget in US dollars cannot be kept",
        fix=f"Model({model.name!r}, price=Price(input_usd=..., output_usd=...)) in USD for a million tokens, "
        "or budget=Budget(tokens=...) or Budget(calls=...)",
        code="BUDGET-PRICE",
    )
