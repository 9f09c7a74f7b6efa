"""What goes to a model and what comes back: small frozen values, no I/O.

`Template` is the constant part of all requests of one contract, encoded once. `Request` adds the row's own
messages. The body's bytes are ``prefix + tail + suffix``: the constant part comes first and is byte-identical
for every row, so that providers can cache it, and no row pays for encoding it again.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple, Protocol

import orjson

from apwa_dask.models.model import Model

__all__ = [
    "KEY_VERSION",
    "NO_USAGE",
    "Caller",
    "Kind",
    "Message",
    "OutcomeClass",
    "Purpose",
    "Reply",
    "Request",
    "Template",
    "ToolCall",
    "Usage",
]

Kind = Literal["chat", "embeddings"]
"""What is asked of the endpoint: the path and the shape of the body follow from it."""

KEY_VERSION = 1
"""Part of every fingerprint: raise it when the meaning of a stored answer changes."""


class OutcomeClass(enum.StrEnum):
    """How a call, and so a unit of work, ended. Stable strings: they are stored."""

    OK = "ok"
    TRUNCATED = "truncated"
    INVALID_OUTPUT = "invalid_output"
    REFUSED = "refused"
    FILTERED = "filtered"
    BAD_INPUT = "bad_input"
    TOO_LARGE = "too_large"
    DEADLINE = "deadline"
    TRANSIENT = "transient"
    TOOL_ERROR = "tool_error"
    POISON = "poison"
    INTERNAL = "internal"
    FATAL = "fatal"
    """Stops the run: the row stays pending."""
    STOPPED = "stopped"
    """Not tried, or given up, because the run is stopping: the row stays pending."""
    DEFERRED = "deferred"
    """Its request goes into a batch: the row stays pending until the answer is there."""

    @property
    def is_pending(self) -> bool:
        """The row has no outcome yet; a resume will try it."""
        return self in (OutcomeClass.FATAL, OutcomeClass.STOPPED, OutcomeClass.DEFERRED)


@dataclass(frozen=True, slots=True)
class Message:
    """One chat message. ``content`` is text, or a tuple of content parts (dicts) for images."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | tuple[Mapping[str, Any], ...]
    tool_call_id: str = ""
    tool_calls: tuple[ToolCall, ...] = ()

    def encode(self) -> bytes:
        """This message as JSON bytes, keys in a fixed order."""
        body: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.tool_calls:
            body["tool_calls"] = [call.as_dict() for call in self.tool_calls]
        if self.tool_call_id:
            body["tool_call_id"] = self.tool_call_id
        return orjson.dumps(body)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call the model asks for; ``arguments`` is the raw JSON text it wrote."""

    id: str
    name: str
    arguments: str

    def as_dict(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "type": "function",
            "function": {"name": self.name, "arguments": self.arguments},
        }


@dataclass(frozen=True)
class Template:
    """The constant part of a contract's requests.

    Parameters
    ----------
    model : Model
        Descriptor; holds the generation parameters.
    messages : tuple of Message
        System message and example turns.
    schema : mapping, optional
        JSON Schema of the answer; None for free text.
    max_output_tokens : int, optional
        Ceiling of the answer; the endpoint's own default when None.
    tools : tuple of mapping
        Function tools in the wire format, with their versions under ``"x-version"`` (hashed, not sent).
    kind : str
        ``chat``, or ``embeddings``: then each message is one text, and the answer is its vector.
    """

    model: Model
    messages: tuple[Message, ...]
    schema: Mapping[str, Any] | None = None
    schema_name: str = "answer"
    max_output_tokens: int | None = None
    tools: tuple[Mapping[str, Any], ...] = ()
    kind: Kind = "chat"

    def with_output_tokens(self, tokens: int) -> Template:
        """The same template with another ceiling (after a truncated answer)."""
        return replace(self, max_output_tokens=tokens)

    def with_model(self, model: Model) -> Template:
        """The same template for another descriptor (after an endpoint declined ``json_schema``)."""
        return replace(self, model=model)

    @cached_property
    def prefix(self) -> bytes:
        """Bytes before the row's messages."""
        name = b"messages" if self.kind == "chat" else b"input"
        head = b'{"model":' + orjson.dumps(self.model.name) + b',"%b":[' % name
        return head + b"".join(message.encode() + b"," for message in self.messages)

    @cached_property
    def suffix(self) -> bytes:
        """Bytes after the row's messages: parameters in a fixed order."""
        return (
            b"]"
            + b"".join(b"," + orjson.dumps(k) + b":" + orjson.dumps(v) for k, v in self.parameters)
            + b"}"
        )

    @cached_property
    def parameters(self) -> tuple[tuple[str, Any], ...]:
        """All body fields but model and messages, as sent."""
        if self.kind == "embeddings":
            return tuple({"encoding_format": "base64", **self.model.extra}.items())
        sent: list[tuple[str, Any]] = []
        mode = self.model.structured
        if self.schema is not None and mode == "json_schema" and self.model.is_local:
            from apwa_dask.models.local.grammar import answer_format

            sent.extend(answer_format(self.schema, name=self.schema_name).items())
        elif self.schema is not None and mode == "json_schema":
            wire = {"name": self.schema_name, "schema": self.schema, "strict": True}
            sent.append(("response_format", {"type": "json_schema", "json_schema": wire}))
        elif self.schema is not None and mode == "json_object":
            sent.append(("response_format", {"type": "json_object"}))
        if self.tools:
            sent.append(
                ("tools", [{k: v for k, v in tool.items() if k != "x-version"} for tool in self.tools])
            )
        if self.max_output_tokens is not None:
            sent.append((self.model.max_tokens_field, self.max_output_tokens))
        sent.extend(self.model.sent_parameters())
        return tuple(sent)

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 over all constants that can change the answer, omitted parameters as explicit null."""
        canonical = {
            "key_version": KEY_VERSION,
            "endpoint": self.model.endpoint_identity,
            "model": self.model.name,
            "messages": [[m.role, m.content] for m in self.messages],
            "schema": self.schema,
            "schema_name": self.schema_name,
            "structured": self.model.structured,
            "tools": list(self.tools),
            "max_output_tokens": self.max_output_tokens,
            "parameters": self.model.canonical_parameters(),
        }
        if self.kind != "chat":  # answers that were kept before there were others stay known
            canonical["kind"] = self.kind
        return hashlib.sha256(orjson.dumps(canonical, option=orjson.OPT_SORT_KEYS)).digest()


@dataclass(frozen=True, slots=True)
class Request:
    """One request: a template, this unit's own messages, and the sample ordinal."""

    template: Template
    tail: tuple[Message, ...]
    ordinal: int = 0
    _encoded: list[bytes] = field(default_factory=list, init=False, repr=False, compare=False)
    _fingerprints: dict[str, bytes] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def _parts(self) -> list[bytes]:
        """The tail as JSON, encoded once: fingerprints and body are made of the same bytes."""
        if len(self._encoded) != len(self.tail):
            bare = self.template.kind == "embeddings"
            self._encoded[:] = [
                orjson.dumps(message.content) if bare else message.encode() for message in self.tail
            ]
        return self._encoded

    @property
    def tail_bytes(self) -> int:
        """Size of the unit's own messages in the body."""
        return sum(map(len, self._parts))

    def body(self) -> bytes:
        """The exact bytes of the HTTP body."""
        template = self.template
        if not self.tail:
            return template.prefix.removesuffix(b",") + template.suffix
        return template.prefix + b",".join(self._parts) + template.suffix

    def fingerprint(self, namespace: str = "") -> bytes:
        """SHA-256 of the complete request: 32 bytes, the journal's key.

        Not keyed by row position or partition: inserting rows or repartitioning changes nothing.
        """
        known = self._fingerprints.get(namespace)
        if known is None:
            head = b"%s%d\0%s\0" % (self.template.digest, self.ordinal, namespace.encode())
            lines = [part + b"\n" for part in self._parts]
            known = self._fingerprints[namespace] = hashlib.sha256(head + b"".join(lines)).digest()
        return known


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one or several calls. ``cached`` is the part of ``input`` the provider had cached."""

    input: int = 0
    output: int = 0
    cached: int = 0
    estimated: bool = False

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input + other.input,
            self.output + other.output,
            self.cached + other.cached,
            self.estimated or other.estimated,
        )


NO_USAGE = Usage()
"""Nothing was used: shared, because every call begins with it."""


class Reply(NamedTuple):
    """What one request came to, after all retries of the transport.

    Parameters
    ----------
    outcome : OutcomeClass
        ``OK`` means a complete, non-empty text (or tool calls); the schema is checked later.
    text : str, optional
        The answer, also kept for failures.
    usage, cost_usd : Usage, float or None
        All billed attempts together; None when the price is unknown.
    attempts : int
        Requests sent.
    source : str
        ``live``, ``journal`` or ``shared`` (an identical request was in flight). Only ``live`` was paid for.
    message : str
        Safe words for a failure: no key, header or row text.
    """

    outcome: OutcomeClass
    text: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    usage: Usage = NO_USAGE
    cost_usd: float | None = 0.0
    model: str = ""
    finish_reason: str = ""
    request_id: str = ""
    attempts: int = 1
    latency_s: float = 0.0
    source: Literal["live", "journal", "shared"] = "live"
    message: str = ""

    @property
    def ok(self) -> bool:
        return self.outcome is OutcomeClass.OK


@dataclass(frozen=True, slots=True)
class Purpose:
    """On whose behalf a call is made: the ledger's labels. No user text."""

    run_id: str = ""
    step_id: str = ""


class Caller(Protocol):
    """Anything that turns a request into a reply: the bare client, or the client behind gate and journal.

    Implementations never raise for an answer's trouble; they raise `ProviderError` or `BudgetError` for what
    must stop the run, and `asyncio.CancelledError`.
    """

    async def call(self, request: Request, purpose: Purpose) -> Reply: ...
