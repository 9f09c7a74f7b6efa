"""What the server answers: with the small model the structure, with the default model the sense too."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

import aiohttp
import pytest

from apwa_dask.models.local import CATALOGUE, DEFAULT_MODEL, LocalEndpoint, cached_weights, local_server

Schema = Mapping[str, Any]

SENTIMENT: Schema = {
    "type": "object",
    "properties": {"sentiment": {"type": "string", "enum": ["positive", "negative", "neutral"]}},
    "required": ["sentiment"],
    "additionalProperties": False,
}
ORDER: Schema = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "amount": {"type": "number"}, "paid": {"type": "boolean"}},
    "required": ["name", "amount", "paid"],
    "additionalProperties": False,
}


async def complete(
    endpoint: LocalEndpoint, messages: list[dict[str, str]], schema: Schema, max_tokens: int = 128
) -> dict[str, Any]:
    """One chat completion as the package's transport sends it."""
    body = {
        "model": endpoint.model_name,
        "messages": messages,
        "temperature": 0,
        "max_tokens": max_tokens,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": schema, "strict": True},
        },
    }
    headers = {"Authorization": f"Bearer {endpoint.api_key}"}
    timeout = aiohttp.ClientTimeout(total=240)
    async with (
        aiohttp.ClientSession(headers=headers, timeout=timeout) as session,
        session.post(f"{endpoint.base_url}/chat/completions", json=body) as answer,
    ):
        assert answer.status == 200, await answer.text()
        reply: dict[str, Any] = await answer.json()
        return reply


async def complete_all(
    endpoint: LocalEndpoint, prompts: list[list[dict[str, str]]], schema: Schema
) -> list[dict[str, Any]]:
    """Never more in flight than the server has slots."""
    free = asyncio.Semaphore(endpoint.slots)

    async def one(messages: list[dict[str, str]]) -> dict[str, Any]:
        async with free:
            return await complete(endpoint, messages, schema)

    return list(await asyncio.gather(*(one(messages) for messages in prompts)))


def content_of(reply: Mapping[str, Any]) -> Any:
    (choice,) = reply["choices"]
    assert choice["finish_reason"] == "stop"
    return json.loads(choice["message"]["content"])


@pytest.mark.local
def test_every_answer_fits_its_schema_with_all_slots_in_use(small: LocalEndpoint) -> None:
    prompts = [[{"role": "user", "content": f"Row {i}: the screen broke after {i} days."}] for i in range(8)]
    answers = [content_of(r) for r in asyncio.run(complete_all(small, prompts, SENTIMENT))]
    assert len(answers) == 8
    assert all(set(answer) == {"sentiment"} for answer in answers)
    assert {answer["sentiment"] for answer in answers} <= {"positive", "negative", "neutral"}


@pytest.mark.local
def test_typed_fields_come_back_typed(small: LocalEndpoint) -> None:
    prompts = [[{"role": "user", "content": "Ann Smith paid 12.50 for the tickets."}]]
    (answer,) = [content_of(r) for r in asyncio.run(complete_all(small, prompts, ORDER))]
    assert set(answer) == {"name", "amount", "paid"}
    assert isinstance(answer["name"], str)
    assert isinstance(answer["amount"], int | float)
    assert isinstance(answer["paid"], bool)


@pytest.mark.local
def test_an_answer_cut_off_says_so(small: LocalEndpoint) -> None:
    prompt = [{"role": "user", "content": "Ann Smith paid 12.50 for the tickets."}]
    reply = asyncio.run(complete(small, prompt, ORDER, max_tokens=3))
    assert reply["choices"][0]["finish_reason"] == "length"


@pytest.mark.local
def test_usage_counts_prompt_answer_and_the_cached_part(small: LocalEndpoint) -> None:
    prompt = [{"role": "user", "content": "The same words every time, a few of them, enough to be cached."}]
    usages = [asyncio.run(complete(small, prompt, SENTIMENT))["usage"] for _ in range(2)]
    assert usages[0]["prompt_tokens"] == usages[1]["prompt_tokens"] > 10
    assert usages[1]["total_tokens"] == usages[1]["prompt_tokens"] + usages[1]["completion_tokens"]
    assert usages[1]["prompt_tokens_details"]["cached_tokens"] > 0


@pytest.fixture(scope="module")
def default_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalEndpoint]:
    if cached_weights(CATALOGUE[DEFAULT_MODEL]) is None and not os.environ.get("APWA_TEST_LOCAL_ACCURACY"):
        pytest.skip("the 1.5B weights are not in the cache; APWA_TEST_LOCAL_ACCURACY=1 fetches them")
    pytest.importorskip("xllamacpp", reason="needs the extra `local`")
    with local_server(slots=4, grace_s=1.0) as endpoint:
        yield endpoint


FEELINGS = {
    "I love this phone, best purchase of the year!": "positive",
    "Broke after two days and support never answered.": "negative",
    "The parcel arrived on Tuesday.": "neutral",
    "Absolutely delighted with the quality, thank you!": "positive",
    "What a waste of money, I want a refund.": "negative",
    "The box contains a cable and a manual.": "neutral",
    "Great battery, lovely screen, would buy again.": "positive",
    "The worst hotel I have ever stayed in, dirty and loud.": "negative",
}

ORDERS = {
    "Paid in full: Ann Smith, $12.50 for two tickets.": {"name": "Ann Smith", "amount": 12.5, "paid": True},
    "Reminder: Bob Lee still owes us 300 euros.": {"name": "Bob Lee", "amount": 300, "paid": False},
    "We received 45.20 from Carla Diaz, many thanks.": {"name": "Carla Diaz", "amount": 45.2, "paid": True},
    "Invoice for Dan Wu over 99 dollars is unpaid.": {"name": "Dan Wu", "amount": 99, "paid": False},
}

ORDER_EXAMPLES = [
    {"role": "user", "content": "Eve Moss has settled her bill of $7.10."},
    {"role": "assistant", "content": '{"name":"Eve Moss","amount":7.1,"paid":true}'},
    {"role": "user", "content": "Fay King has not transferred the 80 euros yet."},
    {"role": "assistant", "content": '{"name":"Fay King","amount":80,"paid":false}'},
]


@pytest.mark.local_accuracy
@pytest.mark.timeout(600)
def test_the_default_model_is_right_on_four_rows_of_five(default_model: LocalEndpoint) -> None:
    say = {
        "role": "system",
        "content": "Classify the sentiment of the text: positive, negative, or neutral (a plain fact).",
    }
    prompts = [[say, {"role": "user", "content": text}] for text in FEELINGS]
    feelings = [content_of(r) for r in asyncio.run(complete_all(default_model, prompts, SENTIMENT))]
    say = {"role": "system", "content": "Extract who pays, the amount, and whether it has been paid."}
    prompts = [[say, *ORDER_EXAMPLES, {"role": "user", "content": text}] for text in ORDERS]
    orders = [content_of(r) for r in asyncio.run(complete_all(default_model, prompts, ORDER))]
    right = [answer["sentiment"] == gold for answer, gold in zip(feelings, FEELINGS.values(), strict=True)]
    right += [answer == gold for answer, gold in zip(orders, ORDERS.values(), strict=True)]
    assert len(right) == 12
    assert sum(right) / len(right) >= 0.8, (feelings, orders)
