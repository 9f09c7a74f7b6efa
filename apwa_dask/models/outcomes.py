"""What one HTTP response means: an outcome class, whether to try again, and the answer in it. Pure.

The rules are those measured against real SDKs and providers: a 200 can hold a gateway's page, an error
object, no choices or no content; a 400 can mean a filter, a full window or a parameter this endpoint lacks; a
429 can mean that the money is out. ``x-should-retry`` overrules the status.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import orjson

from apwa_dask.models.headers import retry_after_s, should_retry
from apwa_dask.models.redact import safe_identifier, safe_words
from apwa_dask.models.types import OutcomeClass, ToolCall, Usage
from apwa_dask.models.vectors import vector_text

__all__ = ["Completion", "Fatal", "Retry", "StepDown", "Trouble", "Verdict", "classify"]

Trouble = Literal["", "connect", "connection", "short_body", "deadline", "too_big"]
"""Why there is no usable response: never sent (`connect`), or sent and lost."""

Fatal = Literal["", "key", "model", "quota", "parameter", "endpoint"]
StepDown = Literal["", "structured", "max_tokens"]


class Retry(enum.StrEnum):
    """Who may try again, and how."""

    NONE = "none"
    TRANSIENT = "transient"
    THROTTLED = "throttled"
    """Wait at the gate; the wait consumes no attempt."""
    DEADLINE = "deadline"
    REASK = "reask"
    """The endpoint works but said nothing: the same request again, a few times."""
    STEP_DOWN = "step_down"
    """The endpoint lacks something we asked for: ask without it, for all requests from now on."""


class Completion(NamedTuple):
    """The first choice of a chat completion."""

    text: str | None
    finish_reason: str
    tool_calls: tuple[ToolCall, ...] = ()
    usage: Usage | None = None
    model: str = ""
    request_id: str = ""


class Verdict(NamedTuple):
    """What to make of one attempt.

    Parameters
    ----------
    outcome : OutcomeClass
        The class, if this was the last attempt.
    wait_s : float, optional
        As the endpoint asked.
    words : str
        Ours and the server's, masked; the server's may still quote the row (see `redact.without_quotes`).
    fatal : str
        Why the run must stop; empty when it need not.
    overloaded : bool
        The gate should shrink.
    sent : bool
        The request may have reached the model, and so may have been billed.
    """

    outcome: OutcomeClass
    retry: Retry = Retry.NONE
    completion: Completion | None = None
    wait_s: float | None = None
    words: str = ""
    fatal: Fatal = ""
    step_down: StepDown = ""
    overloaded: bool = False
    sent: bool = False


_QUOTA = {
    "insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "insufficient_balance",
    "account_deactivated", "exceeded_current_quota_error", "credit_balance_too_low",
}  # fmt: skip
_FILTER = {"content_filter", "content_policy_violation", "responsibleaipolicyviolation", "moderation_blocked"}
_TOO_LONG = {
    "context_length_exceeded",
    "exceed_context_size_error",
    "string_above_max_length",
    "request_too_large",
}
_TOO_LONG_WORDS = (
    "maximum context length", "context length", "context size", "context window", "prompt is too long",
    "too many tokens", "input is too long",
)  # fmt: skip
_TROUBLE = {
    "connect": "no connection to the endpoint",
    "connection": "the connection broke before the answer came",
    "short_body": "the answer broke off before its announced end",
    "deadline": "no answer within the deadline of one attempt",
    "too_big": "the answer is larger than any answer may be",
}


def classify(
    status: int,
    headers: Mapping[str, str],
    body: bytes | None,
    trouble: Trouble = "",
    *,
    secrets: tuple[str, ...] = (),
) -> Verdict:
    """Read one attempt.

    Parameters
    ----------
    status : int
        HTTP status; 0 when there was none.
    headers : mapping
        Case-insensitive.
    body : bytes or None
        The whole body, decompressed.
    trouble : str
        Set when the exchange failed below HTTP; status and body are then ignored.
    secrets : tuple of str
        Masked wherever they occur in the server's words.
    """
    if trouble:
        return _broken(trouble)
    if status == 200:
        verdict = _success(headers, body, secrets)
        if verdict.outcome is OutcomeClass.OK:
            return verdict
    else:
        verdict = _error(status, headers, _error_object(body), secrets)
    return _overruled(verdict, should_retry(headers))


def _overruled(verdict: Verdict, again: bool | None) -> Verdict:
    if again is True and verdict.retry is Retry.NONE and verdict.completion is None:
        return verdict._replace(retry=Retry.TRANSIENT)
    if again is False and verdict.retry in (Retry.TRANSIENT, Retry.THROTTLED):
        return verdict._replace(retry=Retry.NONE)
    return verdict


def _broken(trouble: Trouble) -> Verdict:
    words = _TROUBLE[trouble]
    if trouble == "deadline":
        return Verdict(OutcomeClass.DEADLINE, Retry.DEADLINE, words=words, overloaded=True, sent=True)
    if trouble == "too_big":
        return Verdict(OutcomeClass.INVALID_OUTPUT, words=words, sent=True)
    return Verdict(OutcomeClass.TRANSIENT, Retry.TRANSIENT, words=words, sent=trouble != "connect")


# -- 200


def _success(headers: Mapping[str, str], body: bytes | None, secrets: tuple[str, ...]) -> Verdict:
    try:
        document = orjson.loads(body or b"")
    except orjson.JSONDecodeError:
        return _unreadable(body)
    if not isinstance(document, dict):
        return _unreadable(body)
    choices = document.get("choices")
    if choices is None and isinstance(document.get("data"), list):
        return _embedded(document)
    if not choices:
        return _without_choices(document, headers, secrets)
    try:
        completion = _completion(document, choices[0])
    except (AttributeError, KeyError, TypeError, IndexError):
        return _silent("the answer has not the shape of a chat completion", _usage(document.get("usage")))
    return _spoken(completion, choices[0]["message"].get("refusal"))


def _embedded(document: dict[str, Any]) -> Verdict:
    """An answer of ``/embeddings``: its text is a vector a line."""
    usage = _usage(document.get("usage"))
    try:
        vectors = sorted(document["data"], key=lambda entry: int(entry["index"]))
        text = "\n".join(vector_text(entry["embedding"]) for entry in vectors)
    except (AttributeError, KeyError, TypeError, ValueError):
        return _silent("the answer has not the shape of embeddings", usage)
    if not text:
        return _silent("the answer has no vectors", usage)
    completion = Completion(text, "", usage=usage, model=document.get("model") or "")
    return Verdict(OutcomeClass.OK, completion=completion, sent=True)


def _spoken(completion: Completion, refusal: object) -> Verdict:
    reason = completion.finish_reason
    if reason == "content_filter":
        words = "the endpoint's content filter stopped the answer"
        return Verdict(OutcomeClass.FILTERED, completion=completion, words=words, sent=True)
    if refusal and not completion.text:
        stated = completion._replace(text=str(refusal))
        return Verdict(OutcomeClass.REFUSED, completion=stated, words="the model refused", sent=True)
    if reason == "length":
        words = "the answer was cut at the limit of output tokens"
        return Verdict(OutcomeClass.TRUNCATED, completion=completion, words=words, sent=True)
    if not completion.text and not completion.tool_calls:
        return _silent("the answer is empty", None)._replace(completion=completion)
    return Verdict(OutcomeClass.OK, completion=completion, sent=True)


def _completion(document: dict[str, Any], choice: dict[str, Any]) -> Completion:
    message = choice["message"]
    content = message.get("content")
    if content is not None and not isinstance(content, str):
        content = "".join(part.get("text", "") for part in content)
    calls = message.get("tool_calls")
    return Completion(
        content,
        choice.get("finish_reason") or "",
        tuple(_tool_call(call) for call in calls) if calls else (),
        _usage(document.get("usage")),
        document.get("model") or "",
        document.get("id") or "",
    )


def _tool_call(call: dict[str, Any]) -> ToolCall:
    function = call["function"]
    arguments = function.get("arguments") or "{}"
    if not isinstance(arguments, str):
        arguments = orjson.dumps(arguments).decode()
    return ToolCall(str(call.get("id") or ""), str(function["name"]), arguments)


def _usage(stated: object) -> Usage | None:
    """Token counts, or None where they are missing or make no sense (usage -1 has been seen)."""
    if not isinstance(stated, dict):
        return None
    tokens_in, tokens_out = stated.get("prompt_tokens"), stated.get("completion_tokens", 0)
    if type(tokens_in) is not int or type(tokens_out) is not int or tokens_in < 0 or tokens_out < 0:
        return None
    details = stated.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    return Usage(tokens_in, tokens_out, min(cached, tokens_in) if type(cached) is int and cached > 0 else 0)


def _unreadable(body: bytes | None) -> Verdict:
    start = (body or b"").lstrip()[:15].lower()
    if start.startswith((b"<!doctype", b"<html")):
        return Verdict(OutcomeClass.TRANSIENT, Retry.TRANSIENT, words="a web page came in place of an answer")
    words = "the answer is not JSON" if body else "the answer has no body"
    return Verdict(OutcomeClass.TRANSIENT, Retry.TRANSIENT, words=words, sent=True)


def _without_choices(
    document: dict[str, Any], headers: Mapping[str, str], secrets: tuple[str, ...]
) -> Verdict:
    if document.get("error"):
        error = _as_error(document["error"])
        status = error.status if 400 <= error.status < 600 else 500
        return _error(status, headers, error, secrets)
    return _silent("the answer has no choices", _usage(document.get("usage")))


def _silent(words: str, usage: Usage | None) -> Verdict:
    completion = None if usage is None else Completion(None, "", usage=usage)
    return Verdict(OutcomeClass.INVALID_OUTPUT, Retry.REASK, completion, words=words, sent=True)


# -- errors


@dataclass(frozen=True, slots=True)
class _Error:
    """The error object of a body, in the shapes of OpenAI, Azure, Google, FastAPI and llama.cpp."""

    codes: frozenset[str] = frozenset()
    code: str = ""
    words: str = ""
    param: str = ""
    status: int = 0
    raw: object = field(default=None, repr=False)


def _error_object(body: bytes | None) -> _Error:
    try:
        document = orjson.loads(body or b"")
    except orjson.JSONDecodeError:
        return _Error()
    if isinstance(document, list) and document:
        document = document[0]
    if not isinstance(document, dict):
        return _Error()
    return _as_error(document.get("error") or document.get("detail") or document.get("message") or document)


def _as_error(error: object) -> _Error:
    if not isinstance(error, dict):
        return _Error(words=error if isinstance(error, str) else "")
    inner = error.get("innererror")
    stated = [error.get("code"), error.get("type"), error.get("status")]
    stated.append(inner.get("code") if isinstance(inner, dict) else None)
    names = [name for value in stated if (name := safe_identifier(value))]
    number = error.get("code", error.get("status"))
    words = error.get("message") or error.get("detail") or error.get("msg")
    return _Error(
        frozenset(name.lower() for name in names),
        names[0] if names else "",
        words if isinstance(words, str) else "",
        error["param"] if isinstance(error.get("param"), str) else "",
        number if type(number) is int else 0,
        error,
    )


def _error(status: int, headers: Mapping[str, str], error: _Error, secrets: tuple[str, ...]) -> Verdict:
    said = ": ".join(part for part in (error.code, safe_words(error.words, secrets)) if part)
    words = f"HTTP {status}" + (f" ({said})" if said else "")
    if error.codes & _QUOTA or status == 402:
        return Verdict(OutcomeClass.FATAL, words=words, fatal="quota")
    if status == 429:
        wait_s = retry_after_s(headers, error.raw)
        return Verdict(
            OutcomeClass.TRANSIENT, Retry.THROTTLED, wait_s=wait_s, words=words, overloaded=True
        )  # fmt: skip
    if status in (401, 403) or _names_the_key(error):
        return Verdict(OutcomeClass.FATAL, words=words, fatal="key")
    if error.codes & _FILTER:
        return Verdict(OutcomeClass.FILTERED, words=words)
    if status == 413 or _too_long(status, error):
        return Verdict(OutcomeClass.TOO_LARGE, words=words)
    if status in (408, 409, 425) or status >= 500:
        wait_s = retry_after_s(headers, error.raw)
        overloaded = status in (503, 529)
        return Verdict(
            OutcomeClass.TRANSIENT, Retry.TRANSIENT, wait_s=wait_s, words=words, overloaded=overloaded
        )  # fmt: skip
    if status == 404:
        return Verdict(OutcomeClass.FATAL, words=words, fatal="model")
    if status in (400, 422):
        return _declined(words, error)
    if status < 400 or status in (405, 410):
        return Verdict(OutcomeClass.FATAL, words=words, fatal="endpoint")
    return Verdict(OutcomeClass.BAD_INPUT, words=words)


def _names_the_key(error: _Error) -> bool:
    return "invalid_api_key" in error.codes or "api key not valid" in error.words.lower()


def _too_long(status: int, error: _Error) -> bool:
    if error.codes & _TOO_LONG:
        return True
    said = error.words.lower()
    return status in (400, 422, 500) and any(words in said for words in _TOO_LONG_WORDS)


def _declined(words: str, error: _Error) -> Verdict:
    """A 400: the row's own fault, or something that every request of this model would meet."""
    said = f"{error.param} {error.words}".lower()
    if "response_format" in said or "json_schema" in said or "json schema" in said or "json_object" in said:
        return Verdict(OutcomeClass.BAD_INPUT, Retry.STEP_DOWN, words=words, step_down="structured")
    if "max_completion_tokens" in said and "max_tokens" in said:
        return Verdict(OutcomeClass.BAD_INPUT, Retry.STEP_DOWN, words=words, step_down="max_tokens")
    if error.codes & {"unsupported_parameter", "unsupported_value"} or "model_not_found" in error.codes:
        fatal: Fatal = "model" if "model_not_found" in error.codes else "parameter"
        return Verdict(OutcomeClass.FATAL, words=words, fatal=fatal)
    return Verdict(OutcomeClass.BAD_INPUT, words=words)
