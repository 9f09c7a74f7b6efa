"""Who cost what: sums of calls, tokens and money by step, model and outcome."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from apwa_dask.agents.outcome import Outcome

__all__ = ["Entry", "Ledger"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the ledger. ``units`` ended this way; ``reused`` of them were not paid for in this run.

    ``cost_usd`` is None when the price of any of them is unknown.
    """

    step: str
    model: str
    outcome: str
    units: int = 0
    reused: int = 0
    calls: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float | None = 0.0

    def __add__(self, other: Entry) -> Entry:
        unknown = self.cost_usd is None or other.cost_usd is None
        return Entry(
            self.step,
            self.model,
            self.outcome,
            self.units + other.units,
            self.reused + other.reused,
            self.calls + other.calls,
            self.input_tokens + other.input_tokens,
            self.cached_tokens + other.cached_tokens,
            self.output_tokens + other.output_tokens,
            None if unknown else (self.cost_usd or 0.0) + (other.cost_usd or 0.0),
        )


class Ledger:
    """Adds up outcomes and entries; iterates over the sums."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self._sums: dict[tuple[str, str, str], Entry] = {}
        for entry in entries:
            self.add(entry)

    def add(self, entry: Entry) -> None:
        """Add one entry to its line."""
        key = (entry.step, entry.model, entry.outcome)
        known = self._sums.get(key)
        self._sums[key] = entry if known is None else known + entry

    def add_outcome(self, step_id: str, outcome: Outcome) -> None:
        """Book one unit of work. Only live answers were paid for."""
        live = outcome.source == "live"
        self.add(
            Entry(
                step_id,
                outcome.model,
                str(outcome.outcome),
                units=1,
                reused=int(outcome.source in ("journal", "shared")),
                calls=outcome.attempts if live else 0,
                input_tokens=outcome.usage.input if live else 0,
                cached_tokens=outcome.usage.cached if live else 0,
                output_tokens=outcome.usage.output if live else 0,
                cost_usd=outcome.cost_usd if live else 0.0,
            )
        )

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._sums.values())

    def __len__(self) -> int:
        return len(self._sums)
