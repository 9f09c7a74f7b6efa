"""From request lines to the input files of batches: each request once, each file within the limits. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from apwa_dask.execution.batch_asks import Ask
from apwa_dask.execution.batch_jobs import Shard
from apwa_dask.models.batch_terms import BatchTerms
from apwa_dask.models.leases import Money
from apwa_dask.models.model import Price
from apwa_dask.models.tokens import CHARACTERS_PER_TOKEN

__all__ = ["ShardDraft", "prompt_tokens", "reservation"]

BYTES_PER_TOKEN_AT_LEAST = 2.0
"""For reserving: prose has four and more bytes a token, most scripts three, so this is nearly always too much."""


def prompt_tokens(ask: Ask) -> int:
    """Estimated prompt tokens of a request."""
    return int(len(ask.body) / CHARACTERS_PER_TOKEN) + 1


def reservation(ask: Ask, price: Price | None) -> Money:
    """What a request may come to at most: nothing is learned before a whole batch is out, so the ceiling counts."""
    tokens_in = int(len(ask.body) / BYTES_PER_TOKEN_AT_LEAST) + 1
    usd = 0.0 if price is None else price.in_batches.cost_usd(tokens_in, ask.output_tokens)
    return Money(usd, tokens_in + ask.output_tokens, 1)


@dataclass
class ShardDraft:
    """An input file under way, for one model."""

    model: str
    stage: int
    terms: BatchTerms
    max_tokens: int | None = None
    asks: list[Ask] = field(default_factory=list)
    reserved: Money = field(default_factory=Money)
    size_bytes: int = 0
    tokens: int = 0

    def has_room(self, ask: Ask) -> bool:
        """Whether the request fits beside the others; the first one always does."""
        if not self.asks:
            return True
        return (
            len(self.asks) < self.terms.max_requests
            and self.size_bytes + ask.line_bytes <= self.terms.max_bytes
            and (self.max_tokens is None or self.tokens + prompt_tokens(ask) <= self.max_tokens)
        )

    def add(self, ask: Ask, reserved: Money) -> None:
        self.asks.append(ask)
        self.reserved += reserved
        self.size_bytes += ask.line_bytes
        self.tokens += prompt_tokens(ask)

    def shard(self, run_id: str) -> Shard:
        """What is remembered of it; its number comes later."""
        return Shard(
            "",
            run_id,
            self.model,
            self.stage,
            tuple(ask.key.hex() for ask in self.asks),
            tuple(ask.owner for ask in self.asks),
            tuple(ask.step for ask in self.asks),
            self.tokens,
            self.reserved,
        )

    def lines(self) -> Iterator[bytes]:
        """The input file."""
        return (ask.line for ask in self.asks)
