"""The official client sees what it sees from a real endpoint: parsed answers and typed errors."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel, ValidationError

from apwa_dask.testing import Fault, Rule, Script, ScriptedServer, expected_answer


class Label(BaseModel):
    label: Literal["spam", "ham"]
    reason: str


def ask(server: ScriptedServer, work: Callable[[openai.AsyncOpenAI], Awaitable[Any]], **options: Any) -> Any:
    async def run() -> Any:
        settings = {"api_key": "sk-test", "max_retries": 0, "timeout": 10.0, **options}
        async with openai.AsyncOpenAI(base_url=server.base_url, **settings) as client:
            return await work(client)

    return asyncio.run(run())


def create(client: openai.AsyncOpenAI) -> Awaitable[Any]:
    return client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hello"}])


def parse(client: openai.AsyncOpenAI) -> Awaitable[Any]:
    messages: Any = [{"role": "user", "content": "hello"}]
    return client.chat.completions.parse(model="m", messages=messages, response_format=Label)


def test_create_and_models(scripted_server) -> None:
    server = scripted_server(answers="echo", models=("m",))
    said = ask(server, create)
    assert (said.choices[0].message.content, said.model, said.usage.total_tokens) == ("hello", "m", 4)

    async def listed(client: openai.AsyncOpenAI) -> list[str]:
        return [model.id async for model in client.models.list()]

    assert ask(server, listed) == ["m"]


def test_parse_gives_the_expected_model(scripted_server) -> None:
    server = scripted_server()
    said = ask(server, parse)
    sent = server.log()[0].body["response_format"]["json_schema"]["schema"]
    assert said.choices[0].message.parsed == Label(
        **json.loads(expected_answer(server.script, "hello", sent))
    )


def test_tool_calls(scripted_server) -> None:
    server = scripted_server(rules=(Rule("hello", {"tool_calls": [{"name": "f", "arguments": {"a": 1}}]}),))
    [call] = ask(server, create).choices[0].message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("f", {"a": 1})


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault("status", status=400), openai.BadRequestError),
        (Fault("status", status=401), openai.AuthenticationError),
        (Fault("status", status=403), openai.PermissionDeniedError),
        (Fault("status", status=404), openai.NotFoundError),
        (Fault("status", status=409), openai.ConflictError),
        (Fault("status", status=429), openai.RateLimitError),
        (Fault("insufficient_quota"), openai.RateLimitError),
        (Fault("status", status=500), openai.InternalServerError),
        (Fault("status", status=529), openai.InternalServerError),
        (Fault("reset"), openai.APIConnectionError),
        (Fault("short_body"), openai.APIConnectionError),
        (Fault("disconnect"), openai.APIConnectionError),
        (Fault("empty_body"), json.JSONDecodeError),
        (Fault("broken_json"), json.JSONDecodeError),
    ],
)
def test_faults_become_typed_errors(scripted_server, fault, error) -> None:
    with pytest.raises(error):
        ask(scripted_server(faults=(fault,)), create)


def test_a_hang_becomes_a_timeout(scripted_server) -> None:
    with pytest.raises(openai.APITimeoutError):
        ask(scripted_server(faults=(Fault("hang"),)), create, timeout=0.3)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault("length"), openai.LengthFinishReasonError),
        (Fault("content_filter_finish"), openai.ContentFilterFinishReasonError),
        (Fault("wrong_enum"), ValidationError),
    ],
)
def test_parse_raises_for_answers_that_do_not_fit(scripted_server, fault, error) -> None:
    with pytest.raises(error):
        ask(scripted_server(faults=(fault,)), parse)


def test_a_refusal_is_no_exception_but_is_set(scripted_server) -> None:
    message = ask(scripted_server(faults=(Fault("refusal"),)), parse).choices[0].message
    assert message.parsed is None
    assert message.refusal


def test_a_page_in_a_200_comes_back_as_a_string(scripted_server) -> None:
    assert isinstance(ask(scripted_server(faults=(Fault("html_200"),)), create), str)


def test_the_clients_own_retries_are_seen_in_the_log(scripted_server) -> None:
    fault = Fault("status", status=429, times=2, headers={"retry-after-ms": "1"})
    server = scripted_server(Script(faults=(fault,)))
    ask(server, create, max_retries=2)
    assert [(call.status, call.retry_count) for call in server.log()] == [(429, 0), (429, 1), (200, 2)]


def test_should_retry_contradicts_the_status_and_is_obeyed(scripted_server) -> None:
    faults = (Fault("status", status=400, should_retry=True, headers={"retry-after-ms": "1"}),)
    server = scripted_server(faults=faults)
    with pytest.raises(openai.BadRequestError):
        ask(server, create, max_retries=2)
    assert server.calls == 3
    server = scripted_server(faults=(Fault("status", status=500, should_retry=False),))
    with pytest.raises(openai.InternalServerError):
        ask(server, create, max_retries=2)
    assert server.calls == 1
