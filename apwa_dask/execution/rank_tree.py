"""Top-k by a knock-out tournament: small questions of which candidate is best, then the beaten play again.

Tournament sort (Knuth, The Art of Computer Programming 3, 5.2.3) with nodes of `Tournament.width` children: the
first round asks about ``n / (width - 1)`` groups at once; each further place plays only the champion's path again,
``log_width(n)`` questions. Who meets whom is drawn by a hash of seed and row, so that neither the order nor the
partitions of the table decide, and the same answers always give the same ranks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import orjson
import pandas as pd
import pyarrow as pa

from apwa_dask.agents.clean import BadInput
from apwa_dask.agents.outcome import Outcome
from apwa_dask.agents.reduce import item_tokens
from apwa_dask.errors import RunError
from apwa_dask.execution.compile import ERROR, ROW_ID, STATUS
from apwa_dask.execution.holding import hold_all
from apwa_dask.execution.ledger import Ledger
from apwa_dask.execution.pipeline import Failure
from apwa_dask.execution.reduce import NOTES_COLUMN, waiting
from apwa_dask.execution.runtime import context_of
from apwa_dask.execution.spec import StageRef
from apwa_dask.execution.stopping import Deferred
from apwa_dask.plans.lowering import Tournament, calls_at_most, place_of
from apwa_dask.plans.steps import CANDIDATE, RANK
from apwa_dask.tables.dtypes import to_arrow, to_pandas

__all__ = ["play"]

Item = Mapping[str, Any]


def play(frame: pd.DataFrame, ref: StageRef) -> pd.DataFrame:
    """All candidates -> the k best: their positions and ranks.

    Raises
    ------
    RunError
        It could take more questions than the step allows (``RUN-RANK``); none has been asked.
    """
    context = context_of(ref)
    step: Any
    (step,) = context.stage.steps
    table = to_arrow(frame, context.input_schema)
    items: list[Item] = []
    places: list[int] = []
    for row in table.to_pylist():
        item = context.reduce_agent.item({name: row[name] for name in step.contract.inputs})
        if row[STATUS] is None and not isinstance(item, (BadInput, str)):
            items.append(item)
            places.append(row[place_of(step.id)])
    schema = pa.schema([*context.stage.schema, pa.field(NOTES_COLUMN, pa.string())])
    bracket = _Bracket(context, step, items, places)
    try:
        ranked = bracket.best()
    except Deferred:
        return waiting(schema)
    context.meter.note(rows=table.num_rows)  # not before: rounds of batches read the same rows again
    rows = [
        {ROW_ID: f"r{rank}", STATUS: bracket.status.get(at), ERROR: bracket.reason.get(at),
         place_of(step.id): places[at], RANK: rank}
        for rank, at in enumerate(ranked, start=1)
    ]  # fmt: skip
    if rows:
        rows[0][NOTES_COLUMN] = bracket.notes()
    return to_pandas(pa.Table.from_pylist(rows, schema=schema))


class _Bracket:
    """The tree of who plays whom: level 0 holds the candidates, each node above the best of its children."""

    def __init__(self, context: Any, step: Tournament, items: Sequence[Item], places: Sequence[int]) -> None:
        self.context, self.step, self.items = context, step, items
        self.ledger = Ledger()
        self.failures: list[Failure] = []
        self.status: dict[int, str] = {}
        self.reason: dict[int, str] = {}
        largest = max((item_tokens(item) for item in items), default=1)
        self.width: int = max(2, min(step.width, context.reduce_agent.token_budget // max(largest, 1)))
        drawn = sorted(range(len(items)), key=lambda at: (_draw(step.seed, items[at]), places[at]))
        self.levels: list[list[int | None]] = [list(drawn)]
        most = calls_at_most(len(items), step.k, self.width)
        if most > step.max_calls:
            raise RunError(
                f"to rank {len(items):,} rows of {step.id!r} can take {most:,} questions, more than "
                f"max_calls={step.max_calls:,}",
                why="none has been asked",
                fix="keep fewer rows before it (where, filter, sample), or raise max_calls",
                code="RUN-RANK",
            )

    def best(self) -> list[int]:
        """The first k candidates, best first."""
        while len(self.levels[-1]) > 1:
            below = len(self.levels) - 1
            self.levels.append(
                self._winners([self._children(below, at) for at in range(self._groups(below))])
            )
        ranked: list[int] = []
        while len(ranked) < self.step.k and self.levels[-1] and self.levels[-1][0] is not None:
            champion = self.levels[-1][0]
            ranked.append(champion)
            if len(ranked) < self.step.k:
                self._without(champion)
        return ranked

    def _groups(self, level: int) -> int:
        return -(-len(self.levels[level]) // self.width)

    def _children(self, level: int, at: int) -> list[int]:
        nodes = self.levels[level][at * self.width : (at + 1) * self.width]
        return [node for node in nodes if node is not None]

    def _without(self, champion: int) -> None:
        """Take the champion out and play its path again."""
        at = self.levels[0].index(champion)
        self.levels[0][at] = None
        for level in range(1, len(self.levels)):
            at //= self.width
            (self.levels[level][at],) = self._winners([self._children(level - 1, at)])

    def _winners(self, groups: Sequence[Sequence[int]]) -> list[int | None]:
        asked = [group for group in groups if len(group) > 1]
        outcomes = iter(self._ask(asked))
        return [
            self._winner(group, next(outcomes)) if len(group) > 1 else (group[0] if group else None)
            for group in groups
        ]

    def _ask(self, groups: Sequence[Sequence[int]]) -> list[Outcome]:
        if not groups:
            return []
        conversations = [
            self.context.reduce_agent.begin(
                [{**self.items[at], CANDIDATE: number} for number, at in enumerate(group, start=1)], "answer"
            )
            for group in groups
        ]
        outcomes = hold_all(self.context, conversations, self.step.id)
        for outcome in outcomes:
            self.ledger.add_outcome(self.step.id, outcome)
            if self.context.spec.batch is None:
                self.context.meter.note(outcome=outcome, step=self.step.id)
                reused = outcome.source != "live"
                self.context.run.steps.settled(self.step.id, outcome.outcome.value, reused=reused)
        return outcomes

    def _winner(self, group: Sequence[int], outcome: Outcome) -> int:
        """The candidate that was named. Where none was, the first goes on, with a status that says so."""
        named: Any = (outcome.values or {}).get("best")
        if outcome.ok and named is not None and 1 <= named <= len(group):
            return group[int(named) - 1]
        status = "invalid_output" if outcome.ok else str(outcome.outcome)
        message = outcome.message or f"there is no candidate {named}; {len(group)} were asked about"
        self.status[group[0]], self.reason[group[0]] = status, message
        self.failures.append(
            Failure(
                row_id=f"{self.step.id}:{len(self.failures)}",
                step=self.step.id,
                outcome=status,
                message=message,
                attempts=outcome.attempts,
                input_tokens=outcome.usage.input,
                output_tokens=outcome.usage.output,
                cost_usd=outcome.cost_usd,
                request_id=outcome.request_id,
                model=outcome.model,
                raw=None if outcome.raw is None else outcome.raw.encode("utf-8", "replace").decode(),
                inputs=f"{len(group)} candidates",
                prompt_hash=outcome.prompt_hash,
            )
        )
        return group[0]

    def notes(self) -> str:
        ledger = [asdict(entry) for entry in self.ledger]
        return orjson.dumps({"ledger": ledger, "failures": [asdict(one) for one in self.failures]}).decode()


def _draw(seed: int, item: Item) -> bytes:
    text = orjson.dumps([seed, dict(item)], default=str, option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(text).digest()
