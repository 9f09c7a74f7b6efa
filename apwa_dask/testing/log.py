"""The log of a scripted server: every call in order of arrival. It is the bill to assert against."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

import orjson

__all__ = ["Call", "ServerLog", "Stats"]


@dataclass(slots=True)
class Call:
    """One POST under ``/v1``, or one line of a batch.

    Attributes
    ----------
    n : int
        Number in order of arrival, from 1.
    t_start, t_end : float
        Seconds on the machine's monotonic clock (``time.monotonic``), comparable between processes of one
        machine. `t_end` is None while the call is in flight.
    path : str
        Path of the request.
    key_hash : str
        First 16 hex digits of the sha256 of the API key; never the key. Empty if none was sent.
    key_ok : bool
        Whether the key was accepted.
    model, text, text_hash : str
        Model asked for; last user message; a 16-digit hash of it, kept also where bodies are not.
    body : dict or None
        The request body.
    status : int
        HTTP status answered; 0 while in flight, or when the client never got one.
    fault : str
        Name of the fault that struck, ``rate_limit`` or ``unmatched``; empty if none.
    finish_reason, answer : str
        As sent in the response; empty for an error.
    prompt_tokens, completion_tokens : int
        By the server's own count (`count_tokens`).
    cached_tokens : int
        Of the prompt, kept from earlier ones.
    retry_count : int
        The ``x-stainless-retry-count`` header that the OpenAI client sends, 0 without it.
    aborted : bool
        The client hung up before it had the whole answer.
    billed : bool
        Tokens were made, whether the client got them or not.
    batch : str
        Id of the batch whose line this is; empty for a call of its own. A line's `t_start` is when its batch
        was made; one that its batch never came to keeps status 0.
    custom_id : str
        Of a line.
    """

    n: int
    t_start: float
    path: str
    key_hash: str = ""
    key_ok: bool = False
    t_end: float | None = None
    model: str = ""
    text: str = ""
    text_hash: str = ""
    body: dict[str, Any] | None = field(default=None, repr=False)
    status: int = 0
    fault: str = ""
    finish_reason: str = ""
    answer: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    retry_count: int = 0
    aborted: bool = False
    billed: bool = False
    batch: str = ""
    custom_id: str = ""

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The messages sent; empty where bodies are not kept."""
        return list((self.body or {}).get("messages", ()))


