"""Checks of a plan against its tables, before anything is read or paid: one error that lists every problem."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from apwa_dask.errors import PlanError, candidates
from apwa_dask.plans.expressions import HIDDEN, check, columns_of, problem_of
from apwa_dask.plans.infer import (
    Catalog,
    aggregate_type,
    is_list,
    is_ordered,
    is_text,
    merged_names,
    output_schema,
    visible,
)
from apwa_dask.plans.loading import load, plan_error
from apwa_dask.plans.plan import Plan
from apwa_dask.plans.steps import (
    Aggregate,
    Assign,
    Chunk,
    Concat,
    Distinct,
    Explode,
    FlatMap,
    LLMStep,
    Map,
    Merge,
    Reduce,
    Sample,
    Select,
    Sort,
    Where,
)

__all__ = ["Problem", "Warning", "load", "plan_error", "problems_of", "validate"]

_UNSAFE = re.compile(r"://|::|[/\\]|\.\.|\{\{|\{%|\$\{|`|\n")
"""What a name can never hold: URLs, chained file systems, paths, templates."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a plan: where (``step.field``) and what, with the candidates in the text."""

    step: str
    field: str
    text: str

    def __str__(self) -> str:
        place = ".".join(part for part in (self.step, self.field) if part)
        return f"{place}: {self.text}"


@dataclass(frozen=True, slots=True)
class Warning:  # noqa: A001 - the word users know
    """Something lawful that is probably not meant."""

    step: str
    text: str

    def __str__(self) -> str:
        return f"{self.step}: {self.text}" if self.step else self.text


@dataclass
class _Findings:
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Warning] = field(default_factory=list)

    def add(self, step: str, place: str, text: str) -> None:
        self.problems.append(Problem(step, place, text))


@dataclass(frozen=True)
class _Table:
    """A table on its way through the plan. `writers`: column to the step that wrote it (sources are no steps)."""

    schema: pa.Schema
    writers: Mapping[str, str]


def validate(
    plan: Plan, catalog: Catalog, *, tools: Collection[str] = frozenset(), models: Collection[str] = frozenset()
) -> tuple[Warning, ...]:
    """Check a plan against the tables, tools and models at hand.

    A column name has one writer along any line of steps. `assign` may replace a column of a source; a column
    that a step wrote is final, so that what a model answered is never overwritten.

    Parameters
    ----------
    plan : Plan
    catalog : mapping of str to pyarrow.Schema
        Tables by alias.
    tools, models : collection of str
        Registered capabilities, and aliases of models besides the run's default.

    Returns
    -------
    tuple of Warning

    Raises
    ------
    PlanError
        The plan is not valid; the message lists every problem with its step, field and the candidates.
    """
    problems, warnings = problems_of(plan, catalog, tools=tools, models=models)
    if not problems:
        return warnings
    count = f"{len(problems)} problems" if len(problems) > 1 else "1 problem"
    listed = "\n".join(f"  - {problem}" for problem in problems)
    raise PlanError(
        f"the plan has {count}:\n{listed}",
        fix="change the plan as each line says; nothing was read or paid",
        code="PLAN-INVALID",
    )


def problems_of(
    plan: Plan, catalog: Catalog, *, tools: Collection[str] = frozenset(), models: Collection[str] = frozenset()
) -> tuple[tuple[Problem, ...], tuple[Warning, ...]]:
    """As `validate`, but returns the problems: what a manager is told when it may try again."""
    found = _Findings()
    tables: dict[str, _Table | None] = {}
    _check_sources(plan, catalog, tables, found)
    ids = [step.id for step in plan.steps]
    for index, step in enumerate(plan.steps):
        _check_id(step.id, ids[:index], plan.sources, found)
        inputs = [_lookup(step, name, tables, ids[index:], found) for name in step.inputs_from]
        if isinstance(step, LLMStep):
            _check_agent(step, tools, models, found)
        before = len(found.problems)
        if all(table is not None for table in inputs):
            _check_columns(step, [table for table in inputs if table is not None], found)
        sound = all(table is not None for table in inputs) and len(found.problems) == before
        tables[step.id] = _out(step, [t for t in inputs if t is not None], found) if sound else None
    if plan.output is not None and plan.output not in tables:
        found.add("", "output", f"no step or source {plan.output!r}; {candidates(plan.output, tables, noun='names')}")
    _warn(plan, found)
    return tuple(found.problems), tuple(found.warnings)


