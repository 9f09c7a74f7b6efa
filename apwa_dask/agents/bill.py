"""`Bill`: the sum over the calls of one unit, and its division among the rows that shared a call."""

from __future__ import annotations

from dataclasses import dataclass, replace

from apwa_dask.agents.outcome import Outcome, OutcomeSource
from apwa_dask.models.types import NO_USAGE, Reply, Usage

__all__ = ["Bill"]

_RANK: tuple[OutcomeSource, ...] = ("none", "journal", "shared", "live")


@dataclass(slots=True)
class Bill:
    """Running totals. ``cost_usd`` is None from the first call of unknown price on."""

    usage: Usage = NO_USAGE
    cost_usd: float | None = 0.0
    attempts: int = 0
    calls: int = 0
    latency_s: float = 0.0
    source: OutcomeSource = "none"
    request_id: str = ""
    model: str = ""

    def add(self, reply: Reply) -> None:
        """Enter one reply."""
        if not self.calls:  # of most units the only one
            self.usage, self.cost_usd, self.attempts = reply.usage, reply.cost_usd, reply.attempts
            self.calls, self.latency_s, self.source = 1, reply.latency_s, reply.source
            self.request_id, self.model = reply.request_id, reply.model
            return
        self.usage = self.usage + reply.usage
        self.cost_usd = _sum(self.cost_usd, reply.cost_usd)
        self.attempts += reply.attempts
        self.calls += 1
        self.latency_s += reply.latency_s
        self.source = _stronger(self.source, reply.source)
        self.request_id = reply.request_id or self.request_id
        self.model = reply.model or self.model

    def shares(self, rows: int) -> list[Bill]:
        """This bill divided among `rows` rows; the shares add up to it. The first carries the counts."""
        usage = self.usage
        columns = [_split(count, rows) for count in (usage.input, usage.output, usage.cached)]
        cost = None if self.cost_usd is None else self.cost_usd / rows
        return [
            replace(
                self,
                usage=Usage(into, out, cached, usage.estimated),
                cost_usd=cost,
                attempts=self.attempts if row == 0 else 0,
                calls=self.calls if row == 0 else 0,
            )
            for row, (into, out, cached) in enumerate(zip(*columns, strict=True))
        ]

    def added_to(self, outcome: Outcome) -> Outcome:
        """`outcome` with this bill entered before its own."""
        return outcome._replace(
            usage=self.usage + outcome.usage,
            cost_usd=_sum(self.cost_usd, outcome.cost_usd),
            attempts=self.attempts + outcome.attempts,
            calls=self.calls + outcome.calls,
            source=_stronger(self.source, outcome.source),
            request_id=outcome.request_id or self.request_id,
            model=outcome.model or self.model,
        )


def _sum(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a + b


def _stronger(a: OutcomeSource, b: OutcomeSource) -> OutcomeSource:
    return a if _RANK.index(a) >= _RANK.index(b) else b


def _split(count: int, rows: int) -> list[int]:
    each, rest = divmod(count, rows)
    return [each + (row < rest) for row in range(rows)]
