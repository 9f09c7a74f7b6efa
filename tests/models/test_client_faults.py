"""One call through every fault: its outcome, and the bill in the server's log."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from apwa_dask.errors import ConfigError, ProviderError
from apwa_dask.models.types import OutcomeClass, Usage
from apwa_dask.testing import Fault, On, Rule, ScriptedServer

Serve = Callable[..., ScriptedServer]
Ask = Callable[..., Any]

OK = OutcomeClass.OK

LABEL_SCHEMA = {
    "type": "object",
    "properties": {"label": {"type": "string", "enum": ["a", "b"]}},
    "required": ["label"],
    "additionalProperties": False,
}


def test_a_good_call_is_one_request_with_its_usage(serve: Serve, ask: Ask) -> None:
    server = serve()
    (reply,) = ask(server)("hello")
    assert (reply.outcome, reply.attempts, reply.source) == (OK, 1, "live")
    assert reply.usage == Usage(server.log()[0].prompt_tokens, server.log()[0].completion_tokens)
    assert server.calls == 1


RECOVERS_ON_SECOND = [
    Fault("status", status=500, times=1),
    Fault("status", status=408, times=1),
    Fault("status", status=409, times=1),
    Fault("status", status=529, times=1),
    Fault("status", status=503, times=1, html=True),
    Fault("status", status=429, times=1, retry_after="0.01"),
    Fault("status", status=429, times=1, html=True, retry_after="0.01"),
    Fault("status", status=400, times=1, should_retry=True),
    Fault("status", status=401, times=1, should_retry=True),
    Fault("disconnect", times=1),
    Fault("reset", times=1),
    Fault("short_body", times=1),
    Fault("broken_json", times=1),
    Fault("empty_body", times=1),
    Fault("html_200", times=1),
    Fault("error_in_200", times=1),
    Fault("no_choices", times=1),
    Fault("null_content", times=1),
]


@pytest.mark.parametrize("fault", RECOVERS_ON_SECOND, ids=lambda f: f"{f.kind}-{f.status}-{f.html}")
def test_a_passing_fault_costs_one_more_request(serve: Serve, ask: Ask, fault: Fault) -> None:
    server = serve(faults=(fault,))
    (reply,) = ask(server)("hello")
    assert (reply.outcome, reply.attempts, server.calls) == (OK, 2, 2), reply


LASTING = [
    (Fault("status", status=500), OutcomeClass.TRANSIENT, 6),
    (Fault("status", status=500, should_retry=False), OutcomeClass.TRANSIENT, 1),
    (Fault("status", status=429, should_retry=False), OutcomeClass.TRANSIENT, 1),
    (Fault("status", status=400), OutcomeClass.BAD_INPUT, 1),
    (Fault("status", status=400, should_retry=True), OutcomeClass.BAD_INPUT, 6),
    (Fault("disconnect"), OutcomeClass.TRANSIENT, 6),
    (Fault("broken_json"), OutcomeClass.TRANSIENT, 6),
    (Fault("html_200"), OutcomeClass.TRANSIENT, 6),
    (Fault("error_in_200"), OutcomeClass.TRANSIENT, 6),
    (Fault("empty_body"), OutcomeClass.TRANSIENT, 6),
    (Fault("short_body"), OutcomeClass.TRANSIENT, 6),
    (Fault("reset"), OutcomeClass.TRANSIENT, 6),
    (Fault("no_choices"), OutcomeClass.INVALID_OUTPUT, 3),
    (Fault("null_content"), OutcomeClass.INVALID_OUTPUT, 3),
    (Fault("length"), OutcomeClass.TRUNCATED, 1),
    (Fault("content_filter"), OutcomeClass.FILTERED, 1),
    (Fault("content_filter_finish"), OutcomeClass.FILTERED, 1),
    (Fault("refusal"), OutcomeClass.REFUSED, 1),
    (Fault("huge_body", size_bytes=40_000_000), OutcomeClass.INVALID_OUTPUT, 1),
    (Fault("gzip_bomb", size_bytes=200_000_000), OutcomeClass.INVALID_OUTPUT, 1),
]


@pytest.mark.parametrize(("fault", "outcome", "calls"), LASTING, ids=lambda v: getattr(v, "kind", None))
def test_a_lasting_fault_ends_in_its_class_after_so_many_requests(
    serve: Serve, ask: Ask, fault: Fault, outcome: OutcomeClass, calls: int
) -> None:
    server = serve(faults=(fault,))
    (reply,) = ask(server)("hello")
    assert (reply.outcome, reply.attempts, server.calls) == (outcome, calls, calls), reply
    assert reply.message
    assert "hello" not in reply.message


@pytest.mark.parametrize("kind", ["hang", "drip"])
def test_the_deadline_is_on_the_wall_clock_and_tried_three_times(serve: Serve, ask: Ask, kind: str) -> None:
    server = serve(faults=(Fault(kind, interval_s=0.05),))
    (reply,) = ask(server, settings={"timeout_s": 1.0})("hello")
    assert (reply.outcome, reply.attempts, server.calls) == (OutcomeClass.DEADLINE, 3, 3)
    assert reply.usage.estimated
    assert reply.usage.input > 0


FATAL = [
    (Fault("status", status=401), "PROVIDER-KEY", "OPENAI_API_KEY"),
    (Fault("status", status=403), "PROVIDER-KEY", "OPENAI_API_KEY"),
    (Fault("insufficient_quota"), "PROVIDER-QUOTA", "credit"),
    (Fault("status", status=404), "PROVIDER-MODEL", "test-model"),
    (
        Fault("status", status=307, headers={"location": "http://192.0.2.1/"}),
        "PROVIDER-ENDPOINT",
        "redirects",
    ),
]


@pytest.mark.parametrize(("fault", "code", "word"), FATAL, ids=lambda v: v if isinstance(v, str) else None)
def test_a_refusal_for_good_stops_a_hundred_rows_after_one_request(
    serve: Serve, ask: Ask, fault: Fault, code: str, word: str
) -> None:
    server = serve(faults=(fault,), latency_s=0.02)
    outcomes = ask(server).outcomes(*[f"row {i}" for i in range(100)])
    assert server.calls == 1
    assert {type(outcome) for outcome in outcomes} == {ProviderError}
    assert {outcome.code for outcome in outcomes if isinstance(outcome, ProviderError)} == {code}
    assert word in str(outcomes[0])


def test_a_wrong_key_in_the_middle_stops_what_is_not_yet_in_flight(serve: Serve, ask: Ask) -> None:
    server = serve(faults=(Fault("status", status=401, on=On(calls=tuple(range(50, 1000)))),), latency_s=0.01)
    outcomes = ask(server, settings={"max_concurrency": 8}).outcomes(*[f"row {i}" for i in range(200)])
    good = [o for o in outcomes if not isinstance(o, BaseException)]
    assert len(good) == 49
    assert server.calls <= 49 + 8


def test_an_unknown_model_is_named_with_its_neighbours(serve: Serve, ask: Ask) -> None:
    server = serve(models=("test-model-large", "other"))
    with pytest.raises(ProviderError) as caught:
        ask(server)("hello")
    assert "did you mean 'test-model-large'" in str(caught.value)
    assert server.calls == 1


def test_a_missing_key_names_the_variable_and_makes_no_request(
    serve: Serve, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    server = serve()
    with pytest.raises(ProviderError, match="OPENAI_API_KEY"):
        ask(server)("hello")
    assert server.calls == 0


def test_an_endpoint_that_was_never_there_stops_the_run(serve: Serve, ask: Ask) -> None:
    server = serve()
    outcomes = ask(server, settings={"base_url": "http://127.0.0.1:9/v1"}).outcomes(
        *[f"row {i}" for i in range(20)]
    )
    assert {getattr(outcome, "code", "") for outcome in outcomes} == {"PROVIDER-UNREACHABLE"}


def test_context_length_is_too_large_after_one_request(serve: Serve, ask: Ask) -> None:
    server = serve(context_tokens=50)
    (reply,) = ask(server)("x" * 1000)
    assert (reply.outcome, server.calls) == (OutcomeClass.TOO_LARGE, 1)


def test_a_prompt_that_cannot_fit_is_too_large_without_a_request(serve: Serve, ask: Ask) -> None:
    server = serve()
    (reply,) = ask(server, settings={"context_tokens": 50})("x" * 10_000)
    assert (reply.outcome, reply.attempts, server.calls) == (OutcomeClass.TOO_LARGE, 0, 0)


def test_a_lone_surrogate_is_its_row_s_failure_without_a_request(serve: Serve, ask: Ask) -> None:
    server = serve()
    bad, good = ask(server)("broken \ud800 text", "fine")
    assert (bad.outcome, bad.attempts, good.outcome) == (OutcomeClass.BAD_INPUT, 0, OK)
    assert server.calls == 1


def test_json_schema_steps_down_once_for_all_rows(serve: Serve, ask: Ask) -> None:
    server = serve(supports_json_schema=False)
    replies = ask(server, schema=LABEL_SCHEMA)(*[f"row {i}" for i in range(20)])
    assert {reply.outcome for reply in replies} == {OK}
    assert server.calls == 21
    formats = [call.body["response_format"]["type"] for call in server.log() if call.body]
    assert formats == ["json_schema"] + ["json_object"] * 20
    assert '"enum":["a","b"]' in server.log()[1].messages[0]["content"]


def test_missing_usage_is_estimated_and_says_so(serve: Serve, ask: Ask) -> None:
    server = serve(usage=False)
    (reply,) = ask(server)("hello")
    assert reply.usage.estimated
    assert reply.usage.input > 0


def test_usage_counts_every_billed_attempt(serve: Serve, ask: Ask) -> None:
    server = serve(faults=(Fault("null_content", times=2),))
    (reply,) = ask(server)("hello")
    billed = [call for call in server.log() if call.billed]
    assert len(billed) == 3
    assert reply.usage.input == sum(call.prompt_tokens for call in billed)


def test_the_resolved_model_is_kept_beside_the_requested_one(serve: Serve, ask: Ask) -> None:
    server = serve(resolved_model="test-model-2026-01-01")
    (reply,) = ask(server)("hello")
    assert reply.model == "test-model-2026-01-01"
    assert server.log()[0].model == "test-model"


def test_a_429_without_any_hint_is_waited_out(serve: Serve, ask: Ask) -> None:
    server = serve(faults=(Fault("status", status=429, html=True, times=1, on="row 1"),))
    replies = ask(server)("row 1", "row 2", "row 3")
    assert [reply.outcome for reply in replies] == [OK, OK, OK]
    assert server.calls == 4


def test_no_request_is_sent_inside_a_pause(serve: Serve, ask: Ask) -> None:
    server = serve(faults=(Fault("status", status=429, retry_after="1", on=On(calls=(5,))),), latency_s=0.01)
    replies = ask(server, settings={"max_concurrency": 1})(*[f"row {i}" for i in range(8)])
    log = server.log()
    assert {reply.outcome for reply in replies} == {OK}
    assert log[5].t_start - log[4].t_start >= 1.0
    assert server.calls == 9


def test_an_instruction_that_no_json_can_carry_stops_before_any_request(serve: Serve, ask: Ask) -> None:
    server = serve()
    with pytest.raises(ConfigError, match="UTF-8"):
        ask(server, settings={"extra": {"metadata": "\ud800"}})("hello")
    assert server.calls == 0


def test_tool_calls_come_back_as_they_were_written(serve: Serve, ask: Ask) -> None:
    call = {"name": "look_up", "arguments": {"word": "caf\u00e9"}}
    server = serve(rules=(Rule("hello", {"tool_calls": [call]}),))
    (reply,) = ask(server)("hello")
    assert reply.outcome is OK
    assert [(made.name, json.loads(made.arguments)) for made in reply.tool_calls] == [
        ("look_up", {"word": "caf\u00e9"})
    ]