def _check_sources(plan: Plan, catalog: Catalog, tables: dict[str, _Table | None], found: _Findings) -> None:
    for alias in plan.sources:
        if alias in tables:
            found.add("", "sources", f"{alias!r} is listed twice")
        elif _UNSAFE.search(alias):
            found.add("", "sources", f"{alias!r} is no alias; a plan names tables, never paths or URLs")
        elif alias not in catalog:
            found.add("", "sources", f"no table {alias!r}; {candidates(alias, catalog, noun='tables')}")
            tables[alias] = None
        else:
            tables[alias] = _Table(visible(catalog[alias]), {})


def _check_id(step_id: str, earlier: Sequence[str], sources: Sequence[str], found: _Findings) -> None:
    if step_id.startswith(HIDDEN):
        found.add(step_id, "id", f"names that start with {HIDDEN} are reserved")
    if step_id in earlier:
        found.add(step_id, "id", "another step has this id")
    if step_id in sources:
        found.add(step_id, "id", "a source has this name")


def _lookup(
    step: Any, name: str, tables: Mapping[str, _Table | None], later: Sequence[str], found: _Findings
) -> _Table | None:
    if name in tables:
        return tables[name]
    if name == step.id:
        found.add(step.id, "input", "a step cannot read itself")
    elif name in later:
        found.add(step.id, "input", f"{name!r} comes later; steps read sources and earlier steps, so there are no cycles")
    else:
        found.add(step.id, "input", f"no table or step {name!r}; {candidates(name, tables, noun='tables and steps')}")
    return None


# --- what an agent may do


def _check_agent(step: LLMStep, tools: Collection[str], models: Collection[str], found: _Findings) -> None:
    contract = step.contract
    for name in contract.tools:
        if _UNSAFE.search(name):
            found.add(step.id, "tools", f"{name!r} is no tool name; a plan names registered tools, never paths or code")
        elif name not in tools:
            found.add(step.id, "tools", f"no tool {name!r}; {candidates(name, sorted(tools), noun='tools')}")
    if contract.model is not None and _UNSAFE.search(contract.model) and contract.model not in models:
        found.add(step.id, "model", f"{contract.model!r} is no model alias; a plan never names URLs or paths")
    elif contract.model is not None and contract.model not in models:
        known = candidates(contract.model, sorted(models), noun="models")
        found.add(step.id, "model", f"no model {contract.model!r}; {known}; leave it out for the run's default")
    if contract.pack_rows is not None and contract.tools:
        found.add(step.id, "unit", "tools never work with packs: one row could steer the tools of another; use unit row")
    if contract.unit == "group" and not isinstance(step, Reduce):
        found.add(step.id, "unit", f"group belongs to reduce; a {step.op} works on row, pack(n) or partition")  # type: ignore[attr-defined]
    if contract.unit == "partition" and not isinstance(step, (Map, Reduce)):
        found.add(step.id, "unit", f"partition belongs to map and reduce; a {step.op} works on row or pack(n)")  # type: ignore[attr-defined]
    if isinstance(step, Reduce) and contract.unit == "group" and not step.by:
        found.add(step.id, "by", "unit group needs the columns to group by")
    if isinstance(step, Reduce) and contract.pack_rows is not None:
        found.add(step.id, "unit", "a reduce packs rows by itself; use group or partition, or leave the unit out")
    for number, example in enumerate(contract.examples):
        if set(example.inputs) != set(contract.inputs):
            found.add(step.id, f"examples[{number}].inputs", f"must have exactly the inputs {', '.join(contract.inputs)}")
        if not isinstance(step, FlatMap) and set(example.output) != set(contract.output.names):
            names = ", ".join(contract.output.names)
            found.add(step.id, f"examples[{number}].output", f"must have exactly the fields {names}")


# --- columns and types, one step at a time


def _check_columns(step: Any, inputs: Sequence[_Table], found: _Findings) -> None:
    schema = inputs[0].schema
    rule = _COLUMN_RULES.get(type(step))
    if rule is not None:
        rule(step, inputs, found)
    if isinstance(step, LLMStep):
        for name in step.contract.inputs:
            if _has(step.id, "inputs", name, schema, found) and not _promptable(schema.field(name).type):
                found.add(step.id, "inputs", f"{name!r} is {schema.field(name).type}, which a prompt cannot show")
        if len(set(step.contract.inputs)) < len(step.contract.inputs):
            found.add(step.id, "inputs", "a column is listed twice")


