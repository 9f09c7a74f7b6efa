"""From the model's text to typed values: what is read, what is refused, and that nothing ever raises."""

from __future__ import annotations

import datetime as dt
import json

import orjson
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apwa_dask.agents.answers import AnswerReader, Invalid, VerdictReader, parse
from apwa_dask.plans.schema import Schema

EVERYTHING = Schema.of(
    {
        "n": {"type": "integer", "minimum": 1, "maximum": 5},
        "x": "number?",
        "b": bool,
        "s": str,
        "label": {"labels": ["Very Good", "bad"]},
        "day": "date?",
        "moment": "datetime?",
        "tags": "list[string]",
        "who": {"type": "object", "fields": {"name": "string", "age": "integer?"}, "nullable": True},
    }
)
GOOD = {
    "n": 2, "x": 1.5, "b": True, "s": "text", "label": "bad", "day": "2024-01-05",
    "moment": "2024-01-05T06:07:08Z",
    "tags": ["a"], "who": {"name": "Ann", "age": None},
}  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def one(kind: object, value: object, **schema: object) -> object:
    """The value that one field of this type reads, or the reason it does not."""
    answer = parse(orjson.dumps({"f": value}).decode(), Schema.of({"f": kind}), **schema)
    return answer.reason if isinstance(answer, Invalid) else answer["f"]


def test_a_full_answer_is_typed_in_the_schemas_order():
    shuffled = dict(reversed(list(GOOD.items())))
    values = parse(orjson.dumps(shuffled).decode(), EVERYTHING)
    assert list(values) == list(EVERYTHING.names)
    assert values["day"] == dt.date(2024, 1, 5)
    assert values["moment"] == dt.datetime(2024, 1, 5, 6, 7, 8, tzinfo=dt.UTC)
    assert values["who"] == {"name": "Ann", "age": None}


@pytest.mark.parametrize(
    "text",
    [
        '```json\n{"n":2,"s":"a {b} c"}\n```',
        'Sure! Here is the answer:\n{"n": 2, "s": "a {b} c"}\nHope that helps {really}.',
        '<think>maybe {"n":1,"s":"no"}</think>{"n":2,"s":"a {b} c"}',
        '{"n":2,"s":"a {b} c"} {"n":3,"s":"later"}',
        'The schema is {"type":"object"}. {"n":2,"s":"a {b} c"}',
        '\ufeff{"n":2,"s":"a {b} c"}',
    ],
)
def test_json_is_found_in_fences_and_prose(text):
    assert parse(text, Schema.of({"n": int, "s": str})) == {"n": 2, "s": "a {b} c"}


@pytest.mark.parametrize(
    ("kind", "given_value", "value"),
    [
        ("integer", "3", 3),
        ("integer", 3.0, 3),
        ("integer", " +7 ", 7),
        ("number", "2.5", 2.5),
        ("number", 3, 3.0),
        ("number", "-1e3", -1000.0),
        ("boolean", "True", True),
        ("boolean", "no", False),
        ("string", 12, "12"),
        ("date", "2024-01-05T10:00:00", dt.date(2024, 1, 5)),
        ("date", "20240105", dt.date(2024, 1, 5)),
        ("datetime", "2024-01-05", dt.datetime(2024, 1, 5, tzinfo=dt.UTC)),
        ("datetime", "2024-01-05T01:00:00+01:00", dt.datetime(2024, 1, 5, tzinfo=dt.UTC)),
        ("integer?", None, None),
        ("integer?", "null", None),
        ("string?", "", None),
        ("string", "", ""),
        ("list[integer]", ["1", 2], [1, 2]),
        ({"labels": ["Very Good", "bad"]}, "very_good", "Very Good"),
        ({"labels": ["Very Good", "bad"]}, " BAD ", "bad"),
        ({"labels": ["a-b", "ab", "c"]}, "ab", "ab"),
    ],
    ids=repr,
)
def test_near_misses_are_coerced(kind, given_value, value):
    read = one(kind, given_value)
    assert (type(read), read) == (type(value), value)


