"""Each fault is seen on the wire by a raw client, and in the log with its bill."""

from __future__ import annotations

import asyncio
import json
import math
import socket
import sys
import zlib
from urllib.parse import urlsplit

import aiohttp
import pytest

from apwa_dask.errors import ConfigError
from apwa_dask.testing import Fault, On, Script, expected_answer
from apwa_dask.testing.answers import chat_request
from apwa_dask.testing.faults import Strike, struck

ROWS = {
    "type": "object",
    "properties": {
        "items": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"row": {"type": "integer"}, "label": {"type": "string", "enum": ["a", "b"]}},
                "required": ["row", "label"],
            },
        }
    },
    "required": ["items"],
}
PACK = "[row 1] one\n[row 2] two\n[row 3] three"


def strike(
    text: str, *, n: int = 1, attempt: int = 1, since_start_s: float = 0.0, model: str = "m"
) -> Strike:
    body = {"model": model, "messages": [{"role": "user", "content": text}]}
    return Strike(n, since_start_s, attempt, chat_request(body))


# -- which calls are struck ------------------------------------------------------------------------


def test_a_fault_strikes_all_calls_unless_told_otherwise() -> None:
    fault = Fault("hang")
    assert all(struck((fault,), strike(f"t{n}", n=n)) is fault for n in range(1, 20))


@pytest.mark.parametrize(
    ("on", "hit"),
    [
        (On(calls=(2, 5)), [2, 5]),
        (On(every=3), [3, 6, 9]),
        (On(text="t[78]"), [7, 8]),
        ("t[78]", [7, 8]),
        (On(prompt="t9"), [9]),
        (On(every=3, text="t[69]"), [6, 9]),
        (On(model="other"), []),
        (On(between_s=(0.3, 0.55)), [3, 4, 5]),
    ],
)
def test_selectors_choose_calls_and_all_must_hold(on: On | str, hit: list[int]) -> None:
    fault = Fault("hang", on=on)
    found = [n for n in range(1, 10) if struck((fault,), strike(f"t{n}", n=n, since_start_s=n / 10))]
    assert found == hit


def test_a_fraction_strikes_the_same_texts_each_time_and_others_for_another_seed() -> None:
    def chosen(seed: int) -> set[int]:
        faults = (Fault("hang", on=On(fraction=0.1, seed=seed)),)
        return {i for i in range(2000) if struck(faults, strike(f"row {i}"))}

    assert chosen(1) == chosen(1)
    assert chosen(1) != chosen(2)
    assert 140 < len(chosen(1)) < 260


def test_the_first_fault_that_strikes_is_the_only_one() -> None:
    first, second = Fault("hang", on="x"), Fault("reset")
    assert struck((first, second), strike("x")) is first
    assert struck((first, second), strike("y")) is second


def test_times_counts_the_attempts_of_one_conversation(scripted_server, post) -> None:
    server = scripted_server(faults=(Fault("status", status=503, times=2),))
    assert [got.status for got in post(server, "a", "b", "a", "a", "b", "b")] == [
        503,
        503,
        503,
        200,
        503,
        200,
    ]


def test_a_re_ask_that_appends_messages_is_a_further_attempt(scripted_server, post) -> None:
    server = scripted_server(faults=(Fault("content", content="not json", times=1),))
    first = [{"role": "system", "content": "s"}, {"role": "user", "content": "row"}]
    again = [
        *first,
        {"role": "assistant", "content": "not json"},
        {"role": "user", "content": "that was no JSON"},
    ]
    said = [
        got.content
        for got in post(server, {"model": "m", "messages": first}, {"model": "m", "messages": again})
    ]
    assert said == ["not json", expected_answer(Script(), again)]


def test_a_call_refused_by_the_rate_limit_is_not_an_attempt(scripted_server, post) -> None:
    server = scripted_server(rpm=1, faults=(Fault("status", status=500, times=1),))
    assert [got.status for got in post(server, "a", "a")] == [500, 429]
    server.set(server.script.but(rpm=None))
    assert post(server, "a")[0].status == 200


def test_unknown_kinds_and_bad_patterns_are_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="did you mean 'reset'"):
        Fault("rest")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="not a regular expression"):
        Fault("reset", on="(")


