"""The client: budget, gate, transport, classification and retries. The engine's only way to a model."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import random
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

from apwa_dask.errors import ApwaError, ConfigError
from apwa_dask.models.budget import Wallet
from apwa_dask.models.checkup import question
from apwa_dask.models.endpoints import Endpoints, Lane
from apwa_dask.models.fatal import fatal_error, no_embeddings_error, unreachable_error
from apwa_dask.models.gate import Gate
from apwa_dask.models.hedge import post_hedged
from apwa_dask.models.leases import Money
from apwa_dask.models.model import Model
from apwa_dask.models.outcomes import Completion, Retry, Verdict, classify
from apwa_dask.models.prices import require_prices
from apwa_dask.models.redact import without_quotes
from apwa_dask.models.retry import RetryPolicy, Tries
from apwa_dask.models.route import Route, Spent
from apwa_dask.models.types import NO_USAGE, OutcomeClass, Purpose, Reply, Request, Template

__all__ = ["Client"]

MAX_ROUTES = 512
TURN_S = 0.5
"""A retry over the endpoint's retry budget looks again after so long."""
BUDGETED = (Retry.TRANSIENT, Retry.DEADLINE)
"""Failures that an endpoint in trouble causes. A refused rate is waited out, a bad answer is the row's own."""
ABSENT = (405, 501)
"""How servers say, beside 404, that they have no embeddings."""
NOTHING = Money()
SILENCE = Completion(None, "")

T = TypeVar("T")