@dataclass(frozen=True, slots=True)
class Stats:
    """Exact counters of a server since its start or last reset.

    Attributes
    ----------
    calls : int
        POSTs under ``/v1``, refused ones included, and lines of batches.
    reads : int
        GETs under ``/v1``, such as the list of models: not calls, and not in the log.
    in_flight, max_in_flight : int
        Calls that arrived and were not answered yet, those waiting for a slot included; and the most seen.
    answering, max_answering : int
        Calls that hold a slot.
    connections : int
        Connections accepted that carried at least one call.
    aborted, billed : int
        Calls whose client hung up; calls for which tokens were made.
    billed_prompt_tokens, billed_completion_tokens : int
        Tokens of the billed calls.
    longest_prompt_tokens : int
        Of the longest prompt that was billed.
    by_status, by_fault : dict
        Calls per HTTP status (as text) and per fault.
    """

    calls: int = 0
    reads: int = 0
    in_flight: int = 0
    max_in_flight: int = 0
    answering: int = 0
    max_answering: int = 0
    connections: int = 0
    aborted: int = 0
    billed: int = 0
    billed_prompt_tokens: int = 0
    billed_completion_tokens: int = 0
    longest_prompt_tokens: int = 0
    by_status: dict[str, int] = field(default_factory=dict)
    by_fault: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class ServerLog(Sequence[Call]):
    """The calls a server received, in order of arrival."""

    calls: tuple[Call, ...]

    @classmethod
    def from_jsonl(cls, lines: bytes) -> ServerLog:
        """Read a log that the server wrote, one JSON object a line, in any order."""
        calls = (Call(**orjson.loads(line)) for line in lines.splitlines() if line.strip())
        return cls(tuple(sorted(calls, key=lambda call: call.n)))

    @overload
    def __getitem__(self, index: int) -> Call: ...
    @overload
    def __getitem__(self, index: slice) -> ServerLog: ...
    def __getitem__(self, index: int | slice) -> Call | ServerLog:
        return ServerLog(self.calls[index]) if isinstance(index, slice) else self.calls[index]

    def __len__(self) -> int:
        return len(self.calls)

    def __iter__(self) -> Iterator[Call]:
        return iter(self.calls)

    @property
    def texts(self) -> list[str]:
        """Last user message of each call."""
        return [call.text for call in self.calls]

    @property
    def distinct_texts(self) -> int:
        """How many different last user messages were sent."""
        return len({call.text_hash for call in self.calls})

    @property
    def billed(self) -> ServerLog:
        """The calls that cost money."""
        return ServerLog(tuple(call for call in self.calls if call.billed))

    @property
    def billed_tokens(self) -> tuple[int, int]:
        """Prompt and completion tokens of the billed calls."""
        paid = self.billed
        return sum(c.prompt_tokens for c in paid), sum(c.completion_tokens for c in paid)

    @property
    def by_status(self) -> dict[int, int]:
        """Calls per HTTP status."""
        return dict(Counter(call.status for call in self.calls))

    @property
    def by_fault(self) -> dict[str, int]:
        """Calls per fault, without the calls that met none."""
        return dict(Counter(call.fault for call in self.calls if call.fault))

    @property
    def lines(self) -> ServerLog:
        """The lines of batches."""
        return ServerLog(tuple(call for call in self.calls if call.batch))

    def matching(self, pattern: str) -> ServerLog:
        """The calls whose last user message matches the regular expression."""
        found = re.compile(pattern)
        return ServerLog(tuple(call for call in self.calls if found.search(call.text)))


class CallBook:
    """Server side of the log: bounded memory where asked, exact counters always."""

    def __init__(self, keep_bodies: bool, keep_calls: int | None) -> None:
        self.keep_bodies, self.keep_calls = keep_bodies, keep_calls
        self.kept: dict[int, Call] = {}
        self.number = self.reads = self.in_flight = self.max_in_flight = 0
        self.aborted = 0
        self.connections: set[int] = set()
        self.billed = self.billed_prompt_tokens = self.billed_completion_tokens = 0
        self.longest_prompt_tokens = 0
        self.by_status: Counter[str] = Counter()
        self.by_fault: Counter[str] = Counter()

    def open(self, now: float, path: str, connection: int) -> Call:
        self.number += 1
        self.connections.add(connection)
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        call = Call(self.number, now, path)
        self.kept[self.number] = call
        if self.keep_calls is not None:
            while len(self.kept) > self.keep_calls:
                del self.kept[next(iter(self.kept))]
        return call

    def close(self, call: Call, now: float) -> None:
        call.t_end = now
        self.in_flight -= 1
        self.by_status[str(call.status)] += 1
        if call.fault:
            self.by_fault[call.fault] += 1
        self.aborted += call.aborted
        if call.billed:
            self.billed += 1
            self.billed_prompt_tokens += call.prompt_tokens
            self.billed_completion_tokens += call.completion_tokens
            self.longest_prompt_tokens = max(self.longest_prompt_tokens, call.prompt_tokens)

    def jsonl(self) -> bytes:
        return b"".join(orjson.dumps(call) + b"\n" for call in self.kept.values())

    def stats(self, answering: int, max_answering: int) -> Stats:
        return Stats(
            calls=self.number,
            reads=self.reads,
            in_flight=self.in_flight,
            max_in_flight=self.max_in_flight,
            answering=answering,
            max_answering=max_answering,
            connections=len(self.connections),
            aborted=self.aborted,
            billed=self.billed,
            billed_prompt_tokens=self.billed_prompt_tokens,
            billed_completion_tokens=self.billed_completion_tokens,
            longest_prompt_tokens=self.longest_prompt_tokens,
            by_status=dict(self.by_status),
            by_fault=dict(self.by_fault),
        )
