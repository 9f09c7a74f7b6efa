"""Requests for embeddings: the same on every transport, read in both encodings, and never paid as output."""

from __future__ import annotations

import asyncio
import struct
from typing import Any

import orjson
import pytest

from apwa_dask.models.http1 import Http1Transport
from apwa_dask.models.model import Model
from apwa_dask.models.outcomes import Retry, classify
from apwa_dask.models.sdk import SdkTransport
from apwa_dask.models.transport import AiohttpTransport
from apwa_dask.models.types import Message, OutcomeClass, Request, Template
from apwa_dask.models.vectors import floats_of, vector_text
from apwa_dask.testing import ScriptedServer
from apwa_dask.testing.embeddings import expected_vector

TEXTS = ("naïve 漢字", "Dune")
TEMPLATE = Template(Model("vectors", extra={"dimensions": 64}, temperature=0.5), (), kind="embeddings")


def request(template: Template = TEMPLATE, texts: tuple[str, ...] = TEXTS) -> Request:
    return Request(template, tuple(Message("user", text) for text in texts))


def numbers(text: str) -> list[float]:
    data = floats_of(text)
    return list(struct.unpack(f"<{len(data) // 4}f", data))


@pytest.mark.parametrize("kind", [Http1Transport, AiohttpTransport, SdkTransport])
def test_every_transport_brings_the_vectors_in_the_order_of_the_texts(kind: Any) -> None:
    async def once(base_url: str) -> Any:
        transport = kind(base_url, "sk-any")
        try:
            return await transport.post_embeddings(request().body(), 5.0)
        finally:
            await transport.close()

    with ScriptedServer(in_process=True) as server:
        raw = asyncio.run(once(server.base_url))
        (call,) = server.log()

    assert call.path == "/v1/embeddings"
    assert call.body["input"] == list(TEXTS)
    assert call.body["dimensions"] == 64
    verdict = classify(raw.status, raw.headers, raw.body, raw.trouble)
    assert verdict.outcome is OutcomeClass.OK
    assert verdict.completion is not None
    found = [numbers(text) for text in (verdict.completion.text or "").split("\n")]
    assert found == [pytest.approx(expected_vector(text)) for text in TEXTS]
    assert verdict.completion.usage is not None
    assert verdict.completion.usage.output == 0


def test_the_body_has_texts_alone_and_no_parameter_of_an_answer() -> None:
    body = orjson.loads(request().body())
    assert body == {"model": "vectors", "input": list(TEXTS), "encoding_format": "base64", "dimensions": 64}


def test_the_same_text_asked_of_a_chat_is_another_request() -> None:
    chat = Template(TEMPLATE.model, ())
    assert request(chat, ("Dune",)).fingerprint() != request(texts=("Dune",)).fingerprint()


def test_lists_of_numbers_and_base64_are_one_vector_and_places_count_not_order() -> None:
    data = [{"index": 1, "embedding": [0.5, 2.0]}, {"index": 0, "embedding": vector_text([1.0, -2.0])}]
    verdict = classify(200, {}, orjson.dumps({"data": data, "model": "v"}))
    assert verdict.completion is not None
    assert [numbers(text) for text in (verdict.completion.text or "").split("\n")] == [
        [1.0, -2.0],
        [0.5, 2.0],
    ]


@pytest.mark.parametrize(
    "data",
    [[], [{"index": 0}], [{"index": 0, "embedding": []}], [{"index": 0, "embedding": "AAA"}], [{"embedding": [1.0]}],
     [{"index": 0, "embedding": ["x"]}], [{"index": 0, "embedding": "AACAfw=="}], [{"index": 0, "embedding": [1e300]}]],
)  # fmt: skip
def test_an_answer_without_vectors_is_asked_for_again(data: list[Any]) -> None:
    verdict = classify(200, {}, orjson.dumps({"data": data, "usage": {"prompt_tokens": 3}}))
    assert (verdict.outcome, verdict.retry) == (OutcomeClass.INVALID_OUTPUT, Retry.REASK)