# -- refused before any token is made --------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 409, 429, 500, 503, 529])
def test_a_status_comes_with_an_error_object_and_costs_nothing(scripted_server, post, status: int) -> None:
    server = scripted_server(faults=(Fault("status", status=status),))
    [got] = post(server, "x")
    assert got.status == status
    assert set(got.json["error"]) == {"message", "type", "param", "code"}
    [call] = server.log()
    assert (call.status, call.fault, call.billed, call.completion_tokens) == (status, "status", False, 0)


def test_an_error_carries_the_headers_it_is_told_to(scripted_server, post) -> None:
    contradiction = Fault("status", status=400, should_retry=True, retry_after="300", headers={"x-more": "1"})
    [got] = post(scripted_server(faults=(contradiction,)), "x")
    assert got.status == 400
    assert (got.header("x-should-retry"), got.header("retry-after"), got.header("x-more")) == (
        "true",
        "300",
        "1",
    )
    [final] = post(scripted_server(faults=(Fault("status", status=500, should_retry=False),)), "x")
    assert (final.status, final.header("x-should-retry")) == (500, "false")


def test_a_status_can_be_a_gateway_page(scripted_server, post) -> None:
    [got] = post(scripted_server(faults=(Fault("status", status=502, html=True),)), "x")
    assert got.status == 502
    assert got.header("content-type").startswith("text/html")
    assert got.body.startswith(b"<html>")


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [("insufficient_quota", 429, "insufficient_quota"), ("content_filter", 400, "content_filter")],
)
def test_quota_and_filter_say_their_code(scripted_server, post, kind, status, code) -> None:
    server = scripted_server(faults=(Fault(kind),))
    [got] = post(server, "x")
    assert (got.status, got.json["error"]["code"]) == (status, code)
    assert not server.log()[0].billed


def test_an_error_object_or_a_page_can_come_in_a_200(scripted_server, post) -> None:
    server = scripted_server(faults=(Fault("error_in_200", on="object"), Fault("html_200", on="page")))
    as_object, as_page = post(server, "object", "page")
    assert (as_object.status, list(as_object.json)) == (200, ["error"])
    assert (as_page.status, as_page.body[:6]) == (200, b"<html>")
    assert [call.billed for call in server.log()] == [False, False]


def test_a_hang_lasts_until_the_client_gives_up_and_is_logged_as_aborted(scripted_server, post) -> None:
    server = scripted_server(faults=(Fault("hang"),))
    [got] = post(server, "x", timeout_s=1.0)
    assert got.error == "TimeoutError"
    server.wait_until(lambda stats: stats.in_flight == 0)
    [call] = server.log()
    assert (call.fault, call.aborted, call.status, call.billed) == ("hang", True, 0, False)


def test_a_hang_takes_no_slot(scripted_server, post) -> None:
    server = scripted_server(slots=1, faults=(Fault("hang", on="stuck"),))
    got = post(server, "stuck", "fine", at_once=True, timeout_s=3)
    assert [answer.status for answer in got] == [0, 200]


def test_a_disconnect_sends_nothing(scripted_server, post) -> None:
    server = scripted_server(faults=(Fault("disconnect"),))
    [got] = post(server, "x")
    assert got.error in ("ClientOSError", "ServerDisconnectedError", "ConnectionResetError")
    [call] = server.log()
    assert (call.fault, call.billed, call.status) == ("disconnect", False, 0)


# -- the model's answer is not what was asked for --------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "finish", "content", "refusal"),
    [
        ("content_filter_finish", "content_filter", None, None),
        ("refusal", "stop", None, "I'm sorry, I can't help with that."),
        ("null_content", "stop", None, None),
    ],
)
def test_answers_without_content(scripted_server, post, label_schema, kind, finish, content, refusal) -> None:
    server = scripted_server(faults=(Fault(kind),))
    [got] = post(server, "x", schema=label_schema)
    choice = got.json["choices"][0]
    assert (choice["finish_reason"], choice["message"]["content"], choice["message"]["refusal"]) == (
        finish,
        content,
        refusal,
    )
    assert server.log()[0].billed


