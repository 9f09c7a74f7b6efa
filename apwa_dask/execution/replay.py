"""A unit's conversation told again from the journal: the same prompts, the stored answers, and no call.

Prompts are rendered anew from the row and the plan. That they are the ones that were sent is sure: an answer is found
by the fingerprint of its whole request.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from apwa_dask.agents.agent import Conversation
from apwa_dask.agents.capabilities import ToolResult
from apwa_dask.agents.outcome import Outcome
from apwa_dask.execution.caller import reply_of
from apwa_dask.execution.tool_notes import tool_calls_of, turns_of
from apwa_dask.models.types import Message, OutcomeClass, Request
from apwa_dask.store.journal import Journal
from apwa_dask.store.record import Record

__all__ = ["Exchange", "ReplayDesk", "ToolUse"]

AnswerId = tuple[bytes, float]
NOT_KEPT = "its answer is not in the journal: it was purged, or lost before it was written"


@dataclass(frozen=True, slots=True)
class ToolUse:
    """A tool that the model asked for. ``result`` is None where it was not run, or is not kept."""

    name: str
    arguments: str
    result: str | None


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request and the answer to it.

    Attributes
    ----------
    messages : tuple of (str, str)
        Role and text of each message, system message and examples included.
    is_stored : bool
        The prompt was kept by ``store_prompts``; else it is rendered anew.
    answer, outcome, model, request_id
        As they came.
    input_tokens, cached_tokens, output_tokens, cost_usd, attempts
        What was billed, whoever paid. ``cost_usd`` is None where the price is unknown.
    paid_by : str
        The run that paid.
    at_s : float
        Unix time.
    tools : tuple of ToolUse
    """

    messages: tuple[tuple[str, str], ...]
    is_stored: bool
    answer: str | None
    outcome: str
    model: str
    request_id: str
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    cost_usd: float | None
    attempts: int
    paid_by: str
    at_s: float
    tools: tuple[ToolUse, ...] = ()


