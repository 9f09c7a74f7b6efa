"""A plan as the answer that a planner would have given: the opposite of `apwa_dask.manager.wire.plan_data`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from apwa_dask.manager.reference import CONTRACT_FIELDS, planned_fields
from apwa_dask.plans.plan import Plan
from apwa_dask.plans.schema import Field
from apwa_dask.plans.steps import LLMStep

__all__ = ["as_answer", "live_steps", "step_body"]

Entry = dict[str, Any]

_TABLES = ("right", "others")
_DEEPEST = 2
"""Objects inside an output that the planner's schema can write; deeper ones are kept, not shown."""


def live_steps(plan: Plan) -> tuple[Any, ...]:
    """The steps that the result needs, in their order, so that the last one gives the result."""
    needed, live = {plan.result}, []
    for step in reversed(plan.steps):
        if step.id in needed:
            needed.update(step.inputs_from)
            live.append(step)
    return tuple(reversed(live))


def as_answer(plan: Plan, columns: Collection[str]) -> Entry:
    """``{"refusal": null, "steps": [...]}`` with ``#n`` for steps.

    Parameters
    ----------
    plan : Plan
    columns : collection of str
        Columns of the tables; every other one is written as made by a step.
    """
    steps = live_steps(plan)
    places = {step.id: f"#{number}" for number, step in enumerate(steps, start=1)}
    return {"refusal": None, "steps": [_entry(step, places, columns) for step in steps]}


def step_body(step: Any) -> Entry:
    """What a planner writes of a step, apart from the tables it reads and its reason."""
    entry = _entry(step, {}, ())
    return {name: value for name, value in entry.items() if name not in ("reason", "input", *_TABLES)}


def _entry(step: Any, places: Mapping[str, str], columns: Collection[str]) -> Entry:
    entry: Entry = {"reason": step.reason, "op": step.op, "input": places.get(step.input, step.input)}
    for name in planned_fields(step.op):
        whole = step.contract if isinstance(step, LLMStep) and name in (*CONTRACT_FIELDS, "unit") else step
        entry[name] = _plain(step.op, name, getattr(whole, name), places, columns)
    if isinstance(step, LLMStep) and step.contract.tools:
        entry["tools"] = list(step.contract.tools)
        if step.contract.tables:
            entry["tables"] = list(step.contract.tables)
    return entry


def _plain(op: str, name: str, value: Any, places: Mapping[str, str], columns: Collection[str]) -> Any:
    def column(one: str) -> Any:
        return one if one in columns else {"made": one}

    if name == "right":
        return places.get(value, value)
    if name == "others":
        return [places.get(one, one) for one in value]
    if name == "output":
        return [_field(field, 0) for field in value]
    if name == "aggregates":
        return [
            {"name": made, "fn": rule.fn, "column": None if rule.column is None else column(rule.column)}
            for made, rule in value.items()
        ]
    if (op, name) == ("assign", "columns"):
        return [{"name": made, "expression": expression} for made, expression in value.items()]
    if name == "rename":
        return [{"column": column(old), "name": new} for old, new in value.items()]
    if (op, name) == ("sort", "by"):
        return [{"column": column(key.column), "descending": key.descending} for key in value]
    if name == "column":
        return column(value)
    return [column(one) for one in value] if isinstance(value, tuple) else value


def _field(field: Field, depth: int) -> Entry:
    inner = field.items if field.type == "list" and field.items is not None else field
    kind = "string" if inner.type == "list" else inner.type
    members = inner.fields if depth < _DEEPEST else ()
    entry: Entry = {
        "name": field.name,
        "type": kind if inner is field else f"list of {kind}",
        "description": field.description,
        "nullable": field.nullable,
        "labels": [{"label": label, "meaning": meaning} for label, meaning in inner.labels.items()]
        if inner.labels
        else None,
    }
    if depth < _DEEPEST:
        entry["fields"] = [_field(member, depth + 1) for member in members] or None
    return entry