class _Stopped(Exception):
    """The run is stopping: what waits is given up."""


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
    resting : callable, optional
        Makes a context in which a call waits for something else than a slot: time, or money.
    """

    def __init__(
        self,
        endpoints: Endpoints,
        wallet: Wallet | None = None,
        *,
        policy: RetryPolicy | None = None,
        rng: random.Random | None = None,
        resting: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self.wallet = wallet or Wallet()
        self._resting = resting
        self._endpoints = endpoints
        self._policy = policy or RetryPolicy()
        self._rng = rng or random.Random()
        self._routes: dict[int, Route] = {}
        self._fatal: ApwaError | None = None
        self._stopped = ""
        self.on_loss: Callable[[Request, Purpose, Reply], None] | None = None
        """Hears of calls that were sent and end without a reply: their attempts may be billed."""
        self._idle: set[asyncio.Task[Any]] = set()

    @property
    def prefixes_are_kept(self) -> bool:
        """Whether answers so far were cheaper because the endpoint had kept the beginning of their prompts."""
        return any(tally.cached_tokens for tally in list(self.wallet.totals.values()))

    def gates(self) -> list[Gate]:
        """Those that calls of this client have gone through."""
        return list({route.lane.gate: None for route in list(self._routes.values())})

    def stop(self, why: str) -> None:
        """Send nothing more: calls that wait (for a slot, money, or before a retry) end as ``stopped``.

        Those in flight finish. Called on the event loop.
        """
        self._stopped = why or "stopped"
        for task in list(self._idle):
            task.cancel()

    async def preflight(self, model: Model) -> Lane:
        """Find everything that can be found without a call: key, address, price, the embedded model's server.

        The first real call is the probe: until it is answered no other is sent, so a wrong key costs one.

        Raises
        ------
        ProviderError, BudgetError, ConfigError, LocalModelError
        """
        lane = await self._endpoints.lane(model)
        if lane.price is None:
            require_prices([model], self.wallet.budget.usd)
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
        spent, reply = Spent(), None
        outcome = OutcomeClass.STOPPED
        try:
            verdict = await self._attempt(route, request, spent, first=True)
            if verdict.retry is not Retry.NONE:
                verdict = await self._until_settled(route, request, spent, verdict)
            outcome = verdict.outcome
            reply = _reply(route, request, verdict, spent)
            return reply
        except _Stopped:
            reply = _reply(route, request, Verdict(OutcomeClass.STOPPED, words=self._stopped), spent)
            return reply
        except ApwaError:
            outcome = OutcomeClass.FATAL
            raise
        finally:
            if spent.attempts:
                name, usage = route.template.model.name, spent.usage
                cost_usd = route.cost_usd(usage) if reply is None else reply.cost_usd
                self.wallet.book(purpose.step_id, name, outcome, usage, cost_usd, spent.attempts)
                if reply is None and self.on_loss is not None:
                    self.on_loss(request, purpose, _reply(route, request, Verdict(outcome), spent))

    async def _route(self, template: Template) -> Route:
        lane = await self.preflight(template.model)
        known = self._routes.get(id(template))
        if known is not None:
            return known
        if lane.wire_name != template.model.name and not lane.adaptation.wire_name:
            lane.adaptation = dataclasses.replace(lane.adaptation, wire_name=lane.wire_name)
        if len(self._routes) >= MAX_ROUTES:
            self._routes.clear()
        try:
            route = self._routes[id(template)] = Route(template, lane)
        except (TypeError, ValueError):
            raise ConfigError(
                "the instruction, examples, schema or parameters cannot be written as UTF-8 JSON",
                where=f"model {template.model.name!r}, schema {template.schema_name!r}",
                why="a lone surrogate, or an object that is not plain data",
                code="CONFIG-TEMPLATE",
            ) from None
        return route

    async def _until_settled(self, route: Route, request: Request, spent: Spent, verdict: Verdict) -> Verdict:
        """Waits and further attempts, until a verdict stands. Between them neither slot nor money is held."""
        lane, gate, loop = route.lane, route.lane.gate, asyncio.get_running_loop()
        tries = Tries(self._policy, loop.time() - spent.latency_s, self._rng)
        answers = gate.answers
        while True:
            if verdict.retry is Retry.STEP_DOWN and not route.step_down(
                verdict, spent.template or route.template
            ):
                return verdict
            # A row that failed while others were answered is at fault itself, whatever happens later.
            outage = gate.outage and gate.answers == answers and verdict.retry is Retry.TRANSIENT
            if outage and spent.connected and lane.checkup.due(loop.time()):
                await self._check_up(route, spent)
                outage = gate.answers == answers
            wait_s = tries.wait_s(verdict, loop.time(), outage=outage)
            if wait_s is None:
                break
            if not outage and verdict.retry in BUDGETED:
                await self._wait_for_turn(gate)
            if not spent.connected:
                if not gate.answers and tries.failures >= self._policy.unreachable_attempts:
                    raise self._give_up(lane, unreachable_error(lane.model))
                await self._endpoints.reopen(lane)
            if wait_s > 0:
                await self._rest(asyncio.sleep(wait_s))
            verdict = await self._attempt(route, request, spent, first=False)
            if verdict.retry is Retry.NONE:
                return verdict
        if verdict.fatal:
            raise await self._stop(lane, request, verdict)
        return verdict

    async def _check_up(self, route: Route, spent: Spent) -> None:
        """Ask the endpoint something that any row could ask: on the bill of the row that needs to know."""
        asked = question(route.template)
        await self._attempt(Route(asked.template, route.lane), asked, spent, first=False)

    async def _wait_for_turn(self, gate: Gate) -> None:
        """Until the endpoint may be sent one more retry."""
        loop = asyncio.get_running_loop()
        while not gate.retries.take(loop.time(), gate.answers):
            await self._rest(asyncio.sleep(self._rng.uniform(0.5, 1.0) * TURN_S))

    async def _attempt(self, route: Route, request: Request, spent: Spent, *, first: bool) -> Verdict:
        """One request: reserve, wait for a slot, send, settle."""
        wallet, gate, output = self.wallet, route.lane.gate, route.output
        reserved, before = NOTHING, spent.attempts
        if wallet.limited:
            number, reserved = await self._admitted(route, request)
        else:
            number = await self._slot(route, request)
        try:
            return await self._exchange(route, request, spent, number, first=first)
        finally:
            if spent.flying:
                spent.land(route.abandoned(request))
            if gate.reserved:
                gate.settle(number, output, spent.counted(before))
            gate.release()
            if wallet.limited:
                wallet.settle(reserved, route.actual(spent.last) if spent.attempts > before else NOTHING)

    async def _slot(self, route: Route, request: Request) -> int:
        gate = route.lane.gate
        number = 0 if gate.limits_tokens else gate.try_acquire()
        return number or await self._wait(gate.acquire(route.input_tokens(request), route.output))

    async def _admitted(self, route: Route, request: Request) -> tuple[int, Money]:
        """A slot, and money for what the call is thought to come to when it goes.

        While it waited, answers to others may have shown that it will come to more.
        """
        wallet, gate = self.wallet, route.lane.gate
        while True:
            reserved = route.reservation(request)
            if not wallet.try_reserve(reserved):
                await self._rest(wallet.reserve(reserved))
            try:
                number = await self._slot(route, request)
            except BaseException:
                wallet.settle(reserved, NOTHING)
                raise
            thought = route.reservation(request)
            if wallet.try_replace(reserved, thought):
                return number, thought
            gate.settle(number, route.output, NO_USAGE)
            gate.release()
            wallet.settle(reserved, NOTHING)

    async def _exchange(
        self, route: Route, request: Request, spent: Spent, number: int, *, first: bool
    ) -> Verdict:
        lane, time_s = route.lane, route.lane.gate.time_s
        if self._stopped:
            raise _Stopped
        if self._fatal is not None:
            raise copy.copy(self._fatal)
        template = route.wire_template()
        body = route.encoded(template, request)
        if isinstance(body, Verdict):
            return body
        spent.take_off(template)
        sent_s = time_s()
        if route.embeds:
            raw = await lane.transport.post_embeddings(body, lane.model.timeout_s)
        elif route.lateness is None:
            raw = await lane.transport.post(body, lane.model.timeout_s)
        else:
            raw = await post_hedged(route, request, spent, self.wallet, body, number)
        now_s = time_s()
        verdict = classify(raw.status, raw.headers, raw.body, raw.trouble, secrets=lane.secrets)
        if route.embeds and raw.status in ABSENT:
            verdict = verdict._replace(outcome=OutcomeClass.FATAL, retry=Retry.NONE, fatal="endpoint")
        spent.land(route.usage(verdict, len(body)))
        spent.latency_s = now_s - sent_s
        spent.connected = raw.trouble != "connect"
        lane.observe(number, raw, verdict, now_s, first=first, most_output=route.output.ceiling)
        if verdict.fatal and verdict.retry is Retry.NONE:
            raise await self._stop(lane, request, verdict)
        return verdict

    def _stops(self) -> bool:
        return bool(self._stopped)

    async def _rest(self, waiting: Coroutine[Any, Any, T]) -> T:
        """Wait for something else than a slot: time, or money."""
        with self._resting():
            return await self._wait(waiting)

    async def _wait(self, waiting: Coroutine[Any, Any, T]) -> T:
        """Wait for something that is not a call, so that `stop` can end it.

        Raises
        ------
        _Stopped
            Instead of the cancellation that `stop` asked for; one that others ask for passes.
        """
        if self._stops():
            waiting.close()
            raise _Stopped
        task = asyncio.current_task()
        assert task is not None
        self._idle.add(task)
        try:
            return await waiting
        except asyncio.CancelledError:
            if self._stops() and task.uncancel() == 0:
                raise _Stopped from None
            raise
        finally:
            self._idle.discard(task)

    async def _stop(self, lane: Lane, request: Request, verdict: Verdict) -> ApwaError:
        """The error of a refusal for good. The slot is still held: nobody probes while models are listed."""
        verdict = verdict._replace(words=_safe(verdict.words, request))
        if request.template.kind == "embeddings" and verdict.fatal in ("model", "endpoint"):
            return self._give_up(lane, no_embeddings_error(lane.model, verdict))
        return self._give_up(lane, await fatal_error(lane, verdict))

    def _give_up(self, lane: Lane, error: ApwaError) -> ApwaError:
        self._fatal = error
        lane.gate.fail(error)
        return copy.copy(error)


def _reply(route: Route, request: Request, verdict: Verdict, spent: Spent) -> Reply:
    said = verdict.completion or SILENCE
    return Reply(
        verdict.outcome,
        said.text,
        said.tool_calls,
        spent.usage,
        route.cost_usd(spent.usage),
        said.model,
        said.finish_reason,
        said.request_id,
        spent.attempts,
        spent.latency_s,
        "live",
        _safe(verdict.words, request) if verdict.words else "",
    )


def _safe(words: str, request: Request) -> str:
    """The words, unless they quote what this row says."""
    said: list[str] = []
    for message in request.tail:
        content = message.content
        parts = [content] if isinstance(content, str) else [str(part.get("text", "")) for part in content]
        said += parts
    return without_quotes(words, said)
