"""Hierarchical reduce: partials inside each partition, then Dask's own tree over them, then one typed answer
a group.

A partial holds, for each group, its items in order: raw rows as long as they fit one prompt, notes once they
do not. So a group that fits one prompt costs one call, however many partitions it lay in. `dask.dataframe`'s
``reduction`` makes the tree with exactly one chunk a partition and no call at build; the order of partials is
the order of the partitions, so the result does not depend on timing. Answers are journaled, so a replayed
subtree costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import dask.dataframe as dd
import orjson
import pandas as pd
import pyarrow as pa

from apwa_dask.agents.clean import BadInput
from apwa_dask.agents.outcome import Outcome
from apwa_dask.agents.reduce import Item, Node, item_tokens
from apwa_dask.errors import RunError
from apwa_dask.execution.compile import ERROR, ROW_ID, STATUS, Stage
from apwa_dask.execution.frame_exchange import ORDINAL_BITS, POSITION
from apwa_dask.execution.frames import over_frame
from apwa_dask.execution.holding import hold_all
from apwa_dask.execution.join_pairs import plain
from apwa_dask.execution.ledger import Entry, Ledger
from apwa_dask.execution.pipeline import Failure
from apwa_dask.execution.runtime import StageContext, context_of
from apwa_dask.execution.spec import StageRef
from apwa_dask.execution.stopping import DEFERRED, Deferred
from apwa_dask.models.types import OutcomeClass
from apwa_dask.plans.steps import Reduce
from apwa_dask.tables.dtypes import empty_frame, to_arrow, to_pandas

__all__ = [
    "NOTES_COLUMN",
    "SPLIT_EVERY",
    "GroupTree",
    "check_rows",
    "failures_of",
    "is_deferred",
    "ledger_of",
    "partial_schema",
    "reduce_frame",
    "waiting",
]

NOTES_COLUMN = "_apwa_notes"
"""In the reduced frame's first row: what the whole tree cost and which groups failed, as JSON, for the commit."""
_INPUTS_CHARS = 500
SPLIT_EVERY = 8
"""Partials merged by one task; prompts inside it are sized by tokens, not by this."""

_PARTIAL = pa.schema(
    [
        ("_apwa_items", pa.string()),
        ("_apwa_rows", pa.int64()),
        ("_apwa_levels", pa.int64()),
        (POSITION, pa.int64()),
        ("_apwa_failed", pa.string()),
        (NOTES_COLUMN, pa.string()),
    ]
)


def reduce_frame(frame: dd.DataFrame, stage: Stage, ref: StageRef) -> dd.DataFrame:
    """The reduced frame (physical columns and `NOTES_COLUMN`): one partition, or one row a partition."""
    (step,) = stage.steps
    assert isinstance(step, Reduce)
    meta = empty_frame(pa.schema([*stage.schema, pa.field(NOTES_COLUMN, pa.string())]))
    if step.contract.unit == "partition" and not step.by:
        return over_frame(reduce_partition, frame, meta, "apwa-reduce", ref=ref)
    partial = empty_frame(partial_schema(stage, step))
    return frame.reduction(
        reduce_chunk,
        aggregate=reduce_final,
        combine=reduce_combine,
        meta=meta,
        split_every=SPLIT_EVERY,
        token=None,
        chunk_kwargs={"ref": ref, "meta": partial},
        combine_kwargs={"ref": ref, "meta": partial},
        aggregate_kwargs={"ref": ref},
    )


def reduce_chunk(frame: pd.DataFrame, ref: StageRef, meta: pd.DataFrame) -> pd.DataFrame:
    """A partition's rows -> a partial."""
    tree = GroupTree(context_of(ref))
    tree.add_rows(frame)
    tree.shrink()
    return tree.partial()


def reduce_combine(frame: pd.DataFrame, ref: StageRef, meta: pd.DataFrame) -> pd.DataFrame:
    """Partials, one under another -> a partial."""
    tree = GroupTree(context_of(ref))
    tree.add_partials(frame)
    tree.shrink()
    return tree.partial()


def reduce_final(frame: pd.DataFrame, ref: StageRef) -> pd.DataFrame:
    """Partials -> the typed answers."""
    tree = GroupTree(context_of(ref))
    tree.add_partials(frame)
    tree.shrink()
    return tree.answers()


def reduce_partition(frame: pd.DataFrame, ordinals: pd.DataFrame, ref: StageRef) -> pd.DataFrame:
    """A partition's rows -> one row."""
    tree = GroupTree(context_of(ref), f"p{int(ordinals['ordinal'].iloc[0])}")
    tree.add_rows(frame)
    tree.shrink()
    return tree.answers()


@dataclass(frozen=True, slots=True)
class _Failed:
    """Why a group has no answer, and what the prompt cost that ended it."""

    outcome: str
    message: str
    attempts: int
    input_tokens: int
    output_tokens: int
    cost_usd: float | None
    request_id: str
    model: str
    raw: str | None
    prompt_hash: str

    @classmethod
    def of(cls, outcome: Outcome) -> _Failed:
        return cls(
            str(outcome.outcome),
            outcome.message,
            outcome.attempts,
            outcome.usage.input,
            outcome.usage.output,
            outcome.cost_usd,
            outcome.request_id,
            outcome.model,
            # JSON answers can hold lone surrogates, which the notes cannot
            None if outcome.raw is None else outcome.raw.encode("utf-8", "replace").decode(),
            outcome.prompt_hash,
        )


