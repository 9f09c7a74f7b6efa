"""Schemas along a plan: what columns, of which types, each step has."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from apwa_dask.errors import PlanError, candidates
from apwa_dask.plans.expressions import HIDDEN, check
from apwa_dask.plans.plan import Plan
from apwa_dask.plans.steps import (
    CANONICAL,
    CLUSTER,
    EVIDENCE,
    RANK,
    Aggregate,
    Aggregation,
    Assign,
    Chunk,
    Concat,
    Explode,
    FlatMap,
    Join,
    Map,
    Merge,
    Rank,
    Reduce,
    Resolve,
    Select,
)

__all__ = [
    "CLUSTER_FIELDS",
    "Catalog",
    "aggregate_type",
    "infer",
    "is_list",
    "is_number",
    "is_ordered",
    "is_text",
    "joined_names",
    "joined_schema",
    "keys_meet",
    "merged_names",
    "output_schema",
    "same_values",
    "visible",
]

Catalog = Mapping[str, pa.Schema]
"""Alias to the columns that the plan may see."""


def visible(schema: pa.Schema) -> pa.Schema:
    """The schema without the bookkeeping columns, which pass through row-local steps untouched."""
    return pa.schema([field for field in schema if not field.name.startswith(HIDDEN)])


def infer(plan: Plan, catalog: Catalog) -> dict[str, pa.Schema]:
    """Output schema of each source the plan names and of each step, in that order.

    Parameters
    ----------
    plan : Plan
    catalog : mapping of str to pyarrow.Schema
        Schemas of the tables by alias.

    Raises
    ------
    PlanError
        The first thing that does not fit; `apwa_dask.plans.validate.validate` lists them all.
    """
    schemas: dict[str, pa.Schema] = {}
    for alias in plan.sources:
        if alias not in catalog:
            raise PlanError(
                f"no table {alias!r}", fix=candidates(alias, catalog, noun="tables"), code="PLAN-SOURCE"
            )
        schemas[alias] = visible(catalog[alias])
    for step in plan.steps:
        for name in step.inputs_from:
            if name not in schemas:
                raise PlanError(
                    f"step {step.id!r} reads {name!r}, which is no source and no earlier step",
                    fix=candidates(name, schemas, noun="tables and steps"),
                    code="PLAN-INPUT",
                )
        schemas[step.id] = output_schema(step, [schemas[name] for name in step.inputs_from])
    return schemas


def output_schema(step: Any, inputs: Sequence[pa.Schema]) -> pa.Schema:
    """Columns that come out of one step, given those of the tables it reads (`step.inputs_from`, in order).

    Raises
    ------
    PlanError
        A column does not exist or has an unfit type.
    """
    inputs = [visible(schema) for schema in inputs]
    if hasattr(step, "columns_after"):
        return step.columns_after(inputs)
    return _RULES.get(type(step), _unchanged)(step, inputs)


def _unchanged(step: Any, inputs: Sequence[pa.Schema]) -> pa.Schema:
    return inputs[0]


def _map(step: Map | FlatMap, inputs: Sequence[pa.Schema]) -> pa.Schema:
    return pa.schema([*inputs[0], *step.contract.output.arrow()])


def _reduce(step: Reduce, inputs: Sequence[pa.Schema]) -> pa.Schema:
    return pa.schema([*(_field(inputs[0], name, step.id) for name in step.by), *step.contract.output.arrow()])


def _assign(step: Assign, inputs: Sequence[pa.Schema]) -> pa.Schema:
    types = check(step.columns, inputs[0])
    schema = inputs[0]
    for name, of in types.items():
        field = pa.field(name, of)
        schema = schema.set(schema.names.index(name), field) if name in schema.names else schema.append(field)
    return schema


def _select(step: Select, inputs: Sequence[pa.Schema]) -> pa.Schema:
    return pa.schema(
        [_field(inputs[0], name, step.id).with_name(step.rename.get(name, name)) for name in step.columns]
    )


def _explode(step: Explode, inputs: Sequence[pa.Schema]) -> pa.Schema:
    field = _field(inputs[0], step.column, step.id)
    if not is_list(field.type):
        raise PlanError(
            f"step {step.id!r} explodes {step.column!r}, which is {field.type} and no list", code="PLAN-TYPE"
        )
    return inputs[0].set(inputs[0].names.index(step.column), pa.field(step.column, field.type.value_type))


def _chunk(step: Chunk, inputs: Sequence[pa.Schema]) -> pa.Schema:
    field = _field(inputs[0], step.column, step.id)
    if not is_text(field.type):
        raise PlanError(
            f"step {step.id!r} cuts {step.column!r}, which is {field.type} and no text", code="PLAN-TYPE"
        )
    types = (pa.int64(), pa.string())
    return pa.schema([*inputs[0], *map(pa.field, step.added, types)])


def _aggregate(step: Aggregate, inputs: Sequence[pa.Schema]) -> pa.Schema:
    keys = [_field(inputs[0], name, step.id) for name in step.by]
    values = [
        pa.field(
            name, aggregate_type(rule, _field(inputs[0], rule.column, step.id).type if rule.column else None)
        )
        for name, rule in step.aggregates.items()
    ]
    return pa.schema([*keys, *values])


def aggregate_type(rule: Aggregation, of: pa.DataType | None) -> pa.DataType:
    """Type of an aggregate over a column of type `of` (None: over rows).

    Raises
    ------
    PlanError
        The function has no meaning for that type.
    """
    if rule.fn == "count":
        return pa.int64()
    if of is None:
        raise PlanError(f"{rule.fn} needs a column", fix="only count works without one", code="PLAN-TYPE")
    if rule.fn == "count_distinct" and not pa.types.is_nested(of):
        return pa.int64()
    if rule.fn in ("any", "all") and pa.types.is_boolean(of):
        return pa.bool_()
    if rule.fn in ("min", "max") and is_ordered(of):
        return of
    if rule.fn == "sum" and (pa.types.is_integer(of) or pa.types.is_boolean(of)):
        return pa.int64()
    if rule.fn == "mean" and pa.types.is_boolean(of):
        return pa.float64()
    if rule.fn in ("sum", "mean", "median", "std") and is_number(of):
        return pa.float64()
    raise PlanError(f"{rule.fn} has no meaning for {rule.column!r}, which is {of}", code="PLAN-TYPE")


def merged_names(step: Merge, left: Sequence[str], right: Sequence[str]) -> dict[str, str]:
    """Right column to its name in the result, without the keys that have one name on both sides."""
    shared = {r for left_key, r in zip(step.left_on, step.right_on, strict=False) if left_key == r}
    return {
        name: f"{name}{step.suffix}" if name in left else name
        for name in right
        if name not in shared and not name.startswith(HIDDEN)
    }


def _merge(step: Merge, inputs: Sequence[pa.Schema]) -> pa.Schema:
    left, right = inputs
    for name in step.left_on:
        _field(left, name, step.id)
    for name in step.right_on:
        _field(right, name, step.id)
    added = [
        right.field(old).with_name(new) for old, new in merged_names(step, left.names, right.names).items()
    ]
    kept = list(left)
    if step.how in ("left", "outer"):
        added = [_may_miss(field) for field in added]
    if step.how in ("right", "outer"):
        # A key with one name on both sides holds the values of either.
        shared = {a for a, b in zip(step.left_on, step.right_on, strict=False) if a == b}
        kept = [_may_miss(_common(f, right.field(f.name)) if f.name in shared else f) for f in kept]
    return pa.schema([*kept, *added])


def joined_names(left: Sequence[str], right: Sequence[str], suffix: str) -> dict[str, str]:
    """Right column of a join to its name beside the left ones."""
    return {
        name: f"{name}{suffix}" if name in left else name for name in right if not name.startswith(HIDDEN)
    }


def joined_schema(how: str, suffix: str, left: pa.Schema, right: pa.Schema) -> pa.Schema:
    """Columns of a join: the left table's, then, unless it only picks left rows, the right table's."""
    if how in ("semi", "anti"):
        return left
    added = [
        right.field(old).with_name(new) for old, new in joined_names(left.names, right.names, suffix).items()
    ]
    if how in ("left", "outer"):
        added = [_may_miss(field) for field in added]
    kept = [_may_miss(field) for field in left] if how in ("right", "outer") else list(left)
    return pa.schema([*kept, *added])


def _join(step: Join, inputs: Sequence[pa.Schema]) -> pa.Schema:
    return joined_schema(step.how, step.suffix, inputs[0], inputs[1])


def _rank(step: Rank, inputs: Sequence[pa.Schema]) -> pa.Schema:
    return inputs[0].append(pa.field(RANK, pa.int64()))


CLUSTER_FIELDS = (
    pa.field(CLUSTER, pa.int64()),
    pa.field(CANONICAL, pa.bool_()),
    pa.field(EVIDENCE, pa.string()),
)
"""What a resolve adds to its table."""


def _resolve(step: Resolve, inputs: Sequence[pa.Schema]) -> pa.Schema:
    return pa.schema([*inputs[0], *CLUSTER_FIELDS])


def _concat(step: Concat, inputs: Sequence[pa.Schema]) -> pa.Schema:
    fields: dict[str, pa.Field] = {}
    for schema in inputs:
        for field in schema:
            known = fields.setdefault(field.name, field)
            if not same_values(known.type, field.type):
                raise PlanError(
                    f"step {step.id!r}: {field.name!r} is {known.type} in one table, {field.type} in another",
                    fix="cast one of them in an assign step first",
                    code="PLAN-TYPE",
                )
            fields[field.name] = _common(known, field)
    everywhere = set.intersection(*(set(schema.names) for schema in inputs))
    return pa.schema([f if f.name in everywhere else _may_miss(f) for f in fields.values()])


def same_values(a: pa.DataType, b: pa.DataType) -> bool:
    """Whether two columns hold values of one kind: text of any width, categories as what they stand for."""
    a, b = _plain(a), _plain(b)
    return bool(a == b or (is_text(a) and is_text(b)))


def keys_meet(a: pa.DataType, b: pa.DataType) -> bool:
    """Whether rows can be joined by columns of these types; integers meet where one type covers both."""
    if same_values(a, b):
        return True
    if not (pa.types.is_integer(a) and pa.types.is_integer(b)):
        return False
    return pa.types.is_signed_integer(a) == pa.types.is_signed_integer(b) or pa.uint64() not in (a, b)


def _may_miss(field: pa.Field) -> pa.Field:
    """A column that may lack values loses the memory of a frame's dtype: NumPy integers cannot hold nulls."""
    return field if pa.types.is_dictionary(field.type) else field.remove_metadata()


