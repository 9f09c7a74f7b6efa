"""One row through a fused stage again: as the pipeline takes it, one step after the other, from the journal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from apwa_dask.agents.conversation import Conversation
from apwa_dask.agents.outcome import Outcome
from apwa_dask.execution.compile import BOOKKEEPING, ERROR, ROW_ID, STATUS
from apwa_dask.execution.frame_steps import apply_local
from apwa_dask.execution.lineage import Place
from apwa_dask.execution.replay import NOT_KEPT, Exchange, ReplayDesk
from apwa_dask.execution.row_story import DROPPED, UNKNOWN, StepStory
from apwa_dask.execution.runtime import StageContext
from apwa_dask.execution.tables_of_run import input_table
from apwa_dask.models.types import OutcomeClass
from apwa_dask.plans.steps import Filter, FlatMap, LLMStep, Map, Step

if TYPE_CHECKING:
    from apwa_dask.execution.kept import KeptRun

__all__ = ["RowReplay"]


class RowReplay:
    """A row of a partition, on its way to the id it has after the stage.

    Where a step's prompts are shared, all rows of the partition go along: its packs cannot be found again otherwise.
    """

    def __init__(
        self, run: KeptRun, context: StageContext, desk: ReplayDesk, place: Place, row_id: str
    ) -> None:
        self.context, self.desk, self.wanted = context, desk, row_id
        table = input_table(run, context.stage.inputs[0], place.partition, None)
        if not any(isinstance(s, LLMStep) and _shares(s) for s in context.stage.steps):
            table = table.filter(pc.equal(table.column(ROW_ID), place.row_id))
        self.table = table
        self.row_id = place.row_id

    def steps(self) -> list[StepStory]:
        told: list[StepStory] = []
        for step in self.context.stage.steps:
            before = self.row_id
            if self._status() is not None:
                break
            story = self._ask(step) if isinstance(step, Map | Filter | FlatMap) else self._apply(step)
            self.row_id = self._next_id()
            if not self.row_id:
                told.append(_dropped(story))
                break
            told.append(story)
            if story.outcome != "ok" or (self._is_fork(before) and self.row_id == before):
                break
        return told

    def everything(self) -> tuple[Exchange, ...]:
        """All that was said about the row, and about all rows that it became."""
        for step in self.context.stage.steps:
            if isinstance(step, Map | Filter | FlatMap):
                self._answer(step)
            else:
                self.table = apply_local(step, self.table)
        return self.desk.all

    def _apply(self, step: Step) -> StepStory:
        story = StepStory(step.id, step.op, self.row_id)
        self.table = apply_local(step, self.table)
        place = self._position(self.row_id)
        status = None if place is None else self.table.column(STATUS)[place].as_py()
        if place is None or status is None:
            return story
        return StepStory(step.id, step.op, self.row_id, status, self.table.column(ERROR)[place].as_py() or "")

    def _ask(self, step: Map | Filter | FlatMap) -> StepStory:
        mine = self._position(self.row_id)
        assert mine is not None
        outcomes, said = self._answer(step)
        outcome = outcomes[mine]
        answer = outcome.rows if isinstance(step, FlatMap) else outcome.values
        ended = UNKNOWN if outcome.message == NOT_KEPT else str(outcome.outcome)
        return StepStory(step.id, step.op, self.row_id, ended, outcome.message, answer, said[mine])

    def _answer(
        self, step: Map | Filter | FlatMap
    ) -> tuple[dict[int, Outcome], dict[int, tuple[Exchange, ...]]]:
        """Outcomes, and what was said, by position in the table; which is then the one after the step."""
        agent = self.context.agents[step.id]
        ready = [k for k, status in enumerate(self.table.column(STATUS).to_pylist()) if status is None]
        inputs = self.table.select(list(step.contract.inputs)).take(pa.array(ready, pa.int64()))
        held: list[Conversation] = agent.begin_many(inputs.to_pylist())
        self.desk.hold([one for one in held if not one.finished], step.id)
        for one in held:
            one.give_up(OutcomeClass.INTERNAL, NOT_KEPT)
        outcomes = {ready[k]: outcome for one in held for k, outcome in one.outcomes.items()}
        said = {ready[k]: self.desk.exchanges(one) for one in held for k in one.outcomes}
        self.table = _after(step, self.table, outcomes)
        return outcomes, said

    def _position(self, row_id: str) -> int | None:
        found: int = pc.index(self.table.column(ROW_ID), row_id).as_py()
        return None if found < 0 else found

    def _status(self) -> str | None:
        place = self._position(self.row_id)
        return None if place is None else self.table.column(STATUS)[place].as_py()

    def _next_id(self) -> str:
        """The row's id after a step: its own, or that of the child on the way to the row asked for."""
        ids = set(self.table.column(ROW_ID).to_pylist())
        pieces = self.wanted.split(".")
        for end in range(len(pieces), 0, -1):
            row_id = ".".join(pieces[:end])
            if row_id in ids:
                return row_id
        children = [row_id for row_id in ids if row_id.startswith(f"{self.row_id}.")]
        return self.row_id if children else ""

    def _is_fork(self, row_id: str) -> bool:
        """The row became several, none of which is the one asked for: their steps are theirs to tell."""
        return self._position(row_id) is None


def _shares(step: LLMStep) -> bool:
    return step.contract.unit != "row"


def _dropped(story: StepStory) -> StepStory:
    if story.outcome != "ok":
        return story
    return StepStory(
        story.step,
        story.op,
        story.row_id,
        DROPPED,
        "this step left the row out",
        story.answer,
        story.exchanges,
    )


def _after(step: LLMStep, table: pa.Table, outcomes: dict[int, Outcome]) -> pa.Table:
    """The table after a model step, as the pipeline makes it."""
    statuses, errors = table.column(STATUS).to_pylist(), table.column(ERROR).to_pylist()
    places: list[int] = []
    numbers: list[int | None] = []
    made: list[dict[str, Any]] = []
    for k in range(table.num_rows):
        outcome = outcomes.get(k)
        if outcome is not None and not outcome.ok:
            statuses[k], errors[k] = str(outcome.outcome), outcome.message
        answers: Sequence[dict[str, Any]] = [{}]
        if outcome is not None and outcome.ok and isinstance(step, FlatMap):
            answers = outcome.rows or []
        elif outcome is not None and outcome.ok:
            answers = [outcome.values or {}]
        if isinstance(step, Filter) and not (answers and answers[0].get("keep")):
            continue
        grows = isinstance(step, FlatMap) and outcome is not None and outcome.ok
        for number, answer in enumerate(answers):
            places.append(k)
            numbers.append(number if grows else None)
            made.append(answer)
    ids = table.column(ROW_ID).to_pylist()
    columns = {
        ROW_ID: [ids[k] if n is None else f"{ids[k]}.{n}" for k, n in zip(places, numbers, strict=True)],
        STATUS: [statuses[k] for k in places],
        ERROR: [errors[k] for k in places],
    }
    fields = {field.name: field for field in BOOKKEEPING}
    if not isinstance(step, Filter):
        for output in step.contract.output.arrow():
            fields[output.name] = output
            columns[output.name] = [answer.get(output.name) for answer in made]
    grown = table.take(pa.array(places, pa.int64()))
    for name, cells in columns.items():
        array = pa.array(cells, fields[name].type)
        at = grown.column_names.index(name) if name in grown.column_names else -1
        grown = grown.append_column(name, array) if at < 0 else grown.set_column(at, name, array)
    return grown
