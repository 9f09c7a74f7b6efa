"""The endpoint refuses as real ones do, and speaks HTTP correctly."""

from __future__ import annotations

import http.client
import json
import socket
from typing import Any
from urllib.parse import urlsplit

import pytest

from apwa_dask.testing import ScriptedServer


def get(server: ScriptedServer, path: str, key: str = "") -> tuple[int, Any]:
    link = http.client.HTTPConnection("127.0.0.1", urlsplit(server.base_url).port, timeout=10)
    link.request("GET", path, headers={"Authorization": f"Bearer {key}"} if key else {})
    answer = link.getresponse()
    body = json.loads(answer.read())
    link.close()
    return answer.status, body


def talk(server: ScriptedServer, *pieces: bytes) -> bytes:
    """Send bytes as they are, piece by piece, and read until the server closes."""
    got = b""
    with socket.create_connection(("127.0.0.1", urlsplit(server.base_url).port), timeout=10) as link:
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            link.sendall(piece)
        while chunk := link.recv(65536):
            got += chunk
    return got


def http_call(text: str, *headers: str) -> bytes:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": text}]}).encode()
    lines = ["POST /v1/chat/completions HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def test_a_wrong_or_missing_key_gets_401_that_shows_no_part_of_it(scripted_server, post, canary_key) -> None:
    server = scripted_server(api_key="sk-right")
    right, wrong, missing = (post(server, "x", key=key)[0] for key in ("sk-right", canary_key, ""))
    assert [right.status, wrong.status, missing.status] == [200, 401, 401]
    assert wrong.json["error"]["code"] == "invalid_api_key"
    assert canary_key.encode() not in wrong.body
    calls = server.log()
    assert [call.key_ok for call in calls] == [True, False, False]
    assert calls[0].key_hash != calls[1].key_hash
    assert canary_key not in repr(calls)
    assert [call.billed for call in calls] == [True, False, False]
    assert "sk-right" not in repr(server.script)


def test_an_unknown_model_gets_404_and_known_ones_are_listed(scripted_server, post) -> None:
    server = scripted_server(models=("small", "big"), api_key="k")
    [got] = post(server, {"model": "medium", "messages": [{"role": "user", "content": "x"}]}, key="k")
    assert (got.status, got.json["error"]["code"]) == (404, "model_not_found")
    assert "medium" in got.json["error"]["message"]
    status, listed = get(server, "/v1/models", key="k")
    assert (status, [model["id"] for model in listed["data"]]) == (200, ["small", "big"])
    assert get(server, "/v1/models", key="wrong")[0] == 401
    assert (server.calls, server.stats().reads) == (1, 2)


def test_a_prompt_beyond_the_context_gets_its_code(scripted_server, post) -> None:
    server = scripted_server(context_tokens=100)
    fits, long, reserved = (
        post(server, "x" * 400)[0],
        post(server, "x" * 404)[0],
        post(server, "x", max_tokens=100)[0],
    )
    assert [fits.status, long.status, reserved.status] == [200, 400, 400]
    assert long.json["error"]["code"] == "context_length_exceeded"


def test_an_endpoint_without_json_schema_refuses_it_and_takes_json_object(
    scripted_server, post, label_schema
) -> None:
    server = scripted_server(supports_json_schema=False)
    [strict] = post(server, "x", schema=label_schema)
    [loose] = post(server, "x", response_format={"type": "json_object"})
    assert (strict.status, strict.json["error"]["param"]) == (400, "response_format")
    assert loose.status == 200


@pytest.mark.parametrize(
    "body",
    [
        b"not json",
        b"[]",
        b"{}",
        {"model": "m", "messages": []},
        {"model": 1, "messages": [{"role": "user", "content": "x"}]},
        {"model": "m", "messages": [{"role": "user", "content": None}]},
        {"model": "m", "messages": [{"role": "user", "content": 3.5}]},
        {"model": "m", "messages": ["x"]},
        {"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": True},
        {"model": "m", "messages": [{"role": "user", "content": "x"}], "n": 2},
        {
            "model": "m",
            "messages": [{"role": "user", "content": "x"}],
            "response_format": {"type": "json_schema", "json_schema": {}},
        },
        b'{"model": "m", "messages": [{"role": "user", "content": "\\ud800"}]}',
    ],
)
def test_a_request_that_makes_no_sense_gets_400_and_is_logged_unbilled(scripted_server, post, body) -> None:
    server = scripted_server()
    [got] = post(server, body)
    assert got.status == 400
    assert got.json["error"]["type"] == "invalid_request_error"
    [call] = server.log()
    assert (call.status, call.billed) == (400, False)


def test_text_parts_are_read_as_text(scripted_server, post) -> None:
    server = scripted_server(answers="echo")
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    [got] = post(server, {"model": "m", "messages": [{"role": "user", "content": parts}]})
    assert got.content == "one\ntwo"


def test_health_and_unknown_paths(scripted_server) -> None:
    server = scripted_server()
    port = urlsplit(server.base_url).port
    assert get(server, "/health") == (200, {"status": "ok"})
    assert get(server, "/v1/nothing")[0] == 404
    assert server.base_url == f"http://127.0.0.1:{port}/v1"
    assert server.calls == 0


def test_a_request_in_pieces_and_requests_in_one_piece_are_both_read(scripted_server) -> None:
    server = scripted_server(answers="echo")
    whole = http_call("first")
    last = http_call("last", "Connection: close")
    got = talk(server, *[whole[i : i + 1] for i in range(len(whole))], http_call("second") + last)
    bodies = [part.partition(b"\r\n\r\n")[2] for part in got.split(b"HTTP/1.1 ")[1:]]
    assert [json.loads(body)["choices"][0]["message"]["content"] for body in bodies] == [
        "first",
        "second",
        "last",
    ]
    assert server.stats().connections == 1


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"NONSENSE\r\n\r\n", b"400"),
        (b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: x\r\n\r\n", b"400"),
        (b"POST /v1/chat/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", b"411"),
        (b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 999999999999\r\n\r\n", b"413"),
        (b"x" * 70_000, b"431"),
    ],
)
def test_what_is_not_http_is_refused_and_the_connection_closed(scripted_server, sent, status) -> None:
    server = scripted_server()
    assert talk(server, sent).split(b" ")[1] == status
    assert server.calls == 0