class ReplayDesk:
    """Holds conversations by feeding them what the journal has. Looks like a stage's desk.

    Parameters
    ----------
    journal : Journal
    namespace, run_id : str
    """

    pays = False

    def __init__(self, journal: Journal, namespace: str, run_id: str) -> None:
        self._journal, self._namespace, self._run_id = journal, namespace, run_id
        self._exchanges: dict[int, dict[AnswerId, Exchange]] = {}
        self._tool_records: dict[str, list[Record]] = {}
        self._all: dict[AnswerId, Exchange] = {}

    @property
    def all(self) -> tuple[Exchange, ...]:
        """What was said in all conversations, in order; an answer that served several is told once."""
        return tuple(self._all.values())

    def note(
        self, *, rows: int = 0, failed: int = 0, cached: int = 0, outcome: Outcome | None = None
    ) -> None:
        """Nothing is counted: it all happened before."""

    def exchanges(self, conversation: Conversation) -> tuple[Exchange, ...]:
        """What was said in a conversation."""
        return tuple(self._exchanges.get(id(conversation), {}).values())

    def reuse(self, conversations: Sequence[Conversation]) -> None:
        """Feed stored answers, good or bad, until each conversation ends or the journal has no more."""
        self.hold(conversations, "")

    def submit(
        self,
        conversations: Sequence[Conversation],
        step_id: str,
        done: Callable[[int], None],
        wake: Callable[[], None],
    ) -> None:
        """What the journal could not answer ends here."""
        for position, conversation in enumerate(conversations):
            conversation.give_up(OutcomeClass.INTERNAL, NOT_KEPT)
            done(position)
        wake()

    def hold(self, conversations: Sequence[Conversation], step_id: str) -> None:
        """Feed `conversations` together, so that the journal is asked once for a round of all of them."""
        first = {id(held): held.request for held in conversations}
        self._exchanges.update({id(held): {} for held in conversations})
        asking = [held for held in conversations if held.request is not None]
        while asking:
            requests = [held.request for held in asking]
            keys = [request.fingerprint(self._namespace) for request in requests if request is not None]
            kept = self._journal.records_of(keys)
            going = []
            for held, request, key in zip(asking, requests, keys, strict=True):
                records = self._ours(kept[key])
                if request is None or not records:
                    continue
                self._feed(held, request, records, first[id(held)], step_id)
                if held.request is not None:
                    going.append(held)
            asking = going

    def _ours(self, records: Sequence[Record]) -> list[Record]:
        """What this run paid for this request; else the answer that served it."""
        mine = [record for record in records if record.run_id == self._run_id]
        served = [record for record in records if record.is_served]
        if not mine:
            return served[-1:] or list(records[-1:])
        # an "ok" is what the conversation went on with; what failed before it was paid for too
        return sorted(mine, key=lambda record: (record.is_served, record.created_s))

    def _feed(
        self,
        held: Conversation,
        request: Request,
        records: Sequence[Record],
        first: Request | None,
        step_id: str,
    ) -> None:
        last = records[-1]
        said = self._exchanges[id(held)]
        for record in records:
            if id_of(record) not in said:  # a re-ask may repeat itself, and is answered once
                self._all[id_of(record)] = said[id_of(record)] = exchange_of(request, record)
        held.feed(reply_of(last))
        if held.pending_tools:
            self._feed_tools(held, request, last, first, step_id)

    def _feed_tools(
        self, held: Conversation, request: Request, asked: Record, first: Request | None, step_id: str
    ) -> None:
        """The tools are not run again: their results stand in the request that followed."""
        before = [message for message in request.tail if message.role == "tool" or message.tool_calls]
        calls = tool_calls_of(asked.tools)
        for record in self._tools_of(asked.run_id, step_id or asked.step_id):
            turns = turns_of(record.tools)
            now = turns[len(before) + 1 : len(before) + 1 + len(calls)]
            if len(now) < len(calls) or list(turns[: len(before)]) != before:
                continue
            if first is None or not self._is_request(record, first, turns):
                continue
            results = [str(message.content) for message in now]
            last = self._exchanges[id(held)][id_of(asked)]
            uses = tuple(replace(use, result=result) for use, result in zip(last.tools, results, strict=True))
            told = replace(last, tools=uses)
            self._all[id_of(asked)] = self._exchanges[id(held)][id_of(asked)] = told
            held.feed_tools([ToolResult(result) for result in results])
            return

    def _is_request(self, record: Record, first: Request, turns: Sequence[Message]) -> bool:
        whole = Request(first.template, (*first.tail, *turns))
        return whole.fingerprint(self._namespace) == record.key

    def _tools_of(self, run_id: str, step_id: str) -> list[Record]:
        if step_id not in self._tool_records:
            self._tool_records[step_id] = self._journal.tool_records(run_id, step_id)
        return self._tool_records[step_id]


def id_of(record: Record) -> AnswerId:
    """What tells one answer from another to the same request."""
    return record.key, record.created_s


def exchange_of(request: Request, record: Record) -> Exchange:
    """A request and one stored answer to it."""
    stored = _stored_messages(record.prompt)
    return Exchange(
        messages=stored or tuple((m.role, _text(m)) for m in (*request.template.messages, *request.tail)),
        is_stored=bool(stored),
        answer=record.text,
        outcome=record.outcome,
        model=record.model or "",
        request_id=record.request_id or "",
        input_tokens=record.input_tokens,
        cached_tokens=record.cached_tokens,
        output_tokens=record.output_tokens,
        cost_usd=record.cost_usd,
        attempts=record.attempts,
        paid_by=record.run_id,
        at_s=record.created_s,
        tools=tuple(ToolUse(call.name, call.arguments, None) for call in tool_calls_of(record.tools)),
    )


def _text(message: Message) -> str:
    calls = "".join(f"\n[calls {call.name}({call.arguments})]" for call in message.tool_calls)
    return (_content(message.content) + calls).strip("\n")


def _content(content: str | Sequence[Mapping[str, Any]]) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(
        str(part["text"]) if "text" in part else f"[{part.get('type', 'part')}]" for part in content
    )


def _stored_messages(prompt: str | None) -> tuple[tuple[str, str], ...]:
    if prompt is None:
        return ()
    messages = json.loads(prompt)["messages"]
    return tuple((str(message["role"]), _content(message["content"] or "")) for message in messages)