@dataclass
class _Group:
    items: list[Item] = field(default_factory=list)
    rows: int = 0
    levels: int = 0
    """Levels of notes between its rows and its items."""
    first: int = 0
    """Position of its first row in the table."""
    failed: _Failed | None = None

    @property
    def tokens(self) -> int:
        return sum(item_tokens(item) for item in self.items)


class GroupTree:
    """The groups of one node of the tree."""

    def __init__(self, context: StageContext, name: str = "r") -> None:
        (step,) = context.stage.steps
        assert isinstance(step, Reduce)
        self.context, self.step, self.name = context, step, name
        self.agent = context.reduce_agent
        self.groups: dict[tuple[Any, ...], _Group] = {}
        self.ledger = Ledger()
        self.rows_read = 0
        self.deferred = False
        if not step.by:
            self.groups[()] = _Group()

    def add_rows(self, frame: pd.DataFrame, ordinal: int = 0) -> None:
        """Rows of partition `ordinal`; those that failed before, or have no usable input, are counted and left
        out.
        """
        by, inputs = self.step.by, self.step.contract.inputs
        wanted = list(dict.fromkeys([STATUS, *by, *inputs]))
        schema = self.context.input_schema
        table = to_arrow(frame[wanted], pa.schema([schema.field(name) for name in wanted]))
        self.rows_read += table.num_rows
        for position, row in enumerate(table.to_pylist(), start=ordinal << ORDINAL_BITS):
            group = self.groups.setdefault(tuple(row[name] for name in by), _Group(first=position))
            group.rows += 1
            if row[STATUS] is not None:
                continue
            item = self.agent.item({name: row[name] for name in inputs})
            if not isinstance(item, BadInput):
                group.items.append(item)
        if self.context.spec.batch is None or not self.context.run.batches.round:
            self.context.meter.note(rows=table.num_rows)

    def add_partials(self, frame: pd.DataFrame) -> None:
        """Partials in the order of their partitions."""
        schema = partial_schema(self.context.stage, self.step)
        for row in to_arrow(frame, schema).to_pylist():
            notes = row[NOTES_COLUMN]
            if notes == DEFERRED:
                self.deferred = True
            elif notes is not None:
                told = orjson.loads(notes)
                self.rows_read += told["rows"]
                for line in told["ledger"]:
                    self.ledger.add(Entry(**line))
            if row["_apwa_items"] is None:
                continue
            key = tuple(row[name] for name in self.step.by)
            group = self.groups.setdefault(key, _Group(first=row[POSITION]))
            group.items.extend(orjson.loads(row["_apwa_items"]))
            group.rows += row["_apwa_rows"]
            group.levels = max(group.levels, row["_apwa_levels"])
            if row["_apwa_failed"] is not None and group.failed is None:
                group.failed = _Failed(**orjson.loads(row["_apwa_failed"]))

    def shrink(self) -> None:
        """Write notes, level by level, until every group fits one prompt, or its notes wait for a batch."""
        try:
            self._shrink()
        except Deferred:
            self.deferred = True

    def _shrink(self) -> None:
        while not self.deferred:
            large = [
                g
                for g in self.groups.values()
                if g.failed is None and len(g.items) > 1 and len(self.agent.packs(g.items)) > 1
            ]
            for group in large:
                if group.levels >= self.step.max_levels:
                    group.failed = _too_deep(self.step)
                group.levels += 1
            large = [group for group in large if group.failed is None]
            if not large:
                return
            packs = [(group, pack) for group in large for pack in self.agent.packs(group.items)]
            outcomes = self._ask([pack for _, pack in packs], "notes")
            for group in large:
                group.items = []
            for (group, _), outcome in zip(packs, outcomes, strict=True):
                if outcome.ok and outcome.values is not None:
                    group.items.append(outcome.values["notes"])
                elif group.failed is None:
                    group.failed = _Failed.of(outcome)

    def partial(self) -> pd.DataFrame:
        """The groups as a frame that travels to the next node."""
        schema = partial_schema(self.context.stage, self.step)
        if self.deferred:
            return waiting(schema)
        rows: list[dict[str, Any]] = [
            {
                **dict(zip(self.step.by, key, strict=True)),
                "_apwa_items": orjson.dumps(group.items).decode(),
                "_apwa_rows": group.rows,
                "_apwa_levels": group.levels,
                POSITION: group.first,
                "_apwa_failed": None if group.failed is None else orjson.dumps(asdict(group.failed)).decode(),
            }
            for key, group in self.groups.items()
        ]
        rows.append({NOTES_COLUMN: self._notes()})
        return to_pandas(pa.Table.from_pylist(rows, schema=schema))

    def answers(self, numbers: Sequence[int] | None = None) -> pd.DataFrame:
        """One row a group, in the order in which the groups first occur.

        Parameters
        ----------
        numbers : sequence of int, optional
            Places of the groups among all groups of the table, where this node does not hold them all.

        Raises
        ------
        RunError
            The groups do not hold the rows that were read, each once (``RUN-ROWS``).
        """
        if numbers is None and not self.deferred:
            check_rows(self.step.id, sum(group.rows for group in self.groups.values()), self.rows_read)
        schema = pa.schema([*self.context.stage.schema, pa.field(NOTES_COLUMN, pa.string())])
        asked = [group for group in self.groups.values() if group.failed is None]
        try:
            outcomes = iter([] if self.deferred else self._ask([group.items for group in asked], "answer"))
        except Deferred:
            self.deferred = True
        if self.deferred:
            return waiting(schema)
        rows: list[dict[str, Any]] = []
        failures: list[Failure] = []
        places = range(len(self.groups)) if numbers is None else numbers
        for number, (key, group) in zip(places, self.groups.items(), strict=True):
            row_id = f"{self.name}{number}" if self.step.by else self.name
            keys = dict(zip(self.step.by, key, strict=True))
            failed, values = group.failed, {}
            if failed is None:
                outcome = next(outcomes)
                values = outcome.values or {}
                failed = None if outcome.ok else _Failed.of(outcome)
            if failed is not None:
                inputs = "; ".join(f"{name}={value}" for name, value in keys.items())[:_INPUTS_CHARS]
                failures.append(Failure(row_id, self.step.id, inputs=inputs, **asdict(failed)))
            rows.append(
                {
                    ROW_ID: row_id,
                    STATUS: None if failed is None else failed.outcome,
                    ERROR: None if failed is None else failed.message,
                    **keys,
                    **values,
                }
            )
        if rows:
            rows[0][NOTES_COLUMN] = self._notes(failures)
        return to_pandas(pa.Table.from_pylist(rows, schema=schema))

    def _ask(self, packs: Sequence[Sequence[Item]], node: Node) -> list[Outcome]:
        conversations = [self.agent.begin(pack, node) for pack in packs]
        outcomes = hold_all(self.context, conversations, self.step.id)
        for outcome in outcomes:
            self.ledger.add_outcome(self.step.id, outcome)
            if self.context.spec.batch is None:  # a batch is counted when it is paid
                self.context.meter.note(outcome=outcome, step=self.step.id)
                reused = outcome.source != "live"
                self.context.run.steps.settled(self.step.id, outcome.outcome.value, reused=reused)
        return outcomes

    def _notes(self, failures: Sequence[Failure] = ()) -> str:
        ledger = [asdict(entry) for entry in self.ledger]
        told = {"ledger": ledger, "failures": [asdict(one) for one in failures], "rows": self.rows_read}
        return orjson.dumps(told).decode()


