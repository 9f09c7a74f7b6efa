"""The one way a request leaves the process: journal, then an identical request in flight, then gate and
endpoint.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from apwa_dask.execution.asked_again import AskedAgain
from apwa_dask.execution.crew import resting
from apwa_dask.execution.meter import Flights
from apwa_dask.execution.tool_notes import tool_calls_of, tools_text
from apwa_dask.models.types import Caller, OutcomeClass, Purpose, Reply, Request, Usage
from apwa_dask.store.journal import Journal, Record
from apwa_dask.store.killpoints import reach

__all__ = ["Control", "InFlight", "JournaledCaller", "record_of", "reply_of"]

InFlight = dict[bytes, "asyncio.Future[Reply | None]"]
"""Requests on their way, by fingerprint; None as result: the caller gave up, ask yourself."""


@dataclass
class Control:
    """Whether a run may still spend, in one process. Set from any thread; read on the loop before each
    call.
    """

    stopping: str = ""
    """Why dispatch stops; empty while the run may go on."""
    error: BaseException | None = None
    """The first thing that stopped the run (wrong key, budget), to be raised to the user."""

    def stop(self, why: str, error: BaseException | None = None) -> None:
        """No further call starts; those in flight finish and are journaled."""
        if error is not None and self.error is None:
            self.error = error
        self.stopping = self.stopping or why


class JournaledCaller:
    """A `Caller` that never pays twice for the same request.

    Lives on the private loop. The journal is asked in bulk by partition threads before requests get here;
    here it is only asked for what is in memory, so the loop never waits for a disk.

    Parameters
    ----------
    in_flight : dict, optional
        Shared by all runs of a process over one journal, so that identical runs at once pay once.
    """

    def __init__(
        self,
        client: Caller,
        journal: Journal,
        control: Control,
        namespace: str,
        flights: Flights | None = None,
        in_flight: InFlight | None = None,
        *,
        store_prompts: bool = False,
        asked_again: AskedAgain | None = None,
        on_answer: Callable[[str, float], None] = lambda step_id, latency_s: None,
    ) -> None:
        self._client, self._journal, self._control, self._namespace = client, journal, control, namespace
        self._store_prompts, self._asked_again = store_prompts, asked_again
        self._flights, self._on_answer = flights or Flights(), on_answer
        self._in_flight: InFlight = {} if in_flight is None else in_flight
        self._loop: asyncio.AbstractEventLoop | None = None

    async def call(self, request: Request, purpose: Purpose) -> Reply:
        """Answer from memory, from an identical request in flight, or from the endpoint."""
        key = request.fingerprint(self._namespace)
        known = self._journal.peek(key)
        if known is not None and self._may_serve(request, known):
            return reply_of(known)
        while (twin := self._in_flight.get(key)) is not None:
            with resting():
                shared = await asyncio.shield(twin)
            if shared is not None:
                return shared._replace(source="shared", cost_usd=0.0, usage=Usage(), attempts=0)
        if self._control.stopping:
            return Reply(OutcomeClass.STOPPED, message=self._control.stopping, attempts=0)
        if self._loop is None:  # found once: it asks the system for the process's number
            self._loop = asyncio.get_running_loop()
        mine: asyncio.Future[Reply | None] = self._loop.create_future()
        self._in_flight[key] = mine
        self._flights.now += 1
        try:
            reach("call.before")
            reply = await self._client.call(request, purpose)
            reach("call.answered")
            if reply.attempts:  # also what was given up when the run stopped: its attempts may be billed
                self._on_answer(purpose.step_id, reply.latency_s)
                self._journal.put(self._record(key, reply, purpose, request))
            if not reply.outcome.is_pending:
                mine.set_result(reply)
            return reply
        finally:
            self._flights.now -= 1
            del self._in_flight[key]
            if not mine.done():
                # What stopped this call (its run's end) does not stop a twin of another run.
                mine.set_result(None)

    def lost(self, request: Request, purpose: Purpose, reply: Reply) -> None:
        """A call was sent and ends without a reply (the budget, a refusal for good, a deadline of its row): what its
        attempts came to is on the run's bill like any other.
        """
        self._journal.put(self._record(request.fingerprint(self._namespace), reply, purpose, request))

    def reuse(self, requests: Sequence[Request]) -> list[Reply | None]:
        """What the journal holds for each request. Called from partition threads; may read the store."""
        keys = [request.fingerprint(self._namespace) for request in requests]
        held = self._journal.get_many(keys)
        replies: list[Reply | None] = []
        for key, request in zip(keys, requests, strict=True):
            record = held.get(key)
            served = record is not None and self._may_serve(request, record)
            replies.append(reply_of(record) if served and record is not None else None)
        return replies

    def _record(self, key: bytes, reply: Reply, purpose: Purpose, request: Request) -> Record:
        prompt = request.body().decode("utf-8", "replace") if self._store_prompts else None
        tools = tools_text(reply, request) if request.template.tools else None
        return record_of(key, reply, purpose, prompt, tools)

    def _may_serve(self, request: Request, record: Record) -> bool:
        return self._asked_again is None or self._asked_again.allows(request, record)


def reply_of(record: Record) -> Reply:
    """A stored answer as a reply for which nothing was sent and nothing paid now."""
    return Reply(
        OutcomeClass(record.outcome),
        text=record.text,
        tool_calls=tool_calls_of(record.tools),
        cost_usd=0.0,
        model=record.model or "",
        finish_reason=record.finish_reason or "",
        request_id=record.request_id or "",
        attempts=0,
        source="journal",
    )


def record_of(key: bytes, reply: Reply, purpose: Purpose, prompt: str | None, tools: str | None) -> Record:
    """A reply as the journal keeps it."""
    return Record(
        key=key,
        outcome=str(reply.outcome),
        text=reply.text,
        finish_reason=reply.finish_reason,
        model=reply.model,
        input_tokens=reply.usage.input,
        cached_tokens=reply.usage.cached,
        output_tokens=reply.usage.output,
        estimated=reply.usage.estimated,
        cost_usd=reply.cost_usd,
        attempts=reply.attempts,
        request_id=reply.request_id,
        created_s=time.time(),
        run_id=purpose.run_id,
        step_id=purpose.step_id,
        prompt=prompt,
        tools=tools,
    )
