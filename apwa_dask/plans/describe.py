"""One step, one line of plain words."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pyarrow as pa

from apwa_dask.plans.steps import (
    Aggregate,
    Aggregation,
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

__all__ = ["columns_text", "describe"]

_MAX_COLUMNS = 30


def describe(step: Any) -> str:
    """What a step does, such as ``keep rows of reviews where stars < 3``."""
    return _WORDS[type(step)](step)


def columns_text(names: Iterable[str], schema: pa.Schema | None) -> str:
    """``text: string, stars: int64``; long lists are cut and counted."""
    listed = list(names)
    shown = []
    for name in listed[:_MAX_COLUMNS]:
        known = schema is not None and name in schema.names
        shown.append(f"{name}: {schema.field(name).type}" if known and schema is not None else name)
    more = f", ... ({len(listed)} columns)" if len(listed) > _MAX_COLUMNS else ""
    return ", ".join(shown) + more


def _names(names: Iterable[str]) -> str:
    return ", ".join(names)


def _map(step: Map) -> str:
    reads, writes = _names(step.contract.inputs), _names(step.contract.output.names)
    return f"map {step.input}: a model reads {reads}, writes {writes}"


def _filter(step: Filter) -> str:
    return f"filter {step.input}: a model reads {_names(step.contract.inputs)}, keeps or drops the row"


def _flat_map(step: FlatMap) -> str:
    writes = _names(step.contract.output.names)
    reads = _names(step.contract.inputs)
    return f"flat_map {step.input}: a model reads {reads}, writes up to {step.max_rows} rows of {writes}"


def _reduce(step: Reduce) -> str:
    each = (
        f"each {_names(step.by)}"
        if step.by
        else "each partition"
        if step.contract.unit == "partition"
        else "all rows"
    )
    reads = _names(step.contract.inputs)
    writes = _names(step.contract.output.names)
    return f"reduce {step.input}: for {each}, a model reads {reads}, writes one row of {writes}"


def _where(step: Where) -> str:
    return f"where {step.input}: keep rows with {step.condition}"


def _assign(step: Assign) -> str:
    return f"assign {step.input}: " + ", ".join(f"{name} = {text}" for name, text in step.columns.items())


def _select(step: Select) -> str:
    shown = (f"{name} as {step.rename[name]}" if name in step.rename else name for name in step.columns)
    return f"select {step.input}: {_names(shown)}"


def _explode(step: Explode) -> str:
    return f"explode {step.input}: one row for each element of {step.column}"


def _chunk(step: Chunk) -> str:
    size = f"{step.tokens} tokens, {step.overlap_tokens} shared"
    under = ", with their headings" if step.headings else ""
    return f"chunk {step.input}: cut {step.column} into pieces of {size}{under}"


def _aggregate(step: Aggregate) -> str:
    values = ", ".join(f"{name} = {_aggregation(rule)}" for name, rule in step.aggregates.items())
    return f"aggregate {step.input}{f' by {_names(step.by)}' if step.by else ''}: {values}"


def _aggregation(rule: Aggregation) -> str:
    return f"{rule.fn}({rule.column or 'rows'})"


def _sort(step: Sort) -> str:
    return f"sort {step.input} by " + ", ".join(
        f"{k.column}{' descending' if k.descending else ''}" for k in step.by
    )


def _limit(step: Limit) -> str:
    return f"limit {step.input}: the first {step.n} rows"


def _distinct(step: Distinct) -> str:
    each = _names(step.columns) if step.columns else "combination of all columns"
    return f"distinct {step.input}: the first row of each {each}"


def _sample(step: Sample) -> str:
    size = f"{step.n} rows" if step.n is not None else f"{step.fraction or 0:.4g} of the rows"
    return f"sample {step.input}: {size}, seed {step.seed}"


def _merge(step: Merge) -> str:
    keys = ", ".join(f"{left} = {right}" for left, right in zip(step.left_on, step.right_on, strict=False))
    return f"merge {step.input} with {step.right}: {step.how} join on {keys}"


def _join(step: Join) -> str:
    reads = _names(step.contract.inputs)
    return f"join {step.input} with {step.right}: {step.how} join of {_block(step)}; a model reads {reads}"


def _block(step: Join) -> str:
    """Which pairs the model is asked about."""
    parts = []
    if step.left_on:
        keys = zip(step.left_on, step.right_on, strict=False)
        parts.append("equal " + ", ".join(f"{a} = {b}" for a, b in keys))
    if step.condition:
        parts.append(f"rows where {step.condition}")
    if step.similar_left:
        parts.append(f"the {step.nearest} nearest by {_likeness(step.embed)}{_names(step.similar_left)}")
    if not parts:
        return "each row with the whole short table, in one question"
    return (
        f"{' and '.join(parts)} (at most {step.max_pairs_per_row:,} pairs a row, {step.max_pairs:,} in all)"
    )


def _likeness(embed: str | None) -> str:
    return f"vectors of {embed} of " if embed is not None else ""


def _rank(step: Rank) -> str:
    reads = _names(step.contract.inputs)
    return (
        f"rank {step.input}: a model reads {reads} of {step.width} rows at a time; the best {step.k:,} stay"
    )


def _resolve(step: Resolve) -> str:
    parts = [f"equal {_names(step.on)}"] if step.on else []
    parts += [f"rows where {step.condition}"] if step.condition else []
    near = f"the {step.nearest} nearest by {_likeness(step.embed)}{_names(step.similar)}"
    parts += [near] if step.similar else []
    caps = f"at most {step.max_pairs_per_row:,} pairs a row, {step.max_pairs:,} in all"
    reads = _names(step.contract.inputs)
    return f"resolve {step.input}: clusters among {' and '.join(parts)} ({caps}); a model reads {reads} of both rows"


def _concat(step: Concat) -> str:
    return f"concat {step.input} with {_names(step.others)}"


_WORDS: dict[type, Callable[[Any], str]] = {
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
    Limit: _limit,
    Distinct: _distinct,
    Sample: _sample,
    Merge: _merge,
    Join: _join,
    Rank: _rank,
    Resolve: _resolve,
    Concat: _concat,
}