def _common(a: pa.Field, b: pa.Field) -> pa.Field:
    """A column for the values of both; categories and dtypes of frames that differ give way to plain ones."""
    if a.type == b.type and (a.metadata or {}) == (b.metadata or {}):
        return a
    if same_values(a.type, b.type):
        plain = _plain(a.type)
        return pa.field(a.name, pa.string() if is_text(plain) else plain)
    unsigned = not (pa.types.is_signed_integer(a.type) or pa.types.is_signed_integer(b.type))
    return pa.field(a.name, pa.uint64() if unsigned else pa.int64())


def _plain(of: pa.DataType) -> pa.DataType:
    """The type of the values: categories are numbered anew wherever tables meet."""
    if not pa.types.is_dictionary(of):
        return of
    return pa.string() if is_text(of.value_type) else of.value_type


def _field(schema: pa.Schema, name: str, step_id: str) -> pa.Field:
    if name in schema.names:
        return schema.field(name)
    raise PlanError(
        f"step {step_id!r}: no column {name!r}",
        fix=candidates(name, schema.names, noun="columns"),
        code="PLAN-COLUMN",
    )


def is_list(of: pa.DataType) -> bool:
    """Whether the type is a list of any kind."""
    return bool(pa.types.is_list(of) or pa.types.is_large_list(of) or pa.types.is_fixed_size_list(of))


