"""What single responses mean: the shapes of real providers' errors, and answers in odd shapes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from apwa_dask.models.outcomes import Retry, Verdict, classify
from apwa_dask.models.types import OutcomeClass as Out
from apwa_dask.models.types import Usage


def verdict(status: int, body: Any, **headers: str) -> Verdict:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return classify(status, CIMultiDict({k.replace("_", "-"): v for k, v in headers.items()}), raw)


def error(message: str = "", code: Any = None, kind: str | None = None, **more: Any) -> dict[str, Any]:
    return {"error": {"message": message, "code": code, "type": kind, **more}}


def answer(message: dict[str, Any], finish: str | None = "stop", **more: Any) -> dict[str, Any]:
    return {"choices": [{"message": message, "finish_reason": finish}], "model": "m-1", "id": "c-1", **more}


WINDOW = "This model's maximum context length is 8192 tokens. However, you requested 9000 tokens"
MAX_TOKENS = "'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
AZURE = {
    "error": {
        "message": "The response was filtered", "code": "content_filter", "status": 400, "param": "prompt",
        "innererror": {"code": "ResponsibleAIPolicyViolation", "content_filter_result": {}},
    }
}  # fmt: skip
GOOGLE = [{"error": {"code": 429, "message": "Resource exhausted", "status": "RESOURCE_EXHAUSTED",
                     "details": [{"@type": "x/google.rpc.RetryInfo", "retryDelay": "12s"}]}}]  # fmt: skip
LLAMA = {
    "error": {
        "code": 400, "type": "exceed_context_size_error",
        "message": "the request exceeds the available context size, try increasing it",
    }
}  # fmt: skip

ERRORS = [
    (400, error(WINDOW, "context_length_exceeded"), Out.TOO_LARGE, "none", ""),
    (400, error(WINDOW), Out.TOO_LARGE, "none", ""),
    (400, error("prompt is too long: 210000 tokens > 200000 maximum"), Out.TOO_LARGE, "none", ""),
    (400, LLAMA, Out.TOO_LARGE, "none", ""),
    (413, b"<html>too big</html>", Out.TOO_LARGE, "none", ""),
    (400, AZURE, Out.FILTERED, "none", ""),
    (400, error("blocked", "content_policy_violation"), Out.FILTERED, "none", ""),
    (400, error("bad image"), Out.BAD_INPUT, "none", ""),
    (422, {"detail": [{"msg": "field required"}]}, Out.BAD_INPUT, "none", ""),
    (400, error("'response_format' of type 'json_schema' is not supported"), Out.BAD_INPUT, "step_down", ""),
    (400, error("nope", param="response_format"), Out.BAD_INPUT, "step_down", ""),
    (400, error(MAX_TOKENS, "unsupported_parameter"), Out.BAD_INPUT, "step_down", ""),
    (400, error("'temperature' does not support 0.2", "unsupported_value"), Out.FATAL, "none", "parameter"),
    (400, error("API key not valid. Please pass a valid API key.", 400), Out.FATAL, "none", "key"),
    (401, error("Incorrect API key provided", "invalid_api_key"), Out.FATAL, "none", "key"),
    (403, b"<html>Forbidden</html>", Out.FATAL, "none", "key"),
    (402, error("Insufficient Balance"), Out.FATAL, "none", "quota"),
    (429, error("You exceeded your quota", "insufficient_quota"), Out.FATAL, "none", "quota"),
    (404, error("The model `x` does not exist", "model_not_found"), Out.FATAL, "none", "model"),
    (404, b"404 page not found", Out.FATAL, "none", "model"),
    (301, b"", Out.FATAL, "none", "endpoint"),
    (405, b"", Out.FATAL, "none", "endpoint"),
    (429, error("Rate limit reached", "rate_limit_exceeded"), Out.TRANSIENT, "throttled", ""),
    (429, b"<html>slow down</html>", Out.TRANSIENT, "throttled", ""),
    (529, error("Overloaded", kind="overloaded_error"), Out.TRANSIENT, "transient", ""),
    (500, error("oops"), Out.TRANSIENT, "transient", ""),
    (502, b"<html>Bad Gateway</html>", Out.TRANSIENT, "transient", ""),
    (504, b"", Out.TRANSIENT, "transient", ""),
    (408, b"", Out.TRANSIENT, "transient", ""),
    (409, b"", Out.TRANSIENT, "transient", ""),
    (451, b"", Out.BAD_INPUT, "none", ""),
]  # fmt: skip


@pytest.mark.parametrize(("status", "body", "outcome", "retry", "fatal"), ERRORS)
def test_an_error_of_a_real_provider(status: int, body: Any, outcome: Out, retry: str, fatal: str) -> None:
    read = verdict(status, body)
    assert (read.outcome, read.retry, read.fatal) == (outcome, retry, fatal)
    assert str(status) in read.words


def test_google_s_wait_and_error_list_are_read() -> None:
    read = verdict(429, GOOGLE)
    assert (read.retry, read.wait_s) == (Retry.THROTTLED, 12.0)


@pytest.mark.parametrize("status", [408, 500, 503, 529])
def test_what_an_endpoint_in_trouble_asks_to_wait_is_read(status: int) -> None:
    assert verdict(status, error("busy"), retry_after="7").wait_s == 7.0
    assert verdict(status, error("busy"), retry_after_ms="250").wait_s == 0.25
    assert verdict(status, error("busy")).wait_s is None


def test_an_error_object_in_a_200_counts_by_its_own_code() -> None:
    assert verdict(200, error("slow down", 429)).retry is Retry.THROTTLED
    assert verdict(200, error("broken", 502)).retry is Retry.TRANSIENT
    assert verdict(200, error("no money", "insufficient_quota")).fatal == "quota"
    assert verdict(200, error("whatever")).retry is Retry.TRANSIENT


def test_should_retry_overrules_the_status_both_ways() -> None:
    assert verdict(400, error("x"), x_should_retry="true").retry is Retry.TRANSIENT
    assert verdict(500, error("x"), x_should_retry="false").retry is Retry.NONE
    assert verdict(429, error("x"), x_should_retry="false").retry is Retry.NONE


ANSWERS = [
    (answer({"content": "yes"}), Out.OK, "yes"),
    (answer({"content": "yes"}, None), Out.OK, "yes"),
    (answer({"content": [{"type": "text", "text": "y"}, {"type": "text", "text": "es"}]}), Out.OK, "yes"),
    (answer({"content": "ye"}, "length"), Out.TRUNCATED, "ye"),
    (answer({"content": ""}, "length"), Out.TRUNCATED, ""),
    (answer({"content": None}, "content_filter"), Out.FILTERED, None),
    (answer({"content": None, "refusal": "no"}), Out.REFUSED, "no"),
    (answer({"content": ""}), Out.INVALID_OUTPUT, ""),
    (answer({"content": "kept", "refusal": ""}), Out.OK, "kept"),
]


@pytest.mark.parametrize(("body", "outcome", "text"), ANSWERS)
def test_an_answer_and_its_text(body: Any, outcome: Out, text: str | None) -> None:
    read = verdict(200, body)
    assert read.completion is not None
    assert (read.outcome, read.completion.text) == (outcome, text)


def test_tool_calls_need_no_text() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "look", "arguments": {"a": 1}}}
    read = verdict(200, answer({"content": None, "tool_calls": [call]}, "tool_calls"))
    assert read.outcome is Out.OK
    assert read.completion is not None
    assert read.completion.tool_calls[0].arguments == '{"a":1}'


@pytest.mark.parametrize(
    ("stated", "usage"),
    [
        ({"prompt_tokens": 10, "completion_tokens": 5}, Usage(10, 5)),
        (
            {"prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 8}},
            Usage(10, 5, 8),
        ),
        (
            {"prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 99}},
            Usage(10, 5, 10),
        ),
        ({"prompt_tokens": -1, "completion_tokens": 5}, None),
        ({"prompt_tokens": "10", "completion_tokens": 5}, None),
        ({"prompt_tokens": True, "completion_tokens": 5}, None),
        (None, None),
        ([], None),
    ],
)
def test_usage_that_makes_no_sense_is_no_usage(stated: Any, usage: Usage | None) -> None:
    completion = verdict(200, answer({"content": "x"}, usage=stated)).completion
    assert completion is not None
    assert completion.usage == usage


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "choices",
                    "message",
                    "content",
                    "error",
                    "usage",
                    "code",
                    "finish_reason",
                    "tool_calls",
                    "function",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(body=JSON, status=st.sampled_from([200, 200, 200, 400, 404, 429, 500, 302, 600, 100]))
def test_no_body_breaks_the_reading(body: Any, status: int) -> None:
    read = verdict(status, body)
    assert isinstance(read.outcome, Out)
    if read.outcome is Out.OK:
        assert read.completion is not None
        assert read.completion.text or read.completion.tool_calls
        assert read.completion.text is None or isinstance(read.completion.text, str)


@given(st.binary(max_size=60), st.sampled_from([200, 400, 500]))
def test_no_bytes_break_the_reading(body: bytes, status: int) -> None:
    assert verdict(status, body).outcome is not Out.OK
