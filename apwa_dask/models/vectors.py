"""Vectors as they are stored: little-endian float32 in base64, as endpoints send them."""

from __future__ import annotations

import base64
import math
import struct

__all__ = ["MOST_TEXTS", "floats_of", "vector_text"]

MOST_TEXTS = 64
"""Of one request. Endpoints take from 32 (small servers) to 2,048; gains beyond some dozens are small."""


def vector_text(embedding: object) -> str:
    """One vector of an answer as its stored text, whether it came in base64 or as a list of numbers.

    Raises
    ------
    ValueError, TypeError
        It is neither, or empty, or holds a number that is not finite.

    Examples
    --------
    >>> vector_text([1.0, -2.0]) == vector_text("AACAPwAAAMA=")
    True
    """
    if isinstance(embedding, str):
        text = embedding.strip()
        floats_of(text)
        return text
    if not isinstance(embedding, list) or not embedding:
        raise ValueError("an embedding is a list of numbers, or base64")
    numbers = [float(number) for number in embedding]
    try:
        text = base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()
    except (OverflowError, struct.error) as error:
        raise ValueError("a number does not fit float32") from error
    floats_of(text)
    return text


def floats_of(text: str) -> bytes:
    """The bytes of a stored vector, little-endian float32.

    Raises
    ------
    ValueError
        The text is no vector.
    """
    data = base64.b64decode(text, validate=True)
    if not data or len(data) % 4:
        raise ValueError("a vector is one or more float32 numbers")
    if not math.isfinite(
        sum(struct.unpack(f"<{len(data) // 4}f", data))
    ):  # what is not finite stays so in a sum
        raise ValueError("a vector holds a number that is not finite")
    return data
