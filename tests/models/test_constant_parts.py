"""What all rows of a step share, its instruction and its schema, is written as JSON once for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from apwa_dask.models import adapt, types
from apwa_dask.models.client import Client
from apwa_dask.models.endpoints import Endpoints
from apwa_dask.models.model import Model
from apwa_dask.models.transport import Raw
from apwa_dask.models.types import Message, OutcomeClass, Purpose, Reply, Request, Template

Virtual = Callable[..., Any]
MODEL = Model("m", base_url="http://127.0.0.1:9/v1", api_key_env="", max_concurrency=8)
INSTRUCTION = "the words that all rows share"
SCHEMA = {"type": "object", "properties": {"what_all_rows_are_asked": {"type": "integer"}}}
CONSTANTS = (INSTRUCTION.encode(), b"what_all_rows_are_asked")
ANSWER = {
    "message": {"role": "assistant", "content": '{"what_all_rows_are_asked": 1}'},
    "finish_reason": "stop",
}


class Endpoint:
    """Answers all; without `schemas` it declines those that come with a JSON schema."""

    def __init__(self, *, schemas: bool) -> None:
        self.schemas = schemas
        self.bodies: list[bytes] = []

    async def post(self, body: bytes, timeout_s: float) -> Raw:
        self.bodies.append(body)
        await asyncio.sleep(0.01)
        if not self.schemas and b'"json_schema"' in body:
            words = "response_format of type json_schema is not supported"
            return Raw(400, {}, orjson.dumps({"error": {"message": words, "param": "response_format"}}))
        return Raw(200, {}, orjson.dumps({"choices": [ANSWER], "model": "m"}))

    async def get_models(self, timeout_s: float) -> Raw:
        return Raw(404, {}, b"")

    async def close(self) -> None:
        return None


async def asked(endpoint: Endpoint, rows: int) -> list[Reply]:
    endpoints = Endpoints(environ={})
    lane = await endpoints.lane(MODEL)
    await lane.transport.close()
    lane.transport = endpoint
    client = Client(endpoints)
    template = Template(MODEL, (Message("system", INSTRUCTION),), SCHEMA)
    requests = [Request(template, (Message("user", f"row {k}"),)) for k in range(rows)]
    replies = await asyncio.gather(*(client.call(request, Purpose()) for request in requests))
    await endpoints.close()
    return replies


@pytest.fixture
def encodings(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Every JSON text written with something in it that all rows share."""
    seen: list[bytes] = []

    def dumps(value: Any, *args: Any, **options: Any) -> bytes:
        text = orjson.dumps(value, *args, **options)
        if any(constant in text for constant in CONSTANTS):
            seen.append(text)
        return text

    for module in (types, adapt):
        monkeypatch.setattr(module, "orjson", SimpleNamespace(**{**vars(orjson), "dumps": dumps}))
    return seen


@pytest.mark.parametrize(
    ("schemas", "once"),
    [
        pytest.param(True, 2, id="instruction and schema"),
        # and then the schema in words, and the instruction with these words
        pytest.param(False, 4, id="after the endpoint declined the schema"),
    ],
)
def test_what_all_rows_share_is_encoded_once(
    virtual_time: Virtual, encodings: list[bytes], schemas: bool, once: int
) -> None:
    endpoint = Endpoint(schemas=schemas)
    replies = virtual_time(asked(endpoint, 100))
    assert {reply.outcome for reply in replies} == {OutcomeClass.OK}
    assert all(constant in body for body in endpoint.bodies for constant in CONSTANTS)
    assert len(endpoint.bodies) == 100 + (not schemas)
    assert len(encodings) == len(set(encodings)) == once
