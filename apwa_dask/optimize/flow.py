"""How many rows of what size run through a plan, as far as profiles tell: ranges, never promises."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any

import pyarrow as pa

from apwa_dask.agents.limits import IMAGE_TOKENS
from apwa_dask.optimize.lengths import answer_tokens
from apwa_dask.optimize.ranges import spread, times, within
from apwa_dask.plans.explain import Range
from apwa_dask.plans.infer import joined_names, merged_names, visible
from apwa_dask.plans.schema import Schema
from apwa_dask.plans.steps import (
    CANDIDATES,
    CANONICAL,
    CLUSTER,
    EVIDENCE,
    LABELS_AT_MOST,
    OTHER,
    RANK,
    Aggregate,
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
    Where,
)
from apwa_dask.tables.profile import ColumnProfile, Profile

__all__ = ["Cells", "Flow", "after", "of_source", "pairs_of", "pairs_within"]

_MEAN_ERROR = (0.9, 1.1)
"""Of a mean length that comes from a sample; what a vocabulary makes of it comes on top."""

_GUESSED_ROWS = (0.5, 1.0, 2.0)
"""Around a number of rows that was not counted."""

_ROWS_OF_ONE = Range(1, 3, 8)
"""Rows that a flat_map makes of one: a guess, until a preview has counted them."""

_PAIRS_OF_ONE = 10
"""Expected candidate pairs of a row whose keys are not counted: a guess."""

_NUMBER = Range(1, 3, 8)
_OTHERS = {"boolean": Range(1, 1, 2), "date": Range(3, 5, 8), "timestamp": Range(6, 10, 18)}


@dataclass(frozen=True, slots=True)
class Cells:
    """One column: tokens of a cell (expected is the mean), and distinct values where known."""

    tokens: Range = _NUMBER
    distinct: int | None = None


@dataclass(frozen=True, slots=True)
class Flow:
    """A table on its way: None is unknown."""

    rows: Range | None
    partitions: int | None = None
    columns: Mapping[str, Cells] = field(default_factory=dict)

    def tokens(self, names: Sequence[str]) -> Range:
        """Tokens of one row's cells in these columns."""
        total = Range.exactly(0)
        for name in names:
            total += self.columns.get(name, Cells()).tokens
        return total

    def distinct(self, names: Sequence[str]) -> int | None:
        """At most so many distinct combinations; None where a column's are unknown."""
        combinations = 1
        for name in names:
            known = self.columns.get(name, Cells()).distinct
            if known is None:
                return None
            combinations *= max(known, 1)
        return combinations


def of_source(schema: pa.Schema, profile: Profile | None) -> Flow:
    """A table as its profile knows it."""
    if profile is None:
        return Flow(None)
    known = {column.name: column for column in profile.columns}
    share = _mean_share(profile)
    columns = {f.name: _cells(f, known.get(f.name), share) for f in visible(schema)}
    return Flow(_source_rows(profile), profile.npartitions, columns)


def _source_rows(profile: Profile) -> Range | None:
    if profile.rows is None:
        return None
    if profile.exact:
        return Range.exactly(profile.rows)
    low, expected, high = (profile.rows * factor for factor in _GUESSED_ROWS)
    return Range(low, expected, high)


def _mean_share(profile: Profile) -> float | None:
    """Mean tokens of a text over its half-way between median and p95, so that means add up to the table's."""
    halfway = sum(_halfway(column) for column in profile.columns if column.type == "string")
    if not halfway or not profile.rows or profile.est_tokens is None:
        return None
    return profile.est_tokens / profile.rows / halfway


def _halfway(column: ColumnProfile) -> float:
    return (column.tokens.median + column.tokens.p95) / 2 if column.tokens is not None else 0.0


