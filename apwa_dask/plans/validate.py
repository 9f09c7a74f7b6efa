"""Checks of a plan against its tables before anything is read or paid: one error with every problem."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from apwa_dask.errors import PlanError, candidates
from apwa_dask.plans.column_rules import check_columns, lineage_after
from apwa_dask.plans.expressions import HIDDEN, columns_of
from apwa_dask.plans.findings import Findings, Lineage, Problem, Warning
from apwa_dask.plans.infer import Catalog, visible
from apwa_dask.plans.loading import load, plan_error
from apwa_dask.plans.plan import Plan
from apwa_dask.plans.steps import Filter, FlatMap, Join, LLMStep, Map, Reduce, Resolve, Where

__all__ = ["Problem", "Warning", "load", "plan_error", "problems_of", "validate"]

_OF_ONE_ROW = (Map, Filter, FlatMap)
"""Steps whose prompts can be about a single row."""

_UNSAFE = re.compile(r"://|::|[/\\]|\.\.|\{\{|\{%|\$\{|`|\n")
"""What a name can never hold: URLs, chained file systems, paths, templates."""


def validate(
    plan: Plan,
    catalog: Catalog,
    *,
    tools: Collection[str] = frozenset(),
    models: Collection[str] = frozenset(),
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
    plan: Plan,
    catalog: Catalog,
    *,
    tools: Collection[str] = frozenset(),
    models: Collection[str] = frozenset(),
) -> tuple[tuple[Problem, ...], tuple[Warning, ...]]:
    """As `validate`, but returns the problems: what a manager is told when it may try again."""
    found = Findings()
    tables: dict[str, Lineage | None] = {}
    _check_sources(plan, catalog, tables, found)
    ids = [step.id for step in plan.steps]
    for index, step in enumerate(plan.steps):
        _check_id(step.id, ids[:index], plan.sources, found)
        inputs = [_lookup(step, name, tables, ids[index:], found) for name in step.inputs_from]
        if isinstance(step, LLMStep):
            _check_agent(step, tools, models, found)
            _check_lent(step, plan, found)
        before = len(found.problems)
        if all(table is not None for table in inputs):
            check_columns(step, [table for table in inputs if table is not None], found)
        sound = all(table is not None for table in inputs) and len(found.problems) == before
        tables[step.id] = lineage_after(step, [t for t in inputs if t is not None], found) if sound else None
    if plan.output is not None and plan.output not in tables:
        found.add(
            "",
            "output",
            f"no step or source {plan.output!r}; {candidates(plan.output, tables, noun='names')}",
        )
    _warn(plan, found)
    return tuple(found.problems), tuple(found.warnings)


def _check_sources(plan: Plan, catalog: Catalog, tables: dict[str, Lineage | None], found: Findings) -> None:
    for alias in plan.sources:
        if alias in tables:
            found.add("", "sources", f"{alias!r} is listed twice")
        elif _UNSAFE.search(alias):
            found.add("", "sources", f"{alias!r} is no alias; a plan names tables, never paths or URLs")
        elif alias not in catalog:
            found.add("", "sources", f"no table {alias!r}; {candidates(alias, catalog, noun='tables')}")
            tables[alias] = None
        else:
            tables[alias] = Lineage(visible(catalog[alias]), {})


def _check_id(step_id: str, earlier: Sequence[str], sources: Sequence[str], found: Findings) -> None:
    if step_id.startswith(HIDDEN):
        found.add(step_id, "id", f"names that start with {HIDDEN} are reserved")
    if step_id in earlier:
        found.add(step_id, "id", "another step has this id")
    if step_id in sources:
        found.add(step_id, "id", "a source has this name")


def _lookup(
    step: Any, name: str, tables: Mapping[str, Lineage | None], later: Sequence[str], found: Findings
) -> Lineage | None:
    if name in tables:
        return tables[name]
    field = _field_with(step, name)
    if name == step.id:
        found.add(step.id, field, "a step cannot read itself")
    elif name in later:
        found.add(
            step.id,
            field,
            f"{name!r} comes later; steps read sources and earlier steps, so there are no cycles",
        )
    else:
        found.add(
            step.id,
            field,
            f"no table or step {name!r}; {candidates(name, tables, noun='tables and steps')}",
        )
    return None


def _field_with(step: Any, name: str) -> str:
    """The field of a step that names this table."""
    return next((field for field in ("input", "right") if getattr(step, field, None) == name), "others")


# --- what an agent may do


def _check_agent(step: LLMStep, tools: Collection[str], models: Collection[str], found: Findings) -> None:
    contract, op = step.contract, type(step).model_fields["op"].default
    for name in contract.tools:
        if _UNSAFE.search(name):
            found.add(
                step.id,
                "tools",
                f"{name!r} is no tool name; a plan names registered tools, never paths or code",
            )
        elif name not in tools:
            found.add(step.id, "tools", f"no tool {name!r}; {candidates(name, sorted(tools), noun='tools')}")
    if contract.model is not None and _UNSAFE.search(contract.model) and contract.model not in models:
        found.add(step.id, "model", f"{contract.model!r} is no model alias; a plan never names URLs or paths")
    elif contract.model is not None and contract.model not in models:
        known = candidates(contract.model, sorted(models), noun="models")
        found.add(
            step.id, "model", f"no model {contract.model!r}; {known}; leave it out for the run's default"
        )
    if isinstance(step, Join | Resolve) and step.embed is not None and step.embed not in models:
        known = candidates(step.embed, sorted(models), noun="models")
        found.add(
            step.id,
            "embed",
            f"no model {step.embed!r}; {known}; give the run a model of embeddings under this alias, or leave embed "
            "out: the nearest texts are then found without a model",
        )
    if contract.tools and (contract.unit != "row" or not isinstance(step, _OF_ONE_ROW)):
        found.add(
            step.id,
            "tools",
            "tools never work where rows share a prompt: one row could steer the tools of another; "
            "use unit row in a map, filter or flat_map",
        )
    if contract.unit == "group" and not isinstance(step, Reduce):
        found.add(step.id, "unit", f"group belongs to reduce; a {op} works on row, pack(n) or partition")
    if contract.unit == "partition" and not isinstance(step, (Map, Reduce)):
        found.add(step.id, "unit", f"partition belongs to map and reduce; a {op} works on row or pack(n)")
    if isinstance(step, Reduce) and contract.unit == "group" and not step.by:
        found.add(step.id, "by", "unit group needs the columns to group by")
    if isinstance(step, Reduce) and contract.pack_rows is not None:
        found.add(
            step.id, "unit", "a reduce packs rows by itself; use group or partition, or leave the unit out"
        )
    for number, example in enumerate(contract.examples):
        if set(example.inputs) != set(contract.inputs):
            found.add(
                step.id,
                f"examples[{number}].inputs",
                f"must have exactly the inputs {', '.join(contract.inputs)}",
            )
        if not isinstance(step, FlatMap) and set(example.output) != set(contract.output.names):
            names = ", ".join(contract.output.names)
            found.add(step.id, f"examples[{number}].output", f"must have exactly the fields {names}")


def _check_lent(step: LLMStep, plan: Plan, found: Findings) -> None:
    """Tables that the contract lends its tools are sources: whole, and there before the first row is read."""
    contract = step.contract
    for name in contract.tables:
        if _UNSAFE.search(name):
            found.add(step.id, "tables", f"{name!r} is no table; a plan names tables, never paths or URLs")
        elif name not in plan.sources:
            known = candidates(name, plan.sources, noun="tables")
            found.add(step.id, "tables", f"no table {name!r} among the plan's sources; {known}")
    if contract.tables and not contract.tools:
        found.add(step.id, "tables", "only tools read these tables, and the step has no tools")


# --- warnings


def _warn(plan: Plan, found: Findings) -> None:
    reads = {name for step in plan.steps for name in step.inputs_from} | {plan.result}
    reads |= {name for step in plan.llm_steps for name in step.contract.tables}
    for alias in plan.sources:
        if alias not in reads:
            found.warnings.append(Warning("", f"the table {alias!r} is never read"))
    for step in plan.steps:
        if step.id not in reads:
            found.warnings.append(Warning(step.id, "no step reads its rows, and they are not the result"))
        if isinstance(step, LLMStep) and step.contract.pack_rows is not None:
            found.warnings.append(
                Warning(step.id, "rows of one pack share a prompt: a row can sway its neighbours")
            )
    for before, after in zip(plan.steps, plan.steps[1:], strict=False):
        if isinstance(before, LLMStep) and isinstance(after, Where) and after.input == before.id:
            try:
                reads_answer = columns_of(after.condition) & set(before.contract.output.names)
            except PlanError:
                continue  # already listed as a problem
            if not reads_answer:
                text = f"it reads nothing that {before.id!r} writes; put it first, and fewer rows are paid"
                found.warnings.append(Warning(after.id, text))
