"""The transport of the hot path: HTTP/1.1 over pooled connections, parsed by httptools, for one endpoint.

A chat completion needs little of HTTP: one method, a constant head, a body of known length, an answer read
to a bound. Doing just that costs about a fifth of the CPU of a general client (``benchmarks/PROFILE.md``). What
is not so simple (proxies) stays with `AiohttpTransport`; both keep one contract, tested side by side.

A connection carries one exchange at a time and goes back to the pool as soon as its answer is complete; an
answer that breaks off, comes late or was not asked for ends its connection.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import zlib
from collections import deque
from collections.abc import Coroutine, Iterator, Mapping
from typing import Any, cast

import httptools
from yarl import URL

from apwa_dask.errors import ConfigError
from apwa_dask.models.transport import (
    CONNECT_TIMEOUT_S,
    KEEP_ALIVE_S,
    MAX_BODY_BYTES,
    USER_AGENT,
    Raw,
    endpoint_url,
)

__all__ = ["Headers", "Http1Transport"]

_FINAL = 200
"""Lower ones announce the answer."""
_INFLATE = {b"gzip": zlib.MAX_WBITS | 16, b"x-gzip": zlib.MAX_WBITS | 16, b"deflate": zlib.MAX_WBITS}


class Headers(Mapping[str, str]):
    """Headers of a response by lower-case name; decoded when first looked at, because few ever are.

    Of a header that comes twice the first counts.
    """

    __slots__ = ("_decoded", "_lines")

    def __init__(self, lines: list[tuple[bytes, bytes]]) -> None:
        self._lines = lines
        self._decoded: dict[str, str] | None = None

    def _all(self) -> dict[str, str]:
        if self._decoded is None:
            # surrogateescape, as aiohttp does: a header in another encoding is no reason to fail.
            pairs = reversed([(n.lower().decode("latin-1"), v) for n, v in self._lines])
            self._decoded = {name: value.decode("utf-8", "surrogateescape") for name, value in pairs}
        return self._decoded

    def __getitem__(self, name: str) -> str:
        return self._all()[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())


class _Connection(asyncio.Protocol):
    """One connection to the endpoint. `waiter` is the exchange under way, None while it rests in the pool."""

    __slots__ = (
        "_chunks", "_encoding", "_headers", "_in_body", "_loop", "_parser", "_pool", "_size", "_too_big",
        "_transport", "_unasked", "due_s", "open", "rested_s", "waiter",
    )  # fmt: skip

    def __init__(self, pool: Http1Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._pool, self._loop = pool, loop
        self._parser = httptools.HttpResponseParser(self)
        self._begin()
        self.waiter: asyncio.Future[Raw] | None = None
        self.due_s = 0.0
        """When the exchange must have ended, on the loop's clock."""
        self.open = False
        self.rested_s = 0.0
        """When it came back to the pool, on the loop's clock."""

    def _begin(self) -> None:
        self._headers: list[tuple[bytes, bytes]] = []
        self._chunks: list[bytes] = []
        self._size = 0
        self._encoding = b""
        self._in_body = self._too_big = self._unasked = False

    def send(self, request: bytes, body: bytes, waiter: asyncio.Future[Raw], timeout_s: float) -> None:
        """Send one request; its answer, or why there is none, is set on `waiter`."""
        self.waiter = waiter
        self.due_s = self._loop.time() + timeout_s
        self._pool.watch(self.due_s)
        self._transport.write(request + body)

    def is_in_time(self, now_s: float) -> bool:
        """Whether an exchange is under way, and may be; what is overdue ends here."""
        if self.waiter is None:
            return False
        if self.due_s > now_s:
            return True
        self.close()
        self._settle(Raw(0, {}, None, "deadline"))
        return False

    def close(self) -> None:
        """Drop the connection, and with it what may still come."""
        self.open = False
        self._transport.abort()

    def _settle(self, raw: Raw) -> None:
        waiter, self.waiter = self.waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(raw)

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's only behave like one
        self.open = True
        plain = transport.get_extra_info("socket")
        if plain is not None:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def data_received(self, data: bytes) -> None:
        if self.waiter is None:
            self.close()  # nobody asked for anything
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.close()
            self._settle(Raw(0, {}, None, "connection"))
            return
        if self._unasked:
            self.close()
        elif self._too_big:
            self.close()
            self._settle(Raw(self._parser.get_status_code(), Headers(self._headers), None, "too_big"))

    def connection_lost(self, exc: Exception | None) -> None:
        self.open = False
        self._pool.forget(self)
        if self.waiter is None:
            return
        if self._in_body and exc is None and not self._announces_its_end():
            self._complete()  # RFC 9112, 6.3: the end of the connection is the end of such an answer
        else:
            self._settle(Raw(0, {}, None, "short_body" if self._in_body else "connection"))

    # -- httptools

    def on_message_begin(self) -> None:
        self._unasked = self.waiter is None

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))
        if len(name) == 16 and name.lower() == b"content-encoding":
            self._encoding = value.strip().lower()
        elif len(name) == 14 and name.lower() == b"content-length" and value.isdigit():
            self._too_big = int(value) > self._pool.max_body_bytes

    def on_headers_complete(self) -> None:
        self._in_body = True

    def on_body(self, body: bytes) -> None:
        self._size += len(body)
        if self._size > self._pool.max_body_bytes:
            self._too_big = True
        else:
            self._chunks.append(body)

    def on_message_complete(self) -> None:
        if self._unasked:
            return
        if self._parser.get_status_code() < _FINAL:
            self._begin()  # 100 and 103 announce the answer
        elif not self._too_big:
            self._complete()

    def _complete(self) -> None:
        self._settle(self._answer())
        if self.open and self._parser.should_keep_alive():
            self._begin()
            self._pool.rest(self, self._loop.time())
        else:
            self.close()

    def _answer(self) -> Raw:
        body = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        status, headers = self._parser.get_status_code(), Headers(self._headers)
        if self._encoding in _INFLATE and body:
            return self._inflated(status, headers, body)
        return Raw(status, headers, body)

    def _inflated(self, status: int, headers: Headers, body: bytes) -> Raw:
        inflater = zlib.decompressobj(_INFLATE[self._encoding])
        most = self._pool.max_body_bytes
        try:
            plain = inflater.decompress(body, most + 1)
        except zlib.error:
            return Raw(0, {}, None, "short_body")
        if len(plain) > most:
            return Raw(status, headers, None, "too_big")
        return Raw(status, headers, plain) if inflater.eof else Raw(0, {}, None, "short_body")

    def _announces_its_end(self) -> bool:
        return any(name.lower() in (b"content-length", b"transfer-encoding") for name, _ in self._headers)


