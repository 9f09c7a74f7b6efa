"""Scripted answers: a pure function of the script and the request."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import orjson

from apwa_dask.testing.schema_values import schema_value
from apwa_dask.testing.script import ChatRequest, Json, Rule, Script

__all__ = ["Answer", "ToolCall", "answer_for", "chat_request", "count_tokens", "expected_answer"]

CHARACTERS_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a tool that the model asks for; `arguments` is JSON text."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model says. `content` is None when it only calls tools or refuses."""

    content: str | None
    finish_reason: str = "stop"
    tool_calls: tuple[ToolCall, ...] = ()
    refusal: str | None = None

    @property
    def tokens(self) -> int:
        """Completion tokens of this answer."""
        spoken = (self.content or "") + (self.refusal or "")
        return count_tokens(spoken) + sum(
            count_tokens(call.name + call.arguments) for call in self.tool_calls
        )


def count_tokens(text: str) -> int:
    """Tokens of a text by the server's own rule: one for each four characters, rounded up.

    Examples
    --------
    >>> count_tokens("abcde")
    2
    """
    return -(-len(text) // CHARACTERS_PER_TOKEN)


def chat_request(body: dict[str, Any]) -> ChatRequest:
    """Read a chat completions body.

    Raises
    ------
    KeyError, TypeError, ValueError
        If `model` or `messages` is missing or of a wrong type.
    """
    model, messages = body["model"], body["messages"]
    if not isinstance(model, str) or not isinstance(messages, list) or not messages:
        raise ValueError("model must be a string and messages a list that is not empty")
    texts = [_message_text(message) for message in messages]
    user = [text for text, message in zip(texts, messages, strict=True) if message.get("role") == "user"]
    return ChatRequest(
        text=user[-1] if user else "",
        prompt="\n".join(texts),
        last=texts[-1],
        model=model,
        turn=sum(message.get("role") == "assistant" for message in messages),
        schema=_schema_of(body),
        body=body,
    )


def answer_for(script: Script, request: ChatRequest) -> Answer | None:
    """The script's answer before faults and limits; None if nothing fits and the mode is ``fail``.

    Raises
    ------
    SchemaNotScripted
        If an answer must be made for a schema that uses a keyword the generator does not know.
    """
    if script.respond is not None:
        said = script.respond(request)
        if said is not None:
            return _spoken(said)
    if request.text in script.mapping:
        return _spoken(script.mapping[request.text])
    for rule in script.rules:
        if _fits(rule, request):
            return _spoken(rule.answer)
    if script.answers == "fail":
        return None
    if script.answers == "echo":
        return Answer(request.text)
    return _made(script, request)


def expected_answer(
    script: Script,
    messages: str | Sequence[Mapping[str, Any]],
    schema: Mapping[str, Any] | None = None,
    *,
    model: str = "any",
) -> str:
    """What a fault-free server sends as the content for these messages: what each row must get.

    Parameters
    ----------
    script : Script
        The script of the server.
    messages : str or sequence of mapping
        Messages as sent, or the last user message alone.
    schema : mapping, optional
        JSON schema sent as ``response_format``.
    model : str
        Model asked for; matters only for rules that name a model.

    Returns
    -------
    str
        The text exactly as sent; ``json.loads`` it when a schema was given. Empty for a pure tool call.

    Raises
    ------
    LookupError
        If the script answers only what it knows, and this is not.
    """
    sent = (
        [{"role": "user", "content": messages}] if isinstance(messages, str) else [dict(m) for m in messages]
    )
    body: dict[str, Any] = {"model": model, "messages": sent}
    if schema is not None:
        body["response_format"] = {"type": "json_schema", "json_schema": {"schema": dict(schema)}}
    answer = answer_for(script, chat_request(body))
    if answer is None:
        raise LookupError("the script has no answer for these messages")
    return answer.content or ""


def _message_text(message: dict[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(part["text"] for part in content if part.get("type") == "text")
    if content is None and message.get("role") in ("assistant", "tool"):
        return ""
    raise ValueError("the content of a message must be a string or a list of parts")


def _schema_of(body: dict[str, Any]) -> dict[str, Any] | None:
    wanted = body.get("response_format")
    if not isinstance(wanted, dict) or wanted.get("type") != "json_schema":
        return None
    schema = wanted["json_schema"]["schema"]
    if not isinstance(schema, dict):
        raise ValueError("response_format.json_schema.schema must be an object")
    return schema


@lru_cache(maxsize=1024)
def compiled(pattern: str) -> re.Pattern[str]:
    """The regular expression, compiled once."""
    return re.compile(pattern)


def _fits(rule: Rule, request: ChatRequest) -> bool:
    if rule.model is not None and rule.model != request.model:
        return False
    if rule.turn is not None and rule.turn != request.turn:
        return False
    return compiled(rule.match).search(getattr(request, rule.where)) is not None


def _spoken(said: Json) -> Answer:
    if isinstance(said, str):
        return Answer(said)
    if isinstance(said, dict) and isinstance(calls := said.get("tool_calls"), list):
        content = said.get("content")
        return Answer(
            content if isinstance(content, str) else None,
            finish_reason="tool_calls",
            tool_calls=tuple(_tool_call(call) for call in calls),
        )
    return Answer(orjson.dumps(said).decode())


def _tool_call(call: Json) -> ToolCall:
    if not isinstance(call, dict) or not isinstance(name := call.get("name"), str):
        raise ValueError("a scripted tool call needs a name")
    arguments = call.get("arguments", {})
    return ToolCall(name, arguments if isinstance(arguments, str) else orjson.dumps(arguments).decode())


def _made(script: Script, request: ChatRequest) -> Answer:
    forced = _forced_tool(request.body)
    if forced is not None:
        value = schema_value(
            forced.get("parameters") or {"type": "object"}, request.text, request.prompt, script.row_id
        )
        call = ToolCall(forced["name"], orjson.dumps(value).decode())
        return Answer(None, finish_reason="tool_calls", tool_calls=(call,))
    if request.schema is not None:
        value = schema_value(request.schema, request.text, request.prompt, script.row_id)
        return Answer(orjson.dumps(value).decode())
    digest = hashlib.sha256(request.text.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    wanted = request.body.get("response_format")
    if isinstance(wanted, dict) and wanted.get("type") == "json_object":
        return Answer(orjson.dumps({"answer": digest}).decode())
    return Answer(digest)


def _forced_tool(body: dict[str, Any]) -> dict[str, Any] | None:
    choice, tools = body.get("tool_choice"), body.get("tools")
    if not tools or choice in (None, "auto", "none"):
        return None
    functions: list[dict[str, Any]] = [tool["function"] for tool in tools]
    if isinstance(choice, dict):
        return next((f for f in functions if f["name"] == choice["function"]["name"]), functions[0])
    return functions[0]
