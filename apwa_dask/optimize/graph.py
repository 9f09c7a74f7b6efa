"""Moving one step of a plan in front of others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from apwa_dask.plans.plan import Plan

__all__ = ["movable_run", "moved"]


def movable_run(plan: Plan, step: Any, may_pass: Callable[[Any], bool]) -> list[Any]:
    """The steps right before `step`, nearest first, that it may pass and whose rows nobody else reads."""
    run: list[Any] = []
    name = step.input
    while name not in plan.sources:
        before = plan.step(name)
        if len(before.inputs_from) != 1 or _readers(plan, name) != 1 or plan.result == name:
            break
        if not may_pass(before):
            break
        run.append(before)
        name = before.input
    return run


def moved(plan: Plan, step: Any, target: Any) -> Plan:
    """The plan with `step` right before `target`, which is a step of its `movable_run`."""
    last = plan.step(step.input)
    result = last.id if plan.result == step.id else plan.result
    steps: list[Any] = []
    for each in plan.steps:
        if each.id == step.id:
            continue
        if each.id == target.id:
            steps.append(step.model_copy(update={"input": target.input}))
            steps.append(each.model_copy(update={"input": step.id}))
            continue
        steps.append(_reading(each, step.id, last.id))
    is_last = steps[-1].id == result
    return plan.model_copy(update={"steps": tuple(steps), "output": None if is_last else result})


def _reading(each: Any, old: str, new: str) -> Any:
    """The step with what it read from `old` read from `new`."""
    update: dict[str, Any] = {}
    if each.input == old:
        update["input"] = new
    if getattr(each, "right", None) == old:
        update["right"] = new
    if old in getattr(each, "others", ()):
        update["others"] = tuple(new if name == old else name for name in each.others)
    return each.model_copy(update=update) if update else each


def _readers(plan: Plan, name: str) -> int:
    return sum(each.inputs_from.count(name) for each in plan.steps)
