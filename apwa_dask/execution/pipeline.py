"""The fused row pipeline: every row flows through map, filter and map on its own; no row waits for a
neighbour.

Runs in the thread of one partition task. The thread keeps a bounded window of units with the process's loop,
takes back what is done in batches, and applies frame steps to whatever rows have just arrived, so that the
event loop only ever does HTTP. Order is restored at the end from each row's key.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from apwa_dask.agents.agent import Conversation
from apwa_dask.agents.embedding import RowAgent
from apwa_dask.agents.outcome import Outcome
from apwa_dask.execution.collector import spared_collector
from apwa_dask.execution.compile import ERROR, ROW_ID, STATUS
from apwa_dask.execution.finished import FinishedRows
from apwa_dask.execution.fragments import Fragment, Row, children, conform, materialise, rows_of, values_of
from apwa_dask.execution.frame_steps import apply_local
from apwa_dask.execution.ledger import Ledger
from apwa_dask.execution.prefix_order import prefix_order
from apwa_dask.execution.stopping import Deferred, Interrupted
from apwa_dask.execution.window import Seat, Window
from apwa_dask.models.types import OutcomeClass
from apwa_dask.plans.steps import Filter, FlatMap, LLMStep, Step

__all__ = ["Desk", "Failure", "PipelineResult", "run_pipeline"]

FEED_ROWS, FIRST_ROWS = 256, 32
"""Most rows taken from the partition at a time; the first calls should not wait until many rows are prepared."""
FIRST_CALLS_S = 0.005
"""Left to the loop for sending them: while rows are prepared it would wait so long, the interpreter's switch interval,
for each of its turns."""
WINDOW = Window()
"""Of this process."""
_ORDER = "_apwa_order"


class Desk(Protocol):
    """Where conversations are held: the process's runtime, or a stand-in in tests."""

    def reuse(self, conversations: Sequence[Conversation]) -> None:
        """Feed what the journal already holds, without any call."""

    def submit(
        self,
        conversations: Sequence[Conversation],
        step_id: str,
        done: Callable[[int], None],
        wake: Callable[[], None],
    ) -> None:
        """Hold conversations on the loop; it calls ``done(position)`` as each ends, and ``wake()`` soon
        after.

        One ``wake()`` may serve all that ended since the last.
        """

    def note(
        self, *, rows: int = 0, failed: int = 0, cached: int = 0, outcome: Outcome | None = None
    ) -> None:
        """Count towards progress."""

    def settled(self, step_id: str, outcome: Outcome) -> None:
        """The outcome of one unit of a step, kept answers too."""

    def lasted(self, step_id: str, row_id: str, calls_s: float, waited_s: float) -> None:
        """A unit has come back: so long it was in calls, so long it waited for them."""

    def failed(self, failure: Failure) -> None:
        """A row has failed; raises where the run is to end with it."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A row's failure: enough to try again without the original process."""

    row_id: str
    step: str
    outcome: str
    message: str
    attempts: int
    input_tokens: int
    output_tokens: int
    cost_usd: float | None
    request_id: str
    model: str
    raw: str | None
    inputs: str
    prompt_hash: str = ""


@dataclass(frozen=True)
class PipelineResult:
    """All rows of a partition after the chain, in order, with declared schema."""

    table: pa.Table
    failures: tuple[Failure, ...]
    ledger: Ledger
    failed_rows: int
    cached_rows: int


