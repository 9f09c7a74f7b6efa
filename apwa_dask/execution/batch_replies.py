"""What a run's batches have answered, and what its tools have said: kept in the run's own folder.

The journal serves good answers to everybody. A run in batches is worked on in rounds, each of which replays its
conversations from the start: it must find failed answers too, exactly as they were, and must not run a tool
twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from apwa_dask.agents.capabilities import ToolResult
from apwa_dask.models.types import OutcomeClass, Reply, ToolCall, Usage
from apwa_dask.store.journal import Journal, Record

__all__ = ["Held", "Replies"]

_CACHE_BYTES = 64 * 2**20
_SERVED = "ok"
"""What is kept is found again whatever it says: a reply's own outcome is inside."""


@dataclass(frozen=True, slots=True)
class Held:
    """A reply, and the unit of work that pays for it."""

    reply: Reply
    owner: str

    def to(self, owner: str) -> Reply:
        """The reply as `owner` gets it: paid for now, or shared with the one who paid."""
        if owner == self.owner:
            return self.reply
        return self.reply._replace(source="shared", cost_usd=0.0, usage=Usage(), attempts=0)


class Replies:
    """The replies of one run in one process. Any thread may read and write.

    Parameters
    ----------
    url : str
        The run's folder.
    storage_options : mapping, optional
        For its filesystem.
    """

    def __init__(self, url: str, storage_options: Mapping[str, Any] | None = None) -> None:
        self._journal = Journal(
            url, namespace="batch", storage_options=storage_options, cache_bytes=_CACHE_BYTES
        )

    def get(self, keys: Sequence[bytes]) -> dict[bytes, Held]:
        """Those that are there, by the request's fingerprint."""
        return {key: _held(record.text or "") for key, record in self._journal.get_many(keys).items()}

    def put(self, key: bytes, held: Held) -> None:
        """Keep the last word on a request."""
        self._journal.put(Record(key, _SERVED, text=_reply_text(held)))

    def tool_results(self, request: bytes, count: int) -> list[ToolResult | None]:
        """What the tools said that the reply to `request` asked for, in their order."""
        keys = [_tool_key(request, place) for place in range(count)]
        known = self._journal.get_many(keys)
        return [ToolResult(**orjson.loads(known[key].text or "")) if key in known else None for key in keys]

    def put_tool_result(self, request: bytes, place: int, result: ToolResult) -> None:
        """Keep what a tool said."""
        text = orjson.dumps(result).decode()
        self._journal.put(Record(_tool_key(request, place), _SERVED, text=text))

    def flush(self) -> None:
        """Return when all is durable."""
        self._journal.flush()

    def refresh(self) -> None:
        """See what other processes have written."""
        self._journal.refresh()

    def close(self) -> None:
        """Flush, and end the writer."""
        self._journal.close()


def _tool_key(request: bytes, place: int) -> bytes:
    return hashlib.sha256(b"tool\0%d\0" % place + request).digest()


def _reply_text(held: Held) -> str:
    reply = held.reply
    usage = reply.usage
    facts = {
        "owner": held.owner,
        "outcome": reply.outcome.value,
        "text": reply.text,
        "tool_calls": [[call.id, call.name, call.arguments] for call in reply.tool_calls],
        "usage": [usage.input, usage.output, usage.cached, usage.estimated],
        "cost_usd": reply.cost_usd,
        "model": reply.model,
        "finish_reason": reply.finish_reason,
        "request_id": reply.request_id,
        "attempts": reply.attempts,
        "message": reply.message,
    }
    return orjson.dumps(facts).decode()


def _held(text: str) -> Held:
    facts = orjson.loads(text)
    owner = facts.pop("owner")
    facts["outcome"] = OutcomeClass(facts["outcome"])
    facts["tool_calls"] = tuple(ToolCall(*call) for call in facts["tool_calls"])
    facts["usage"] = Usage(*facts["usage"])
    return Held(Reply(**facts), owner)