def _cells(of: pa.Field, column: ColumnProfile | None, share: float | None) -> Cells:
    if column is None:
        return Cells()
    if column.type == "binary":
        present = 1 - (column.null_share or 0)
        return Cells(Range(0, IMAGE_TOKENS * present, IMAGE_TOKENS if present else 0))
    if column.tokens is None:
        return Cells(_OTHERS.get(column.type, _NUMBER), column.distinct)
    mean = _halfway(column) * (share if share is not None and column.type == "string" else 1)
    mean = min(max(mean, 1.0), float(column.tokens.longest))
    return Cells(spread(mean, *_MEAN_ERROR), column.distinct)


# --- one step further


def after(step: Any, inputs: Sequence[Flow]) -> Flow:
    """The table after a step; one of an unknown kind has unknown rows."""
    rule = _RULES.get(type(step))
    return inputs[0] if rule is None else rule(step, inputs)


def _scaled(rows: Range | None, low: float, expected: float, high: float) -> Range | None:
    return None if rows is None else Range(rows.low * low, rows.expected * expected, rows.high * high)


def _written(flow: Flow, output: Schema, rows: Range | None) -> Flow:
    return Flow(rows, flow.partitions, {**flow.columns, **_answers(output)})


def _answers(output: Schema) -> dict[str, Cells]:
    return {each.name: _answer(Schema(fields=(each,))) for each in output}


def _answer(alone: Schema) -> Cells:
    labels = alone.fields[0].labels
    return Cells(answer_tokens(alone), len(labels) if labels is not None else None)


def _map(step: Map, inputs: Sequence[Flow]) -> Flow:
    return _written(inputs[0], step.contract.output, inputs[0].rows)


def _flat_map(step: FlatMap, inputs: Sequence[Flow]) -> Flow:
    rows = inputs[0].rows
    made = None if rows is None else times(rows, within(_ROWS_OF_ONE, 0, step.max_rows))
    return _written(inputs[0], step.contract.output, made)


def _some(step: Filter | Where, inputs: Sequence[Flow]) -> Flow:
    """Nobody knows how many rows stay: none, half, or all."""
    return Flow(_scaled(inputs[0].rows, 0, 0.5, 1), inputs[0].partitions, inputs[0].columns)


def _groups(flow: Flow, by: Sequence[str]) -> Range | None:
    if not by:
        return Range.exactly(1)
    if flow.rows is None:
        return None
    known = flow.distinct(by)
    high = flow.rows.high if known is None else min(flow.rows.high, known)
    expected = min(flow.rows.expected, high if known is not None else high / 2)
    return Range(min(1.0, high), expected, high)


def _reduce(step: Reduce, inputs: Sequence[Flow]) -> Flow:
    flow = inputs[0]
    rows = _groups(flow, step.by)
    if step.contract.unit == "partition" and not step.by:
        rows = None if flow.partitions is None else Range.exactly(flow.partitions)
    keys = {name: flow.columns.get(name, Cells()) for name in step.by}
    return Flow(rows, flow.partitions, {**keys, **_answers(step.contract.output)})


def _aggregate(step: Aggregate, inputs: Sequence[Flow]) -> Flow:
    flow = inputs[0]
    keys = {name: flow.columns.get(name, Cells()) for name in step.by}
    return Flow(_groups(flow, step.by), 1, {**keys, **{name: Cells() for name in step.aggregates}})


def _select(step: Select, inputs: Sequence[Flow]) -> Flow:
    columns = {step.rename.get(name, name): inputs[0].columns.get(name, Cells()) for name in step.columns}
    return Flow(inputs[0].rows, inputs[0].partitions, columns)


def _explode(step: Explode, inputs: Sequence[Flow]) -> Flow:
    """Lengths of lists are not profiled: at least one row each, and no known bound."""
    cells = inputs[0].columns.get(step.column, Cells())
    element = Range(1, max(1.0, cells.tokens.expected / _ROWS_OF_ONE.expected), max(1.0, cells.tokens.high))
    return Flow(None, inputs[0].partitions, {**inputs[0].columns, step.column: Cells(element)})