def is_number(of: pa.DataType) -> bool:
    """Whether the type is an integer, a float or a decimal (a boolean is none)."""
    return bool(pa.types.is_integer(of) or pa.types.is_floating(of) or pa.types.is_decimal(of))


def is_text(of: pa.DataType) -> bool:
    """Whether the type is a string of any width."""
    return bool(pa.types.is_string(of) or pa.types.is_large_string(of) or pa.types.is_string_view(of))


def is_ordered(of: pa.DataType) -> bool:
    """Whether values of the type have an order: numbers, text, times and booleans."""
    # A month has no fixed length, so intervals have none.
    moment = pa.types.is_temporal(of) and not pa.types.is_interval(of)
    return bool(is_number(of) or is_text(of) or moment or pa.types.is_boolean(of))


_RULES: dict[type, Callable[[Any, Sequence[pa.Schema]], pa.Schema]] = {
    Map: _map,
    FlatMap: _map,
    Reduce: _reduce,
    Assign: _assign,
    Select: _select,
    Explode: _explode,
    Chunk: _chunk,
    Aggregate: _aggregate,
    Merge: _merge,
    Concat: _concat,
    Join: _join,
    Rank: _rank,
    Resolve: _resolve,
}
"""Filter, where, sort, limit, distinct and sample change no column."""
