"""Columns and types, one step at a time: what each operation asks of its tables, and what comes out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pyarrow as pa

from apwa_dask.errors import PlanError, candidates
from apwa_dask.plans.expressions import HIDDEN, check, problem_of
from apwa_dask.plans.findings import Findings, Lineage, listed
from apwa_dask.plans.infer import (
    aggregate_type,
    is_list,
    is_ordered,
    is_text,
    joined_names,
    keys_meet,
    merged_names,
    output_schema,
    same_values,
)
from apwa_dask.plans.steps import (
    CANDIDATE,
    CANDIDATES,
    CANONICAL,
    CLUSTER,
    EVIDENCE,
    OTHER,
    RANK,
    Aggregate,
    Aggregation,
    Assign,
    Chunk,
    Concat,
    Distinct,
    Explode,
    FlatMap,
    Join,
    LLMStep,
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

__all__ = ["check_columns", "lineage_after"]


def check_columns(step: Any, inputs: Sequence[Lineage], found: Findings) -> None:
    schema = pair_of(step, inputs) if isinstance(step, Join) else inputs[0].schema
    rule = _COLUMN_RULES.get(type(step))
    if rule is not None:
        rule(step, inputs, found)
    if isinstance(step, LLMStep):
        for name in step.contract.inputs:
            if _has(step.id, "inputs", name, schema, found) and not _promptable(schema.field(name).type):
                found.add(
                    step.id, "inputs", f"{name!r} is {schema.field(name).type}, which a prompt cannot show"
                )
        if len(set(step.contract.inputs)) < len(step.contract.inputs):
            found.add(step.id, "inputs", "a column is listed twice")


def _has(step_id: str, place: str, name: str, schema: pa.Schema, found: Findings) -> bool:
    if name.startswith(HIDDEN):
        found.add(step_id, place, f"{name!r} is reserved: columns that start with {HIDDEN} are the engine's")
        return False
    if name in schema.names:
        return True
    found.add(step_id, place, f"no column {name!r}; {candidates(name, schema.names, noun='columns')}")
    return False


def _promptable(of: pa.DataType) -> bool:
    if is_list(of):
        return _promptable(of.value_type)
    if pa.types.is_struct(of):
        return all(_promptable(of.field(i).type) for i in range(of.num_fields))
    if pa.types.is_dictionary(of):
        return _promptable(of.value_type)
    # Binary columns hold images and pages; the agent decides whether its model can see them.
    return not (
        pa.types.is_null(of) or pa.types.is_union(of) or pa.types.is_map(of) or pa.types.is_interval(of)
    )


def _new_columns(step: Any, inputs: Sequence[Lineage], found: Findings) -> None:
    table = inputs[0]
    for name in step.contract.output.names:
        if name in table.schema.names:
            by = f"step {table.writers[name]!r} writes it" if name in table.writers else "the table has it"
            found.add(
                step.id, "output", f"column {name!r} exists already ({by}); no two steps write one column"
            )


def _reduce(step: Reduce, inputs: Sequence[Lineage], found: Findings) -> None:
    for name in step.by:
        if _has(step.id, "by", name, inputs[0].schema, found):
            _check_key(step.id, "by", name, inputs[0].schema, found)
        if name in step.contract.output.names:
            found.add(step.id, "output", f"column {name!r} is a group key already")


def _check_key(step_id: str, place: str, name: str, schema: pa.Schema, found: Findings) -> None:
    of = schema.field(name).type
    if not _is_key(of):
        keys = _columns_where(schema, _is_key)
        found.add(step_id, place, f"{name!r} is {of}, which cannot be grouped, joined or sorted; {keys} can")


def _is_key(of: pa.DataType) -> bool:
    return is_ordered(of) or pa.types.is_dictionary(of)


def _columns_where(schema: pa.Schema, fits: Callable[[pa.DataType], bool]) -> str:
    """The columns whose types fit, with those, for a message."""
    return listed([field for field in schema if fits(field.type)])


def _where(step: Where, inputs: Sequence[Lineage], found: Findings) -> None:
    problem = problem_of(step.condition, inputs[0].schema)
    if problem:
        found.add(step.id, "condition", problem)
        return
    kind = check({"condition": step.condition}, inputs[0].schema)["condition"]
    if not pa.types.is_boolean(kind):
        found.add(step.id, "condition", f"it is {kind}, not boolean; compare with something, such as x > 0")


def _assign(step: Assign, inputs: Sequence[Lineage], found: Findings) -> None:
    for name, expression in step.columns.items():
        if name.startswith(HIDDEN):
            found.add(step.id, f"columns.{name}", f"names that start with {HIDDEN} are reserved")
        problem = problem_of(expression, inputs[0].schema)
        if problem:
            found.add(step.id, f"columns.{name}", problem)
        if name in inputs[0].writers:
            writer = inputs[0].writers[name]
            found.add(
                step.id, f"columns.{name}", f"step {writer!r} writes {name!r} already; choose a new name"
            )


def _select(step: Select, inputs: Sequence[Lineage], found: Findings) -> None:
    for name in step.columns:
        _has(step.id, "columns", name, inputs[0].schema, found)
    for old, new in step.rename.items():
        if old not in step.columns:
            found.add(
                step.id, "rename", f"{old!r} is not selected; {candidates(old, step.columns, noun='columns')}"
            )
        if new.startswith(HIDDEN):
            found.add(step.id, "rename", f"names that start with {HIDDEN} are reserved")
    names = [step.rename.get(name, name) for name in step.columns]
    for name in sorted({name for name in names if names.count(name) > 1}):
        found.add(step.id, "columns", f"two columns would be called {name!r}")


def _explode(step: Explode, inputs: Sequence[Lineage], found: Findings) -> None:
    if _has(step.id, "column", step.column, inputs[0].schema, found):
        of = inputs[0].schema.field(step.column).type
        if not is_list(of):
            lists = _columns_where(inputs[0].schema, is_list)
            found.add(step.id, "column", f"{step.column!r} is {of}, no list; lists: {lists}")


def _chunk(step: Chunk, inputs: Sequence[Lineage], found: Findings) -> None:
    if step.overlap_tokens >= step.tokens:
        found.add(step.id, "overlap_tokens", "the overlap must be smaller than the chunk")
    schema = inputs[0].schema
    if _has(step.id, "column", step.column, schema, found) and not is_text(schema.field(step.column).type):
        of, texts = schema.field(step.column).type, _columns_where(schema, is_text)
        found.add(step.id, "column", f"{step.column!r} is {of}, no text; texts: {texts}")
    for name in step.added:
        if name in schema.names:
            found.add(step.id, "column", f"column {name!r} exists already; no two steps write one column")


def _aggregate(step: Aggregate, inputs: Sequence[Lineage], found: Findings) -> None:
    schema = inputs[0].schema
    for name in step.by:
        if _has(step.id, "by", name, schema, found):
            _check_key(step.id, "by", name, schema, found)
    for name, rule in step.aggregates.items():
        place = f"aggregates.{name}"
        if name in step.by:
            found.add(step.id, place, f"{name!r} is a group key already")
        if name.startswith(HIDDEN):
            found.add(step.id, place, f"names that start with {HIDDEN} are reserved")
        if rule.column is not None and not _has(step.id, place, rule.column, schema, found):
            continue
        try:
            aggregate_type(rule, schema.field(rule.column).type if rule.column else None)
        except PlanError as error:
            fitting = _columns_where(schema, partial(_aggregates, rule))
            found.add(step.id, place, f"{error.what}; {rule.fn} takes {fitting}")


def _aggregates(rule: Aggregation, of: pa.DataType) -> bool:
    try:
        aggregate_type(rule, of)
    except PlanError:
        return False
    return True


def _sort(step: Sort, inputs: Sequence[Lineage], found: Findings) -> None:
    for key in step.by:
        if _has(step.id, "by", key.column, inputs[0].schema, found):
            _check_key(step.id, "by", key.column, inputs[0].schema, found)


def _distinct(step: Distinct, inputs: Sequence[Lineage], found: Findings) -> None:
    for name in step.columns or inputs[0].schema.names:
        if _has(step.id, "columns", name, inputs[0].schema, found):
            of = inputs[0].schema.field(name).type
            if pa.types.is_nested(of):
                found.add(
                    step.id,
                    "columns",
                    f"{name!r} is {of}, which cannot be compared; name the columns to compare",
                )


def _sample(step: Sample, inputs: Sequence[Lineage], found: Findings) -> None:
    if (step.n is None) == (step.fraction is None):
        found.add(step.id, "n", "give n or fraction, and not both")


def _merge(step: Merge, inputs: Sequence[Lineage], found: Findings) -> None:
    left, right = inputs[0].schema, inputs[1].schema
    _check_keys(step, left, right, found)
    added = list(merged_names(step, left.names, right.names).values())
    for name in sorted({n for n in added if n in left.names or added.count(n) > 1}):
        found.add(step.id, "suffix", f"two columns would be called {name!r}; choose another suffix")


def pair_of(step: Join, inputs: Sequence[Lineage]) -> pa.Schema:
    """All columns of a pair of rows, by the names that a join's contract and condition use."""
    left, right = inputs[0].schema, inputs[1].schema
    renamed = joined_names(left.names, right.names, step.suffix)
    return pa.schema([*left, *(right.field(old).with_name(new) for old, new in renamed.items())])