def _chunk(step: Chunk, inputs: Sequence[Flow]) -> Flow:
    flow = inputs[0]
    whole = flow.columns.get(step.column, Cells()).tokens
    pieces = [_pieces(tokens, step) for tokens in (whole.low, whole.expected, whole.high)]
    one = Range(*(min(step.tokens, tokens) for tokens in (whole.low, whole.expected, whole.high)))
    columns = {**flow.columns, step.column: Cells(one), **{name: Cells() for name in step.added}}
    return Flow(_scaled(flow.rows, *pieces), flow.partitions, columns)


def _pieces(tokens: float, step: Chunk) -> int:
    fresh = max(step.tokens - step.overlap_tokens, 1)
    return max(1, ceil((tokens - step.overlap_tokens) / fresh))


def _limit(step: Limit, inputs: Sequence[Flow]) -> Flow:
    return Flow(_at_most(inputs[0].rows, step.n), 1, inputs[0].columns)


def _at_most(rows: Range | None, n: int) -> Range:
    if rows is None:
        return Range(0, n, n)
    return Range(min(rows.low, n), min(rows.expected, n), min(rows.high, n))


def _distinct(step: Distinct, inputs: Sequence[Flow]) -> Flow:
    names = step.columns or tuple(inputs[0].columns)
    return Flow(_groups(inputs[0], names), inputs[0].partitions, inputs[0].columns)


def _sample(step: Sample, inputs: Sequence[Flow]) -> Flow:
    flow = inputs[0]
    share = step.fraction or 0.0
    rows = _at_most(flow.rows, step.n) if step.n is not None else _scaled(flow.rows, share, share, share)
    return Flow(rows, flow.partitions, flow.columns)


def _merge(step: Merge, inputs: Sequence[Flow]) -> Flow:
    left, right = inputs
    added = merged_names(step, tuple(left.columns), tuple(right.columns))
    columns = {**left.columns, **{new: right.columns[old] for old, new in added.items()}}
    if left.rows is None or right.rows is None:
        return Flow(None, left.partitions, columns)
    expected = max(left.rows.expected, right.rows.expected)
    low = {"left": left.rows.low, "right": right.rows.low, "inner": 0.0}.get(
        step.how, max(left.rows.low, right.rows.low)
    )
    high = max(left.rows.high * right.rows.high, left.rows.high + right.rows.high)
    return Flow(Range(low, max(low, expected), high), left.partitions, columns)


def pairs_of(step: Join, inputs: Sequence[Flow]) -> Flow:
    """The table that a join's model reads: a row for each candidate pair, or for each left row."""
    left, right = inputs
    renamed = joined_names(tuple(left.columns), tuple(right.columns), step.suffix)
    columns = {**left.columns, **{new: right.columns[old] for old, new in renamed.items()}}
    if not step.is_blocked:
        listed = right.rows or Range(1, LABELS_AT_MOST / 2, LABELS_AT_MOST)
        tokens = Range.exactly(0)
        for old, new in renamed.items():
            if new in step.contract.inputs:
                tokens += right.columns.get(old, Cells()).tokens
        many = Range(*(min(rows, LABELS_AT_MOST) for rows in (listed.low, listed.expected, listed.high)))
        whole = Range(*(getattr(tokens, at) * getattr(many, at) for at in ("low", "expected", "high")))
        return Flow(left.rows, left.partitions, {**left.columns, CANDIDATES: Cells(whole)})
    if left.rows is None or right.rows is None:
        return Flow(None, left.partitions, columns)
    all_pairs = left.rows.high * right.rows.high
    high = min(all_pairs, left.rows.high * step.max_pairs_per_row, float(step.max_pairs))
    if step.similar_left:
        high = min(high, left.rows.high * step.nearest)
    expected = min(high, left.rows.expected * step.nearest if step.similar_left else _blocked(step, inputs))
    return Flow(Range(0, expected, high), left.partitions, columns)


