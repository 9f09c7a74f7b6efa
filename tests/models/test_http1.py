"""The transport of the hot path: what is HTTP's own, against a server that speaks it byte by byte."""

from __future__ import annotations

import asyncio
import ssl
import zlib
from collections.abc import Awaitable, Callable

import pytest
import trustme

from apwa_dask.errors import ConfigError
from apwa_dask.models import http1
from apwa_dask.models.endpoints import Endpoints
from apwa_dask.models.http1 import Headers, Http1Transport
from apwa_dask.models.model import Model
from apwa_dask.models.transport import AiohttpTransport, Raw

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
ENDLESS = b"HTTP/1.1 200 OK\r\n\r\n"


@pytest.fixture(params=["asyncio", "uvloop"], autouse=True)
def both_loops(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "uvloop":
        monkeypatch.setattr(asyncio, "run", pytest.importorskip("uvloop").run)


class Peer:
    """Answers each request with the next script: bytes to write; None at the end closes the connection."""

    def __init__(self, *scripts: tuple[bytes | None, ...]) -> None:
        self.scripts = list(scripts)
        self.connections = 0
        self.requests: list[bytes] = []
        self.asked = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = next(
                    (int(v) for k, _, v in (line.partition(b":") for line in head.lower().split(b"\r\n"))
                     if k == b"content-length"), 0,
                )  # fmt: skip
                self.requests.append(head + await reader.readexactly(length))
                self.asked.set()
                for piece in self.scripts.pop(0):
                    if piece is None:
                        return
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            return
        finally:
            writer.close()


def talk(
    use: Callable[[Http1Transport, Peer], Awaitable[object]],
    *scripts: tuple[bytes | None, ...],
    **settings: int,
) -> Peer:
    async def run() -> Peer:
        peer = Peer(*scripts)
        server = await asyncio.start_server(peer.serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        transport = Http1Transport(f"http://127.0.0.1:{port}/v1", "key", **settings)
        try:
            await asyncio.wait_for(use(transport, peer), 20)  # type: ignore[arg-type]
        finally:
            await transport.close()
            server.close()
        return peer

    return asyncio.run(run())


def answers(*scripts: tuple[bytes | None, ...], **settings: int) -> tuple[list[Raw], Peer]:
    """One answer for each script, one after the other."""
    got: list[Raw] = []

    async def ask(transport: Http1Transport, peer: Peer) -> None:
        for k in range(len(scripts)):
            got.append(await transport.post(b"%d" % k, 5.0))

    return got, talk(ask, *scripts, **settings)


def test_one_connection_carries_request_after_request() -> None:
    got, peer = answers((OK,), (OK,), (OK,))
    assert [raw.body for raw in got] == [b"{}"] * 3
    assert peer.connections == 1
    assert [request[-1:] for request in peer.requests] == [b"0", b"1", b"2"]


@pytest.mark.parametrize(
    "head", [b"HTTP/1.1 200 OK\r\nConnection: close\r\n", b"HTTP/1.0 200 OK\r\n"], ids=["close", "1.0"]
)
def test_a_connection_that_its_server_ends_is_not_used_again(head: bytes) -> None:
    got, peer = answers((head + b"Content-Length: 2\r\n\r\n{}", None), (OK,))
    assert [raw.body for raw in got] == [b"{}"] * 2
    assert peer.connections == 2


def test_a_connection_that_was_closed_while_it_rested_is_noticed() -> None:
    got, peer = answers((OK, None), (OK,))
    # The server closes without a word; one exchange at most may find out by itself.
    assert got[0].body == b"{}"
    assert got[1] in (Raw(200, got[1].headers, b"{}"), Raw(0, {}, None, "connection"))
    assert peer.connections == 1 + (got[1].body == b"{}")


def test_as_many_connections_as_calls_in_flight() -> None:
    async def three(transport: Http1Transport, peer: Peer) -> None:
        raws = await asyncio.gather(*(transport.post(b"x", 5.0) for _ in range(3)))
        assert [raw.status for raw in raws] == [200] * 3

    assert talk(three, (OK,), (OK,), (OK,)).connections == 3


def test_an_old_connection_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http1, "KEEP_ALIVE_S", 0.0)
    got, peer = answers((OK,), (OK,))
    assert [raw.body for raw in got] == [b"{}"] * 2
    assert peer.connections == 2


def test_connections_that_are_no_longer_needed_are_dropped() -> None:
    async def fewer(transport: Http1Transport, peer: Peer) -> None:
        await asyncio.gather(*(transport.post(b"x", 5.0) for _ in range(3)))
        for connection in list(transport._resting)[:2]:
            connection.rested_s -= 3600
        for left in (2, 1):
            await transport.post(b"y", 5.0)
            assert sum(connection.open for connection in transport._all) == left
        assert peer.connections == 3

    talk(fewer, *[(OK,)] * 5)


def test_a_chunked_answer_in_pieces_is_one_body() -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    got, peer = answers((head, b"1\r\n{\r\n", b"1\r\n}", b"\r\n0\r\n", b"\r\n"), (OK,))
    assert [raw.body for raw in got] == [b"{}"] * 2
    assert peer.connections == 1


def test_an_answer_without_length_ends_with_its_connection() -> None:
    got, _ = answers((ENDLESS, b"{", b"}", None))
    assert got[0].body == b"{}"


@pytest.mark.parametrize(
    ("script", "trouble"),
    [
        ((b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{", None), "short_body"),
        ((b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{", None), "short_body"),
        ((b"HTTP/1.1 200 OK\r\nContent-Le", None), "connection"),
        ((None,), "connection"),
        ((b"SSH-2.0-OpenSSH_9.2\r\n",), "connection"),
        ((b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",), "connection"),
    ],
    ids=["length", "chunk", "head", "nothing", "no HTTP", "upgrade"],
)
def test_what_is_no_whole_answer_is_told_apart(script: tuple[bytes | None, ...], trouble: str) -> None:
    got, peer = answers(script, (OK,))
    assert got[0] == Raw(0, {}, None, trouble)  # type: ignore[arg-type]
    assert got[1].body == b"{}", "the next exchange has a connection of its own"
    assert peer.connections == 2


def test_announcements_before_the_answer_are_skipped() -> None:
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    got, _ = answers((b"HTTP/1.1 100 Continue\r\n\r\n", early, OK))
    assert (got[0].status, got[0].body, "link" in got[0].headers) == (200, b"{}", False)


def test_a_deflated_answer_is_inflated() -> None:
    packed = zlib.compress(b'{"a": 1}')
    head = b"HTTP/1.1 200 OK\r\ncontent-ENCODING: deflate\r\nContent-Length: %d\r\n\r\n" % len(packed)
    got, _ = answers((head + packed,))
    assert got[0].body == b'{"a": 1}'


def test_what_only_claims_to_be_packed_is_no_answer() -> None:
    got, _ = answers((b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",))
    assert got[0] == Raw(0, {}, None, "short_body")


@pytest.mark.parametrize("announced", [True, False])
def test_an_answer_past_the_bound_ends_its_connection(announced: bool) -> None:
    head = b"HTTP/1.1 200 OK\r\n" + (b"Content-Length: 1000\r\n\r\n" if announced else b"\r\n")
    got, peer = answers((head, b"x" * 500, b"x" * 500), (OK,), max_body_bytes=600)
    assert (got[0].status, got[0].body, got[0].trouble) == (200, None, "too_big")
    assert peer.connections == 2


def test_more_than_was_asked_for_ends_the_connection() -> None:
    got, peer = answers((OK + OK,), (OK,))
    assert [raw.body for raw in got] == [b"{}"] * 2
    assert peer.connections == 2


def test_a_cancelled_call_takes_its_connection_with_it() -> None:
    async def cancel(transport: Http1Transport, peer: Peer) -> None:
        call = asyncio.create_task(transport.post(b"x", 60.0))
        await peer.asked.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert (await transport.post(b"y", 5.0)).body == b"{}"
        assert peer.connections == 2

    talk(cancel, (), (OK,))


def test_a_late_answer_is_no_answer_to_the_next_question() -> None:
    async def late(transport: Http1Transport, peer: Peer) -> None:
        assert await transport.post(b"x", 0.05) == Raw(0, {}, None, "deadline")
        assert (await transport.post(b"y", 5.0)).body == b"{}"
        assert peer.connections == 2

    talk(late, (), (OK,))


def test_headers_are_found_in_any_case_and_the_first_of_two_counts() -> None:
    headers = Headers([(b"Retry-After", b"3"), (b"retry-after", b"9"), (b"X-Odd", b"\xff")])
    assert headers["RETRY-AFTER"] == "3"
    assert headers.get("x-none") is None
    assert sorted(headers) == ["retry-after", "x-odd"]
    assert len(headers) == 2


@pytest.mark.parametrize("key", ["a\r\nX-Evil: 1", "a\nb", "\u043a\u043b\u044e\u0447"])
def test_a_key_that_cannot_stand_in_a_header_is_refused_unseen(key: str) -> None:
    with pytest.raises(ConfigError) as raised:
        Http1Transport("http://127.0.0.1:9/v1", key)
    assert key not in str(raised.value)


def test_an_address_in_brackets_and_a_port_are_in_the_host_header() -> None:
    assert b"Host: [::1]:8000\r\n" in Http1Transport("http://[::1]:8000/v1", "")._post
    assert b"Host: api.example\r\n" in Http1Transport("https://api.example/v1", "")._post


def test_a_certificate_that_nobody_vouches_for_is_a_connection_never_made() -> None:
    authority = trustme.CA()

    async def ask(trusted: bool) -> Raw:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost").configure_cert(context)
        peer = Peer((OK,))
        server = await asyncio.start_server(peer.serve, "127.0.0.1", 0, ssl=context)
        transport = Http1Transport(f"https://localhost:{server.sockets[0].getsockname()[1]}/v1", "key")
        if trusted:
            assert transport._ssl is not None
            authority.configure_trust(transport._ssl)
        try:
            return await transport.post(b"x", 10.0)
        finally:
            await transport.close()
            server.close()

    assert asyncio.run(ask(trusted=False)) == Raw(0, {}, None, "connect")
    assert asyncio.run(ask(trusted=True)).body == b"{}"


def test_a_proxy_of_the_environment_is_left_to_the_general_client(monkeypatch: pytest.MonkeyPatch) -> None:
    async def kinds() -> list[type]:
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        endpoints = Endpoints(environ={"OPENAI_API_KEY": "k"})
        made = [
            type((await endpoints.lane(Model("m", base_url=url))).transport)
            for url in ("http://far.invalid/v1", "http://127.0.0.1:9/v1")
        ]
        await endpoints.close()
        return made

    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert asyncio.run(kinds()) == [AiohttpTransport, Http1Transport]