@pytest.mark.parametrize(
    ("kind", "given_value"),
    [
        ("integer", 2.5),
        ("integer", True),
        ("integer", "three"),
        ("integer", 2**63),
        ("integer", None),
        ("integer", "9" * 19),
        ("integer", []),
        ("number", "nan"),
        ("number", "inf"),
        ("number", "1_000"),
        ("number", True),
        ("number", {}),
        ("boolean", 1),
        ("boolean", "maybe"),
        ("string", None),
        ("string", []),
        ("string", True),
        ("date", "05.01.2024"),
        ("date", 20240105),
        ("date", "2024-02-30"),
        ("datetime", "noon"),
        ("datetime", "0001-01-01T00:00:00+23:00"),
        ("list[integer]", "1,2"),
        ("list[integer]", [1, None]),
        ({"labels": ["good", "bad"]}, "goodish"),
        ({"labels": ["a b", "ab", "c"]}, "A-B"),
        ({"type": "integer", "minimum": 1}, 0),
        ({"type": "number", "maximum": 1.5}, 1.6),
        ({"type": "object", "fields": {"a": "string"}}, {"a": "x", "b": 1}),
        ({"type": "object", "fields": {"a": "string"}}, {}),
        ({"type": "object", "fields": {"a": "string"}}, ["a"]),
    ],
    ids=repr,
)
def test_what_does_not_fit_is_refused_with_the_fields_name(kind, given_value):
    reason = one(kind, given_value)
    assert isinstance(reason, str)
    assert reason.startswith(("f ", "item ", "the field"))


@pytest.mark.parametrize(
    "text", ['{"x": NaN}', '{"x": Infinity}', '{"x": -Infinity}', '{"x": 1e999}', '{"x": 1' + "0" * 400 + "}"]
)
def test_numbers_that_are_not_finite_are_refused(text):
    assert isinstance(parse(text, Schema.of({"x": float})), Invalid)


def test_fields_that_were_not_asked_for_are_refused_only_when_strict():
    text = '{"n":1,"extra":"row text"}'
    strict = parse(text, Schema.of({"n": int}))
    assert isinstance(strict, Invalid)
    assert "row text" not in strict.reason
    assert parse(text, Schema.of({"n": int}), strict=False) == {"n": 1}


def test_a_missing_field_is_null_only_where_null_is_allowed():
    assert parse('{"n":1}', Schema.of({"n": int, "s": "string?"})) == {"n": 1, "s": None}
    assert parse('{"n":1}', Schema.of({"n": int, "s": str, "t": str})) == Invalid(
        "the fields s, t must be given"
    )


def test_a_bare_value_stands_for_the_only_field():
    assert parse("true", Schema.of({"keep": bool})) == {"keep": True}
    assert parse("No.", Schema.of({"keep": bool})) == {"keep": False}
    assert parse("`Spam`", Schema.of({"kind": {"labels": ["spam", "ham"]}})) == {"kind": "spam"}
    assert isinstance(parse("I cannot say.", Schema.of({"s": str})), Invalid)


def test_lone_surrogates_in_an_answer_are_replaced():
    assert parse('{"s":"a\\ud800b"}', Schema.of({"s": str})) == {"s": "a\ufffdb"}


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 50_000, "{" * 300_000, "1" * 10_000, '{"n":' + "1" * 6_000 + "}"]
)
def test_hostile_texts_end_as_invalid(text):
    assert isinstance(parse(text, EVERYTHING), Invalid)


@given(st.text(st.characters()))
def test_no_text_raises(text):
    assert isinstance(parse(text, EVERYTHING), Invalid)


@given(JSON, st.booleans())
def test_no_json_raises_and_what_is_read_fits_arrow(value, strict):
    answer = parse(json.dumps(value), EVERYTHING, strict=strict)
    if not isinstance(answer, Invalid):
        pa.Table.from_pylist([answer], schema=EVERYTHING.arrow())


@given(st.fixed_dictionaries({name: JSON | st.just(GOOD[name]) for name in GOOD}))
def test_what_is_read_field_by_field_fits_arrow(value):
    answer = parse(json.dumps(value), EVERYTHING)
    if not isinstance(answer, Invalid):
        table = pa.Table.from_pylist([answer], schema=EVERYTHING.arrow())
        assert table.column_names == list(EVERYTHING.names)


@pytest.mark.parametrize("strict", [True, False])
def test_a_small_models_verdict_is_read_as_keep(strict):
    reader = VerdictReader(strict=strict)
    texts = ['{"answer":"yes"}', '{"answer":"No"}', "yes.", '{"keep":true}', '```{"keep": false}```']
    assert [reader.read(text)["keep"] for text in texts] == [True, False, True, True, False]
    assert isinstance(reader.read('{"answer":"perhaps"}'), Invalid)


def test_one_reader_serves_many_answers():
    reader = AnswerReader(Schema.of({"n": int}))
    assert [reader.read(f'{{"n":{n}}}') for n in range(3)] == [{"n": 0}, {"n": 1}, {"n": 2}]