def _has(step_id: str, place: str, name: str, schema: pa.Schema, found: _Findings) -> bool:
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
    return not (pa.types.is_null(of) or pa.types.is_union(of) or pa.types.is_map(of) or pa.types.is_interval(of))


def _new_columns(step: Any, inputs: Sequence[_Table], found: _Findings) -> None:
    table = inputs[0]
    for name in step.contract.output.names:
        if name in table.schema.names:
            by = f"step {table.writers[name]!r} writes it" if name in table.writers else "the table has it"
            found.add(step.id, "output", f"column {name!r} exists already ({by}); no two steps write one column")


def _reduce(step: Reduce, inputs: Sequence[_Table], found: _Findings) -> None:
    for name in step.by:
        if _has(step.id, "by", name, inputs[0].schema, found):
            _check_key(step.id, "by", name, inputs[0].schema, found)
        if name in step.contract.output.names:
            found.add(step.id, "output", f"column {name!r} is a group key already")


def _check_key(step_id: str, place: str, name: str, schema: pa.Schema, found: _Findings) -> None:
    of = schema.field(name).type
    if not (is_ordered(of) or pa.types.is_dictionary(of)):
        found.add(step_id, place, f"{name!r} is {of}, which cannot be grouped, joined or sorted")


def _where(step: Where, inputs: Sequence[_Table], found: _Findings) -> None:
    problem = problem_of(step.condition, inputs[0].schema)
    if problem:
        found.add(step.id, "condition", problem)
        return
    kind = check({"condition": step.condition}, inputs[0].schema)["condition"]
    if not pa.types.is_boolean(kind):
        found.add(step.id, "condition", f"it is {kind}, not boolean; compare with something, such as x > 0")


def _assign(step: Assign, inputs: Sequence[_Table], found: _Findings) -> None:
    for name, expression in step.columns.items():
        if name.startswith(HIDDEN):
            found.add(step.id, f"columns.{name}", f"names that start with {HIDDEN} are reserved")
        problem = problem_of(expression, inputs[0].schema)
        if problem:
            found.add(step.id, f"columns.{name}", problem)
        if name in inputs[0].writers:
            writer = inputs[0].writers[name]
            found.add(step.id, f"columns.{name}", f"step {writer!r} writes {name!r} already; choose a new name")


def _select(step: Select, inputs: Sequence[_Table], found: _Findings) -> None:
    for name in step.columns:
        _has(step.id, "columns", name, inputs[0].schema, found)
    for old, new in step.rename.items():
        if old not in step.columns:
            found.add(step.id, "rename", f"{old!r} is not selected; {candidates(old, step.columns, noun='columns')}")
        if new.startswith(HIDDEN):
            found.add(step.id, "rename", f"names that start with {HIDDEN} are reserved")
    names = [step.rename.get(name, name) for name in step.columns]
    for name in sorted({name for name in names if names.count(name) > 1}):
        found.add(step.id, "columns", f"two columns would be called {name!r}")


def _explode(step: Explode, inputs: Sequence[_Table], found: _Findings) -> None:
    if _has(step.id, "column", step.column, inputs[0].schema, found):
        of = inputs[0].schema.field(step.column).type
        if not is_list(of):
            lists = [f.name for f in inputs[0].schema if is_list(f.type)]
            found.add(step.id, "column", f"{step.column!r} is {of}, no list; lists: {', '.join(lists) or 'none'}")


def _chunk(step: Chunk, inputs: Sequence[_Table], found: _Findings) -> None:
    if step.overlap_tokens >= step.tokens:
        found.add(step.id, "overlap_tokens", "the overlap must be smaller than the chunk")
    schema = inputs[0].schema
    if _has(step.id, "column", step.column, schema, found) and not is_text(schema.field(step.column).type):
        found.add(step.id, "column", f"{step.column!r} is {schema.field(step.column).type}, no text")
    if f"{step.column}_chunk" in schema.names:
        found.add(step.id, "column", f"column '{step.column}_chunk' exists already; no two steps write one column")


def _aggregate(step: Aggregate, inputs: Sequence[_Table], found: _Findings) -> None:
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
            found.add(step.id, place, error.what)


def _sort(step: Sort, inputs: Sequence[_Table], found: _Findings) -> None:
    for key in step.by:
        if _has(step.id, "by", key.column, inputs[0].schema, found):
            _check_key(step.id, "by", key.column, inputs[0].schema, found)


