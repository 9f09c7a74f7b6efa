"""Answers are a pure function of the script and the request: a test can compute what each row must get."""

from __future__ import annotations

import json
import string
from datetime import date, datetime, time, timedelta
from enum import Enum
from typing import Any, Literal
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import AnyUrl, BaseModel, Field, TypeAdapter

from apwa_dask.testing import ChatRequest, Rule, Script, ScriptedServer, count_tokens, expected_answer
from apwa_dask.testing.schema_values import SchemaNotScripted


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Part(BaseModel):
    name: str = Field(min_length=3, max_length=8)
    count: int = Field(ge=1, le=5)


class Wide(BaseModel):
    colour: Colour
    choice: Literal["a", "b", "c"]
    flag: bool
    maybe: int | None
    ratio: float = Field(gt=0, lt=1)
    parts: list[Part] = Field(min_length=2, max_length=4)
    tags: list[str]


class Tree(BaseModel):
    value: int
    children: list[Tree]


class Rows(BaseModel):
    class Item(BaseModel):
        row: int
        label: Literal["spam", "ham"]
        reason: str

    items: list[Item]


WIDE = Wide.model_json_schema()


def test_the_answer_of_the_server_is_the_answer_a_test_computes(scripted_server, post, label_schema) -> None:
    server = scripted_server()
    texts = [f"text {i}" for i in range(20)]
    answers = [got.content for got in post(server, *texts, schema=label_schema)]
    assert answers == [expected_answer(server.script, text, label_schema) for text in texts]
    assert len(set(answers)) == 20


def test_two_processes_and_a_thread_give_the_same_answers(post, label_schema) -> None:
    texts = ["one", "two", "drei", "日本"]
    seen = []
    for in_process in (False, False, True):
        with ScriptedServer(in_process=in_process) as server:
            seen.append([got.content for got in post(server, *texts, schema=label_schema)])
    assert seen[0] == seen[1] == seen[2]


@settings(max_examples=150, deadline=None)
@given(text=st.text(max_size=40))
def test_every_answer_fits_a_schema_made_by_pydantic(text: str) -> None:
    Wide.model_validate_json(expected_answer(Script(), text, WIDE))


@settings(max_examples=150, deadline=None)
@given(text=st.text(max_size=20), low=st.integers(-50, 50), span=st.integers(0, 30), step=st.integers(1, 7))
def test_integers_stay_within_bounds_or_the_schema_is_refused(
    text: str, low: int, span: int, step: int
) -> None:
    schema = {"type": "integer", "minimum": low, "maximum": low + span, "multipleOf": step}
    if not any(value % step == 0 for value in range(low, low + span + 1)):
        with pytest.raises(SchemaNotScripted, match="no integer"):
            expected_answer(Script(), text, schema)
        return
    value = json.loads(expected_answer(Script(), text, schema))
    assert low <= value <= low + span
    assert value % step == 0


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("date", date),
        ("time", time),
        ("date-time", datetime),
        ("duration", timedelta),
        ("uuid", UUID),
        ("uri", AnyUrl),
    ],
)
def test_strings_of_a_known_format_have_it(name: str, kind: type) -> None:
    for text in string.ascii_letters:
        TypeAdapter(kind).validate_json(expected_answer(Script(), text, {"type": "string", "format": name}))


def test_a_schema_that_contains_itself_ends() -> None:
    for text in string.ascii_letters:
        Tree.model_validate_json(expected_answer(Script(), text, Tree.model_json_schema()))


def test_a_pattern_is_refused_loudly_not_answered_wrongly(scripted_server, post) -> None:
    schema = {"type": "object", "properties": {"code": {"type": "string", "pattern": "^[A-Z]{3}$"}}}
    [got] = post(scripted_server(), "x", schema=schema)
    assert got.status == 500
    assert "pattern" in got.json["error"]["message"]
    with pytest.raises(SchemaNotScripted, match="pattern"):
        expected_answer(Script(), "x", schema)


@pytest.mark.parametrize(
    "prompt",
    [
        "Label each.\n[row 7] buy now\n[row 3] hello\n[row 12] ok",
        'Label each.\n{"row": 7, "text": "buy now"}\n{"row": 3, "text": "hello"}\n{"row": 12, "text": "ok"}',
        '<row id="7">buy now</row>\n<row id="3">hello</row>\n<row id="12">ok</row>',
        '[{"id": 7, "text": "buy now"}, {"id": 3, "text": "hello"}, {"id": 12, "text": "ok"}]',
        "Row 7: buy now\nRow 3: hello\nRow 12: ok",
    ],
)
def test_a_prompt_of_many_rows_gets_one_item_a_row(prompt: str) -> None:
    said = Rows.model_validate_json(expected_answer(Script(), prompt, Rows.model_json_schema()))
    assert [item.row for item in said.items] == [7, 3, 12]


def test_a_row_gets_the_same_values_whatever_its_neighbours() -> None:
    schema = Rows.model_json_schema()
    alone = json.loads(expected_answer(Script(), "[row 3] hello", schema))["items"][0]
    packed = json.loads(expected_answer(Script(), "[row 7] buy now\n[row 3] hello\n[row 9] ok", schema))[
        "items"
    ][1]
    assert alone == packed