def _join(step: Join, inputs: Sequence[Lineage], found: Findings) -> None:
    left, right = inputs[0].schema, inputs[1].schema
    _check_keys(step, left, right, found)
    for place, names, schema in (
        ("similar_left", step.similar_left, left),
        ("similar_right", step.similar_right, right),
    ):
        for name in names:
            if _has(step.id, place, name, schema, found) and not is_text(schema.field(name).type):
                of, texts = schema.field(name).type, _columns_where(schema, is_text)
                found.add(step.id, place, f"{name!r} is {of}, no text; texts: {texts}")
    _check_embed(step.id, step.embed, step.similar_left, "similar_left and similar_right", found)
    if bool(step.similar_left) != bool(step.similar_right):
        found.add(step.id, "similar_right", "give the texts to compare on both sides, or on none")
    pair = pair_of(step, inputs)
    for name in sorted({name for name in pair.names if pair.names.count(name) > 1}):
        found.add(step.id, "suffix", f"two columns would be called {name!r}; choose another suffix")
        return
    if step.condition is not None:
        _check_condition(step.id, step.condition, pair, found)
    _check_shown(step, left, pair, found)


def _check_shown(step: Join, left: pa.Schema, pair: pa.Schema, found: Findings) -> None:
    """The model sees something of both rows, and of a short right table all of it in one column."""
    theirs = [name for name in pair.names if name not in left.names]
    shown = step.contract.inputs
    if all(name in pair.names for name in shown):
        for side, names in (("left", left.names), ("right", theirs)):
            if not set(names) & set(shown):
                known = ", ".join(list(names)[:10])
                found.add(step.id, "inputs", f"the model sees nothing of the {side} row; it has {known}")
    if "match" in shown or (not step.is_blocked and {CANDIDATES, "matches"} & set(shown)):
        found.add(
            step.id, "inputs", f"match, matches and {CANDIDATES} are the join's own; rename them in a select"
        )
    if not step.is_blocked and step.contract.examples:
        found.add(step.id, "examples", "they need a block: without one the model chooses from a list")


