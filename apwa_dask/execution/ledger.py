"""Who cost what: sums of calls, tokens and money by step, model and outcome.

Two books are kept. Commit records list what the units of committed partitions came to; the journal lists every
answer that was paid for. They differ by what was paid in partitions that were not committed: their process was
killed or stopped, or is still at work. `with_uncommitted` adds that difference as lines of its own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace

import pyarrow as pa

from apwa_dask.agents.outcome import Outcome

__all__ = ["UNCOMMITTED", "Entry", "Ledger", "with_uncommitted"]

UNCOMMITTED = "uncommitted"
"""Outcome of the line for calls that were paid, and whose partition was not committed by who paid them. Their
answers are kept, and are counted as reused where they served in the end."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the ledger. ``units`` ended this way; ``reused`` of them were not paid for in this run.

    ``cost_usd`` is None when the price of any of them is unknown. Of ``estimated`` units the endpoint did not
    state all tokens: theirs, and so their cost, are our guess.
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
    estimated: int = 0


@dataclass(slots=True)
class _Sum:
    """A line under way: one addition for each row, so it is mutable."""

    units: int = 0
    reused: int = 0
    calls: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float | None = 0.0
    estimated: int = 0

    def add(self, input_tokens: int, cached_tokens: int, output_tokens: int, cost_usd: float | None) -> None:
        self.input_tokens += input_tokens
        self.cached_tokens += cached_tokens
        self.output_tokens += output_tokens
        if self.cost_usd is not None:
            self.cost_usd = None if cost_usd is None else self.cost_usd + cost_usd


class Ledger:
    """Adds up outcomes and entries; iterates over the sums."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self._sums: dict[tuple[str, str, str], _Sum] = {}
        for entry in entries:
            self.add(entry)

    def add(self, entry: Entry) -> None:
        """Add one entry to its line."""
        line = self._line(entry.step, entry.model, entry.outcome)
        line.units += entry.units
        line.reused += entry.reused
        line.calls += entry.calls
        line.estimated += entry.estimated
        line.add(entry.input_tokens, entry.cached_tokens, entry.output_tokens, entry.cost_usd)

    def add_outcome(self, step_id: str, outcome: Outcome) -> None:
        """Book one unit of work. Only live answers were paid for."""
        line = self._line(step_id, outcome.model, outcome.outcome.value)
        line.units += 1
        if outcome.source == "live":
            usage = outcome.usage
            line.calls += outcome.attempts
            line.estimated += usage.estimated
            line.add(usage.input, usage.cached, usage.output, outcome.cost_usd)
        elif outcome.source != "none":
            line.reused += 1

    def _line(self, step: str, model: str, outcome: str) -> _Sum:
        line = self._sums.get((step, model, outcome))
        if line is None:
            line = self._sums[step, model, outcome] = _Sum()
        return line

    def __iter__(self) -> Iterator[Entry]:
        for (step, model, outcome), line in self._sums.items():
            yield Entry(step, model, outcome, **asdict(line))

    def __len__(self) -> int:
        return len(self._sums)


def with_uncommitted(committed: Iterable[Entry], paid: pa.Table) -> list[Entry]:
    """The lines of a run's commit records, and what it has paid beyond them.

    Parameters
    ----------
    committed : iterable of Entry
    paid : pyarrow.Table
        `Journal.bill_of` the run.

    Returns
    -------
    list of Entry
        Their calls, tokens and money add up to all that the run has paid for and that is durable.
    """
    lines = list(committed)
    beyond: dict[tuple[str, str], _Sum] = defaultdict(_Sum)
    for row in paid.to_pylist():
        cost = None if row["unpriced"] else row["cost_usd"]
        line = beyond[row["step_id"], row["model"] or ""]
        line.calls += row["attempts"]
        line.add(row["input_tokens"], row["cached_tokens"], row["output_tokens"], cost)
    for entry in lines:
        line = beyond[entry.step, entry.model]
        line.calls -= entry.calls
        cost = None if entry.cost_usd is None else -entry.cost_usd
        line.add(-entry.input_tokens, -entry.cached_tokens, -entry.output_tokens, cost)
    return lines + list(_positive(beyond))


def _positive(beyond: dict[tuple[str, str], _Sum]) -> Iterator[Entry]:
    """One line for each step and model; one for the step where its calls were booked under several models."""
    for step in dict.fromkeys(step for step, _ in beyond):
        ours = {model: line for (of, model), line in beyond.items() if of == step}
        if any(line.calls < 0 for line in ours.values()):
            whole = _Sum()
            for line in ours.values():
                whole.calls += line.calls
                whole.add(line.input_tokens, line.cached_tokens, line.output_tokens, line.cost_usd)
            ours = {"": whole}
        for model, line in ours.items():
            if line.calls > 0:
                yield replace(Entry(step, model, UNCOMMITTED, **asdict(line)), units=0, reused=0)