def test_length_gives_half_an_answer(scripted_server, post, label_schema) -> None:
    [got] = post(scripted_server(faults=(Fault("length"),)), "x", schema=label_schema)
    assert got.json["choices"][0]["finish_reason"] == "length"
    with pytest.raises(json.JSONDecodeError):
        json.loads(got.content)


def test_a_wrong_enum_is_valid_json_with_a_value_outside_the_schema(
    scripted_server, post, label_schema
) -> None:
    [got] = post(scripted_server(faults=(Fault("wrong_enum"),)), "x", schema=label_schema)
    said = json.loads(got.content)
    assert said["label"] not in label_schema["properties"]["label"]["enum"]
    assert set(said) == set(label_schema["properties"])


def test_a_schema_without_enum_gets_a_value_of_a_wrong_type(scripted_server, post) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    [got] = post(scripted_server(faults=(Fault("wrong_enum"),)), "x", schema=schema)
    assert isinstance(json.loads(got.content)["n"], dict)


def test_fields_can_be_added_lost_and_not_a_number(scripted_server, post, label_schema) -> None:
    faults = (Fault("extra_field", on="more"), Fault("missing_field", on="less"), Fault("nan", on="nan"))
    more, less, nan = (json.loads(got.content) for got in post(
        scripted_server(faults=faults), "more", "less", "nan", schema=label_schema
    ))  # fmt: skip
    assert set(more) - set(label_schema["properties"]) == {"unexpected_field"}
    assert set(less) == {"score", "reason"}
    assert math.isnan(nan["score"])


def test_an_item_of_a_pack_can_be_dropped_doubled_or_wrong(scripted_server, post) -> None:
    faults = (
        Fault("drop_item", on="drop", item=1),
        Fault("duplicate_item", on="double", item=0),
        Fault("wrong_enum", on="wrong", item=2),
    )
    server = scripted_server(faults=faults)
    texts = [f"{PACK}\n{word}" for word in ("drop", "double", "wrong")]
    dropped, doubled, wrong = (json.loads(got.content)["items"] for got in post(server, *texts, schema=ROWS))
    assert [item["row"] for item in dropped] == [1, 3]
    assert [item["row"] for item in doubled] == [1, 1, 2, 3]
    assert [item["label"] in ("a", "b") for item in wrong] == [True, True, False]


def test_content_replaces_the_answer(scripted_server, post) -> None:
    [got] = post(scripted_server(faults=(Fault("content", content="```json\n{}\n```"),)), "x")
    assert got.content == "```json\n{}\n```"


def test_a_fault_that_does_not_fit_the_answer_says_so(scripted_server, post) -> None:
    server = scripted_server(faults=(Fault("drop_item"),))
    [got] = post(server, "x", schema={"type": "object", "properties": {"n": {"type": "integer"}}})
    assert got.status == 500
    assert "drop_item needs an answer with an array" in got.json["error"]["message"]
    assert server.log()[0].fault == "script_error"


# -- the envelope ----------------------------------------------------------------------------------


def test_usage_can_be_missing_for_some_calls_or_all(scripted_server, post) -> None:
    some = post(scripted_server(faults=(Fault("no_usage", on="a"),)), "a", "b")
    assert ["usage" in got.json for got in some] == [False, True]
    silent = scripted_server(usage=False, faults=(Fault("no_usage", on="a"),))
    assert ["usage" in got.json for got in post(silent, "a", "b")] == [False, False]
    assert silent.log()[0].completion_tokens > 0


def test_the_model_can_change_silently(scripted_server, post) -> None:
    server = scripted_server(
        resolved_model="small-2026-01-01", faults=(Fault("other_model", on="b", content="tiny"),)
    )
    assert [got.json["model"] for got in post(server, "a", "b")] == ["small-2026-01-01", "tiny"]


@pytest.mark.parametrize("kind", ["no_choices", "broken_json", "empty_body"])
def test_a_200_can_hold_no_answer_and_is_billed(scripted_server, post, kind) -> None:
    server = scripted_server(faults=(Fault(kind),))
    [got] = post(server, "x")
    assert got.status == 200
    if kind == "no_choices":
        assert got.json["choices"] == []
    else:
        with pytest.raises(json.JSONDecodeError):
            json.loads(got.body)
    assert server.log()[0].billed