def run_pipeline(
    steps: Sequence[Step],
    agents: Mapping[str, RowAgent],
    table: pa.Table,
    schema: pa.Schema,
    desk: Desk,
    *,
    by_prefix: bool = False,
) -> PipelineResult:
    """Run a chain of row-local steps over one partition.

    Parameters
    ----------
    steps : sequence of Step
        Row-local steps, in order.
    agents : mapping of str to Agent
        One for each step that calls a model, by step id.
    table : pyarrow.Table
        The partition, bookkeeping columns included.
    schema : pyarrow.Schema
        Declared schema of the result.
    desk : Desk
        Holds the conversations.
    by_prefix : bool
        Ask about rows that begin alike one after the other: the endpoint keeps beginnings of prompts.

    Raises
    ------
    Interrupted
        The run is stopping; what was paid for is in the journal.
    Deferred
        Rows wait for a batch: the desk has their requests.
    """
    leading = 0
    dropped = 0
    failures: list[Failure] = []
    while leading < len(steps) and not isinstance(steps[leading], LLMStep):
        before, table = table, apply_local(steps[leading], table)
        dropped += before.num_rows - table.num_rows
        failures += _newly_failed(steps[leading], before, table)
        leading += 1
    if leading == len(steps):
        failed = table.num_rows - table.column(STATUS).null_count
        return PipelineResult(conform(table, schema), tuple(failures), Ledger(), failed, 0)
    first = steps[leading]
    places: Sequence[int] = range(table.num_rows)
    if by_prefix and isinstance(first, LLMStep) and first.contract.unit == "row":
        places = prefix_order(table, first.contract.inputs) or places
        table = table if isinstance(places, range) else table.take(places)
    flow = _Flow(steps[leading:], agents, desk, schema)
    flow.failures += failures
    desk.note(rows=max(dropped, 0))
    with spared_collector(), WINDOW.seat() as seat:
        flow.run(table, places, seat)
        return flow.result()


