"""One contract for all transports: the same request on the wire, the same verdict back."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from apwa_dask.errors import ConfigError
from apwa_dask.models.http1 import Http1Transport
from apwa_dask.models.outcomes import classify
from apwa_dask.models.sdk import SdkTransport, register_client
from apwa_dask.models.transport import AiohttpTransport, Raw, Transport
from apwa_dask.models.types import OutcomeClass
from apwa_dask.testing import Fault, ScriptedServer

KEY = "sk-CANARY-contract"
BODY = {
    "model": "test-model",
    "messages": [{"role": "system", "content": "Answer."}, {"role": "user", "content": "naïve 漢字 🙂"}],
    "response_format": {"type": "json_object"},
    "max_tokens": 50,
    "temperature": 0.0,
    "seed": 7,
    "own_field": {"kept": [1, None, True]},
}


def build(name: str, base_url: str, key: str = KEY, **settings: Any) -> Transport:
    kind = {"http1": Http1Transport, "aiohttp": AiohttpTransport, "sdk": SdkTransport}[name]
    return kind(base_url, key, **settings)


def exchange(name: str, base_url: str, *, timeout_s: float = 60.0, key: str = KEY, **settings: Any) -> Raw:
    async def once() -> Raw:
        transport = build(name, base_url, key, **settings)
        try:
            return await transport.post(json.dumps(BODY).encode(), timeout_s)
        finally:
            await transport.close()

    return asyncio.run(once())


@dataclass
class Mirror:
    """A server that keeps what it was sent, and answers with what the test says."""

    seen: list[dict[str, Any]] = field(default_factory=list)
    answer: Callable[[web.Request], web.StreamResponse] = lambda _: web.json_response({})

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(
            {
                "method": request.method,
                "path": request.path_qs,
                "body": await request.json() if request.can_read_body else None,
                "authorization": request.headers.get("Authorization"),
                "content_type": request.headers["Content-Type"],
            }
        )
        return self.answer(request)


def mirrored(name: str, mirror: Mirror, *, path: str = "/v1", **settings: Any) -> Raw:
    async def once() -> Raw:
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", mirror.handle)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        transport = build(name, f"http://127.0.0.1:{port}{path}", **settings)
        try:
            return await transport.post(json.dumps(BODY).encode(), 5.0)
        finally:
            await transport.close()
            await runner.cleanup()

    return asyncio.run(once())


NAMES = ("http1", "aiohttp", "sdk")
ALL = pytest.mark.parametrize("name", NAMES)


@pytest.mark.parametrize("key", [KEY, ""], ids=["with key", "without key"])
def test_all_send_the_same_request(key: str) -> None:
    seen = []
    for name in NAMES:
        mirror = Mirror()
        mirrored(name, mirror, key=key)
        seen += mirror.seen
    assert seen[0] == seen[1] == seen[2]
    assert seen[0]["path"] == "/v1/chat/completions"
    assert seen[0]["method"] == "POST"
    assert seen[0]["body"] == BODY
    assert seen[0]["authorization"] == (f"Bearer {key}" if key else None)


@ALL
def test_a_trailing_slash_of_the_base_url_changes_nothing(name: str) -> None:
    mirror = Mirror()
    mirrored(name, mirror, path="/deep/v1/")
    assert mirror.seen[0]["path"] == "/deep/v1/chat/completions"


@ALL
def test_the_body_comes_back_as_the_bytes_that_were_sent(name: str) -> None:
    payload = b'{"odd":   [1,2]}'
    raw = mirrored(name, Mirror(answer=lambda _: web.Response(body=payload)))
    assert (raw.status, raw.body, raw.trouble) == (200, payload, "")


@ALL
def test_a_redirect_is_not_followed(name: str) -> None:
    mirror = Mirror(answer=lambda _: web.Response(status=307, headers={"Location": "/elsewhere"}))
    assert mirrored(name, mirror).status == 307
    assert len(mirror.seen) == 1


@ALL
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_a_body_is_read_to_a_bound(name: str, packed: bool) -> None:
    big = b" " * 3_000_000

    def answer(_: web.Request) -> web.Response:
        if packed:
            return web.Response(body=gzip.compress(big), headers={"Content-Encoding": "gzip"})
        return web.Response(body=big)

    raw = mirrored(name, Mirror(answer=answer), max_body_bytes=1_000_000)
    assert (raw.body, raw.trouble) == (None, "too_big")
    raw = mirrored(name, Mirror(answer=answer), max_body_bytes=4_000_000)
    assert raw.body == big


@ALL
def test_header_names_are_looked_up_in_any_case(name: str) -> None:
    mirror = Mirror(answer=lambda _: web.Response(status=429, headers={"RETRY-AFTER": "3"}))
    assert mirrored(name, mirror).headers.get("retry-after") == "3"


BEHAVIOURS = [
    None,
    *[Fault("status", status=s) for s in (400, 401, 403, 404, 408, 409, 422, 429, 500, 502, 503, 529)],
    Fault("status", status=500, html=True),
    Fault("status", status=429, retry_after="7"),
    Fault("status", status=429, headers={"retry-after-ms": "250"}),
    Fault("status", status=400, should_retry=True),
    Fault("status", status=500, should_retry=False),
    Fault("insufficient_quota"),
    Fault("content_filter"),
    Fault("error_in_200"),
    Fault("html_200"),
    Fault("broken_json"),
    Fault("empty_body"),
    Fault("no_choices"),
    Fault("null_content"),
    Fault("length"),
    Fault("content_filter_finish"),
    Fault("refusal"),
    Fault("no_usage"),
    Fault("disconnect"),
    Fault("reset"),
    Fault("short_body"),
    Fault("hang"),
    Fault("drip", interval_s=0.05),
    Fault("huge_body", size_bytes=40_000_000),
    Fault("gzip_bomb", size_bytes=40_000_000),
]


@pytest.mark.parametrize("fault", BEHAVIOURS, ids=lambda f: f"{f.kind}-{f.status}" if f else "fine")
def test_every_behaviour_of_a_server_gets_one_verdict(
    serve: Callable[..., ScriptedServer], fault: Fault | None
) -> None:
    server = serve(faults=(fault,) if fault else ())
    verdicts = []
    for name in NAMES:
        raw = exchange(
            name, server.base_url, timeout_s=1.0 if fault and fault.kind in ("hang", "drip") else 60.0
        )
        verdict = classify(raw.status, raw.headers, raw.body, raw.trouble)
        text = verdict.completion.text if verdict.completion else None
        verdicts.append(
            (
                verdict.outcome,
                verdict.retry,
                verdict.fatal,
                verdict.wait_s,
                verdict.overloaded,
                verdict.sent,
                text,
            )
        )
    assert verdicts[0] == verdicts[1] == verdicts[2]
    assert server.calls == 3, "each transport sends once and retries nothing"


@ALL
def test_nobody_there_is_a_connection_that_was_never_made(name: str) -> None:
    raw = exchange(name, "http://127.0.0.1:9/v1")
    assert raw == Raw(0, {}, None, "connect")


@ALL
def test_models_are_listed_for_error_messages(name: str, serve: Callable[..., ScriptedServer]) -> None:
    async def listed() -> Raw:
        transport = build(name, serve(models=("one", "two")).base_url)
        try:
            return await transport.get_models(5.0)
        finally:
            await transport.close()

    raw = asyncio.run(listed())
    assert [entry["id"] for entry in json.loads(raw.body or b"")["data"]] == ["one", "two"]


@ALL
def test_the_key_is_in_no_repr(name: str) -> None:
    async def look() -> str:
        transport = build(name, "http://127.0.0.1:9/v1")
        try:
            return repr(transport)
        finally:
            await transport.close()

    assert KEY not in asyncio.run(look())


@pytest.mark.parametrize("name", ["aiohttp", "sdk"])
def test_both_go_through_the_proxy_that_the_environment_names(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def once() -> list[str]:
        asked: list[str] = []

        async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            asked.append((await reader.readline()).decode())
            writer.write(b"HTTP/1.1 502 no\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(proxy, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
        for exempt in ("", "models.invalid"):
            monkeypatch.setenv("NO_PROXY", exempt)
            monkeypatch.setenv("no_proxy", exempt)
            transport = build(name, "http://models.invalid/v1")
            await transport.post(json.dumps(BODY).encode(), 5.0)
            await transport.close()
        server.close()
        return asked

    asked = asyncio.run(once())
    assert asked == ["POST http://models.invalid/v1/chat/completions HTTP/1.1\r\n"]


def test_a_client_of_the_user_is_found_by_its_name(serve: Callable[..., ScriptedServer], ask: Any) -> None:
    import openai

    built = []

    def factory(base_url: str, api_key: str) -> openai.AsyncOpenAI:
        built.append(base_url)
        return openai.AsyncOpenAI(base_url=base_url, api_key=api_key, max_retries=5)

    register_client("mine", factory)
    server = serve(faults=(Fault("status", status=500, times=1),))
    (reply,) = ask(server, settings={"transport": "sdk", "client": "mine"})("hello")
    assert (reply.outcome, reply.attempts, server.calls) == (OutcomeClass.OK, 2, 2)
    assert built == [server.base_url]


def test_an_unknown_client_names_the_known_ones() -> None:
    register_client("mine-too", lambda base_url, api_key: None)  # type: ignore[arg-type, return-value]
    with pytest.raises(ConfigError, match="mine-too"):
        SdkTransport("http://127.0.0.1:9/v1", KEY, client="mine-tooo")


@pytest.mark.parametrize("base_url", ["", "ftp://host/v1", "127.0.0.1:80", "http:///v1"])
@pytest.mark.parametrize("kind", [Http1Transport, AiohttpTransport])
def test_an_address_that_is_none_is_refused_at_once(kind: type[Transport], base_url: str) -> None:
    with pytest.raises(ConfigError, match="base_url"):
        kind(base_url, KEY)  # type: ignore[call-arg]
