"""The body of a chat completion."""

from __future__ import annotations

from typing import Any

import orjson

from apwa_dask.testing.answers import Answer

__all__ = ["completion_body"]


def completion_body(
    answer: Answer, *, n: int, created: int, model: str, prompt_tokens: int | None, cached_tokens: int = 0
) -> bytes:
    """Encode an answer as an OpenAI chat completion.

    Parameters
    ----------
    answer : Answer
        What the model says.
    n : int
        Number of the call, which makes the ids.
    created : int
        Seconds since the epoch.
    model : str
        Model named in the response.
    prompt_tokens : int or None
        None leaves the usage out.
    cached_tokens : int
        Of those, read before.
    """
    message: dict[str, Any] = {"role": "assistant", "content": answer.content, "refusal": answer.refusal}
    if answer.tool_calls:
        message["tool_calls"] = [
            {
                "id": f"call_{n}_{i}",
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for i, call in enumerate(answer.tool_calls)
        ]
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": answer.finish_reason}
    document: dict[str, Any] = {
        "id": f"chatcmpl-{n}",
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": [choice],
        "system_fingerprint": "fp_scripted",
    }
    if prompt_tokens is not None:
        document["usage"] = {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": answer.tokens,
            "total_tokens": prompt_tokens + answer.tokens,
            "prompt_tokens_details": {"cached_tokens": cached_tokens},
        }
    return orjson.dumps(document)
