"""What carries bytes to an endpoint: the contract, and a pooled aiohttp session for endpoints behind a proxy.

Everything constant is built once (URL, headers, proxy, connector), the deadline is one timer of our own on
the wall clock (per-operation timeouts do not stop a server that drips), and a body is read to a bound,
compressed or not.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from typing import NamedTuple, Protocol
from urllib.request import getproxies, proxy_bypass

import aiohttp
from yarl import URL

from apwa_dask.errors import ConfigError
from apwa_dask.models.outcomes import Trouble

__all__ = ["MAX_BODY_BYTES", "AiohttpTransport", "Raw", "Transport", "endpoint_url", "proxy_for"]

MAX_BODY_BYTES = 16 * 1024 * 1024
"""No chat answer is larger: 128,000 tokens are about half a megabyte."""

USER_AGENT = "apwa-dask"
CONNECT_TIMEOUT_S = 30.0
KEEP_ALIVE_S = 55.0
"""Shorter than the minute after which common gateways drop an idle connection."""


class Raw(NamedTuple):
    """One exchange, uninterpreted. ``status`` is 0 and ``body`` None when there was no whole response."""

    status: int
    headers: Mapping[str, str]
    body: bytes | None
    trouble: Trouble = ""


class Transport(Protocol):
    """Carries the bytes of one request. Raises nothing but `asyncio.CancelledError`."""

    async def post(self, body: bytes, timeout_s: float) -> Raw:
        """Send a chat completion and read the response, within `timeout_s` on the wall clock."""
        ...

    async def post_embeddings(self, body: bytes, timeout_s: float) -> Raw:
        """Send texts to be embedded; else as `post`."""
        ...

    async def get_models(self, timeout_s: float) -> Raw:
        """The endpoint's list of models, for an error message."""
        ...

    async def close(self) -> None: ...


class AiohttpTransport:
    """Transport over aiohttp.

    Parameters
    ----------
    base_url : str
        Such as ``http://127.0.0.1:8000/v1``.
    api_key : str
        Sent as a bearer token; empty for none. Lives in the session's headers and nowhere else.
    use_proxies : bool
        Honour ``HTTP(S)_PROXY``, ``ALL_PROXY`` and ``NO_PROXY``, looked up once.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str,
        *,
        use_proxies: bool = True,
        max_body_bytes: int = MAX_BODY_BYTES,
    ) -> None:
        self._chat = endpoint_url(base_url, "/chat/completions")
        self._embeddings = endpoint_url(base_url, "/embeddings")
        self._models = endpoint_url(base_url, "/models")
        self._max_body_bytes = max_body_bytes
        headers = {"Accept": "application/json", "Content-Type": "application/json", "User-Agent": USER_AGENT}
        if api_key:
            headers["Authorization"] = f"Bearer {api_key}"
        # Unlimited here, because the gate limits: a second queue inside the pool would hide waiting calls
        # from it.
        connector = aiohttp.TCPConnector(
            limit=0,
            keepalive_timeout=KEEP_ALIVE_S,
            ssl=ssl.create_default_context() if self._chat.scheme == "https" else False,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            headers=headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
            proxy=proxy_for(self._chat) if use_proxies else None,
            auto_decompress=True,
        )

    def __repr__(self) -> str:
        return f"<AiohttpTransport {self._chat.host}>"

    async def post(self, body: bytes, timeout_s: float) -> Raw:
        return await self._exchange("POST", self._chat, body, timeout_s)

    async def post_embeddings(self, body: bytes, timeout_s: float) -> Raw:
        return await self._exchange("POST", self._embeddings, body, timeout_s)

    async def get_models(self, timeout_s: float) -> Raw:
        return await self._exchange("GET", self._models, None, timeout_s)

    async def close(self) -> None:
        await self._session.close()

    async def _exchange(self, method: str, url: URL, body: bytes | None, timeout_s: float) -> Raw:
        try:
            async with asyncio.timeout(timeout_s):
                async with self._session.request(method, url, data=body, allow_redirects=False) as response:
                    content = await self._read(response)
                    trouble: Trouble = "" if content is not None else "too_big"
                    return Raw(response.status, response.headers, content, trouble)
        except TimeoutError:
            return Raw(0, {}, None, "deadline")
        except aiohttp.ClientConnectorError:
            return Raw(0, {}, None, "connect")
        except aiohttp.ClientPayloadError:
            return Raw(0, {}, None, "short_body")
        except (aiohttp.ClientError, OSError):
            return Raw(0, {}, None, "connection")

    async def _read(self, response: aiohttp.ClientResponse) -> bytes | None:
        """The body; None when it passes the bound, and then the connection is dropped."""
        announced = response.content_length
        if announced is not None and "Content-Encoding" not in response.headers:
            if announced > self._max_body_bytes:
                response.close()
                return None
            return await response.read()
        chunks: list[bytes] = []
        size = 0
        async for chunk in response.content.iter_any():
            size += len(chunk)
            if size > self._max_body_bytes:
                response.close()
                return None
            chunks.append(chunk)
        return b"".join(chunks)


def endpoint_url(base_url: str, path: str) -> URL:
    """A path of the endpoint.

    Raises
    ------
    ConfigError
        `base_url` is not the address of an endpoint.
    """
    try:
        url = URL(base_url.rstrip("/") + path)
    except ValueError:
        url = URL()
    if url.scheme not in ("http", "https") or not url.host:
        raise ConfigError(
            "base_url is not the address of an endpoint",
            fix='base_url="https://host/v1" (or the variable OPENAI_BASE_URL)',
            code="CONFIG-BASE-URL",
        )
    return url


def proxy_for(url: URL) -> URL | None:
    """The proxy that the environment names for this URL, by the rules of urllib."""
    proxies = getproxies()
    named = proxies.get(url.scheme) or proxies.get("all")
    if not named or proxy_bypass(f"{url.host}:{url.port}"):
        return None
    proxy = URL(named if "://" in named else f"http://{named}")
    if proxy.scheme not in ("http", "https"):
        # The scheme alone is named: the URL of a proxy often carries a password.
        raise ConfigError(
            f"the transport 'aiohttp' cannot use a {proxy.scheme} proxy",
            where="environment variables HTTP_PROXY, HTTPS_PROXY, ALL_PROXY",
            fix="name an http:// proxy, or list the endpoint's host in NO_PROXY",
            code="CONFIG-PROXY",
        )
    return proxy