class _Flow:
    def __init__(
        self, steps: Sequence[Step], agents: Mapping[str, RowAgent], desk: Desk, schema: pa.Schema
    ) -> None:
        self.steps, self.agents, self.desk = steps, agents, desk
        self.finished = FinishedRows(schema, self._made_before(len(steps)))
        self.failures: list[Failure] = []
        self.ledger = Ledger()
        self._flying = 0
        self._landed: deque[tuple[Sequence[Row], Conversation, LLMStep, float]] = deque()
        self._wake = threading.Event()
        self._gathering: dict[int, list[Row]] = {}
        self._deferred = 0

    def run(self, table: pa.Table, places: Sequence[int], seat: Seat) -> None:
        """Work on all rows; `places` are their positions in the partition, for the order of the result."""
        fed = 0
        self._seat = seat
        while True:
            while fed < table.num_rows and (slice_ := _feed(table, fed, seat)) is not None:
                self._advance(rows_of(slice_, places[fed : fed + slice_.num_rows]))
                if fed == 0 and self._flying and slice_.num_rows < table.num_rows:
                    time.sleep(FIRST_CALLS_S)
                fed += slice_.num_rows
            self._land()
            if (
                self._flying == 0
                and not self._landed
                and fed >= table.num_rows
                and not self._release_gathered()
            ):
                if self._deferred:
                    raise Deferred(f"{self._deferred} units wait for a batch")
                return
            if self._flying and not self._landed:
                self._wake.wait()
            self._wake.clear()

    def result(self) -> PipelineResult:
        rows = self.finished
        return PipelineResult(rows.table(), tuple(self.failures), self.ledger, rows.failed, rows.cached)

    def _made_before(self, at: int) -> dict[str, pa.DataType]:
        """Columns that model steps before this position make: they exist even where every row failed."""
        made: dict[str, pa.DataType] = {}
        for step in self.steps[:at]:
            if isinstance(step, LLMStep) and not isinstance(step, Filter):
                made.update({f.name: f.type for f in step.contract.output.arrow()})
        return made

    # -- moving rows forward

    def _advance(self, rows: list[Row]) -> None:
        """Move rows as far as they go without waiting."""
        todo: deque[list[Row]] = deque([rows])
        while todo:
            batch = todo.popleft()
            if not batch:
                continue
            at = batch[0].at
            if at == len(self.steps):
                self._finish(batch)
                continue
            step = self.steps[at]
            if not isinstance(step, LLMStep):
                kept, failures = _apply_local(step, batch, self._made_before(at))
                self.failures += failures
                self.desk.note(rows=max(len(batch) - len(kept), 0))
                todo.append(kept)
                continue
            ready = [row for row in batch if row.status is None]
            spoiled = [row for row in batch if row.status is not None]
            todo.append(self._skip(step, spoiled))
            if not ready:
                continue
            if step.contract.unit == "row":
                todo.extend(_by_position(self._start(step, ready)))
            else:
                self._gathering.setdefault(at, []).extend(ready)

    def _finish(self, rows: list[Row]) -> None:
        failed, cached = self.finished.add(rows)
        self.desk.note(rows=len(rows), failed=failed, cached=cached)

    def _skip(self, step: LLMStep, rows: list[Row]) -> list[Row]:
        """Rows that failed before get nulls; a filter cannot keep what it could not judge."""
        for row in rows:
            row.at += 1
        return [] if isinstance(step, Filter) else rows

    def _start(self, step: LLMStep, rows: list[Row]) -> list[Row]:
        """Begin a conversation for each row; the rows that need no call come back at once."""
        agent = self.agents[step.id]
        values = values_of(rows, step.contract.inputs)
        conversations = [agent.begin(value) for value in values]
        return self._hold(step, [((row,), held) for row, held in zip(rows, conversations, strict=True)])

    def _release_gathered(self) -> bool:
        """Units of many rows start when all rows before them have arrived; the earliest step first."""
        if not self._gathering or self._deferred:
            return False  # what shares a prompt is known when the rows before it have their answers
        at = min(self._gathering)
        rows = sorted(self._gathering.pop(at), key=lambda row: row.order)
        step = self.steps[at]
        assert isinstance(step, LLMStep)
        conversations = self.agents[step.id].begin_many(values_of(rows, step.contract.inputs))
        for batch in _by_position(self._hold(step, [(rows, held) for held in conversations])):
            self._advance(batch)
        return True

    def _hold(self, step: LLMStep, pairs: list[tuple[Sequence[Row], Conversation]]) -> list[Row]:
        unfinished = [conversation for _, conversation in pairs if not conversation.finished]
        if unfinished:
            self.desk.reuse(unfinished)
        done: list[Row] = []
        flying: list[tuple[Sequence[Row], Conversation]] = []
        for rows, conversation in pairs:
            if conversation.finished:
                done.extend(self._settle(step, rows, conversation))
            else:
                flying.append((rows, conversation))
        if flying:
            self._flying += len(flying)
            for rows, _ in flying:
                self._seat.enter(rows[0].fragment.row_bytes)

            submitted_s = time.monotonic()

            def landed(position: int) -> None:
                self._landed.append((*flying[position], step, time.monotonic() - submitted_s))

            held = [conversation for _, conversation in flying]
            self.desk.submit(held, step.id, landed, self._wake.set)
        return done

    def _land(self) -> None:
        moved: list[Row] = []
        while self._landed:
            rows, conversation, step, lasted_s = self._landed.popleft()
            calls_s = conversation.calls_s
            self.desk.lasted(step.id, rows[0].row_id, calls_s, max(lasted_s - calls_s, 0.0))
            self._flying -= 1
            self._seat.leave(rows[0].fragment.row_bytes)
            moved.extend(self._settle(step, rows, conversation))
        for batch in _by_position(moved):
            self._advance(batch)

    def _settle(self, step: LLMStep, rows: Sequence[Row], conversation: Conversation) -> list[Row]:
        """Write the outcome of each row of the conversation (by its place in `rows`); those that go on come
        back.
        """
        onward: list[Row] = []
        for index, outcome in conversation.outcomes.items():
            row = rows[index]
            if outcome.outcome is OutcomeClass.DEFERRED:
                self._deferred += 1
                continue
            if outcome.outcome.is_pending:
                raise Interrupted(outcome.message)
            self.ledger.add_outcome(step.id, outcome)
            self.desk.settled(step.id, outcome)
            row.at += 1
            row.reused = row.reused and outcome.source not in ("live", "none")
            if outcome.outcome is not OutcomeClass.OK:
                self._fail(step, row, outcome)
                self.desk.failed(self.failures[-1])
                if isinstance(step, Filter):
                    self.desk.note(rows=1, failed=1)
                else:
                    onward.append(row)
            elif isinstance(step, Filter):
                if outcome.values is not None and outcome.values["keep"]:
                    onward.append(row)
                else:
                    self.desk.note(rows=1, cached=int(row.reused))
            elif isinstance(step, FlatMap):
                onward.extend(children(row, outcome.rows or []))
            else:
                row.made.update(outcome.values or {})
                onward.append(row)
        return onward

    def _fail(self, step: LLMStep, row: Row, outcome: Outcome) -> None:
        row.status, row.error = str(outcome.outcome), outcome.message
        inputs = values_of([row], step.contract.inputs)[0]
        self.failures.append(
            Failure(
                row.row_id,
                step.id,
                str(outcome.outcome),
                outcome.message,
                outcome.attempts,
                outcome.usage.input,
                outcome.usage.output,
                outcome.cost_usd,
                outcome.request_id,
                outcome.model,
                outcome.raw,
                _short_text(inputs),
                outcome.prompt_hash,
            )
        )