def check_rows(step_id: str, consumed: int, read: int) -> None:
    """Every row that was read is in exactly one group.

    Raises
    ------
    RunError
        It is not (``RUN-ROWS``).
    """
    if consumed != read:
        raise RunError(
            f"the groups of {step_id!r} hold {consumed:,} rows of the {read:,} that were read",
            why="rows were lost or doubled between partitions",
            fix="resume the run, and please report this with the plan: run.manifest['plan']",
            saved="paid answers are in the journal and will not be paid again",
            code="RUN-ROWS",
        )


def _too_deep(step: Reduce) -> _Failed:
    message = (
        f"its notes would need more than max_levels={step.max_levels} levels; "
        "use a model with a larger context window, or raise max_levels"
    )
    return _Failed(
        outcome=str(OutcomeClass.TOO_LARGE),
        message=message,
        attempts=0,
        input_tokens=0,
        output_tokens=0,
        cost_usd=None,
        request_id="",
        model="",
        raw=None,
        prompt_hash="",
    )


def partial_schema(stage: Stage, step: Reduce) -> pa.Schema:
    """What travels between nodes: the keys, a group's items, its rows, and where it first occurs."""
    keys = pa.schema([stage.schema.field(name) for name in step.by])
    return pa.schema([*plain(keys), *_PARTIAL])


def waiting(schema: pa.Schema) -> pd.DataFrame:
    """What a node gives whose answers, or whose inputs, wait for a batch."""
    return to_pandas(pa.Table.from_pylist([{NOTES_COLUMN: DEFERRED}], schema=schema))


def is_deferred(frame: pd.DataFrame) -> bool:
    """Whether a reduced frame waits for a batch."""
    return NOTES_COLUMN in frame.columns and bool((frame[NOTES_COLUMN] == DEFERRED).any())


def ledger_of(notes: Sequence[str | None]) -> Ledger:
    """The ledger that a reduced frame carries."""
    return Ledger(
        Entry(**line) for text in notes if text is not None for line in orjson.loads(text)["ledger"]
    )


def failures_of(notes: Sequence[str | None]) -> tuple[Failure, ...]:
    """The failure records of its groups."""
    return tuple(
        Failure(**one) for text in notes if text is not None for one in orjson.loads(text)["failures"]
    )