def _blocked(step: Join, inputs: Sequence[Flow]) -> float:
    """Pairs of equal keys, were they spread evenly; ten a row where nothing is known of them."""
    left, right = inputs
    assert left.rows is not None
    assert right.rows is not None
    known = [flow.distinct(on) for flow, on in ((left, step.left_on), (right, step.right_on)) if on]
    groups = [found for found in known if found is not None]
    if not groups and step.condition == "TRUE":  # all pairs, as for measuring the recall of a block
        return left.rows.expected * right.rows.expected
    if not groups:
        return left.rows.expected * min(_PAIRS_OF_ONE, right.rows.expected)
    return left.rows.expected * right.rows.expected / max(*groups, 1)


def _join(step: Join, inputs: Sequence[Flow]) -> Flow:
    left, right = inputs
    if step.how in ("semi", "anti"):
        return Flow(_scaled(left.rows, 0, 0.5, 1), left.partitions, left.columns)
    renamed = joined_names(tuple(left.columns), tuple(right.columns), step.suffix)
    columns = {**left.columns, **{new: right.columns[old] for old, new in renamed.items()}}
    pairs = pairs_of(step, inputs).rows
    if pairs is None or left.rows is None or right.rows is None:
        return Flow(None, left.partitions, columns)
    most = pairs.high if step.is_blocked else left.rows.high * LABELS_AT_MOST
    low = {"inner": 0.0, "left": left.rows.low, "right": right.rows.low}.get(
        step.how, max(left.rows.low, right.rows.low)
    )
    high = most + (0 if step.how == "inner" else left.rows.high + right.rows.high)
    expected = min(max(low, min(left.rows.expected, pairs.expected)), high)
    return Flow(Range(low, expected, high), left.partitions, columns)


def _rank(step: Rank, inputs: Sequence[Flow]) -> Flow:
    return Flow(_at_most(inputs[0].rows, step.k), 1, {**inputs[0].columns, RANK: Cells()})


def _resolve(step: Resolve, inputs: Sequence[Flow]) -> Flow:
    made = {CLUSTER: Cells(), CANONICAL: Cells(), EVIDENCE: Cells(Range(10, 15, 20))}
    return Flow(inputs[0].rows, inputs[0].partitions, {**inputs[0].columns, **made})


def pairs_within(step: Resolve, flow: Flow) -> Flow:
    """The table that a resolve's model reads: a row for each candidate pair, found from either side."""
    columns = {**flow.columns, **{f"{name}{OTHER}": cells for name, cells in flow.columns.items()}}
    if flow.rows is None:
        return Flow(None, flow.partitions, columns)
    rows = flow.rows
    all_pairs = rows.high * max(rows.high - 1, 0) / 2
    each = min(step.nearest, step.max_pairs_per_row) if step.similar else step.max_pairs_per_row
    high = min(all_pairs, rows.high * each, float(step.max_pairs))
    groups = flow.distinct(step.on) if step.on else None
    even = rows.expected**2 / 2 / max(groups, 1) if groups is not None else rows.expected * _PAIRS_OF_ONE
    expected = rows.expected * step.nearest if step.similar else even
    return Flow(Range(0, min(expected, high), high), flow.partitions, columns)


def _concat(step: Concat, inputs: Sequence[Flow]) -> Flow:
    columns = {name: cells for flow in reversed(inputs) for name, cells in flow.columns.items()}
    partitions = [flow.partitions for flow in inputs]
    rows: Range | None = Range.exactly(0)
    for flow in inputs:
        rows = None if rows is None or flow.rows is None else rows + flow.rows
    return Flow(rows, None if None in partitions else sum(p or 0 for p in partitions), columns)


_RULES: dict[type, Callable[[Any, Sequence[Flow]], Flow]] = {
    Map: _map,
    FlatMap: _flat_map,
    Filter: _some,
    Where: _some,
    Reduce: _reduce,
    Aggregate: _aggregate,
    Select: _select,
    Explode: _explode,
    Chunk: _chunk,
    Limit: _limit,
    Distinct: _distinct,
    Sample: _sample,
    Merge: _merge,
    Join: _join,
    Rank: _rank,
    Resolve: _resolve,
    Concat: _concat,
}
"""Sort keeps rows and sizes; the columns that assign makes are taken for numbers."""