def _check_keys(step: Merge | Join, left: pa.Schema, right: pa.Schema, found: Findings) -> None:
    if len(step.left_on) != len(step.right_on):
        found.add(step.id, "right_on", f"{len(step.left_on)} left keys and {len(step.right_on)} right keys")
    for place, names, schema in (("left_on", step.left_on, left), ("right_on", step.right_on, right)):
        for name in names:
            if _has(step.id, place, name, schema, found):
                _check_key(step.id, place, name, schema, found)
    for mine, theirs in zip(step.left_on, step.right_on, strict=False):
        if mine not in left.names or theirs not in right.names:
            continue
        a, b = left.field(mine).type, right.field(theirs).type
        if not keys_meet(a, b):
            found.add(
                step.id,
                "right_on",
                f"{mine!r} is {a} on the left and {theirs!r} is {b} on the right; {_cast_hint(mine, a, theirs, b)}",
            )


def _rank(step: Rank, inputs: Sequence[Lineage], found: Findings) -> None:
    if RANK in inputs[0].schema.names:
        found.add(step.id, "output", f"column {RANK!r} exists already; rename it in a select before")
    if CANDIDATE in step.contract.inputs:
        found.add(step.id, "inputs", f"{CANDIDATE} is the step's own; rename the column in a select before")
    if step.contract.examples:
        found.add(
            step.id, "examples", "a rank asks about several rows at once; put what matters in the instruction"
        )
    if step.contract.tools or step.contract.unit != "row":
        found.add(step.id, "unit", "a rank packs rows by itself and has no tools; leave both out")


