"""Result files of batches, line by line; the terms of a run in batches."""

from __future__ import annotations

import orjson
import pytest

from apwa_dask.errors import ConfigError
from apwa_dask.models.batch_lines import read_lines, read_prompts, said_in
from apwa_dask.models.batch_terms import BatchTerms
from apwa_dask.models.outcomes import Retry
from apwa_dask.models.types import OutcomeClass


def file_of(*documents: object) -> bytes:
    return b"".join(orjson.dumps(document) + b"\n" for document in documents)


def response(status: int, body: object) -> dict[str, object]:
    return {"custom_id": "a", "response": {"status_code": status, "body": body}, "error": None}


def error(code: str, message: str = "") -> dict[str, object]:
    return {"custom_id": "a", "response": None, "error": {"code": code, "message": message}}


def test_an_answer_is_classed_as_if_it_were_live():
    message = {"role": "assistant", "content": "yes"}
    body = {"model": "m", "choices": [{"message": message, "finish_reason": "stop"}]}

    (line,) = read_lines(file_of(response(200, body)))

    assert line.verdict is not None
    assert (line.verdict.outcome, line.verdict.completion.text) == (OutcomeClass.OK, "yes")


@pytest.mark.parametrize(
    ("document", "outcome", "retry"),
    [
        (response(500, {"error": {"message": "x"}}), OutcomeClass.TRANSIENT, Retry.TRANSIENT),
        (response(429, {"error": {"message": "x"}}), OutcomeClass.TRANSIENT, Retry.THROTTLED),
        (response(400, {"error": {"code": "content_filter"}}), OutcomeClass.FILTERED, Retry.NONE),
        (response(200, None), OutcomeClass.TRANSIENT, Retry.TRANSIENT),
        (error("request_timeout", "took too long"), OutcomeClass.TRANSIENT, Retry.TRANSIENT),
    ],
)
def test_an_error_line_has_its_class(document, outcome, retry):
    (line,) = read_lines(file_of(document))
    assert (line.verdict.outcome, line.verdict.retry) == (outcome, retry)


@pytest.mark.parametrize("code", ["batch_expired", "batch_cancelled"])
def test_a_line_that_was_never_worked_on_has_no_verdict(code):
    (line,) = read_lines(file_of(error(code)))
    assert line.verdict is None


def test_lines_that_name_no_request_are_left_out():
    assert list(read_lines(b"not JSON\n[]\n" + file_of({"custom_id": 7}, {"response": {}}))) == []


def test_a_key_in_an_error_is_masked():
    (line,) = read_lines(file_of(error("odd", "key sk-secret-0123456789 is odd")), ("sk-secret-0123456789",))
    assert "sk-secret" not in line.verdict.words


def test_what_was_asked_is_read_from_an_input_file():
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    parts = [{"role": "user", "content": [{"type": "text", "text": "t"}]}]
    body = {"model": "m", "messages": messages + parts}

    prompts = read_prompts(file_of({"custom_id": "a", "body": body}))

    assert orjson.loads(prompts["a"]) == body
    assert said_in(prompts["a"]) == ["u", "t"]


@pytest.mark.parametrize(
    "wrong", [{"max_requests": 0}, {"attempts": 0}, {"poll_first_s": 5.0, "poll_most_s": 1.0}]
)
def test_terms_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ConfigError):
        BatchTerms(**wrong)


def test_a_mode_is_live_batch_or_terms():
    assert BatchTerms.of("live") is None
    assert BatchTerms.of("batch") == BatchTerms()
    assert BatchTerms.of(BatchTerms(attempts=1)).attempts == 1
