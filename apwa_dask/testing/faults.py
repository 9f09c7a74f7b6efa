"""Faults: which call is struck (pure), and what becomes of its answer or its reply."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import orjson

from apwa_dask.testing.answers import Answer, compiled
from apwa_dask.testing.schema_values import resolve, row_property
from apwa_dask.testing.script import ChatRequest, Fault, On
from apwa_dask.testing.wire import (
    Header,
    Reply,
    error_reply,
    gzip_of_spaces,
    html_reply,
    json_reply,
    response,
)

__all__ = ["Strike", "refused", "spoiled_answer", "spoiled_reply", "struck"]


@dataclass(frozen=True, slots=True)
class Strike:
    """A call as the selectors of faults see it."""

    n: int
    since_start_s: float
    attempt: int
    request: ChatRequest


def struck(faults: Iterable[Fault], call: Strike) -> Fault | None:
    """The first fault that strikes this call."""
    for fault in faults:
        if fault.times is not None and call.attempt > fault.times:
            continue
        if _selects(fault.selector, call):
            return fault
    return None


def _selects(on: On, call: Strike) -> bool:
    if on.calls and call.n not in on.calls:
        return False
    if on.every is not None and call.n % on.every:
        return False
    if on.model is not None and call.request.model != on.model:
        return False
    if on.between_s is not None and not on.between_s[0] <= call.since_start_s < on.between_s[1]:
        return False
    if on.text is not None and not compiled(on.text).search(call.request.text):
        return False
    if on.prompt is not None and not compiled(on.prompt).search(call.request.prompt):
        return False
    return on.fraction is None or _share(on.seed, call.request.text) < on.fraction


def _share(seed: int, text: str) -> float:
    digest = hashlib.sha256(f"{seed}\0{text}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


_ERRORS: dict[int, tuple[str, str | None]] = {
    400: ("invalid_request_error", None),
    401: ("invalid_request_error", "invalid_api_key"),
    403: ("permission_error", "unsupported_country_region_territory"),
    404: ("invalid_request_error", "model_not_found"),
    408: ("timeout", None),
    409: ("conflict", None),
    429: ("requests", "rate_limit_exceeded"),
    503: ("overloaded_error", None),
    529: ("overloaded_error", None),
}


def refused(fault: Fault) -> Reply | None:
    """The reply of a fault that strikes before any token is made; None for the others."""
    extra = _extra(fault)
    match fault.kind:
        case "status" if fault.html:
            return html_reply(fault.status, extra)
        case "status":
            kind, code = _ERRORS.get(fault.status, ("server_error", None))
            return error_reply(
                fault.status, f"scripted error {fault.status}", kind=kind, code=code, extra=extra
            )
        case "insufficient_quota":
            message = "You exceeded your current quota, please check your plan and billing details."
            return error_reply(
                429, message, kind="insufficient_quota", code="insufficient_quota", extra=extra
            )
        case "content_filter":
            message = "The prompt was filtered due to the content management policy."
            return error_reply(400, message, code="content_filter", param="prompt", extra=extra)
        case "error_in_200":
            return error_reply(200, "scripted error inside a 200", kind="server_error", extra=extra)
        case "html_200":
            return html_reply(200, extra)
        case "hang":
            return Reply(0, b"", "hang")
        case "disconnect":
            return Reply(0, b"", "reset")
    return None


def _extra(fault: Fault) -> tuple[Header, ...]:
    extra = list(fault.headers.items())
    if fault.retry_after is not None:
        extra.append(("retry-after", fault.retry_after))
    if fault.should_retry is not None:
        extra.append(("x-should-retry", "true" if fault.should_retry else "false"))
    return tuple(extra)


def spoiled_answer(fault: Fault, answer: Answer, schema: dict[str, Any] | None) -> Answer:
    """The answer after a fault of the model; unchanged for the faults of other kinds."""
    match fault.kind:
        case "content_filter_finish":
            return Answer(None, finish_reason="content_filter")
        case "refusal":
            return Answer(None, refusal="I'm sorry, I can't help with that.")
        case "length":
            content = answer.content or ""
            return Answer(content[: len(content) // 2], finish_reason="length")
        case "null_content":
            return Answer(None)
        case "content":
            return replace(answer, content=fault.content)
        case "wrong_enum" | "extra_field" | "missing_field" | "nan" | "drop_item" | "duplicate_item":
            return replace(answer, content=_spoiled_json(fault, answer.content or "", schema or {}))
    return answer


def _spoiled_json(fault: Fault, content: str, schema: dict[str, Any]) -> str:
    document = json.loads(content)
    rows, row_schema = _rows(document, schema)
    if fault.kind in ("drop_item", "duplicate_item"):
        if rows is None:
            raise ValueError(f"{fault.kind} needs an answer with an array, in an object or alone")
        rows[fault.item : fault.item + 1] = [] if fault.kind == "drop_item" else [rows[fault.item]] * 2
        return json.dumps(document)
    target, target_schema = document, resolve(schema, schema)
    if rows and isinstance(rows[0], dict):
        target, target_schema = rows[fault.item], row_schema
    if not isinstance(target, dict) or not target:
        raise ValueError(f"{fault.kind} needs an answer that is an object with fields")
    _spoil_fields(fault, target, target_schema, schema)
    return json.dumps(document)


def _spoil_fields(fault: Fault, target: dict[str, Any], schema: dict[str, Any], root: dict[str, Any]) -> None:
    numbered = row_property(schema, root)
    names = [name for name in target if name != numbered]
    properties = {name: resolve(part, root) for name, part in schema.get("properties", {}).items()}
    if fault.kind == "extra_field":
        target["unexpected_field"] = "x"
    elif fault.kind == "missing_field":
        del target[names[0]]
    elif fault.kind == "nan":
        number = (n for n in names if isinstance(target[n], int | float) and not isinstance(target[n], bool))
        target[next(number, names[0])] = float("nan")
    else:
        enum = next((name for name in names if "enum" in properties.get(name, {})), None)
        if enum is None:
            target[names[0]] = {"not": "in the schema"}
        else:
            target[enum] = f"{target[enum]}-not-allowed"


def _rows(document: Any, root: dict[str, Any]) -> tuple[list[Any] | None, dict[str, Any]]:
    schema = resolve(root, root)
    if isinstance(document, list):
        return document, resolve(schema.get("items", {}), root)
    if not isinstance(document, dict):
        return None, {}
    for name, value in document.items():
        if isinstance(value, list):
            part = resolve(schema.get("properties", {}).get(name, {}), root)
            return value, resolve(part.get("items", {}), root)
    return None, {}


def spoiled_reply(fault: Fault, body: bytes, extra: tuple[Header, ...]) -> Reply:
    """The reply after a fault of the envelope or the wire; a normal reply for the faults of other kinds."""
    match fault.kind:
        case "no_usage" | "no_choices":
            document = orjson.loads(body)
            if fault.kind == "no_usage":
                document.pop("usage", None)  # the whole script may already send none
            else:
                document["choices"] = []
            return json_reply(200, orjson.dumps(document), extra)
        case "broken_json":
            return json_reply(200, body[: len(body) // 2], extra)
        case "empty_body":
            return json_reply(200, b"", extra)
        case "reset":
            return Reply(200, response(200, body[: len(body) // 2], extra, announced=len(body)), "reset")
        case "short_body":
            return Reply(200, response(200, body, extra, announced=len(body) + 100), "close")
        case "drip":
            return Reply(200, response(200, body, extra), "drip", fault.interval_s)
        case "huge_body":
            return json_reply(200, b" " * max(0, fault.size_bytes - len(body)) + body, extra)
        case "gzip_bomb":
            packed = gzip_of_spaces(max(0, fault.size_bytes - len(body)), body)
            return json_reply(200, packed, (*extra, ("content-encoding", "gzip")))
    return json_reply(200, body, extra)
