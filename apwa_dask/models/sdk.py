"""The official client as transport, and a user's own client: same bytes on the wire, same raw exchange back.

For provider variants (Azure, gateways with their own signing) rather than for speed: it costs several times
the CPU of the lean transport. Its retries are off, because one layer owns them, and what it raises stays
here: its exceptions carry the request and with it the key.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

import aiohttp
import httpx2
import openai
import orjson

from apwa_dask.errors import ConfigError, candidates
from apwa_dask.models.outcomes import Trouble
from apwa_dask.models.transport import MAX_BODY_BYTES, Raw

__all__ = ["ENTRY_POINT_GROUP", "ClientFactory", "SdkTransport", "register_client"]

ENTRY_POINT_GROUP = "apwa.clients"

ClientFactory = Callable[[str, str], openai.AsyncOpenAI]
"""``factory(base_url, api_key)``, called on the machine and event loop that makes the calls."""

_registered: dict[str, ClientFactory] = {}


def register_client(name: str, factory: ClientFactory) -> None:
    """Give a client factory a name, for ``Model(..., transport="sdk", client=name)``.

    Workers know the name if they import the module that registers it (``dask worker --preload``), or if its
    package names the factory in the entry point group ``apwa.clients``. Code does not travel with a plan.

    Examples
    --------
    >>> def azure(base_url: str, api_key: str) -> openai.AsyncOpenAI:
    ...     return openai.AsyncAzureOpenAI(azure_endpoint=base_url, api_key=api_key, api_version="2025-01-01")
    >>> register_client("azure", azure)
    """
    _registered[name] = factory


class SdkTransport:
    """Transport over `openai.AsyncOpenAI`.

    Parameters
    ----------
    base_url, api_key : str
        Handed to the client factory.
    client : str
        Name of a registered factory; empty for the official client.

    Raises
    ------
    ConfigError
        No factory has this name on this machine.
    """

    def __init__(
        self, base_url: str, api_key: str, *, client: str = "", max_body_bytes: int = MAX_BODY_BYTES
    ) -> None:
        factory = _factory(client) if client else _official
        self._client = factory(base_url, api_key).with_options(max_retries=0, timeout=None)
        # The client insists on a key unless the header is left out by name.
        keyless = not api_key and not client
        self._headers: dict[str, Any] = {"Authorization": openai.Omit()} if keyless else {}
        self._max_body_bytes = max_body_bytes

    def __repr__(self) -> str:
        return "<SdkTransport>"

    async def post(self, body: bytes, timeout_s: float) -> Raw:
        fields = orjson.loads(body)
        model, messages = fields.pop("model"), fields.pop("messages")
        create = self._client.chat.completions.with_streaming_response.create
        call = create(model=model, messages=messages, extra_body=fields, extra_headers=self._headers)
        return await self._exchange(call, timeout_s)

    async def post_embeddings(self, body: bytes, timeout_s: float) -> Raw:
        fields = orjson.loads(body)
        model, texts = fields.pop("model"), fields.pop("input")
        create = self._client.embeddings.with_streaming_response.create
        call = create(model=model, input=texts, extra_body=fields, extra_headers=self._headers)
        return await self._exchange(call, timeout_s)

    async def get_models(self, timeout_s: float) -> Raw:
        listing = self._client.models.with_streaming_response.list(extra_headers=self._headers)
        return await self._exchange(listing, timeout_s)

    async def close(self) -> None:
        await self._client.close()

    async def _exchange(self, exchange: Any, timeout_s: float) -> Raw:
        try:
            async with asyncio.timeout(timeout_s), exchange as response:
                body = await self._read(response)
                return Raw(
                    response.status_code, response.headers, body, "" if body is not None else "too_big"
                )
        except openai.APIStatusError as error:
            return Raw(error.status_code, error.response.headers, error.response.content)
        except (TimeoutError, openai.APIConnectionError, httpx2.HTTPError, aiohttp.ClientError) as error:
            return Raw(0, {}, None, _trouble(error))

    async def _read(self, response: Any) -> bytes | None:
        chunks: list[bytes] = []
        size = 0
        async for chunk in response.iter_bytes(64 * 1024):
            size += len(chunk)
            if size > self._max_body_bytes:
                return None
            chunks.append(chunk)
        return b"".join(chunks)


def _official(base_url: str, api_key: str) -> openai.AsyncOpenAI:
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=55.0)
    settings: dict[str, Any] = {"limits": limits, "follow_redirects": False, "timeout": None}
    try:
        http_client = openai.DefaultAioHttpClient(**settings)
    except RuntimeError:  # openai without its extra "aiohttp": its own transport is slower, and as right
        http_client = openai.DefaultAsyncHttpxClient(**settings)
    return openai.AsyncOpenAI(base_url=base_url, api_key=api_key or "none", http_client=http_client)


def _factory(name: str) -> ClientFactory:
    if name in _registered:
        return _registered[name]
    offered = {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
    if name in offered:
        factory: ClientFactory = offered[name].load()
        return factory
    raise ConfigError(
        f"no client is registered as {name!r} in this process",
        why=candidates(name, [*_registered, *offered], noun="registered"),
        fix="call apwa_dask.models.sdk.register_client in a module that every worker imports "
        f"(dask worker --preload), or use the entry point group {ENTRY_POINT_GROUP!r}",
        code="CONFIG-CLIENT",
    )


def _trouble(error: BaseException | None) -> Trouble:
    """What broke, by the cause that tells: the client's own adapter calls every lost connection a timeout."""
    trouble: Trouble = "connection"
    while error is not None:
        if isinstance(error, aiohttp.ClientConnectorError | httpx2.ConnectError):
            return "connect"
        if isinstance(error, aiohttp.ClientPayloadError | httpx2.ReadError | httpx2.RemoteProtocolError):
            return "short_body"
        if isinstance(error, aiohttp.ClientConnectionError):
            return "connection"
        if isinstance(error, TimeoutError | httpx2.TimeoutException):
            trouble = "deadline"
        error = error.__cause__
    return trouble
