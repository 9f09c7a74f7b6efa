"""A reduce of one group again: the tree's packs depend on the group's rows alone, so its prompts are found again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from apwa_dask.execution import reduce_groups
from apwa_dask.execution.compile import ERROR, ROW_ID, STATUS, Stage
from apwa_dask.execution.lineage import Place, parents_of
from apwa_dask.execution.meter import Flights
from apwa_dask.execution.reduce import SPLIT_EVERY, GroupTree
from apwa_dask.execution.replay import NOT_KEPT, ReplayDesk
from apwa_dask.execution.row_story import StepStory
from apwa_dask.execution.runtime import StageContext
from apwa_dask.execution.spec import RunSpec
from apwa_dask.execution.tables_of_run import input_partitions, input_table
from apwa_dask.plans.steps import Reduce
from apwa_dask.tables.dtypes import to_pandas

if TYPE_CHECKING:
    from apwa_dask.execution.kept import KeptRun
    from apwa_dask.execution.watched_desk import WatchedDesk

__all__ = ["group_story"]


class _Replayed(StageContext):
    """A reduce stage whose conversations are held by the journal alone."""

    def __init__(self, real: StageContext, desk: ReplayDesk) -> None:
        super().__init__(real.run, real.stage, Flights())
        self._desk = desk

    @property
    def spec(self) -> RunSpec:
        return replace(
            self.run.spec, batch=None
        )  # a run in batches waited for its answers: now they are there

    def desk(self) -> WatchedDesk:
        return self._desk  # type: ignore[return-value]


def group_story(run: KeptRun, context: StageContext, desk: ReplayDesk, place: Place) -> StepStory:
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
        if step.by and len(partials) > 1:
            partials = _exchanged(replayed, partials)
        while len(partials) > SPLIT_EVERY:  # the tree's own shape: neighbours, so many at a time
            packs = [partials[k : k + SPLIT_EVERY] for k in range(0, len(partials), SPLIT_EVERY)]
            partials = [_inner(replayed, pack).partial() for pack in packs]
        told = _inner(replayed, partials).answers()
    row = input_table(run, stage.index, place.partition, None)
    (stored, *_) = row.filter(pc.equal(row.column(ROW_ID), place.row_id)).to_pylist()
    status = stored[STATUS] or "ok"
    names = [field.name for field in stage.schema if not field.name.startswith("_apwa")]
    is_lost = bool((told[ERROR].fillna("") == NOT_KEPT).any())
    return StepStory(
        step.id,
        step.op,
        place.row_id,
        status,
        stored[ERROR] or (NOT_KEPT if is_lost else ""),
        {name: stored[name] for name in names} if status == "ok" else None,
        desk.all,
    )


def _leaf(run: KeptRun, context: StageContext, stage: Stage, of: int, members: Sequence[Place]) -> GroupTree:
    tree = GroupTree(context)
    wanted = pa.array([member.row_id for member in members if member.partition == of], pa.string())
    if len(wanted):
        table = input_table(run, stage.inputs[0], of, None)
        rows = table.filter(pc.is_in(table.column(ROW_ID), value_set=wanted))
        tree.add_rows(to_pandas(rows), of)
        tree.shrink()
    return tree


def _exchanged(context: StageContext, partials: Sequence[pd.DataFrame]) -> list[pd.DataFrame]:
    """The way of one group through the shuffle of `reduce_groups`: stretches of the table, so many at a time."""
    nodes = reduce_groups.neighbours(len(partials))
    if len(nodes) < len(partials):
        partials = [_inner(context, [partials[k] for k in node]).partial() for node in nodes]
    block = reduce_groups.BLOCK
    while len(partials) > 1:
        packs = [partials[k : k + block] for k in range(0, len(partials), block)]
        partials = [_inner(context, pack).partial() for pack in packs]
    return list(partials)


def _inner(context: StageContext, partials: Sequence[pd.DataFrame]) -> GroupTree:
    tree = GroupTree(context)
    tree.add_partials(pd.concat(list(partials)))
    tree.shrink()
    return tree