def _distinct(step: Distinct, inputs: Sequence[_Table], found: _Findings) -> None:
    for name in step.columns or inputs[0].schema.names:
        if _has(step.id, "columns", name, inputs[0].schema, found):
            of = inputs[0].schema.field(name).type
            if pa.types.is_nested(of):
                found.add(step.id, "columns", f"{name!r} is {of}, which cannot be compared; name the columns to compare")


def _sample(step: Sample, inputs: Sequence[_Table], found: _Findings) -> None:
    if (step.n is None) == (step.fraction is None):
        found.add(step.id, "n", "give n or fraction, and not both")


def _merge(step: Merge, inputs: Sequence[_Table], found: _Findings) -> None:
    left, right = inputs[0].schema, inputs[1].schema
    if len(step.left_on) != len(step.right_on):
        found.add(step.id, "right_on", f"{len(step.left_on)} left keys and {len(step.right_on)} right keys")
    for place, names, schema in (("left_on", step.left_on, left), ("right_on", step.right_on, right)):
        for name in names:
            if _has(step.id, place, name, schema, found):
                _check_key(step.id, place, name, schema, found)
    for l, r in zip(step.left_on, step.right_on, strict=False):
        if l in left.names and r in right.names and not _comparable(left.field(l).type, right.field(r).type):
            found.add(step.id, "right_on", f"{l!r} is {left.field(l).type} and {r!r} is {right.field(r).type}; cast one")
    added = list(merged_names(step, left.names, right.names).values())
    for name in sorted({n for n in added if n in left.names or added.count(n) > 1}):
        found.add(step.id, "suffix", f"two columns would be called {name!r}; choose another suffix")


def _comparable(a: pa.DataType, b: pa.DataType) -> bool:
    return a == b or (pa.types.is_integer(a) and pa.types.is_integer(b)) or (is_text(a) and is_text(b))


def _concat(step: Concat, inputs: Sequence[_Table], found: _Findings) -> None:
    types: dict[str, pa.DataType] = {}
    for name, table in zip(step.inputs_from, inputs, strict=True):
        for column in table.schema:
            known = types.setdefault(column.name, column.type)
            if known != column.type:
                found.add(step.id, "others", f"{column.name!r} is {known} above and {column.type} in {name!r}; cast one")


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
    Concat: _concat,
}


# --- the table that comes out


def _out(step: Any, inputs: Sequence[_Table], found: _Findings) -> _Table | None:
    schema = output_schema(step, [table.schema for table in inputs])
    writers = dict(inputs[0].writers)
    if isinstance(step, (Map, FlatMap)):
        writers |= dict.fromkeys(step.contract.output.names, step.id)
    elif isinstance(step, Assign):
        writers |= dict.fromkeys(step.columns, step.id)
    elif isinstance(step, Chunk):
        writers |= {step.column: step.id, f"{step.column}_chunk": step.id}
    elif isinstance(step, Select):
        writers = {step.rename.get(n, n): writers[n] for n in step.columns if n in writers}
    elif isinstance(step, (Aggregate, Reduce)):
        writers = {name: writers.get(name, step.id) for name in schema.names}
    elif isinstance(step, Merge):
        names = merged_names(step, inputs[0].schema.names, inputs[1].schema.names)
        writers |= {new: inputs[1].writers[old] for old, new in names.items() if old in inputs[1].writers}
    elif isinstance(step, Concat):
        for table in inputs[1:]:
            writers = {**table.writers, **writers}
    return _Table(schema, writers)


# --- warnings


def _warn(plan: Plan, found: _Findings) -> None:
    reads = {name for step in plan.steps for name in step.inputs_from} | {plan.result}
    for alias in plan.sources:
        if alias not in reads:
            found.warnings.append(Warning("", f"the table {alias!r} is never read"))
    for step in plan.steps:
        if step.id not in reads:
            found.warnings.append(Warning(step.id, "no step reads its rows, and they are not the result"))
        if isinstance(step, LLMStep) and step.contract.pack_rows is not None:
            found.warnings.append(Warning(step.id, "rows of one pack share a prompt: a row can sway its neighbours"))
    for before, after in zip(plan.steps, plan.steps[1:], strict=False):
        if isinstance(before, LLMStep) and isinstance(after, Where) and after.input == before.id:
            try:
                reads_answer = columns_of(after.condition) & set(before.contract.output.names)
            except PlanError:
                continue  # already listed as a problem
            if not reads_answer:
                text = f"it reads nothing that {before.id!r} writes; put it first, and fewer rows are paid"
                found.warnings.append(Warning(after.id, text))
