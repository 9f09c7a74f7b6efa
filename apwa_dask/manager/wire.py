"""From a planner's answer to a plan's plain data: entries become mappings, numbers become step ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from apwa_dask.manager.narrowed import step_number
from apwa_dask.manager.reference import CONTRACT_FIELDS

__all__ = ["Misshapen", "plan_data"]


class Misshapen(Exception):
    """The answer has another shape than its schema: why, in words for the planner."""


def plan_data(answer: Mapping[str, Any], query: str, sources: Sequence[str]) -> dict[str, Any]:
    """What `apwa_dask.plans.load` reads, with step ids of our own.

    Only the sources that some step reads are named. What is wrong inside a step is left in place, for the
    plan's own checks to say.

    Raises
    ------
    Misshapen
        There is no list of steps.
    """
    steps = answer.get("steps")
    if not isinstance(steps, list) or not all(isinstance(step, Mapping) for step in steps):
        raise Misshapen('the answer needs "steps", a list of objects')
    if not steps:
        raise Misshapen("the plan has no step, and no refusal")
    ids = _ids(steps, sources)
    written = [_step(step, index, ids, sources) for index, step in enumerate(steps)]
    read = {
        name
        for step in written
        for name in (step["input"], step.get("right"), *_texts(step.get("others")), *_lent(step))
        if isinstance(name, str)
    }
    used = [alias for alias in sources if alias in read]
    return {"query": query, "sources": used or list(sources), "steps": written}


def _ids(steps: Sequence[Mapping[str, Any]], sources: Sequence[str]) -> list[str]:
    taken, ids = set(sources), []
    for step in steps:
        op, number = str(step.get("op", "step")), 1
        while f"{op}_{number}" in taken:
            number += 1
        ids.append(f"{op}_{number}")
        taken.add(ids[-1])
    return ids


def _step(step: Mapping[str, Any], index: int, ids: Sequence[str], sources: Sequence[str]) -> dict[str, Any]:
    previous = ids[index - 1] if index else sources[0]
    fields = {name: _plain(name, value) for name, value in step.items() if value is not None}
    fields["id"] = ids[index]
    fields["input"] = _table(step.get("input"), ids, previous)
    if "right" in fields:
        fields["right"] = _table(fields["right"], ids, previous)
    if isinstance(fields.get("others"), list):
        fields["others"] = [_table(name, ids, previous) for name in fields["others"]]
    contract = {
        name: fields.pop(name) for name in (*CONTRACT_FIELDS, "unit", "tools", "tables") if name in fields
    }
    return {**fields, "contract": contract} if contract else fields


def _table(reference: Any, ids: Sequence[str], previous: str) -> Any:
    if reference is None:
        return previous
    number = step_number(reference) if isinstance(reference, str) else None
    return ids[number - 1] if number is not None and 1 <= number <= len(ids) else reference


def _plain(name: str, value: Any) -> Any:
    if name == "output":
        return _output(value)
    if name == "columns" and _entries(value, "expression"):
        return {entry["name"]: entry["expression"] for entry in value}
    if name == "rename" and isinstance(value, list):
        return {
            _column(entry.get("column")): entry.get("name") for entry in value if isinstance(entry, Mapping)
        }
    if name == "aggregates" and _entries(value, "fn"):
        return {entry["name"]: _aggregate(entry) for entry in value}
    if name == "by" and _entries(value, "column", named=False):
        return [{**entry, "column": _column(entry["column"])} for entry in value]
    if name == "column":
        return _column(value)
    if isinstance(value, list):
        return [_column(entry) for entry in value]
    return value


def _aggregate(entry: Mapping[str, Any]) -> dict[str, Any]:
    column = entry.get("column")
    return {"fn": entry["fn"], **({} if column is None else {"column": _column(column)})}


def _column(value: Any) -> Any:
    return value["made"] if isinstance(value, Mapping) and isinstance(value.get("made"), str) else value


def _entries(value: Any, key: str, *, named: bool = True) -> bool:
    return isinstance(value, list) and all(
        isinstance(entry, Mapping) and key in entry and (not named or isinstance(entry.get("name"), str))
        for entry in value
    )


def _output(value: Any) -> Any:
    if not isinstance(value, list) or not all(isinstance(field, Mapping) for field in value):
        return value
    return {str(field.get("name")): _field(field) for field in value}


def _field(field: Mapping[str, Any]) -> dict[str, Any]:
    kind = str(field.get("type", "string"))
    of = kind.removeprefix("list of ")
    value: dict[str, Any] = {"type": of}
    if field.get("fields"):
        value["fields"] = _output(field["fields"])
    labels = field.get("labels")
    if of == "string" and _labelled(labels):
        value["labels"] = {entry["label"]: str(entry.get("meaning") or "") for entry in labels or ()}
    if kind != of:
        value = {"type": "list", "items": value}
    if field.get("description"):
        value["description"] = str(field["description"])
    if field.get("nullable"):
        value["nullable"] = True
    return value


def _labelled(labels: Any) -> bool:
    return (
        bool(labels)
        and _entries(labels, "label", named=False)
        and all(isinstance(entry["label"], str) for entry in labels)
    )


def _lent(step: Mapping[str, Any]) -> tuple[str, ...]:
    contract = step.get("contract")
    return _texts(contract.get("tables")) if isinstance(contract, Mapping) else ()


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(name for name in value if isinstance(name, str)) if isinstance(value, list) else ()
