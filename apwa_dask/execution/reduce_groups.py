"""A reduce by group over many partitions: a hash shuffle that reduces on its way.

Each level merges `BLOCK` neighbours and spreads their groups by a hash of the keys, so that a node holds a share of
the groups of a stretch of the table: many small groups are spread over all nodes, and a large one shrinks to one
prompt at every level, like the whole table in the tree of a reduce without keys (a radix exchange that combines; cf.
Graefe 1993, "Query evaluation techniques for large databases", 5). Rows move by Dask's ``tasks`` shuffle, the same
under every scheduler. Items keep the order of the table, so prompts depend on the partitions and on nothing else.
"""

from __future__ import annotations

from typing import Any

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa

from apwa_dask.execution.compile import Stage
from apwa_dask.execution.frame_exchange import POSITION, exchange, fold, mapped, with_ordinals
from apwa_dask.execution.frame_merge import key_texts
from apwa_dask.execution.opaque import opaque
from apwa_dask.execution.plain_strings import plain_strings
from apwa_dask.execution.reduce import NOTES_COLUMN, GroupTree, check_rows, partial_schema, waiting
from apwa_dask.execution.runtime import context_of
from apwa_dask.execution.spec import StageRef
from apwa_dask.execution.stopping import DEFERRED
from apwa_dask.plans.steps import Reduce
from apwa_dask.tables.dtypes import empty_frame, to_arrow

__all__ = ["BLOCK", "NODES_AT_MOST", "grouped_frame", "neighbours"]

BLOCK = 32
"""Neighbours that one node merges: at most so many prompts of one group are in one place."""
NODES_AT_MOST = 1_024
"""Partitions that take part in the shuffle; of more, neighbours are merged before it."""

_BUCKET, _NUMBER, _WAITS = "_apwa_bucket", "_apwa_number", "waits"
_PLACES = pd.DataFrame({name: pd.Series([], dtype="int64") for name in ("first", "rows", "read", _WAITS)})


def neighbours(partitions: int) -> list[list[int]]:
    """Partitions that are merged before the shuffle, by node; one each where there are few."""
    if partitions <= NODES_AT_MOST:
        return [[k] for k in range(partitions)]
    return [piece.tolist() for piece in np.array_split(np.arange(partitions), NODES_AT_MOST)]


def grouped_frame(frame: dd.DataFrame, stage: Stage, ref: StageRef) -> dd.DataFrame:
    """The reduced frame (physical columns and `NOTES_COLUMN`), in the order in which the groups first occur.

    Parameters
    ----------
    frame : dask.dataframe.DataFrame
        More than one partition.
    stage : Stage
        One `Reduce` with keys.
    ref : StageRef

    Returns
    -------
    dask.dataframe.DataFrame
        As many partitions as took part in the shuffle, of about as many groups each.
    """
    (step,) = stage.steps
    assert isinstance(step, Reduce)
    with plain_strings():
        meta = empty_frame(partial_schema(stage, step))
        partials = _merged(with_ordinals(_chunk, frame, meta=meta, ref=ref), meta, ref)
        return _answered(opaque(_exchanged(partials, meta, ref)), stage, ref)


def _merged(partials: dd.DataFrame, meta: pd.DataFrame, ref: StageRef) -> dd.DataFrame:
    groups = neighbours(partials.npartitions)
    if len(groups) == partials.npartitions:
        return partials
    partials = opaque(partials)
    together = dd.concat([partials.partitions[group].repartition(npartitions=1) for group in groups])
    return mapped(_combine, together, meta=meta, ref=ref)