def _resolve(step: Resolve, inputs: Sequence[Lineage], found: Findings) -> None:
    schema = inputs[0].schema
    for name in step.on:
        if _has(step.id, "on", name, schema, found):
            _check_key(step.id, "on", name, schema, found)
    for name in step.similar:
        if _has(step.id, "similar", name, schema, found) and not is_text(schema.field(name).type):
            of, texts = schema.field(name).type, _columns_where(schema, is_text)
            found.add(step.id, "similar", f"{name!r} is {of}, no text; texts: {texts}")
    _check_embed(step.id, step.embed, step.similar, "similar", found)
    if not (step.on or step.condition or step.similar):
        found.add(
            step.id, "on", "a resolve needs a block: on, a condition, or similar; else all rows meet all rows"
        )
    others = [field.with_name(f"{field.name}{OTHER}") for field in schema]
    for name in sorted({field.name for field in others} & set(schema.names)):
        found.add(
            step.id,
            "inputs",
            f"{name!r} is the other row's {name.removesuffix(OTHER)!r} here; rename it before",
        )
        return
    if step.condition is not None:
        _check_condition(step.id, step.condition, pa.schema([*schema, *others]), found)
    for name in (CLUSTER, CANONICAL, EVIDENCE):
        if name in schema.names:
            found.add(step.id, "output", f"column {name!r} exists already; rename it in a select before")
    if "match" in step.contract.inputs:
        found.add(step.id, "inputs", "match is the step's own; rename the column in a select before")


def _check_embed(
    step_id: str, embed: str | None, texts: tuple[str, ...], fields: str, found: Findings
) -> None:
    if embed is not None and not texts:
        found.add(step_id, "embed", f"it compares texts: name their columns in {fields}, or leave embed out")


def _check_condition(step_id: str, condition: str, pair: pa.Schema, found: Findings) -> None:
    problem = problem_of(condition, pair)
    kind = None if problem else check({"condition": condition}, pair)["condition"]
    if problem:
        found.add(step_id, "condition", problem)
    elif not pa.types.is_boolean(kind):
        found.add(step_id, "condition", f"it is {kind}, not boolean; compare with something, such as x > 0")


def _cast_hint(mine: str, a: pa.DataType, theirs: str, b: pa.DataType) -> str:
    """A cast that loses nothing: the side that is no text becomes text."""
    if is_text(a) == is_text(b):
        return "join columns of one type, or cast one of them in an assign step before"
    other = theirs if is_text(a) else mine
    return f'put an assign step before, such as {other}_text: CAST("{other}" AS VARCHAR), and join on that'


def _concat(step: Concat, inputs: Sequence[Lineage], found: Findings) -> None:
    types: dict[str, pa.DataType] = {}
    for name, table in zip(step.inputs_from, inputs, strict=True):
        for column in table.schema:
            known = types.setdefault(column.name, column.type)
            if not same_values(known, column.type):
                found.add(
                    step.id,
                    "others",
                    f"{column.name!r} is {known} above and {column.type} in {name!r}; make them one type by an"
                    " assign step before this one",
                )


_COLUMN_RULES: dict[type, Any] = {
    Map: _new_columns,
    FlatMap: _new_columns,
    Reduce: _reduce,
    Where: _where,
    Assign: _assign,
    Select: _select,
    Explode: _explode,
    Chunk: _chunk,
    Aggregate: _aggregate,
    Sort: _sort,
    Distinct: _distinct,
    Sample: _sample,
    Merge: _merge,
    Join: _join,
    Rank: _rank,
    Resolve: _resolve,
    Concat: _concat,
}


# --- the table that comes out


def lineage_after(step: Any, inputs: Sequence[Lineage], found: Findings) -> Lineage | None:
    schema = output_schema(step, [table.schema for table in inputs])
    writers = dict(inputs[0].writers)
    if isinstance(step, (Map, FlatMap)):
        writers |= dict.fromkeys(step.contract.output.names, step.id)
    elif isinstance(step, Assign):
        writers |= dict.fromkeys(step.columns, step.id)
    elif isinstance(step, Chunk):
        writers |= dict.fromkeys((step.column, *step.added), step.id)
    elif isinstance(step, Select):
        writers = {step.rename.get(n, n): writers[n] for n in step.columns if n in writers}
    elif isinstance(step, (Aggregate, Reduce)):
        writers = {name: writers.get(name, step.id) for name in schema.names}
    elif isinstance(step, Merge):
        names = merged_names(step, inputs[0].schema.names, inputs[1].schema.names)
        writers |= {new: inputs[1].writers[old] for old, new in names.items() if old in inputs[1].writers}
    elif isinstance(step, Join) and step.how not in ("semi", "anti"):
        names = joined_names(inputs[0].schema.names, inputs[1].schema.names, step.suffix)
        writers |= {new: inputs[1].writers[old] for old, new in names.items() if old in inputs[1].writers}
    elif isinstance(step, Resolve):
        writers |= dict.fromkeys((CLUSTER, CANONICAL, EVIDENCE), step.id)
    elif isinstance(step, Rank):
        writers |= {RANK: step.id}
    elif isinstance(step, Concat):
        for table in inputs[1:]:
            writers = {**table.writers, **writers}
    return Lineage(schema, writers)
