"""The key is in nothing that leaves the client: errors, logs, replies, totals, pickles."""

from __future__ import annotations

import json
import logging
import pickle
import threading
import traceback
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from apwa_dask.errors import ApwaError
from apwa_dask.models.endpoints import key_hash
from apwa_dask.models.redact import safe_words, without_quotes
from apwa_dask.testing import Fault, ScriptedServer, grep_canary

Serve = Callable[..., ScriptedServer]
Ask = Callable[..., Any]

FAULTS = [
    Fault("status", status=401),
    Fault("status", status=404),
    Fault("insufficient_quota"),
    Fault("status", status=500),
    Fault("status", status=400),
    Fault("disconnect"),
    Fault("short_body"),
    Fault("broken_json"),
    Fault("hang"),
    None,
]


@pytest.mark.parametrize("transport", ["aiohttp", "sdk"])
@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f"{f.kind}-{f.status}" if f else "fine")
def test_the_key_leaks_nowhere(
    serve: Serve,
    ask: Ask,
    canary_key: str,
    caplog: pytest.LogCaptureFixture,
    fault: Fault | None,
    transport: str,
) -> None:
    caplog.set_level(logging.DEBUG)
    logging.getLogger("asyncio").setLevel(logging.INFO)
    server = serve(faults=(fault,) if fault else (), api_key=canary_key)
    asked = ask(server, settings={"transport": transport, "timeout_s": 0.2})
    places: list[str | bytes] = []
    for outcome in asked.outcomes("hello"):
        places += [repr(outcome), str(outcome), pickle.dumps(outcome)]
        if isinstance(outcome, BaseException):
            assert isinstance(outcome, ApwaError)
            assert outcome.__cause__ is None
            assert outcome.__context__ is None
            places.append("".join(traceback.format_exception(outcome)))
            assert pickle.loads(pickle.dumps(outcome)).args == outcome.args
    model = asked.model()
    places += [
        repr(model),
        repr(model.as_dict()),
        pickle.dumps(model),
        repr(asked.client),
        repr(vars(asked.client)),
    ]
    places += [repr(asked.client.wallet.totals), *[record.getMessage() for record in caplog.records]]
    assert server.calls >= 1
    assert server.log()[0].key_hash == key_hash(canary_key), "the server did get it"
    assert grep_canary(places, canary_key) == []


class Echo(BaseHTTPRequestHandler):
    """A server that puts the whole request, key and row, into its error."""

    status = 400

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        said = (
            f"cannot serve {self.headers['Authorization']} with {json.loads(body)['messages'][-1]['content']}"
        )
        payload = json.dumps({"error": {"message": said}}).encode()
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""


@pytest.fixture
def echo() -> Iterator[type[Echo]]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        Echo.base_url = f"http://127.0.0.1:{server.server_port}/v1"  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield Echo
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("status", [400, 401, 422])
def test_a_server_that_echoes_key_and_row_spreads_neither(
    echo: Any, ask: Ask, canary_key: str, status: int
) -> None:
    echo.status = status
    row = "a very private complaint about the neighbours"
    (outcome,) = ask(echo).outcomes(row)
    said = outcome.message if not isinstance(outcome, ApwaError) else str(outcome)
    assert str(status) in said or "withheld" in said
    assert grep_canary([said], canary_key) == []
    assert "private" not in said


@pytest.mark.parametrize(
    "said",
    [
        "Incorrect API key provided: sk-proj-abcdef0123456789.",
        "Incorrect API key provided: sk-ab***********6789",
        "header was Authorization: Bearer abc.def.ghi",
        "cannot reach http://user:hunter2@proxy:8080",
        'bad {"api_key": "s3cr3t-value"}',
        "AKIAIOSFODNN7EXAMPLE is not allowed",
        "key is mine-own-secret",
    ],
)
def test_what_looks_like_a_credential_is_masked(said: str) -> None:
    words = safe_words(said, ("mine-own-secret",))
    for secret in ("abcdef0123", "6789", "abc.def.ghi", "hunter2", "s3cr3t", "AKIAIOSF", "mine-own"):
        assert secret not in words
    assert "[masked]" in words


def test_the_server_s_words_are_one_bounded_printable_line() -> None:
    words = safe_words("line one\n\tline two \x1b[31mred\x07 " + "x" * 10_000)
    assert words.startswith("line one line two ?[31mred?")
    assert len(words) <= 240


def test_a_message_that_quotes_the_row_is_withheld() -> None:
    row = "my secret diary entry of tuesday"
    assert "diary" not in without_quotes(f"invalid input: '{row[:25]}...'", [row])
    assert without_quotes("invalid image url", [row]) == "invalid image url"