def test_rows_listed_in_an_earlier_message_are_found() -> None:
    messages = [
        {"role": "system", "content": "[row 4] a\n[row 5] b"},
        {"role": "user", "content": "label them"},
    ]
    said = Rows.model_validate_json(expected_answer(Script(), messages, Rows.model_json_schema()))
    assert [item.row for item in said.items] == [4, 5]


def test_without_schema_the_answer_is_a_short_hash_and_json_object_is_json(scripted_server, post) -> None:
    server = scripted_server()
    [plain] = post(server, "hello")
    [as_object] = post(server, "hello", response_format={"type": "json_object"})
    assert plain.content == expected_answer(server.script, "hello")
    assert len(plain.content) == 12
    assert json.loads(as_object.content) == {"answer": plain.content}


def test_mapping_comes_before_rules_and_rules_before_the_hash(scripted_server, post) -> None:
    server = scripted_server(
        mapping={"exact": {"label": "from mapping"}},
        rules=(Rule("ex", "first rule"), Rule("e", {"label": "second rule"})),
    )
    said = [got.content for got in post(server, "exact", "exit", "hello", "no match is here?"[9:11])]
    assert said[:3] == ['{"label":"from mapping"}', "first rule", '{"label":"second rule"}']
    assert said[3] == expected_answer(Script(), "is")


def test_rules_can_ask_for_the_model_the_turn_and_the_last_message(scripted_server, post) -> None:
    server = scripted_server(
        rules=(
            Rule(".", "from the big one", model="big"),
            Rule("42", "the tool said 42", where="last", turn=1),
            Rule("system word", "saw the system", where="prompt"),
        )
    )
    question = {"role": "user", "content": "how many?"}
    call = {"role": "assistant", "content": None, "tool_calls": []}
    bodies: list[dict[str, Any]] = [
        {"model": "big", "messages": [question]},
        {
            "model": "small",
            "messages": [question, call, {"role": "tool", "tool_call_id": "c", "content": "42"}],
        },
        {"model": "small", "messages": [{"role": "system", "content": "system word"}, question]},
    ]
    assert [got.content for got in post(server, *bodies)] == [
        "from the big one",
        "the tool said 42",
        "saw the system",
    ]


def test_scripted_tool_calls_reach_the_client(scripted_server, post) -> None:
    calls = {"tool_calls": [{"name": "look_up", "arguments": {"id": 7}}, {"name": "stop"}]}
    server = scripted_server(rules=(Rule("weather", calls),))
    [got] = post(server, "weather?")
    choice = got.json["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert [c["function"] for c in choice["message"]["tool_calls"]] == [
        {"name": "look_up", "arguments": '{"id":7}'},
        {"name": "stop", "arguments": "{}"},
    ]
    assert server.log()[0].finish_reason == "tool_calls"


def test_a_forced_tool_is_called_with_arguments_that_fit_it(scripted_server, post) -> None:
    tools = [{"type": "function", "function": {"name": "save", "parameters": WIDE}}]
    choice = {"type": "function", "function": {"name": "save"}}
    [got] = post(scripted_server(), "text", tools=tools, tool_choice=choice)
    function = got.json["choices"][0]["message"]["tool_calls"][0]["function"]
    assert function["name"] == "save"
    Wide.model_validate_json(function["arguments"])


def test_echo_gives_the_text_back(scripted_server, post) -> None:
    [got] = post(scripted_server(answers="echo"), "say this")
    assert got.content == "say this"


def test_an_unknown_prompt_fails_loudly_where_asked_and_is_logged(scripted_server, post) -> None:
    server = scripted_server(answers="fail", mapping={"known": "yes"})
    known, unknown = post(server, "known", "unknown")
    assert (known.status, unknown.status) == (200, 500)
    assert "no rule" in unknown.json["error"]["message"]
    assert [call.fault for call in server.log()] == ["", "unmatched"]
    with pytest.raises(LookupError):
        expected_answer(server.script, "unknown")


def test_a_callable_answers_in_process_and_its_errors_are_heard(scripted_server, post) -> None:
    def shout(request: ChatRequest) -> str | None:
        if request.text == "boom":
            raise RuntimeError("the script is wrong")
        return request.text.upper() if request.text.startswith("shout") else None

    server = scripted_server(Script(respond=shout, answers="echo"), in_process=True)
    shouted, plain, broken = post(server, "shout it", "quietly", "boom")
    assert (shouted.content, plain.content) == ("SHOUT IT", "quietly")
    assert broken.status == 500
    assert "the script is wrong" in broken.json["error"]["message"]


def test_a_lower_token_limit_cuts_the_answer_and_says_length(scripted_server, post, label_schema) -> None:
    server = scripted_server()
    [cut] = post(server, "hello", schema=label_schema, max_completion_tokens=3)
    [whole] = post(server, "hello", schema=label_schema, max_tokens=1000)
    assert cut.json["choices"][0]["finish_reason"] == "length"
    assert cut.json["usage"]["completion_tokens"] == 3
    assert whole.content == expected_answer(server.script, "hello", label_schema)
    assert whole.content.startswith(cut.content)


def test_tokens_are_counted_as_the_public_rule_says(scripted_server, post) -> None:
    [got] = post(scripted_server(answers="echo"), "x" * 401)
    assert got.json["usage"]["prompt_tokens"] == count_tokens("x" * 401) == 101
    assert got.json["usage"]["completion_tokens"] == 101
