"""Cells on their way to a prompt: nulls never spelled, text literal, numbers and dates in one spelling."""

from __future__ import annotations

import datetime as dt
import decimal

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apwa_dask.agents.clean import MAX_MEDIA_BYTES, BadInput, cell_text, clean_text, media_part
from apwa_dask.models.types import OutcomeClass

NOTHING = [
    None,
    float("nan"),
    np.nan,
    np.float32("nan"),
    pd.NA,
    pd.NaT,
    np.datetime64("NaT"),
    np.timedelta64("NaT"),
    decimal.Decimal("NaN"),
    "",
    " \t\n",
    "\u200b\ufeff",
    "\u3000\xa0",
    "\0",
    b"",
    [],
    {},
    [None, ""],
    {"a": None},
    np.array([]),
    np.array([np.nan]),
]
PNG = b"\x89PNG\r\n\x1a\n" + b"\x00\x01" * 10


@pytest.mark.parametrize("value", NOTHING, ids=repr)
def test_nothing_is_missing_whatever_its_dtype(value):
    assert cell_text(value) is None


@pytest.mark.parametrize("value", NOTHING, ids=repr)
def test_a_row_of_nothing_is_bad_input_without_a_call(kit, value):
    conversation = kit.agent().begin({"text": value})
    assert conversation.request is None
    assert conversation.outcome.outcome is OutcomeClass.BAD_INPUT
    assert conversation.outcome.calls == 0


@pytest.mark.parametrize("value", NOTHING, ids=repr)
def test_a_null_beside_text_is_named_and_never_spelled(kit, value):
    conversation = kit.agent(inputs=["title", "text", "stars"]).begin(
        {"title": "Lamp", "text": value, "stars": value}
    )
    content = conversation.request.tail[0].content
    assert content == "title: Lamp\n\nNot given: text, stars"


def test_a_column_that_the_row_lacks_is_missing(kit):
    content = kit.agent(inputs=["title", "text"]).begin({"text": "It broke."}).request.tail[0].content
    assert content == "text: It broke.\n\nNot given: title"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3, "3"),
        (3.0, "3"),
        (np.int8(3), "3"),
        (np.float64(3.0), "3"),
        (2.5, "2.5"),
        (1e300, "1e+300"),
        (np.float32(0.5), "0.5"),
        (10**30, str(10**30)),
        (True, "true"),
        (np.bool_(False), "false"),
        (float("inf"), "infinity"),
        (decimal.Decimal("1.10"), "1.10"),
        (dt.date(2024, 1, 5), "2024-01-05"),
        (dt.datetime(2024, 1, 5, 6, 7), "2024-01-05T06:07:00"),
        (pd.Timestamp("2024-01-05"), "2024-01-05T00:00:00"),
        (np.datetime64("2024-01-05"), "2024-01-05"),
        (["a", None, 1.0], '["a",null,1]'),
        ({"k": {"n": 1}}, '{"k":{"n":1}}'),
        (np.array([1, 2]), "[1,2]"),
        pytest.param({"b", "a"}, '["a","b"]', id="a set: the same name in every process"),
        (b"bytes of text", "bytes of text"),
        ("nan", "nan"),
    ],
    ids=lambda value: repr(sorted(value) if isinstance(value, set) else value),
)
def test_values_have_one_spelling(value, text):
    assert cell_text(value) == text


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0")))
def test_valid_text_is_kept_literally(text):
    assert clean_text(text) == text


@given(st.text(st.characters(min_codepoint=0, max_codepoint=0x10FFFF)))
def test_any_text_becomes_encodable_and_only_bad_characters_change(text):
    cleaned = clean_text(text)
    cleaned.encode()
    assert "\0" not in cleaned
    pairs_joined = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    assert cleaned == pairs_joined.replace("\0", "\ufffd")


def test_a_lone_surrogate_spoils_itself_only():
    assert clean_text("a\ud800b\udc00") == "a\ufffdb\ufffd"


def test_an_image_becomes_a_data_url_beside_the_text(kit):
    conversation = kit.agent(inputs=["title", "photo"]).begin({"title": "Lamp", "photo": PNG})
    words, image = conversation.request.tail[0].content
    assert words == {"type": "text", "text": "title: Lamp\nphoto: image 1"}
    assert image["image_url"]["url"].startswith("data:image/png;base64,iVBORw0KGgo")
    assert b"data:image/png" in conversation.request.body()


def test_an_image_given_as_a_mapping_of_bytes_is_an_image(kit):
    conversation = kit.agent(inputs=["photo"]).begin({"photo": {"bytes": PNG, "path": "a.png"}})
    assert conversation.request.tail[0].content[0] == {"type": "text", "text": "photo: image 1"}


def test_unknown_and_oversized_binaries_make_no_call(kit):
    for cell, outcome in ((b"\x00\xff" * 9, "bad_input"), (PNG + b"\0" * MAX_MEDIA_BYTES, "too_large")):
        conversation = kit.agent(inputs=["photo"]).begin({"photo": cell})
        assert (conversation.outcome.outcome, conversation.outcome.calls) == (outcome, 0)
    assert isinstance(media_part(b"RIFF0000AVI \x00"), BadInput)


def nested(depth):
    value = ["a"]
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "cell", [nested(300), nested(5_000), 10**5_000, [b"\xff"]], ids=["deep", "deeper", "long", "bytes"]
)
@pytest.mark.parametrize("unit", ["row", "partition"])
def test_a_cell_that_cannot_be_written_is_one_rows_failure(kit, cell, unit):
    conversations = kit.agent(unit=unit).begin_many([{"text": "a"}, {"text": cell}])
    outcomes = {n: outcome for conversation in conversations for n, outcome in conversation.outcomes.items()}
    assert {n: outcome.outcome for n, outcome in outcomes.items()} == {1: OutcomeClass.BAD_INPUT}
    assert len(conversations) == 2
