"""The story of one row: its prompts, answers and tools step by step, what they cost, and where it came from."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from apwa_dask.execution.compile import ERROR, ROW_ID, STATUS, Stage
from apwa_dask.execution.group_replay import group_story
from apwa_dask.execution.lineage import Place, lineage_of, locate, locate_position, parents_of
from apwa_dask.execution.replay import NOT_KEPT, ReplayDesk
from apwa_dask.execution.row_replay import RowReplay
from apwa_dask.execution.row_story import RowStory, StepStory
from apwa_dask.execution.runtime import context_of
from apwa_dask.execution.spec import StageRef
from apwa_dask.execution.tables_of_run import input_table

if TYPE_CHECKING:
    from apwa_dask.execution.kept import KeptRun

__all__ = ["cost_of_row", "story_of"]


def story_of(run: KeptRun, row: str | int) -> RowStory:
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
    if place.table != run.stages[-1].index and steps:  # it never reached the result: its last step says why
        status, message = steps[-1].outcome, steps[-1].message
    elif status and steps and steps[-1].message == NOT_KEPT:  # failed without an answer: a tool, a deadline
        steps[-1] = replace(steps[-1], outcome=status, message=message or "")
    return RowStory(
        run.id, place.row_id, status or "ok", message or "", values, tuple(steps), lineage_of(run, place)
    )


def cost_of_row(run: KeptRun, row_id: str) -> float | None:
    """What all calls about a source's row, and about all rows that it became in the first stage, cost; None where a
    price is unknown.
    """
    stage = run.stages[0]
    context = context_of(StageRef(run.store, run.id, stage.index))
    desk = ReplayDesk(context.journal, run.spec.namespace, run.id)
    place = Place(str(stage.inputs[0]), int(row_id.partition(":")[0]), row_id)
    costs = [exchange.cost_usd for exchange in RowReplay(run, context, desk, place, row_id).everything()]
    return None if None in costs else sum(cost or 0.0 for cost in costs)


def _values(run: KeptRun, place: Place) -> dict[str, Any]:
    if isinstance(place.table, str):
        return {}
    table = input_table(run, place.table, place.partition, None)
    (row, *_) = table.filter(pc.equal(table.column(ROW_ID), place.row_id)).to_pylist()
    return {
        name: value for name, value in row.items() if name in (STATUS, ERROR) or not name.startswith("_apwa")
    }


def _path_to(run: KeptRun, place: Place) -> list[tuple[Stage, Place, str]]:
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


def _told(run: KeptRun, stage: Stage, place: Place, row_id: str) -> list[StepStory]:
    if not stage.calls_model and stage.kind != "rows":
        return [StepStory(step.id, step.op, place.row_id) for step in stage.steps]
    context = context_of(StageRef(run.store, run.id, stage.index))
    desk = ReplayDesk(context.journal, run.spec.namespace, run.id)
    if stage.kind == "reduce":
        return [group_story(run, context, desk, place)]
    return RowReplay(run, context, desk, place, row_id).steps()
