"""One unit of work as a state machine without I/O: it says what to send, and is told what came back.

A thread may feed it journal hits and a loop may feed it live replies; nothing here waits, and conversations
share nothing but frozen `Terms`. Bounds: two re-asks after unusable answers, one larger ceiling after a
truncated one, two strikes with tools, and the contract's own caps on steps, seconds and cost.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from apwa_dask.agents.answers import Invalid
from apwa_dask.agents.bill import Bill
from apwa_dask.agents.capabilities import ToolResult
from apwa_dask.agents.clean import clean_text
from apwa_dask.agents.limits import Room
from apwa_dask.agents.outcome import Outcome
from apwa_dask.agents.toolbox import Toolbox
from apwa_dask.agents.unit import NOTHING, Unit
from apwa_dask.agents.wording import reask
from apwa_dask.models.types import Message, OutcomeClass, Reply, Request, Template, ToolCall
from apwa_dask.plans.contract import Limits

__all__ = ["Conversation", "Reader", "RowConversation", "Terms"]

MAX_REASKS = 2
_QUOTED_CHARACTERS = 400
_TOOL_STRIKES = 2
_MOST_TOOL_CALLS = 16


class Reader(Protocol):
    """Reads the model's text."""

    def read(self, text: str) -> dict[str, Any] | Invalid: ...


@dataclass(frozen=True)
class Terms:
    """What is constant for all conversations of one contract and unit.

    Parameters
    ----------
    template : Template
    reader : Reader
        Of answers.
    room : Room
        What a prompt may hold.
    limits : Limits
        Caps of one unit.
    max_rows : int, optional
        For a flat_map: most rows of one answer.
    max_reasks : int
        Re-asks after unusable answers.
    """

    template: Template
    reader: Reader
    room: Room
    limits: Limits = field(default_factory=Limits)
    max_rows: int | None = None
    max_reasks: int = MAX_REASKS
    toolbox: Toolbox = field(default_factory=Toolbox)

    @property
    def style(self) -> str:
        return self.template.model.prompts


class Conversation(ABC):
    """What a driver sees: send `request`, `feed` the reply, until `finished`.

    `pending_tools` are to be run and answered with `feed_tools` before the next request. `branches` are
    conversations inside this one that may be driven on their own, at the same time; a driver that ignores
    them gets their requests one after another.
    """

    __slots__ = ()

    @property
    @abstractmethod
    def request(self) -> Request | None:
        """What to send now; None when finished, or while tools are pending."""

    @property
    @abstractmethod
    def outcomes(self) -> Mapping[int, Outcome]:
        """Outcomes by position among the rows given to ``begin_many``; complete when `finished`."""

    @property
    @abstractmethod
    def finished(self) -> bool:
        """Every row has its outcome."""

    @property
    def limits(self) -> Limits:
        """Caps of this unit; its driver keeps the wall clock."""
        return Limits()

    @property
    def pending_tools(self) -> tuple[ToolCall, ...]:
        """Checked calls of declared tools, waiting for `feed_tools`."""
        return ()

    @property
    def unit(self) -> Unit:
        """What the tools of this conversation may see."""
        return NOTHING

    @property
    def calls_s(self) -> float:
        """Seconds on the wire of the answers so far; of branches, which are asked at once, the longest."""
        return 0.0

    @property
    def branches(self) -> tuple[Conversation, ...]:
        """Unfinished conversations inside this one that are independent of each other."""
        return ()

    @abstractmethod
    def feed(self, reply: Reply) -> None:
        """Take the reply to `request`."""

    def feed_tools(self, results: Sequence[ToolResult]) -> None:
        """Take the results of `pending_tools`, in their order."""
        raise RuntimeError("no tools are pending")

    @abstractmethod
    def give_up(self, outcome: OutcomeClass, message: str) -> None:
        """End every unfinished row with this class (deadline, internal, stopped)."""