def _exchanged(partials: dd.DataFrame, meta: pd.DataFrame, ref: StageRef) -> dd.DataFrame:
    """Level by level, until each node holds a share of the keys of the whole table."""
    width = blocks = partials.npartitions
    digits = 1
    while blocks > 1:
        fewer = -(-blocks // BLOCK)
        wider = width if fewer == 1 else digits * BLOCK
        placed_meta = meta.assign(**{_BUCKET: np.array([], dtype="int64")})
        settings = {"ref": ref, "digits": digits, "wider": wider}
        placed = with_ordinals(_placed, partials, meta=placed_meta, **settings)
        moved = exchange(placed, _BUCKET, fewer * wider)
        partials = mapped(_combine, moved, meta=meta, ref=ref)
        blocks, digits = fewer, wider
    return partials


def _answered(partials: dd.DataFrame, stage: Stage, ref: StageRef) -> dd.DataFrame:
    pieces = partials.npartitions
    places = fold(mapped(_places, partials, meta=_PLACES, ref=ref), _together, _PLACES)
    schema = pa.schema([*stage.schema, pa.field(NOTES_COLUMN, pa.string())])
    meta = empty_frame(schema)
    numbered = meta.assign(**{name: np.array([], dtype="int64") for name in (_BUCKET, _NUMBER)})
    answers = opaque(mapped(_answers, partials, places, meta=numbered, ref=ref, pieces=pieces))
    moved = exchange(answers, _BUCKET, pieces)
    waits = fold(mapped(_waits, answers, meta=_WAIT), _together, _WAIT)
    return mapped(_in_order, moved, waits, meta=meta, schema=schema)


# -- nodes


def _tree(context: Any, frame: pd.DataFrame) -> GroupTree:
    """A node over partials from several others, whatever order the exchange gave them."""
    tree = GroupTree(context)
    tree.add_partials(frame.sort_values(POSITION, kind="stable", na_position="last"))
    return tree


def _chunk(frame: pd.DataFrame, ordinal: int, ref: StageRef) -> pd.DataFrame:
    tree = GroupTree(context_of(ref))
    tree.add_rows(frame, ordinal)
    tree.shrink()
    return tree.partial()


def _combine(frame: pd.DataFrame, ref: StageRef) -> pd.DataFrame:
    tree = _tree(context_of(ref), frame)
    tree.shrink()
    return tree.partial()


def _placed(part: pd.DataFrame, ordinal: int, ref: StageRef, digits: int, wider: int) -> pd.DataFrame:
    """Each group goes to the node of its stretch and hash; the bill goes with the first of them."""
    first = ordinal // digits // BLOCK * wider
    if (part[NOTES_COLUMN] == DEFERRED).any():  # whoever may need what waits here waits too
        everywhere = part.iloc[np.zeros(wider, dtype=np.int64)].reset_index(drop=True)
        return everywhere.assign(**{_BUCKET: np.arange(first, first + wider, dtype="int64")})
    context = context_of(ref)
    step: Any
    (step,) = context.stage.steps
    table = to_arrow(part, partial_schema(context.stage, step))
    texts, _ = key_texts(table, list(step.by))
    hashes = pd.util.hash_array(np.asarray(texts, dtype=object), categorize=False)
    buckets = first + (hashes % np.uint64(wider)).astype("int64")
    of_bill = np.array(part[NOTES_COLUMN].notna(), dtype=bool)
    buckets[of_bill] = buckets[0]
    return part.assign(**{_BUCKET: buckets})


def _places(part: pd.DataFrame, ref: StageRef) -> pd.DataFrame:
    """Where each group first occurs, how many rows it has, and how many rows were read."""
    context = context_of(ref)
    is_waiting = bool((part[NOTES_COLUMN] == DEFERRED).any())
    tree = GroupTree(context)
    tree.add_partials(part)
    found = [(group.first, group.rows, 0, 0) for group in tree.groups.values()]
    rows = [*found, (-1, 0, tree.rows_read, int(is_waiting))]
    return pd.DataFrame(rows, columns=list(_PLACES.columns)).astype("int64")


def _together(part: pd.DataFrame) -> pd.DataFrame:
    return part.reset_index(drop=True)


def _answers(part: pd.DataFrame, places: pd.DataFrame, ref: StageRef, pieces: int) -> pd.DataFrame:
    context = context_of(ref)
    (step,) = context.stage.steps
    if places[_WAITS].any():
        schema = pa.schema([*context.stage.schema, pa.field(NOTES_COLUMN, pa.string())])
        return waiting(schema).assign(**{_BUCKET: 0, _NUMBER: 0})
    check_rows(step.id, int(places["rows"].sum()), int(places["read"].sum()))
    tree = _tree(context, part)
    order = np.sort(places["first"].to_numpy()[places["first"].to_numpy() >= 0])
    numbers = np.searchsorted(order, [group.first for group in tree.groups.values()]).astype("int64")
    rows = tree.answers(numbers.tolist())
    if tree.deferred:
        return rows.assign(**{_BUCKET: 0, _NUMBER: 0})
    return rows.assign(**{_BUCKET: numbers * pieces // max(len(order), 1), _NUMBER: numbers})


_WAIT = pd.DataFrame({_WAITS: pd.Series([], dtype="int64")})


def _waits(part: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({_WAITS: [int((part[NOTES_COLUMN] == DEFERRED).any())]}).astype("int64")


def _in_order(part: pd.DataFrame, waits: pd.DataFrame, schema: pa.Schema) -> pd.DataFrame:
    """Nothing is written while an answer is waited for: groups would change their places."""
    if waits[_WAITS].any():
        return waiting(schema)
    return part.sort_values(_NUMBER).drop(columns=_NUMBER).reset_index(drop=True)
