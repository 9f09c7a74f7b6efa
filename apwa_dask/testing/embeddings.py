"""Scripted vectors: texts that share parts of words are near one another, and equal texts are equal."""

from __future__ import annotations

import base64
import hashlib
import math
import re
import struct
from functools import lru_cache
from typing import Any

import orjson

from apwa_dask.testing.script import ChatRequest

__all__ = ["embeddings_body", "embeddings_request", "expected_vector"]

_WORD = re.compile(r"\w+")
_N = 3


def embeddings_request(body: dict[str, Any]) -> ChatRequest:
    """Read an embeddings body.

    Raises
    ------
    KeyError, TypeError, ValueError
        If `model` or `input` is missing or of a wrong type, or a text is empty.
    """
    model, texts = body["model"], texts_of(body)
    if not isinstance(model, str):
        raise ValueError("model must be a string")
    if not texts or not all(isinstance(text, str) and text for text in texts):
        raise ValueError("input must be texts that are not empty")
    prompt = "\n".join(texts)
    return ChatRequest(
        text=prompt, prompt=prompt, last=texts[-1], model=model, turn=0, schema=None, body=body
    )


def texts_of(body: dict[str, Any]) -> list[str]:
    """The texts of an embeddings body: one, or a list."""
    given = body["input"]
    return list(given) if isinstance(given, list) else [given]


@lru_cache(maxsize=4_096)
def expected_vector(text: str, dimensions: int = 64) -> tuple[float, ...]:
    """The unit vector that the server gives a text: its character 3-grams by signed feature hashing.

    Examples
    --------
    >>> expected_vector("Dune") == expected_vector("dune")
    True
    """
    sums = [0.0] * dimensions
    for word in _WORD.findall(text.casefold()):
        padded = f" {word} "
        for start in range(max(len(padded) - _N + 1, 1)):
            gram = padded[start : start + _N].encode("utf-8", "surrogatepass")
            number = int.from_bytes(hashlib.blake2b(gram, digest_size=8).digest(), "little")
            sums[(number >> 1) % dimensions] += 1.0 if number & 1 else -1.0
    norm = math.sqrt(sum(value * value for value in sums))
    if not norm:
        return (1.0, *sums[1:])
    return tuple(value / norm for value in sums)


def embeddings_body(asked: ChatRequest, *, dimensions: int, model: str, prompt_tokens: int | None) -> bytes:
    """Encode the vectors of a request as an OpenAI list of embeddings; in base64 where it asks for that."""
    in_base64 = asked.body.get("encoding_format") == "base64"
    data: list[dict[str, Any]] = []
    for index, text in enumerate(texts_of(asked.body)):
        vector = expected_vector(text, dimensions)
        packed = base64.b64encode(struct.pack(f"<{dimensions}f", *vector)).decode()
        data.append(
            {"object": "embedding", "index": index, "embedding": packed if in_base64 else list(vector)}
        )
    document: dict[str, Any] = {"object": "list", "data": data, "model": model}
    if prompt_tokens is not None:
        document["usage"] = {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens}
    return orjson.dumps(document)