class Http1Transport:
    """A `Transport` over plain or TLS connections, used on one event loop.

    Parameters
    ----------
    base_url : str
        Such as ``http://127.0.0.1:8000/v1``.
    api_key : str
        Sent as a bearer token; empty for none. Lives in the head of requests and nowhere else.
    max_body_bytes : int
        Larger answers are dropped, and their connection with them; compressed ones are measured inflated.

    Raises
    ------
    ConfigError
        The address is not one, or the key cannot stand in a header.
    """

    def __init__(self, base_url: str, api_key: str, *, max_body_bytes: int = MAX_BODY_BYTES) -> None:
        self._url = endpoint_url(base_url, "/chat/completions")
        self.max_body_bytes = max_body_bytes
        common = _head(self._url, api_key)
        models = endpoint_url(base_url, "/models")
        said = common + b"Content-Type: application/json\r\nContent-Length: "
        self._post = b"POST " + _target(self._url) + said
        self._post_embeddings = b"POST " + _target(endpoint_url(base_url, "/embeddings")) + said
        self._get_models = b"GET " + _target(models) + common + b"\r\n"
        self._ssl = ssl.create_default_context() if self._url.scheme == "https" else None
        self._resting: deque[_Connection] = deque()
        self._all: set[_Connection] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._look: asyncio.TimerHandle | None = None
        self._look_s = 0.0

    def __repr__(self) -> str:
        return f"<Http1Transport {self._url.host}>"

    def post(self, body: bytes, timeout_s: float) -> Coroutine[Any, Any, Raw]:
        """Send a chat completion and read the response, within `timeout_s` on the wall clock."""
        return self._exchange(b"%b%d\r\n\r\n" % (self._post, len(body)), body, timeout_s)

    def post_embeddings(self, body: bytes, timeout_s: float) -> Coroutine[Any, Any, Raw]:
        """Send texts to be embedded; else as `post`."""
        return self._exchange(b"%b%d\r\n\r\n" % (self._post_embeddings, len(body)), body, timeout_s)

    def get_models(self, timeout_s: float) -> Coroutine[Any, Any, Raw]:
        """The endpoint's list of models, for an error message."""
        return self._exchange(self._get_models, b"", timeout_s)

    async def close(self) -> None:
        """End all connections; exchanges under way end as broken."""
        self._resting.clear()
        if self._look is not None:
            self._look.cancel()
            self._look = None
        for connection in list(self._all):
            connection.close()

    def watch(self, due_s: float) -> None:
        """See to it that an exchange ends by then, on the loop's clock.

        One timer for all, since the deadline of one that is answered matters no more: a timer each costs as much as
        parsing the answer.
        """
        if self._look is not None:
            if self._look_s <= due_s:
                return
            self._look.cancel()
        assert self._loop is not None
        self._look, self._look_s = self._loop.call_at(due_s, self._expire), due_s

    def _expire(self) -> None:
        assert self._loop is not None
        self._look, now_s = None, self._loop.time()
        left = [connection.due_s for connection in list(self._all) if connection.is_in_time(now_s)]
        if left:
            self.watch(min(left))

    async def _exchange(self, head: bytes, body: bytes, timeout_s: float) -> Raw:
        loop = self._loop
        if loop is None:  # found once: finding it asks the system for the process's number
            loop = self._loop = asyncio.get_running_loop()
        connection = self._rested(loop.time())
        if connection is None:
            began_s = loop.time()
            try:
                connection = await self._connect(min(timeout_s, CONNECT_TIMEOUT_S))
            except (OSError, TimeoutError):  # ssl.SSLError is an OSError
                return Raw(0, {}, None, "connect")
            timeout_s -= loop.time() - began_s
        waiter: asyncio.Future[Raw] = loop.create_future()
        connection.send(head, body, waiter, timeout_s)
        try:
            return await waiter
        except asyncio.CancelledError:
            connection.close()
            raise

    async def _connect(self, timeout_s: float) -> _Connection:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(timeout_s):
            _, made = await loop.create_connection(
                lambda: _Connection(self, loop), self._url.raw_host or "", self._url.port or 0, ssl=self._ssl
            )
        self._all.add(made)
        return made

    # -- the pool: last in, first out, so that what is not needed grows old and is dropped

    def rest(self, connection: _Connection, now_s: float) -> None:
        """Take back a connection whose answer is complete."""
        connection.rested_s = now_s
        self._resting.append(connection)
        if now_s - self._resting[0].rested_s >= KEEP_ALIVE_S:
            self._resting.popleft().close()

    def forget(self, connection: _Connection) -> None:
        """A connection is lost."""
        self._all.discard(connection)
        if connection in self._resting:
            self._resting.remove(connection)

    def _rested(self, now_s: float) -> _Connection | None:
        while self._resting:
            connection = self._resting.pop()
            if connection.open and now_s - connection.rested_s < KEEP_ALIVE_S:
                return connection
            connection.close()
            self._drop_older(now_s)
        return None

    def _drop_older(self, now_s: float) -> None:
        """The newest of the pool is too old: so are the others."""
        for connection in self._resting:
            connection.close()
        self._resting.clear()


def _target(url: URL) -> bytes:
    return url.raw_path_qs.encode("ascii") + b" HTTP/1.1\r\n"


def _head(url: URL, api_key: str) -> bytes:
    lines = [
        f"Host: {url.host_port_subcomponent}",
        "Accept: application/json",
        "Accept-Encoding: gzip, deflate",
        f"User-Agent: {USER_AGENT}",
    ]
    if api_key:
        if not api_key.isascii() or not api_key.isprintable():
            raise ConfigError(
                "the API key holds characters that cannot stand in a header",
                why="a line break, or a character that is not ASCII: often a key copied with its surroundings",
                fix="set the variable to the key alone",
                code="CONFIG-KEY",
            )
        lines.append(f"Authorization: Bearer {api_key}")
    return "\r\n".join([*lines, ""]).encode("ascii")
