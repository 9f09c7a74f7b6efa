"""The files of a batch, read: what came of each line, and what was asked. Pure.

Results come in any order, in two files; the custom id is the only way to tell whose they are.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from apwa_dask.models.outcomes import Retry, Verdict, classify
from apwa_dask.models.redact import safe_identifier, safe_words
from apwa_dask.models.types import OutcomeClass

__all__ = ["BatchLine", "read_lines", "read_prompts", "said_in"]

_NEVER_ASKED = frozenset({"batch_expired", "batch_cancelled"})


@dataclass(frozen=True, slots=True)
class BatchLine:
    """One line of a result file.

    Parameters
    ----------
    custom_id : str
    verdict : Verdict or None
        As of a live answer; None: the line was never worked on, because its batch ended before.
    size_bytes : int
        Of the answer's body.
    """

    custom_id: str
    verdict: Verdict | None
    size_bytes: int = 0


def read_lines(content: bytes, secrets: tuple[str, ...] = ()) -> Iterator[BatchLine]:
    """The lines of an output or error file, in any order; lines that name no request are left out."""
    for text in io.BytesIO(content):
        try:
            document = orjson.loads(text)
        except orjson.JSONDecodeError:
            continue
        if isinstance(document, dict) and isinstance(document.get("custom_id"), str):
            yield _line_of(document, secrets)


def read_prompts(content: bytes) -> dict[str, str]:
    """The bodies in an input file, by custom id."""
    lines = (orjson.loads(text) for text in io.BytesIO(content))
    return {line["custom_id"]: orjson.dumps(line["body"]).decode() for line in lines}


def said_in(body: str) -> list[str]:
    """What the user's messages of a request say."""
    contents = [m.get("content") for m in orjson.loads(body)["messages"] if m.get("role") == "user"]
    parts = [[content] if isinstance(content, str) else content or [] for content in contents]
    return [part if isinstance(part, str) else str(part.get("text", "")) for some in parts for part in some]


def _line_of(document: dict[str, Any], secrets: tuple[str, ...]) -> BatchLine:
    custom_id, response, error = document["custom_id"], document.get("response"), document.get("error")
    if isinstance(response, dict) and type(response.get("status_code")) is int:
        stated = response.get("body")
        body = b"" if stated is None else orjson.dumps(stated)
        return BatchLine(custom_id, classify(response["status_code"], {}, body, secrets=secrets), len(body))
    code = safe_identifier(error.get("code")) if isinstance(error, dict) else ""
    if code in _NEVER_ASKED:
        return BatchLine(custom_id, None)
    said = safe_words(str(error.get("message") or ""), secrets) if isinstance(error, dict) else ""
    words = ": ".join(part for part in (code, said) if part) or "the batch gave no answer to this request"
    return BatchLine(custom_id, Verdict(OutcomeClass.TRANSIENT, Retry.TRANSIENT, words=words))
