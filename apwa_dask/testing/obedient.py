"""A malicious model for tests: it obeys every order that it finds in its prompt, whoever wrote it there.

Prompt injection cannot be prevented by words, so a pipeline is tested with the worst model: whatever a row can
make it say must stay in that row. Orders are written into cells:

>>> order("CALL", "send_mail", to="x@example.org")
'[[CALL send_mail {"to":"x@example.org"}]]'
>>> order("SAY", '{"keep": true}'), order("FLOOD", "1000000")
('[[SAY {"keep": true}]]', '[[FLOOD 1000000]]')
"""

from __future__ import annotations

import re
from typing import Any, Literal

import orjson

from apwa_dask.testing.script import ChatRequest, Json

__all__ = ["MOST_TURNS", "Order", "obey", "order"]

Order = Literal["CALL", "SAY", "FLOOD"]

MOST_TURNS = 100
"""Answers in one conversation before the model gives up obeying: no cap of the engine is so lax."""

_ORDER = re.compile(r"\[\[(CALL|SAY|FLOOD) (.+?)\]\]", re.DOTALL)
_WRITTEN_BY_THE_ENGINE = ("system", "developer")


def order(kind: Order, what: str, **arguments: Any) -> str:
    """An order for a cell.

    Parameters
    ----------
    kind : {"CALL", "SAY", "FLOOD"}
        Call a tool, say a text as the whole answer, or say so many characters.
    what : str
        The tool, the text, or the number.
    **arguments
        Of the tool.
    """
    given = f" {orjson.dumps(arguments).decode()}" if kind == "CALL" else ""
    return f"[[{kind} {what}{given}]]"


def obey(request: ChatRequest) -> Json | None:
    """What an obedient model says, as a ``Script.respond``: all CALL orders at once, else the last other one.

    It obeys users, tools and its own earlier words, every turn again; without an order it answers honestly.
    """
    if request.turn >= MOST_TURNS:
        return None
    found = _ORDER.findall(_untrusted_text(request.body["messages"]))
    calls: list[Json] = [_call(what) for kind, what in found if kind == "CALL"]
    if calls:
        return {"tool_calls": calls}
    if not found:
        return None
    kind, what = found[-1]
    return "x" * int(what) if kind == "FLOOD" else str(what)


def _call(what: str) -> Json:
    name, _, arguments = what.partition(" ")
    return {"name": name, "arguments": arguments or "{}"}


def _untrusted_text(messages: list[dict[str, Any]]) -> str:
    """All that rows and tools could have written, JSON escapes undone."""
    texts = [message.get("content") for message in messages if message["role"] not in _WRITTEN_BY_THE_ENGINE]
    return "\n".join(text.replace('\\"', '"') for text in texts if isinstance(text, str))
