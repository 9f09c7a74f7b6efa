"""What the scripted server is told to do: plain data that travels as JSON to its process."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeAlias, TypeVar, get_args

import orjson

from apwa_dask.errors import ConfigError, candidates
from apwa_dask.testing.batch_script import BatchRules

__all__ = ["AnswerMode", "ChatRequest", "Fault", "FaultKind", "Json", "Lognormal", "On", "Rule", "Script"]

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

AnswerMode = Literal["auto", "echo", "fail"]
FaultKind = Literal[
    # refused before any token is made
    "status", "insufficient_quota", "content_filter", "error_in_200", "html_200", "hang", "disconnect",
    # the model's answer is not what was asked for
    "content_filter_finish", "refusal", "length", "null_content", "content",
    "wrong_enum", "extra_field", "missing_field", "nan", "drop_item", "duplicate_item",
    # the answer is right, the envelope is not
    "no_usage", "other_model", "no_choices", "broken_json", "empty_body", "slow",
    # the answer was made, and the wire loses, slows or swells it
    "reset", "short_body", "drip", "huge_body", "gzip_bomb",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """The request that a scripted answer is a function of.

    Attributes
    ----------
    text : str
        Text of the last user message.
    prompt : str
        Text of all messages, joined by newlines.
    last : str
        Text of the last message, whatever its role (a tool result, for example).
    model : str
        Model asked for.
    turn : int
        Assistant messages already in the conversation: 0 for a first question.
    schema : dict or None
        The JSON schema of `response_format`, if one was sent.
    body : dict
        The request body as parsed.
    """

    text: str
    prompt: str
    last: str
    model: str
    turn: int
    schema: dict[str, Any] | None
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Lognormal:
    """Latency with a long tail.

    Parameters
    ----------
    p50_s, p99_s : float
        Median and 99th percentile, seconds.
    seed : int
        Draws are taken in order of arrival from ``random.Random(seed)``.
    """

    p50_s: float
    p99_s: float
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.p50_s <= self.p99_s:
            raise ConfigError("latency needs 0 < p50_s <= p99_s", where=repr(self))


@dataclass(frozen=True, slots=True)
class On:
    """Which calls a fault strikes: every condition that is given must hold.

    Parameters
    ----------
    text, prompt : str, optional
        Regular expression searched in the last user message, or in the whole prompt.
    model : str, optional
        Model asked for.
    calls : tuple of int
        Numbers of calls in order of arrival, the first is 1.
    every : int, optional
        Each call whose number is a multiple of this.
    fraction : float, optional
        Share of texts, 0 to 1, chosen by a hash of `seed` and the last user message: always the same texts.
    between_s : (float, float), optional
        Seconds since the server started, or was last reset.
    """

    text: str | None = None
    prompt: str | None = None
    model: str | None = None
    calls: tuple[int, ...] = ()
    every: int | None = None
    fraction: float | None = None
    seed: int = 0
    between_s: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        _regular(self.text)
        _regular(self.prompt)


@dataclass(frozen=True, slots=True)
class Fault:
    """One way to go wrong, and the calls that do.

    Parameters
    ----------
    kind : FaultKind
        What happens, see `FaultKind`.
    on : On or str
        Which calls; a string is a regular expression on the last user message. All calls by default.
    times : int, optional
        Strike only the first `times` attempts of each conversation (same messages up to the first user
        message), so that a retry gets through. Always by default.
    status : int
        For ``status``: the HTTP status.
    retry_after : str, optional
        For error answers: the literal ``Retry-After`` header.
    should_retry : bool, optional
        For error answers: ``x-should-retry``, which may contradict the status.
    headers : mapping
        More headers for an error answer.
    html : bool
        For ``status``: an HTML page, as a gateway sends, instead of a JSON error.
    item : int
        Which item of a multi-row answer is changed, dropped or doubled, counted from 0.
    content : str
        For ``content``: the text that replaces the answer. For ``other_model``: the model's name.
    delay_s : float
        More latency, for any kind: ``slow`` does nothing else.
    interval_s : float
        For ``drip``: seconds between bytes.
    size_bytes : int
        For ``huge_body`` and ``gzip_bomb``: size of the body once decoded.
    """

    kind: FaultKind
    on: On | str = field(default_factory=On)
    times: int | None = None
    status: int = 500
    retry_after: str | None = None
    should_retry: bool | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    html: bool = False
    item: int = 0
    content: str = ""
    delay_s: float = 0.0
    interval_s: float = 1.0
    size_bytes: int = 50_000_000

    def __post_init__(self) -> None:
        _one_of("kind of fault", self.kind, get_args(FaultKind))
        _regular(self.on if isinstance(self.on, str) else None)

    @property
    def selector(self) -> On:
        """The calls struck, with the shorthand for a text resolved."""
        return On(text=self.on) if isinstance(self.on, str) else self.on


@dataclass(frozen=True, slots=True)
class Rule:
    """An answer for the prompts that match.

    Parameters
    ----------
    match : str
        Regular expression, searched.
    answer : Json
        A string is sent as it is; ``{"tool_calls": [{"name": ..., "arguments": {...}}]}`` makes the model
        call tools; any other value is sent as JSON.
    where : {"text", "prompt", "last"}
        Searched in the last user message, the whole prompt, or the last message of any role.
    model : str, optional
        Only for this model.
    turn : int, optional
        Only when the conversation already has this many assistant messages.
    """

    match: str
    answer: Json
    where: Literal["text", "prompt", "last"] = "text"
    model: str | None = None
    turn: int | None = None

    def __post_init__(self) -> None:
        _one_of("place to match", self.where, ("text", "prompt", "last"))
        _regular(self.match)


@dataclass(frozen=True, slots=True)
class Script:
    """Everything the server does, as data. Without arguments: instant, unlimited, right answers.

    Parameters
    ----------
    answers : {"auto", "echo", "fail"}
        When no mapping or rule fits: an answer made from the hash of the text (valid for the schema), the
        text itself, or HTTP 500 that says so and is logged as fault ``unmatched``.
    mapping : mapping of str to Json
        Exact last user message -> answer. Looked up before the rules.
    rules : tuple of Rule
        The first that fits answers.
    respond : callable, optional
        ``ChatRequest -> Json | None``, asked first; only for a server in the same process.
    row_id : str
        Regular expression whose first group is a row's number in a prompt of many rows.
    latency_s : float or Lognormal
        Time to answer, seconds, from the moment the call has a slot.
    slots : int, optional
        Calls answered at once; more wait in order.
    rpm, tpm : float, optional
        Requests and tokens a minute, as buckets that refill continuously, shared by all keys. Beyond: 429.
    burst_s : float
        Size of both buckets, in seconds of their rate.
    counts_tokens : {"most", "made"}
        What a call takes from the bucket of tokens: its prompt and the most that it lets the answer have, when it
        comes in; or its prompt then, and its answer once that is made. Without a ceiling always the latter.
    charge_rejected : bool
        A 429 also takes from the request bucket, as some providers do.
    limit_headers : {"openai", "anthropic", "none"}
        Dialect of the limit headers.
    retry_after : {"seconds", "ms", "date", "none"}
        Dialect of the hint on a 429.
    limit_html : bool
        429 with an HTML page instead of a JSON error.
    api_key : str, optional
        Key required; any other gets 401.
    models : tuple of str
        Models known; any other gets 404. Empty: all are known.
    resolved_model : str, optional
        Model named in the responses, when it is not the one asked for.
    supports_json_schema : bool
        False: ``response_format`` of type ``json_schema`` gets 400.
    dimensions : int
        Of the vectors that ``/embeddings`` answers with; 0: the server has no such path.
    context_tokens : int, optional
        Prompt plus reserved output beyond this gets 400 ``context_length_exceeded``.
    usage : bool
        False: responses carry no usage.
    keeps_prompts : int
        So many of the latest prompts are kept: of one that begins like them ``cached_tokens`` of the usage says how
        much was read before, in steps of 128 tokens.
    cancel_is_free : bool
        False: a call whose client hung up after it had a slot is still billed, as by most providers.
    faults : tuple of Fault
        The first that strikes a call is the only one.
    batches : BatchRules
        What becomes of batches.
    keep_bodies : bool
        False: the log holds no text and no body (for long runs).
    keep_calls : int, optional
        Keep only so many of the latest calls in the log; the counters stay exact.
    """

    answers: AnswerMode = "auto"
    mapping: Mapping[str, Json] = field(default_factory=dict)
    rules: tuple[Rule, ...] = ()
    respond: Callable[[ChatRequest], Json] | None = None
    row_id: str = r"(?im)(?:^|[{<\[])[^\w\n]*(?:row_?id|row|item|id)\b[^\w\n]*(?:id\b[^\w\n]*)?(\d+)\b"
    latency_s: float | Lognormal = 0.0
    slots: int | None = None
    rpm: float | None = None
    tpm: float | None = None
    burst_s: float = 1.0
    counts_tokens: Literal["most", "made"] = "most"
    charge_rejected: bool = False
    limit_headers: Literal["openai", "anthropic", "none"] = "openai"
    retry_after: Literal["seconds", "ms", "date", "none"] = "seconds"
    limit_html: bool = False
    api_key: str | None = field(default=None, repr=False)
    models: tuple[str, ...] = ()
    resolved_model: str | None = None
    supports_json_schema: bool = True
    dimensions: int = 64
    context_tokens: int | None = None
    usage: bool = True
    keeps_prompts: int = 0
    cancel_is_free: bool = False
    faults: tuple[Fault, ...] = ()
    batches: BatchRules = field(default_factory=BatchRules)
    keep_bodies: bool = True
    keep_calls: int | None = None

    def __post_init__(self) -> None:
        _one_of("answer mode", self.answers, get_args(AnswerMode))
        _one_of("way to count tokens", self.counts_tokens, ("most", "made"))
        _one_of("dialect of limit headers", self.limit_headers, ("openai", "anthropic", "none"))
        _one_of("dialect of retry-after", self.retry_after, ("seconds", "ms", "date", "none"))
        _regular(self.row_id)

    def to_json(self) -> bytes:
        """The script as JSON, for another process or a file.

        Raises
        ------
        ConfigError
            If the script holds a callable.
        """
        if self.respond is not None:
            raise ConfigError(
                "a script with a callable cannot leave this process",
                fix="use ScriptedServer(script, in_process=True), or mapping= and rules=",
            )
        return orjson.dumps(self, option=orjson.OPT_INDENT_2)

    @classmethod
    def from_json(cls, text: bytes | str) -> Script:
        """Read a script that `to_json` wrote.

        Raises
        ------
        ConfigError
            For a name that is not a field.
        """
        values = _known(cls, orjson.loads(text))
        values["rules"] = tuple(Rule(**_known(Rule, rule)) for rule in values.get("rules", ()))
        values["faults"] = tuple(_fault(fault) for fault in values.get("faults", ()))
        values["models"] = tuple(values.get("models", ()))
        values["batches"] = BatchRules.from_values(values.get("batches", {}))
        if isinstance(values.get("latency_s"), dict):
            values["latency_s"] = Lognormal(**_known(Lognormal, values["latency_s"]))
        return cls(**values)

    def but(self, **changes: Any) -> Script:
        """A copy with other values, for a change while the server runs."""
        return dataclasses.replace(self, **changes)


def _one_of(noun: str, name: str, known: tuple[str, ...]) -> None:
    if name not in known:
        raise ConfigError(f"no {noun} is called {name!r}", why=candidates(str(name), known, noun="known"))


def _regular(pattern: str | None) -> None:
    try:
        re.compile(pattern or "")
    except re.error as why:
        raise ConfigError(f"{pattern!r} is not a regular expression", why=str(why)) from why


_Record = TypeVar("_Record")


def _known(cls: type[_Record], values: dict[str, Any]) -> dict[str, Any]:
    names = [item.name for item in fields(cls)]  # type: ignore[arg-type]
    for name in values:
        if name not in names:
            hint = candidates(name, names, noun="fields")
            raise ConfigError(f"{cls.__name__} has no field {name!r}", where="script", why=hint)
    return dict(values)


def _fault(values: dict[str, Any]) -> Fault:
    known = _known(Fault, values)
    on = known.get("on")
    if isinstance(on, dict):
        on = _known(On, on)
        on["calls"] = tuple(on.get("calls", ()))
        if on.get("between_s") is not None:
            on["between_s"] = tuple(on["between_s"])
        known["on"] = On(**on)
    return Fault(**known)
