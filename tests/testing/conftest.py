"""One raw client: bytes as they come, so that a broken answer is seen broken."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from apwa_dask.testing import ScriptedServer
from apwa_dask.testing.fixtures import canary_key, scripted_server

__all__ = ["canary_key", "scripted_server"]

LABEL = {
    "type": "object",
    "properties": {
        "label": {"type": "string", "enum": ["spam", "ham", "unsure"]},
        "score": {"type": "number", "minimum": 0, "maximum": 1},
        "reason": {"type": "string"},
    },
    "required": ["label", "score", "reason"],
    "additionalProperties": False,
}


@dataclass(frozen=True)
class Answered:
    """What came back; `error` is the name of the client's exception if nothing whole did."""

    status: int = 0
    headers: Mapping[str, str] | None = None
    body: bytes = b""
    error: str = ""

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def content(self) -> str:
        return self.json["choices"][0]["message"]["content"]

    def header(self, name: str) -> str | None:
        return (self.headers or {}).get(name)


Post = Callable[..., list[Answered]]


def request_body(text: str, schema: Mapping[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    body: dict[str, Any] = {"model": "small", "messages": [{"role": "user", "content": text}], **fields}
    if schema is not None:
        body["response_format"] = {"type": "json_schema", "json_schema": {"name": "out", "schema": schema}}
    return body


async def _post_one(
    session: aiohttp.ClientSession, url: str, body: Any, headers: Mapping[str, str] | None, timeout_s: float
) -> Answered:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    limit = aiohttp.ClientTimeout(total=timeout_s)
    try:
        async with session.post(url, data=data, headers=headers, timeout=limit) as response:
            return Answered(response.status, response.headers, await response.read())
    except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
        return Answered(error=type(error).__name__)


async def _post_all(
    server: ScriptedServer, bodies: Sequence[Any], key: str, at_once: bool, timeout_s: float
) -> list[Answered]:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    url = f"{server.base_url}/chat/completions"
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        posts = [_post_one(session, url, body, headers, timeout_s) for body in bodies]
        return await asyncio.gather(*posts) if at_once else [await post for post in posts]


@pytest.fixture
def post() -> Post:
    """Post texts (or whole bodies), one after the other or all at once."""

    def send(
        server: ScriptedServer,
        *what: str | bytes | dict[str, Any],
        schema: Mapping[str, Any] | None = None,
        key: str = "sk-test",
        at_once: bool = False,
        timeout_s: float = 20.0,
        **fields: Any,
    ) -> list[Answered]:
        bodies = [request_body(item, schema, **fields) if isinstance(item, str) else item for item in what]
        return asyncio.run(_post_all(server, bodies, key, at_once, timeout_s))

    return send


@pytest.fixture
def label_schema() -> dict[str, Any]:
    return LABEL