class RowConversation(Conversation):
    """The conversation about one row (or one group's prompt).

    Parameters
    ----------
    terms : Terms
    tail : tuple of Message
        The unit's own messages.
    index : int
        Position of the row among those of the unit's caller.
    unit : Unit
        What its tools may see.
    """

    __slots__ = (
        "_bill", "_first", "_grown", "_index", "_outcome", "_pending",
        "_reasks", "_request", "_strikes", "_tail", "_template", "_terms", "_turn", "_unit",
    )  # fmt: skip

    def __init__(self, terms: Terms, tail: tuple[Message, ...], index: int = 0, unit: Unit = NOTHING) -> None:
        self._terms, self._tail, self._index, self._unit = terms, tail, index, unit
        self._template = terms.template
        self._bill = Bill()
        self._outcome: Outcome | None = None
        self._reasks = self._strikes = 0
        self._grown = False
        self._pending: tuple[ToolCall, ...] = ()
        self._turn: list[Message] = []
        self._first: Request | None = None
        self._request: Request | None = None
        tokens = terms.room.tail_tokens(tail)
        if tokens > terms.room.input_tokens:
            words = f"a prompt of about {tokens:,} tokens; {terms.room.input_tokens:,} fit"
            self._end(OutcomeClass.TOO_LARGE, words)
            return
        self._first = self._request = Request(terms.template, tail)

    @classmethod
    def ended(cls, terms: Terms, outcome: OutcomeClass, message: str, index: int = 0) -> RowConversation:
        """A conversation that is over before any call."""
        self = cls.__new__(cls)
        self._terms, self._tail, self._index = terms, (), index
        self._bill, self._first, self._pending, self._unit = Bill(), None, (), NOTHING
        self._end(outcome, message)
        return self

    @property
    def request(self) -> Request | None:
        return self._request

    @property
    def outcome(self) -> Outcome | None:
        """The one outcome; None until finished."""
        return self._outcome

    @property
    def outcomes(self) -> Mapping[int, Outcome]:
        return {} if self._outcome is None else {self._index: self._outcome}

    @property
    def finished(self) -> bool:
        return self._outcome is not None

    @property
    def limits(self) -> Limits:
        return self._terms.limits

    @property
    def bill(self) -> Bill:
        """What the calls came to so far."""
        return self._bill

    @property
    def calls_s(self) -> float:
        return self._bill.latency_s

    @property
    def unit(self) -> Unit:
        return self._unit

    @property
    def pending_tools(self) -> tuple[ToolCall, ...]:
        return self._pending

    def feed(self, reply: Reply) -> None:
        if self._request is None:
            raise RuntimeError("a reply came to a conversation that asks nothing")
        self._bill.add(reply)
        if reply.outcome is OutcomeClass.OK:
            if reply.tool_calls:
                self._take_tool_calls(reply)
            else:
                self._take_answer(reply.text or "")
        elif reply.outcome is OutcomeClass.TRUNCATED:
            self._raise_ceiling(reply)
        elif reply.outcome is OutcomeClass.INVALID_OUTPUT and reply.attempts > self._terms.max_reasks:
            self._end(reply.outcome, reply.message, reply.text)  # the caller has asked again so often already
        elif reply.outcome is OutcomeClass.INVALID_OUTPUT:
            self._reask(reply.message or "the answer was empty", reply.text or "")
        elif self._grown and reply.outcome in (OutcomeClass.BAD_INPUT, OutcomeClass.TOO_LARGE):
            # The same prompt was accepted before: the endpoint declines the larger ceiling, not the row.
            self._end(
                OutcomeClass.TRUNCATED,
                "the answer was cut off, and the endpoint accepts no longer one",
                reply.text,
            )
        else:
            self._end(reply.outcome, reply.message, reply.text)

    def feed_tools(self, results: Sequence[ToolResult]) -> None:
        if len(results) != len(self._pending) or not self._pending:
            raise RuntimeError(f"{len(results)} tool results for {len(self._pending)} pending tool calls")
        for call, result in zip(self._pending, results, strict=True):
            self._turn.append(Message("tool", clean_text(result.content), tool_call_id=call.id))
        self._pending = ()
        failed = next((result for result in results if result.error), None)
        self._answer_turn(failed.reason if failed is not None else "")

    def give_up(self, outcome: OutcomeClass, message: str) -> None:
        if self._outcome is None:
            self._end(outcome, message)

    def _take_answer(self, text: str) -> None:
        if not text.strip():
            self._reask("the answer was empty", "")
            return
        values = self._terms.reader.read(text)
        if isinstance(values, Invalid):
            self._reask(values.reason, text)
            return
        if self._terms.max_rows is None:
            self._finish(OutcomeClass.OK, values=values)
        elif len(values["rows"]) > self._terms.max_rows:
            self._reask(f"rows must hold at most {self._terms.max_rows} objects", text)
        else:
            self._finish(OutcomeClass.OK, rows=values["rows"])

    def _reask(self, reason: str, text: str) -> None:
        """Quote the error and the last answer only: earlier ones are dropped, so the prompt does not grow."""
        if self._reasks >= self._terms.max_reasks:
            self._end(OutcomeClass.INVALID_OUTPUT, reason, text)
            return
        self._reasks += 1
        turns = [Message("user", clean_text(reask(reason, self._terms.style)))]
        if text.strip():
            turns.insert(0, Message("assistant", clean_text(_shortened(text))))
        self._send((*self._tail, *turns), OutcomeClass.INVALID_OUTPUT, reason, text)

    def _raise_ceiling(self, reply: Reply) -> None:
        """Once, with a larger ceiling; never the same ceiling twice."""
        assert self._request is not None
        template, tail = self._template, self._request.tail
        ceiling = self._terms.room.grown(template.max_output_tokens, self._terms.room.tail_tokens(tail))
        words = f"the answer was cut off at {template.max_output_tokens} tokens"
        if self._grown or ceiling is None:
            self._end(OutcomeClass.TRUNCATED, words, reply.text)
            return
        self._grown = True
        self._send(tail, OutcomeClass.TRUNCATED, words, reply.text, template.with_output_tokens(ceiling))

    def _take_tool_calls(self, reply: Reply) -> None:
        self._turn = [Message("assistant", clean_text(reply.text or ""), tool_calls=reply.tool_calls)]
        objections = [self._terms.toolbox.objection(call) for call in reply.tool_calls]
        if len(reply.tool_calls) > _MOST_TOOL_CALLS:
            objections = [f"at most {_MOST_TOOL_CALLS} tool calls at once"] * len(reply.tool_calls)
        if not any(objections):
            self._pending, self._request = reply.tool_calls, None
            return
        for call, objection in zip(reply.tool_calls, objections, strict=True):
            words = objection or "not run: another call of this turn was denied"
            self._turn.append(Message("tool", clean_text(f"denied: {words}"), tool_call_id=call.id))
        self._answer_turn("the model called a tool that it was not given, or with wrong arguments")

    def _answer_turn(self, problem: str) -> None:
        """Send the tool turn back; the second turn with a problem ends the unit."""
        self._strikes += bool(problem)
        if self._strikes >= _TOOL_STRIKES:
            self._end(OutcomeClass.TOOL_ERROR, problem)
            return
        self._tail = (*self._tail, *self._turn)
        self._turn = []
        self._send(
            self._tail, OutcomeClass.TOOL_ERROR, problem or "the tools were called too many times", None
        )

    def _send(
        self,
        tail: tuple[Message, ...],
        otherwise: OutcomeClass,
        why: str,
        text: str | None,
        template: Template | None = None,
    ) -> None:
        """Ask again within the caps; `otherwise` is how the unit ends when a cap is reached."""
        limits = self._terms.limits
        if self._bill.calls >= limits.steps:
            self._end(otherwise, f"{why} (after {limits.steps} steps, the contract's limit)", text)
        elif limits.cost_usd is not None and (self._bill.cost_usd or 0.0) >= limits.cost_usd:
            self._end(otherwise, f"{why} (the contract's cost limit for one unit is spent)", text)
        elif limits.seconds is not None and self._bill.latency_s >= limits.seconds:
            self._end(OutcomeClass.DEADLINE, f"{why} (the contract's time for one unit is over)", text)
        elif self._terms.room.tail_tokens(tail) > self._terms.room.input_tokens:
            self._end(otherwise, f"{why} (no room left in the model's window to ask again)", text)
        else:
            self._template = template or self._template
            self._request = Request(self._template, tail)

    def _end(self, outcome: OutcomeClass, message: str, text: str | None = None) -> None:
        self._finish(outcome, message=message, raw=text)

    def _finish(self, outcome: OutcomeClass, **answer: Any) -> None:
        bill = self._bill
        self._request, self._pending = None, ()
        first = self._first if outcome is not OutcomeClass.OK else None
        self._outcome = Outcome(
            outcome, usage=bill.usage, cost_usd=bill.cost_usd, attempts=bill.attempts, calls=bill.calls,
            source=bill.source, request_id=bill.request_id, model=bill.model,
            prompt_hash=first.fingerprint().hex() if first else "", **answer,
        )  # fmt: skip


def _shortened(text: str) -> str:
    return text if len(text) <= _QUOTED_CHARACTERS else text[:_QUOTED_CHARACTERS] + " ..."
