"""What each step declares of itself, for rewrites to rely on: fields, rows, order, calls.

Doubt is the default: a kind of step that is not named here may read, write and remove every column, mix rows,
change their order and call a model. So a new step blocks every rewrite until it has said what it does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from apwa_dask.errors import PlanError
from apwa_dask.plans.expressions import columns_of
from apwa_dask.plans.infer import joined_names, merged_names, visible
from apwa_dask.plans.steps import (
    CANONICAL,
    CLUSTER,
    EVIDENCE,
    OTHER,
    RANK,
    Aggregate,
    Assign,
    Chunk,
    Concat,
    Distinct,
    Explode,
    Filter,
    FlatMap,
    Join,
    Limit,
    Map,
    Merge,
    Rank,
    Reduce,
    Resolve,
    Sample,
    Select,
    Sort,
    Where,
)

__all__ = ["Traits", "traits_of"]

Fields = frozenset[str]


@dataclass(frozen=True, slots=True)
class Traits:
    """What is known of a step over its tables; each default is what must be feared.

    Parameters
    ----------
    reads : frozenset of str or None
        Columns of the inputs that decide which rows come out, in which order, or what is written. None: any.
    writes : frozenset of str or None
        Columns of the result that are not, row by row, the first input's column of that name. None: any.
    removes : frozenset of str or None
        Columns of the first input that the result does not have. None: any.
    row_local : bool
        Taking rows out before the step changes nothing for the rows that stay. An agent that sees several
        rows (packs, partitions, groups) is not trusted with it: a row can sway its neighbours.
    order_preserving : bool
        Rows come out in the order of the rows of the first input that they come from.
    keeps_each_row : bool
        Each row comes out exactly once (a row that fails too: with nulls).
    calls_model : bool
        It may cost money.
    """

    reads: Fields | None = None
    writes: Fields | None = None
    removes: Fields | None = None
    row_local: bool = False
    order_preserving: bool = False
    keeps_each_row: bool = False
    calls_model: bool = True


def traits_of(step: Any, inputs: Sequence[pa.Schema]) -> Traits:
    """The traits of a step over tables of these schemas (``step.inputs_from``, in order)."""
    rule = _RULES.get(type(step))
    return Traits() if rule is None else rule(step, [list(visible(schema).names) for schema in inputs])


_Names = Sequence[Sequence[str]]
_NONE: Fields = frozenset()


def _map(step: Map, inputs: _Names) -> Traits:
    alone = step.contract.unit == "row"
    return Traits(
        reads=frozenset(step.contract.inputs),
        writes=frozenset(step.contract.output.names),
        removes=_NONE,
        row_local=alone,
        order_preserving=True,
        keeps_each_row=alone,
    )


def _filter(step: Filter, inputs: _Names) -> Traits:
    return Traits(
        reads=frozenset(step.contract.inputs),
        writes=_NONE,
        removes=_NONE,
        row_local=step.contract.unit == "row",
        order_preserving=True,
    )


def _flat_map(step: FlatMap, inputs: _Names) -> Traits:
    return Traits(
        reads=frozenset(step.contract.inputs),
        writes=frozenset(step.contract.output.names),
        removes=_NONE,
        row_local=step.contract.unit == "row",
        order_preserving=True,
    )


def _reduce(step: Reduce, inputs: _Names) -> Traits:
    made = {*step.by, *step.contract.output.names}
    return Traits(
        reads=frozenset({*step.by, *step.contract.inputs}),
        writes=frozenset(made),
        removes=frozenset(inputs[0]) - made,
    )


def _where(step: Where, inputs: _Names) -> Traits:
    return Traits(
        reads=_columns([step.condition]),
        writes=_NONE,
        removes=_NONE,
        row_local=True,
        order_preserving=True,
        calls_model=False,
    )


def _assign(step: Assign, inputs: _Names) -> Traits:
    return Traits(
        reads=_columns(step.columns.values()),
        writes=frozenset(step.columns),
        removes=_NONE,
        row_local=True,
        order_preserving=True,
        keeps_each_row=True,
        calls_model=False,
    )


def _columns(expressions: Any) -> Fields | None:
    """Columns that expressions read; None where one cannot be parsed."""
    try:
        return frozenset().union(*(columns_of(expression) for expression in expressions))
    except PlanError:
        return None


def _select(step: Select, inputs: _Names) -> Traits:
    kept = {step.rename.get(name, name) for name in step.columns}
    renamed = {old: new for old, new in step.rename.items() if old != new}
    return Traits(
        reads=frozenset(renamed),
        writes=frozenset(renamed.values()),
        removes=frozenset(inputs[0]) - kept,
        row_local=True,
        order_preserving=True,
        keeps_each_row=True,
        calls_model=False,
    )


def _explode(step: Explode, inputs: _Names) -> Traits:
    column = frozenset({step.column})
    return Traits(
        reads=column, writes=column, removes=_NONE, row_local=True, order_preserving=True, calls_model=False
    )


def _chunk(step: Chunk, inputs: _Names) -> Traits:
    return Traits(
        reads=frozenset({step.column}),
        writes=frozenset({step.column, *step.added}),
        removes=_NONE,
        row_local=True,
        order_preserving=True,
        calls_model=False,
    )


def _aggregate(step: Aggregate, inputs: _Names) -> Traits:
    made = {*step.by, *step.aggregates}
    return Traits(
        reads=frozenset({*step.by, *(rule.column for rule in step.aggregates.values() if rule.column)}),
        writes=frozenset(made),
        removes=frozenset(inputs[0]) - made,
        calls_model=False,
    )


def _sort(step: Sort, inputs: _Names) -> Traits:
    keys = frozenset(key.column for key in step.by)
    return Traits(reads=keys, writes=_NONE, removes=_NONE, keeps_each_row=True, calls_model=False)


def _picks(step: Limit | Sample, inputs: _Names) -> Traits:
    """Which rows stay depends on where they stand, and on no column."""
    return Traits(reads=_NONE, writes=_NONE, removes=_NONE, order_preserving=True, calls_model=False)


def _distinct(step: Distinct, inputs: _Names) -> Traits:
    return Traits(
        reads=frozenset(step.columns or inputs[0]),
        writes=_NONE,
        removes=_NONE,
        order_preserving=True,
        calls_model=False,
    )


def _merge(step: Merge, inputs: _Names) -> Traits:
    left, right = inputs
    added = merged_names(step, left, right)
    # Rows without a partner on the left come last, from nowhere in the first input.
    from_left = step.how in ("inner", "left")
    return Traits(
        reads=frozenset({*step.left_on, *step.right_on, *added}),
        writes=frozenset(added.values()) if from_left else frozenset({*left, *added.values()}),
        removes=_NONE,
        order_preserving=from_left,
        calls_model=False,
    )


def _join(step: Join, inputs: _Names) -> Traits:
    """Which rows meet depends on what the block and the model read of both tables."""
    left, right = inputs
    renamed = joined_names(left, right, step.suffix)
    old = {new: name for name, new in renamed.items()}
    in_condition = _columns([step.condition] if step.condition else [])
    if in_condition is None:
        return Traits()
    shown = {*step.contract.inputs, *in_condition}
    keys = {*step.left_on, *step.right_on, *step.similar_left, *step.similar_right}
    from_left = step.how in ("inner", "left", "semi", "anti")
    picks = step.how in ("semi", "anti")
    written = frozenset() if picks else frozenset(renamed.values())
    return Traits(
        reads=frozenset({*keys, *(name if name in left else old.get(name, name) for name in shown)})
        | (frozenset() if picks else frozenset(right)),
        writes=written if from_left else frozenset(left) | written,
        removes=_NONE,
        order_preserving=from_left,
    )


def _rank(step: Rank, inputs: _Names) -> Traits:
    return Traits(reads=frozenset(step.contract.inputs), writes=frozenset({RANK}), removes=_NONE)


def _resolve(step: Resolve, inputs: _Names) -> Traits:
    in_condition = _columns([step.condition] if step.condition else [])
    if in_condition is None:
        return Traits()
    read = (name if name in inputs[0] else name.removesuffix(OTHER) for name in in_condition)
    return Traits(
        reads=frozenset({*step.on, *step.similar, *step.contract.inputs, *read}),
        writes=frozenset({CLUSTER, CANONICAL, EVIDENCE}),
        removes=_NONE,
        order_preserving=True,
        keeps_each_row=True,
    )


def _concat(step: Concat, inputs: _Names) -> Traits:
    every = frozenset(name for names in inputs for name in names)
    return Traits(reads=every, writes=every, removes=_NONE, calls_model=False)


_RULES: dict[type, Callable[[Any, _Names], Traits]] = {
    Map: _map,
    Filter: _filter,
    FlatMap: _flat_map,
    Reduce: _reduce,
    Where: _where,
    Assign: _assign,
    Select: _select,
    Explode: _explode,
    Chunk: _chunk,
    Aggregate: _aggregate,
    Sort: _sort,
    Limit: _picks,
    Sample: _picks,
    Distinct: _distinct,
    Merge: _merge,
    Join: _join,
    Rank: _rank,
    Resolve: _resolve,
    Concat: _concat,
}
