"""The shape of answers as a grammar: only what was tried, and as few tokens as it takes."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any, Literal

import aiohttp
import pydantic
import pytest

from apwa_dask.models.local import LocalEndpoint
from apwa_dask.models.local.grammar import answer_format, compact_grammar


class Sort(pydantic.BaseModel):
    op: Literal["sort"]
    by: Literal["price", "date"]


class Limit(pydantic.BaseModel):
    op: Literal["limit"]
    n: int = pydantic.Field(ge=1, le=9)


class Plan(pydantic.BaseModel):
    """A discriminated union in a list: what a planner asks for."""

    steps: list[Sort | Limit] = pydantic.Field(min_length=1, max_length=2)


class Complaint(pydantic.BaseModel):
    severity: int = pydantic.Field(ge=1, le=5)
    product: Annotated[str, pydantic.Field(max_length=20)] | None
    kind: Literal["late", "broken", "other"]
    day: str = pydantic.Field(pattern=r"^2024-[0-9]{2}-[0-9]{2}$")
    when: Literal[1]
    pairs: list[list[bool]] = pydantic.Field(min_length=1, max_length=2)
    words: list[Annotated[str, pydantic.Field(max_length=8)]] = pydantic.Field(max_length=2)


@pytest.mark.parametrize(
    "beyond",
    [
        {"not": {"type": "null"}},
        {"type": "array", "items": {"enum": [1, 2]}, "uniqueItems": True},
        {"type": "object", "properties": {"x": {"type": "object", "if": {}, "then": {}}}},
        {"type": "string", "pattern": "^(?!a)"},
        {"type": "string", "format": "regex"},
        {"type": "object", "patternProperties": {"^a": {"type": "string"}}},
        {"anyOf": [{"type": "string"}], "oneOf": [{"type": "string"}]},
        {"type": "array", "items": True},
    ],
)
def test_what_was_not_tried_is_sent_as_response_format(beyond: dict[str, Any]) -> None:
    assert answer_format(beyond) == {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": beyond, "strict": True},
        }
    }


def test_words_for_people_are_left_out_of_the_grammar() -> None:
    said = {"type": "string", "title": "T", "description": "D", "default": "x", "examples": ["y"]}
    schema = {"type": "object", "properties": {"title": said}}
    grammar = compact_grammar(schema)
    assert grammar is not None
    root = json.loads(grammar.partition("%json ")[2])
    assert root["properties"] == {"title": {"type": "string"}}


def test_the_callers_schema_is_left_as_it_is() -> None:
    schema = Plan.model_json_schema()
    before = json.dumps(schema)
    assert "grammar" in answer_format(schema)
    assert json.dumps(schema) == before


async def answers(endpoint: LocalEndpoint, fields: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """Ask `count` different questions, warm enough that a grammar that was dropped would show."""
    headers = {"Authorization": f"Bearer {endpoint.api_key}"}
    async with aiohttp.ClientSession(headers=headers) as session:

        async def one(number: int) -> dict[str, Any]:
            message = {"role": "user", "content": f"Tell me a story about {number} screens that broke."}
            body = {"messages": [message], "max_tokens": 300, "temperature": 1.0, "seed": number, **fields}
            async with session.post(f"{endpoint.base_url}/chat/completions", json=body) as answer:
                assert answer.status == 200, await answer.text()
                reply: dict[str, Any] = await answer.json()
                return reply

        return list(await asyncio.gather(*(one(number) for number in range(count))))


@pytest.mark.local
@pytest.mark.parametrize("model", [Plan, Complaint])
def test_answers_fit_the_model_and_stay_on_one_line(
    small: LocalEndpoint, model: type[pydantic.BaseModel]
) -> None:
    fields = answer_format(model.model_json_schema())
    assert "grammar" in fields
    for reply in asyncio.run(answers(small, fields, 4)):
        text = reply["choices"][0]["message"]["content"]
        model.model_validate_json(text)
        assert "\n" not in text


@pytest.mark.local
def test_a_label_costs_fewer_tokens_than_with_response_format(small: LocalEndpoint) -> None:
    schema = {
        "type": "object",
        "properties": {"label": {"enum": ["late", "broken"]}},
        "required": ["label"],
        "additionalProperties": False,
    }
    plain = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
    compact = asyncio.run(answers(small, answer_format(schema), 1))
    fenced = asyncio.run(answers(small, {"response_format": plain}, 1))
    assert compact[0]["usage"]["completion_tokens"] < fenced[0]["usage"]["completion_tokens"]
