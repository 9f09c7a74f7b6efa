"""Token estimates, and requests as an endpoint takes them."""

from __future__ import annotations

from dataclasses import replace

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apwa_dask.models.adapt import Adaptation
from apwa_dask.models.model import Model
from apwa_dask.models.tokens import OutputEstimate, TokenRatio, estimate_tokens, guess_output_tokens
from apwa_dask.models.types import Message, Request, Template

SCHEMA = {"type": "object", "properties": {"severity": {"type": "integer"}, "why": {"type": "string"}}}


def test_output_starts_at_the_ceiling_and_is_then_learned() -> None:
    estimate = OutputEstimate(guess_output_tokens(SCHEMA, 500), 500)
    assert estimate.tokens == 500
    for tokens in [20, 30, 25, 28, 22, 26, 24, 25, 27, 23] * 5:
        estimate.observe(tokens)
    assert 27 <= estimate.tokens <= 60


@given(st.lists(st.integers(0, 300), min_size=8))
def test_the_estimate_never_passes_the_ceiling(lengths: list[int]) -> None:
    estimate = OutputEstimate(300, 300)
    for length in lengths:
        estimate.observe(length)
        assert 0 <= estimate.tokens <= 300


def test_the_estimate_is_high_enough_for_nearly_all_answers() -> None:
    import random

    rng = random.Random(0)
    estimate, short = OutputEstimate(400, 400), 0
    for _ in range(2000):
        length = min(400, int(rng.lognormvariate(4, 0.5)))
        short += length > estimate.tokens
        estimate.observe(length)
    assert short <= 0.08 * 2000


def test_a_schema_without_a_ceiling_gives_a_first_guess() -> None:
    assert 20 <= guess_output_tokens(SCHEMA, None) <= 400
    assert guess_output_tokens(None, None) == 1024
    assert guess_output_tokens({"type": "array", "items": SCHEMA}, None) > guess_output_tokens(SCHEMA, None)


def test_input_is_learned_from_what_the_endpoint_counts() -> None:
    ratio = TokenRatio()
    assert ratio.tokens(4000) == pytest.approx(1000, rel=0.01)
    for _ in range(200):
        ratio.observe(4000, 2000)
    assert ratio.tokens(4000) == pytest.approx(2000, rel=0.01)
    ratio.observe(4000, -5)
    ratio.observe(0, 5)
    assert ratio.tokens(4000) == pytest.approx(2000, rel=0.01)


def test_wide_characters_count_more() -> None:
    assert estimate_tokens("漢字" * 100) == 200
    assert estimate_tokens("word " * 100) == 125
    assert estimate_tokens("") == 0


# -- templates as the endpoint takes them


def template(**settings: object) -> Template:
    model = Model("m", **settings)  # type: ignore[arg-type]
    return Template(
        model, (Message("system", "Rate it."), Message("user", "e"), Message("assistant", "1")), SCHEMA
    )


def body(wired: Template) -> dict[str, object]:
    parsed: dict[str, object] = orjson.loads(Request(wired, (Message("user", "row"),)).body())
    return parsed


def test_the_way_down_has_two_steps_and_an_end() -> None:
    sent = template()
    first = Adaptation().after("structured", sent)
    assert first is not None
    assert body(first.applied(sent))["response_format"] == {"type": "json_object"}
    second = first.after("structured", first.applied(sent))
    assert second is not None
    assert "response_format" not in body(second.applied(sent))
    assert second.after("structured", second.applied(sent)) is None


def test_the_schema_is_put_into_words_once_and_the_examples_stay() -> None:
    adapted = Adaptation(structured="text").applied(template())
    assert [message.role for message in adapted.messages] == ["system", "user", "assistant"]
    assert str(adapted.messages[0].content).count("JSON schema") == 1
    assert '"severity"' in str(adapted.messages[0].content)


def test_a_call_that_was_under_way_takes_the_step_that_is_known() -> None:
    sent = template()
    known = Adaptation(structured="json_object")
    assert known.after("structured", sent) == known


def test_the_other_name_of_the_output_limit_is_tried_once() -> None:
    sent = replace(template(), max_output_tokens=50)
    changed = Adaptation().after("max_tokens", sent)
    assert changed is not None
    assert body(changed.applied(sent))["max_completion_tokens"] == 50
    assert changed.after("max_tokens", changed.applied(sent)) is None


def test_a_step_down_does_not_change_the_fingerprint_of_the_request() -> None:
    request = Request(template(), (Message("user", "row"),))
    before = request.fingerprint()
    Adaptation(structured="text").applied(request.template)
    assert request.fingerprint() == before


@pytest.mark.parametrize("tail", [(), (Message("user", "a"),), (Message("user", "a"), Message("user", "b"))])
def test_a_body_is_json_whatever_the_tail(tail: tuple[Message, ...]) -> None:
    wired = template()
    parsed = orjson.loads(Request(wired, tail).body())
    assert [m["content"] for m in parsed["messages"]] == [m.content for m in (*wired.messages, *tail)]


def test_bodies_of_one_template_share_their_first_bytes() -> None:
    """What a provider can cache: everything before the row."""
    wired = template()
    one, two = (Request(wired, (Message("user", text),)).body() for text in ("one", "two"))
    assert one.startswith(wired.prefix)
    assert two.startswith(wired.prefix)
    assert one.endswith(wired.suffix)
