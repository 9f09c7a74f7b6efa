"""Tool calls and their results as the journal keeps them: text in, the same messages out."""

from __future__ import annotations

import json
from typing import Any

from apwa_dask.models.types import Message, Reply, Request, ToolCall

__all__ = ["ToolTurn", "tool_calls_of", "tools_text", "turns_of"]

ToolTurn = tuple[Message, ...]
"""What one round of tools added to a prompt: the model's request for tools, then a result for each."""


def tools_text(reply: Reply, request: Request) -> str | None:
    """The tools that `reply` asks for and those that `request` reports on; None where there are none.

    Python's own JSON: a model may write lone surrogates, which orjson refuses.
    """
    turns = [message for message in request.tail if message.role == "tool" or message.tool_calls]
    if not turns and not reply.tool_calls:
        return None
    return json.dumps(
        {"calls": [call.as_dict() for call in reply.tool_calls], "turns": [_as_dict(m) for m in turns]}
    )


def tool_calls_of(text: str | None) -> tuple[ToolCall, ...]:
    """The tools that a stored answer asked for."""
    return () if text is None else _calls(json.loads(text)["calls"])


def turns_of(text: str | None) -> tuple[Message, ...]:
    """The tool messages that a stored answer's request held, in order."""
    if text is None:
        return ()
    return tuple(
        Message(
            turn["role"], turn["content"], turn.get("tool_call_id", ""), _calls(turn.get("tool_calls", []))
        )
        for turn in json.loads(text)["turns"]
    )


def _as_dict(message: Message) -> dict[str, Any]:
    return {
        "role": message.role,
        "content": message.content,
        "tool_call_id": message.tool_call_id,
        "tool_calls": [call.as_dict() for call in message.tool_calls],
    }


def _calls(calls: list[dict[str, Any]]) -> tuple[ToolCall, ...]:
    return tuple(
        ToolCall(call["id"], call["function"]["name"], call["function"]["arguments"]) for call in calls
    )