# -- the wire --------------------------------------------------------------------------------------


def raw_exchange(server, text: str, *, until: int = 1 << 30) -> tuple[bytes, str]:
    """Send one call over a bare socket; what came until the end, and how it ended."""
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": text}]}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    got = b""
    with socket.create_connection(("127.0.0.1", urlsplit(server.base_url).port), timeout=10) as link:
        link.sendall(head + body)
        try:
            while len(got) < until and (chunk := link.recv(65536)):
                got += chunk
        except ConnectionResetError:
            return got, "reset"
    return got, "closed"


def test_a_reset_comes_in_the_middle_of_the_body_and_is_billed(scripted_server) -> None:
    server = scripted_server(faults=(Fault("reset"),))
    _, ending = raw_exchange(server, "x")
    assert ending == "reset"
    [call] = server.log()
    assert (call.fault, call.billed) == ("reset", True)


def test_a_reset_works_on_the_loop_of_asyncio_as_well(scripted_server, post, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    server = scripted_server(in_process=True, latency_s=0.01, faults=(Fault("reset", on="bad"),))
    assert raw_exchange(server, "bad")[1] == "reset"
    assert post(server, "good")[0].status == 200


def test_a_short_body_is_shorter_than_its_content_length(scripted_server, post) -> None:
    server = scripted_server(faults=(Fault("short_body"),))
    got, ending = raw_exchange(server, "x")
    head, _, body = got.partition(b"\r\n\r\n")
    announced = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    assert (announced - len(body), ending) == (100, "closed")
    assert post(server, "x")[0].error == "ClientPayloadError"
    assert [call.billed for call in server.log()] == [True, True]


def test_a_drip_comes_byte_by_byte_and_in_the_end_whole(scripted_server, post) -> None:
    server = scripted_server(faults=(Fault("drip", on="slowly", interval_s=0.0001),))
    [got] = post(server, "slowly")
    assert got.content == expected_answer(server.script, "slowly")
    assert not server.log()[0].aborted


def test_a_drip_is_cut_when_the_client_leaves(scripted_server) -> None:
    server = scripted_server(faults=(Fault("drip", interval_s=0.01),))
    got, _ = raw_exchange(server, "x", until=5)
    assert b"HTTP/1.1 200".startswith(got[:12])
    server.wait_until(lambda stats: stats.in_flight == 0)
    [call] = server.log()
    assert (call.aborted, call.billed) == (True, True)


def test_a_huge_body_is_as_large_as_told_and_still_json(scripted_server, post) -> None:
    server = scripted_server(faults=(Fault("huge_body", size_bytes=3_000_000),))
    [got] = post(server, "x")
    assert len(got.body) == 3_000_000
    assert got.content == expected_answer(server.script, "x")


def test_a_gzip_bomb_is_small_on_the_wire_and_large_once_open(scripted_server) -> None:
    server = scripted_server(faults=(Fault("gzip_bomb", size_bytes=20_000_000),))
    on_the_wire, opened = asyncio.run(_packed_and_opened_bytes(server))
    assert on_the_wire < 100_000
    assert opened == 20_000_000


async def _packed_and_opened_bytes(server) -> tuple[int, int]:
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
    async with (
        aiohttp.ClientSession(auto_decompress=False) as session,
        session.post(f"{server.base_url}/chat/completions", json=body) as response,
    ):
        packed = await response.read()
        assert response.headers["content-encoding"] == "gzip"
    return len(packed), len(zlib.decompress(packed, 31))


def test_a_slow_call_answers_rightly_after_its_delay(scripted_server, post) -> None:
    server = scripted_server(faults=(Fault("slow", on="slow", delay_s=1.0),))
    slow, fast = post(server, "slow", "fast", at_once=True)
    assert (slow.status, fast.status) == (200, 200)
    by_text = {call.text: call for call in server.log()}
    assert by_text["slow"].t_end - by_text["slow"].t_start >= 0.99  # a timer may come a tick early
    assert by_text["fast"].t_end < by_text["slow"].t_end
