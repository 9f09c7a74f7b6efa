"""How many tokens a text or an answer will be: an estimate that observed usage corrects. No tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["OutputEstimate", "TokenRatio", "estimate_tokens", "guess_output_tokens"]

CHARACTERS_PER_TOKEN = 4.0
"""Of English prose; a common rule of thumb of providers."""

BYTES_PER_TOKEN_AT_MOST = 8.0
"""No text in use has fewer tokens than one for so many bytes: the bound for refusing without a call."""


def estimate_tokens(text: str) -> int:
    """Tokens of a text before anything was observed: four characters each in ASCII, about one each beyond it.

    Examples
    --------
    >>> estimate_tokens("abcdefgh"), estimate_tokens("\u6771\u4eac")
    (2, 2)
    """
    if text.isascii():
        return -(-len(text) // 4)
    wide = sum(c > "\u02ff" for c in text)
    return -(-(len(text) - wide) // 4) + wide


class TokenRatio:
    """Tokens for each byte of a request's body, learned per model (exponential average, one part in 32), and how far
    single requests are from it (mean deviation, one part in 16; Jacobson 1988).
    """

    def __init__(self, per_byte: float = 1 / CHARACTERS_PER_TOKEN) -> None:
        self.per_byte, self.deviation = per_byte, per_byte / 4
        self.observed = False

    def tokens(self, size_bytes: int) -> int:
        """Expected input tokens of a body."""
        return int(size_bytes * self.per_byte) + 1

    def tokens_at_most(self, size_bytes: int) -> int:
        """A high guess of them: two mean deviations more."""
        return int(size_bytes * (self.per_byte + 2 * self.deviation)) + 1

    def observe(self, size_bytes: int, tokens: int) -> None:
        """Learn from one answered request."""
        if size_bytes <= 0 or tokens <= 0:
            return
        seen = min(max(tokens / size_bytes, 0.01), 2.0)
        if not self.observed:
            self.per_byte, self.deviation, self.observed = seen, seen / 4, True
            return
        error = seen - self.per_byte
        self.per_byte += error / 32
        self.deviation += (abs(error) - self.deviation) / 16


class OutputEstimate:
    """A high guess of the tokens of the next answer of one contract.

    Starts at the ceiling (or a guess from the schema), and after `LEARNED_AFTER` answers is mean plus three
    mean deviations, both exponentially averaged (the estimator of TCP's retransmission time, Jacobson 1988).
    Never above the ceiling.
    """

    LEARNED_AFTER = 8

    def __init__(self, start: int, ceiling: int | None) -> None:
        self.start, self.ceiling = start, ceiling
        self.answers = 0
        self._mean = 0.0
        self._deviation = 0.0

    @property
    def tokens(self) -> int:
        """To reserve for the next answer."""
        if self.answers < self.LEARNED_AFTER:
            return self.start
        guess = int(self._mean + 3 * self._deviation) + 1
        return guess if self.ceiling is None else min(guess, self.ceiling)

    def reserved(self, *, most: bool) -> int:
        """To set aside of a limit: the mean, of which on average nothing comes back (what comes back late is lost to
        a bucket that was full meanwhile); or the most that there may be where that is known.
        """
        if most and self.ceiling is not None:
            return self.ceiling
        return self.start if self.answers < self.LEARNED_AFTER else int(self._mean) + 1

    def observe(self, tokens: int) -> None:
        """Learn from one answer."""
        self.answers += 1
        if self.answers == 1:
            self._mean, self._deviation = float(tokens), tokens / 2
            return
        error = tokens - self._mean
        self._mean += error / 8
        self._deviation += (abs(error) - self._deviation) / 4


def guess_output_tokens(schema: Mapping[str, Any] | None, ceiling: int | None) -> int:
    """What to reserve for a contract's first answers: its ceiling, or twice what its schema suggests."""
    if ceiling is not None:
        return ceiling
    return 1024 if schema is None else min(4096, 2 * _schema_tokens(schema, 0) + 16)


def _schema_tokens(schema: Mapping[str, Any], depth: int) -> int:
    if depth > 6:
        return 64
    if "enum" in schema:
        return max((estimate_tokens(str(v)) for v in schema["enum"]), default=1) + 2
    properties = schema.get("properties")
    if isinstance(properties, Mapping):
        return sum(estimate_tokens(name) + 3 + _schema_tokens(s, depth + 1) for name, s in properties.items())
    items = schema.get("items")
    if isinstance(items, Mapping):
        return 8 * _schema_tokens(items, depth + 1)
    kind = schema.get("type")
    if kind in ("integer", "number", "boolean", "null"):
        return 6
    return min(int(schema.get("maxLength", 256)) // 4 + 1, 64)
