"""All that is known of one row: its prompts, answers and tools step by step, what they cost, and where it came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from apwa_dask.agents.conversation import Conversation
from apwa_dask.agents.outcome import Outcome
from apwa_dask.execution.compile import BOOKKEEPING, ERROR, ROW_ID, STATUS, Stage
from apwa_dask.execution.frame_steps import apply_local
from apwa_dask.execution.lineage import Lineage, Place, lineage_of, locate, locate_position, parents_of
from apwa_dask.execution.reduce import SPLIT_EVERY, GroupTree, tree_of
from apwa_dask.execution.replay import NOT_KEPT, Exchange, ReplayDesk
from apwa_dask.execution.runtime import StageContext, context_of
from apwa_dask.execution.spec import StageRef
from apwa_dask.execution.tables_of_run import input_partitions, input_table
from apwa_dask.models.types import OutcomeClass
from apwa_dask.plans.steps import Filter, FlatMap, LLMStep, Reduce, Step
from apwa_dask.tables.dtypes import to_pandas

if TYPE_CHECKING:
    from apwa_dask.execution.desk import StageDesk
    from apwa_dask.execution.run import Run

__all__ = ["RowStory", "StepStory", "story_of"]

DROPPED = "dropped"
"""Status of a row that a filter left out."""


@dataclass(frozen=True, slots=True)
class StepStory:
    """What one step did with the row, or with the row it was made of.

    Attributes
    ----------
    step, op : str
    row_id : str
        The row's id before the step.
    outcome : str
        Class of the end: ``ok``, ``dropped`` or a failure.
    message : str
        Why it failed.
    answer : Any
        The typed answer: a dict, a list of dicts for a flat_map, ``{"keep": ...}`` for a filter.
    exchanges : tuple of Exchange
        Requests and answers in order; empty for a step that calls no model. A request that several rows shared is
        told to each of them whole.
    """

    step: str
    op: str
    row_id: str
    outcome: str = "ok"
    message: str = ""
    answer: Any = None
    exchanges: tuple[Exchange, ...] = ()


@dataclass(frozen=True)
class RowStory:
    """One row of a run; at a prompt and in a notebook it shows itself.

    Attributes
    ----------
    run_id, row_id : str
    status : str
        ``ok``, ``dropped`` or the class of the failure.
    message : str
    values : dict
        The row as it is stored last; empty where a filter dropped it.
    steps : tuple of StepStory
    lineage : Lineage
    """

    run_id: str
    row_id: str
    status: str
    message: str
    values: dict[str, Any]
    steps: tuple[StepStory, ...]
    lineage: Lineage = field(repr=False)

    @property
    def exchanges(self) -> tuple[Exchange, ...]:
        """All requests and answers, in order."""
        return tuple(exchange for step in self.steps for exchange in step.exchanges)

    @property
    def attempts(self) -> int:
        """Requests sent, retries included, whichever run sent them."""
        return sum(exchange.attempts for exchange in self.exchanges)

    @property
    def input_tokens(self) -> int:
        return sum(exchange.input_tokens for exchange in self.exchanges)

    @property
    def output_tokens(self) -> int:
        return sum(exchange.output_tokens for exchange in self.exchanges)

    @property
    def cost_usd(self) -> float | None:
        """What its answers cost, whichever run paid; None where a price is unknown."""
        costs = [exchange.cost_usd for exchange in self.exchanges]
        return None if None in costs else sum(cost or 0.0 for cost in costs)

    def __repr__(self) -> str:
        from apwa_dask.observe.row_report import story_text

        return story_text(self)

    def _repr_html_(self) -> str:
        from apwa_dask.observe.row_report import story_html

        return story_html(self)


def story_of(run: Run, row: str | int) -> RowStory:
    """The story of a row, by its id or by its position in the result. Makes no call.

    Raises
    ------
    RunError
        There is no such row, or it cannot be read any more.
    """
    place = locate_position(run, row) if isinstance(row, int) else locate(run, row)
    path = _path_to(run, place)
    steps: list[StepStory] = []
    for stage, before, after in path:
        steps += _told(run, stage, before, after)
    values = _values(run, place)
    status, message = values.pop(STATUS, None), values.pop(ERROR, None)
    if steps and steps[-1].outcome != "ok" and (status is None or not values):
        status, message = steps[-1].outcome, steps[-1].message
    return RowStory(
        run.id, place.row_id, status or "ok", message or "", values, tuple(steps), lineage_of(run, place)
    )


def _values(run: Run, place: Place) -> dict[str, Any]:
    if isinstance(place.table, str):
        return {}
    table = input_table(run, place.table, place.partition, None)
    (row, *_) = table.filter(pc.equal(table.column(ROW_ID), place.row_id)).to_pylist()
    return {
        name: value for name, value in row.items() if name in (STATUS, ERROR) or not name.startswith("_apwa")
    }


def _path_to(run: Run, place: Place) -> list[tuple[Stage, Place, str]]:
    """The stages that made the row, first to last: each with the row it was made of, and its id after the stage. And
    the stages that read it, where it went no further.
    """
    path: list[tuple[Stage, Place, str]] = []
    here = place
    while isinstance(here.table, int):
        stage = run.stages[here.table]
        if stage.kind == "reduce":  # its prompts hold all members: the members' own steps are theirs to tell
            path.append((stage, here, here.row_id))
            break
        parents = parents_of(run, stage, [here])
        path.append((stage, parents[0] if stage.kind == "rows" else here, here.row_id))
        if len(parents) != 1:
            break
        (here,) = parents
    path.reverse()
    readers = [stage for stage in run.stages if place.table in stage.inputs and stage.kind == "rows"]
    done = [stage for stage in readers if place.partition in run.folder.committed(stage.index)]
    return path + [(stage, place, place.row_id) for stage in done]


def _told(run: Run, stage: Stage, place: Place, row_id: str) -> list[StepStory]:
    if not stage.calls_model and stage.kind != "rows":
        return [StepStory(step.id, step.op, place.row_id) for step in stage.steps]
    context = context_of(StageRef(run.store, run.id, stage.index))
    desk = ReplayDesk(context.journal, run.spec.namespace, run.id)
    if stage.kind == "reduce":
        return [_group_story(run, context, desk, place)]
    return _RowReplay(run, context, desk, place, row_id).steps()


# -- a chain of row-local steps


class _RowReplay:
    """One row through a fused stage: as `pipeline.run_pipeline` does, one step after the other, from the journal."""

    def __init__(self, run: Run, context: StageContext, desk: ReplayDesk, place: Place, row_id: str) -> None:
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
            story = self._ask(step) if isinstance(step, LLMStep) else self._apply(step)
            self.row_id = self._next_id()
            if not self.row_id:
                told.append(_dropped(story))
                break
            told.append(story)
            if story.outcome != "ok" or (self._is_fork(before) and self.row_id == before):
                break
        return told

    def _apply(self, step: Step) -> StepStory:
        story = StepStory(step.id, step.op, self.row_id)
        self.table = apply_local(step, self.table)
        place = self._position(self.row_id)
        status = None if place is None else self.table.column(STATUS)[place].as_py()
        if place is None or status is None:
            return story
        return StepStory(step.id, step.op, self.row_id, status, self.table.column(ERROR)[place].as_py() or "")

    def _ask(self, step: LLMStep) -> StepStory:
        agent = self.context.agents[step.id]
        ready = [k for k, status in enumerate(self.table.column(STATUS).to_pylist()) if status is None]
        inputs = self.table.select(list(step.contract.inputs)).take(pa.array(ready, pa.int64()))
        held: list[Conversation] = agent.begin_many(inputs.to_pylist())
        self.desk.hold([one for one in held if not one.finished], step.id)
        for one in held:
            one.give_up(OutcomeClass.INTERNAL, NOT_KEPT)
        outcomes = {ready[k]: outcome for one in held for k, outcome in one.outcomes.items()}
        mine = self._position(self.row_id)
        assert mine is not None
        outcome = outcomes[mine]
        said = next(self.desk.exchanges(one) for one in held if ready.index(mine) in one.outcomes)
        self.table = _after(step, self.table, outcomes)
        answer = outcome.rows if isinstance(step, FlatMap) else outcome.values
        return StepStory(step.id, step.op, self.row_id, str(outcome.outcome), outcome.message, answer, said)

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


# -- a group


class _Replayed(StageContext):
    """A reduce stage whose conversations are held by the journal alone."""

    def __init__(self, real: StageContext, desk: ReplayDesk) -> None:
        super().__init__(real.run, real.stage)
        self._desk = desk

    def desk(self) -> StageDesk:
        return self._desk  # type: ignore[return-value]


def _group_story(run: Run, context: StageContext, desk: ReplayDesk, place: Place) -> StepStory:
    """The tree of one group again: the same packs, since packing depends on the group's rows alone."""
    stage = context.stage
    (step,) = stage.steps
    assert isinstance(step, Reduce)
    members = parents_of(run, stage, [place])
    replayed = _Replayed(context, desk)
    if step.contract.unit == "partition" and not step.by:
        told = _leaf(run, replayed, stage, place.partition, members).answers()
    else:
        of_each = range(input_partitions(run, stage.inputs[0]))
        partials = [_leaf(run, replayed, stage, of, members).partial() for of in of_each]
        while len(partials) > SPLIT_EVERY:  # the tree's own shape: neighbours, so many at a time
            packs = [partials[k : k + SPLIT_EVERY] for k in range(0, len(partials), SPLIT_EVERY)]
            partials = [_inner(replayed, pack).partial() for pack in packs]
        told = _inner(replayed, partials).answers()
    row = input_table(run, stage.index, place.partition, None)
    (stored, *_) = row.filter(pc.equal(row.column(ROW_ID), place.row_id)).to_pylist()
    status = stored[STATUS] or "ok"
    names = [field.name for field in stage.schema if not field.name.startswith("_apwa")]
    is_lost = NOT_KEPT in told[ERROR].tolist()
    return StepStory(
        step.id,
        step.op,
        place.row_id,
        status,
        stored[ERROR] or (NOT_KEPT if is_lost else ""),
        {name: stored[name] for name in names} if status == "ok" else None,
        tuple(desk.all),
    )


def _leaf(run: Run, context: StageContext, stage: Stage, of: int, members: Sequence[Place]) -> GroupTree:
    tree = tree_of(context)
    wanted = pa.array([member.row_id for member in members if member.partition == of], pa.string())
    if len(wanted):
        table = input_table(run, stage.inputs[0], of, None)
        tree.add_rows(to_pandas(table.filter(pc.is_in(table.column(ROW_ID), value_set=wanted))))
        tree.shrink()
    return tree


def _inner(context: StageContext, partials: Sequence[pd.DataFrame]) -> GroupTree:
    tree = tree_of(context)
    tree.add_partials(pd.concat(list(partials)))
    tree.shrink()
    return tree
