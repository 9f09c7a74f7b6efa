"""A changed plan keeps what was not changed: step ids, and settings that a planner does not write."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from apwa_dask.manager.as_answer import step_body
from apwa_dask.manager.reference import CONTRACT_FIELDS, planned_fields
from apwa_dask.plans.contract import Contract
from apwa_dask.plans.plan import Plan
from apwa_dask.plans.steps import LLMStep

__all__ = ["keep"]

_GIVEN = frozenset({"id", "input", "reason", "op", "contract"})
_CONTRACT_SETTINGS = frozenset(Contract.model_fields) - {*CONTRACT_FIELDS, "unit", "examples"}


def keep(old: Plan, new: Plan, taken: Collection[str] = ()) -> Plan:
    """`new` with the ids and settings of the steps of `old` that it still has.

    Steps that say the same are the same step; then steps of one operation are, in their order. A step that
    says the same is kept as it was, with examples, limits and bounds that a planner cannot write.

    Parameters
    ----------
    old, new : Plan
    taken : collection of str
        Names that a new step may not have (tables and other steps of the same plan).
    """
    same = dict(_pairs(old.steps, new.steps))
    used = {*taken, *old.sources, *new.sources, *(step.id for step in old.steps)}
    names: dict[str, str] = {}
    for index, step in enumerate(new.steps):
        names[step.id] = same[index].id if index in same else _free(step.op, used)
        used.add(names[step.id])
    steps = tuple(
        _named(_with_settings(step, same.get(index)), names) for index, step in enumerate(new.steps)
    )
    result = steps[-1].id if steps else new.result
    return Plan(
        query=old.query, sources=new.sources, steps=steps, output=None if old.output is None else result
    )


def _pairs(old: Sequence[Any], new: Sequence[Any]) -> Iterator[tuple[int, Any]]:
    """Place of a new step, and the old step that it is."""
    before, after = list(old), list(enumerate(new))
    for equal in (_says_the_same, _does_the_same):
        for index, step in list(after):
            found = next((one for one in before if equal(one, step)), None)
            if found is not None:
                before.remove(found)
                after.remove((index, step))
                yield index, found


def _says_the_same(one: Any, other: Any) -> bool:
    return one.op == other.op and step_body(one) == step_body(other)


def _does_the_same(one: Any, other: Any) -> bool:
    return bool(one.op == other.op)


def _with_settings(step: Any, old: Any) -> Any:
    if old is None:
        return step
    tables = {name: getattr(step, name) for name in ("input", "right", "others") if hasattr(step, name)}
    if _says_the_same(old, step):
        return old.model_copy(update={**tables, "id": step.id})
    settings = set(type(step).model_fields) - _GIVEN - set(planned_fields(step.op))
    update: dict[str, Any] = {name: getattr(old, name) for name in settings}
    if isinstance(step, LLMStep):
        update["contract"] = _contract(step, old)
    return step.model_copy(update=update)


def _contract(step: Any, old: Any) -> Any:
    contract, before = step.contract, old.contract
    update = {name: getattr(before, name) for name in _CONTRACT_SETTINGS}
    if contract.tools:
        update["tools"] = contract.tools
    if contract.inputs == before.inputs and contract.output.names == before.output.names:
        update["examples"] = before.examples
    if step_body(step).get("output") == step_body(old).get("output"):
        update["output"] = before.output
    return contract.model_copy(update=update)


def _named(step: Any, names: dict[str, str]) -> Any:
    update: dict[str, Any] = {"id": names.get(step.id, step.id), "input": names.get(step.input, step.input)}
    if hasattr(step, "right"):
        update["right"] = names.get(step.right, step.right)
    if hasattr(step, "others"):
        update["others"] = tuple(names.get(name, name) for name in step.others)
    return step.model_copy(update=update)


def _free(op: str, used: set[str]) -> str:
    number = 1
    while f"{op}_{number}" in used:
        number += 1
    return f"{op}_{number}"