# -- rows and fragments


def _feed(table: pa.Table, fed: int, seat: Seat) -> pa.Table | None:
    """The next rows of the partition that the window has room for; at least one where nothing is under way."""
    rows = min(FEED_ROWS if fed else FIRST_ROWS, seat.room_rows)
    piece = table.slice(fed, max(rows, 1))
    while piece.num_rows > 1 and piece.nbytes > seat.room_bytes:
        piece = piece.slice(0, piece.num_rows // 2)
    fits = rows > 0 and piece.nbytes <= seat.room_bytes
    return piece if fits or seat.rows == 0 else None


def _by_position(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows grouped by the step they stand before (rows of one batch may have moved differently)."""
    groups: dict[int, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.at, []).append(row)
    return list(groups.values())


def _apply_local(
    step: Step, rows: list[Row], made: Mapping[str, pa.DataType]
) -> tuple[list[Row], list[Failure]]:
    """Apply a frame step to the rows at hand; each result row keeps its parent's place in the order.

    A row on which an expression fails comes back with a status, and with its failure.
    """
    at = rows[0].at + 1
    before = materialise(rows, made).append_column(_ORDER, pa.array(range(len(rows)), pa.int64()))
    after = apply_local(step, before)
    parents = after.column(_ORDER).to_pylist()
    fragment = Fragment(after.drop_columns([_ORDER]))
    ids, statuses, errors = (after.column(name).to_pylist() for name in (ROW_ID, STATUS, ERROR))
    one_to_one = len(parents) == len(rows)
    out: list[Row] = []
    for k, parent in enumerate(parents):
        row = rows[parent]
        order = row.order if one_to_one else (*row.order, k)
        out.append(Row(fragment, k, order, ids[k], at, {}, statuses[k], errors[k], row.reused))
    return out, _newly_failed(step, before, after)


def _newly_failed(step: Step, before: pa.Table, after: pa.Table) -> list[Failure]:
    """Failure records of rows that had no status before a frame step and have one after it."""
    if after.column(STATUS).null_count == after.num_rows:
        return []
    old = before.select([ROW_ID, STATUS]).to_pylist()
    known = {row[ROW_ID] for row in old if row[STATUS] is not None}
    return [
        Failure(row[ROW_ID], step.id, row[STATUS], row[ERROR] or "", 0, 0, 0, 0.0, "", "", None, "")
        for row in after.select([ROW_ID, STATUS, ERROR]).to_pylist()
        if row[STATUS] is not None and not known & {row[ROW_ID], row[ROW_ID].rpartition(".")[0]}
    ]


def _short_text(inputs: Mapping[str, Any], limit: int = 500) -> str:
    text = "; ".join(f"{name}={value}" for name, value in inputs.items() if not isinstance(value, bytes))
    return text if len(text) <= limit else text[:limit] + "..."
