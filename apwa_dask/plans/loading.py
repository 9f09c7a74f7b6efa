"""Plans from outside (YAML, JSON, a model's answer): closed data in, a `Plan` or one teaching error out."""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from apwa_dask.errors import PlanError, candidates
from apwa_dask.plans.contract import Contract, Example, Limits
from apwa_dask.plans.plan import Plan
from apwa_dask.plans.schema import Field
from apwa_dask.plans.steps import Aggregation, Filter, Join, Rank, Resolve, SortKey, Step

__all__ = ["OPERATIONS", "load", "plan_error", "read_yaml"]

MAX_BYTES = 1_000_000

OPERATIONS: dict[str, type[BaseModel]] = {
    step.model_fields["op"].default: step for step in typing.get_args(typing.get_args(Step)[0])
}
"""Every step by the name it has in a plan."""

_VERDICTS = {
    "filter": Filter.verdict(),
    "join": Join.verdict(),
    "rank": Rank.verdict(),
    "resolve": Resolve.verdict(),
}
"""Operations with one output only, which their author may leave out."""

_PARTS: dict[str, type[BaseModel]] = {
    "contract": Contract,
    "limits": Limits,
    "examples": Example,
    "aggregates": Aggregation,
    "by": SortKey,
    "output": Field,
    "items": Field,
    "fields": Field,
}


class _ClosedLoader(yaml.SafeLoader):
    """YAML as plain data: no references (few lines could stand for gigabytes), no key twice, no dates."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.constructor.ConstructorError(None, None, "references (*name) are not allowed", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} is given twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


_ClosedLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(("timestamp", "merge", "value"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_yaml(text: str) -> Any:
    """Plain data from YAML or JSON text.

    Raises
    ------
    PlanError
        The text is no YAML, uses references or tags, or is too large.
    """
    if len(text) > MAX_BYTES:
        raise PlanError(f"a plan has at most {MAX_BYTES:,} characters, not {len(text):,}", code="PLAN-YAML")
    try:
        return yaml.load(text, Loader=_ClosedLoader)
    except (yaml.YAMLError, RecursionError, ValueError, TypeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
        problem = str(getattr(error, "problem", "") or "it is nested too deeply or holds an odd value")
    raise PlanError(
        f"the plan cannot be read: {problem}",
        where=where,
        fix="write plain YAML: mappings, lists and text; no tags (!name), no references (*name);"
        " put quotes around text with ? : # , { } in it",
        code="PLAN-YAML",
    )


def load(source: str | Mapping[str, Any]) -> Plan:
    """Read a plan from YAML or JSON text, or from plain data.

    A step may leave out ``id`` (it becomes ``<op>_<number>``) and ``input`` (the step before it, or the only
    source); a filter, a join, a rank and a resolve may leave out their ``output``.

    Raises
    ------
    PlanError
        What is wrong, each with its place in the plan, the allowed values and the nearest candidate.
    """
    data = read_yaml(source) if isinstance(source, str) else source
    if not isinstance(data, Mapping):
        raise PlanError(
            f"a plan is a mapping with sources and steps, not {type(data).__name__}",
            fix="start with:\nsources: [table]\nsteps:\n  - op: where\n    condition: ...",
            code="PLAN-SHAPE",
        )
    filled = _filled(data)
    try:
        return Plan.model_validate(filled)
    except ValidationError as wrong:
        found = wrong
    raise plan_error(found, Plan, filled) from None


def _filled(data: Mapping[str, Any]) -> dict[str, Any]:
    """The plan with the ids, inputs and outputs that its author left out."""
    plan = dict(data)
    if isinstance(plan.get("sources"), str):
        plan["sources"] = [plan["sources"]]
    steps = plan.get("steps")
    if not isinstance(steps, (list, tuple)):
        return plan
    sources = plan.get("sources")
    previous = sources[0] if isinstance(sources, (list, tuple)) and len(sources) == 1 else None
    taken = {step.get("id") for step in steps if isinstance(step, Mapping)}
    filled: list[Any] = []
    for step in steps:
        if not isinstance(step, Mapping):
            filled.append(step)
            continue
        step = dict(step)
        if "id" not in step and isinstance(step.get("op"), str):
            step["id"] = _free_id(step["op"], taken)
            taken.add(step["id"])
        if "input" not in step and previous is not None:
            step["input"] = previous
        contract = step.get("contract")
        verdict = _VERDICTS.get(str(step.get("op")))
        if verdict is not None and isinstance(contract, Mapping) and "output" not in contract:
            step["contract"] = {**contract, "output": verdict}
        previous = step.get("id", previous)
        filled.append(step)
    plan["steps"] = filled
    return plan


def _free_id(op: str, taken: set[Any]) -> str:
    number = 1
    while f"{op}_{number}" in taken:
        number += 1
    return f"{op}_{number}"


# --- pydantic's errors in our words


def plan_error(wrong: ValidationError, kind: type[BaseModel], data: Any = None) -> PlanError:
    """One `PlanError` for everything that pydantic found wrong with a plan, a step or a contract.

    Values are not quoted at length: an instruction may hold private text.
    """
    lines = list(dict.fromkeys(_lines(wrong, kind, data)))
    if len(lines) == 1:
        return PlanError(lines[0], fix="change that part of the plan", code="PLAN-SHAPE")
    listed = "\n".join(f"  - {line}" for line in lines)
    return PlanError(
        f"the plan has {len(lines)} problems:\n{listed}",
        fix="change the plan as each line says",
        code="PLAN-SHAPE",
    )


def _lines(wrong: ValidationError, kind: type[BaseModel], data: Any) -> Iterator[str]:
    errors = wrong.errors(include_url=False)
    for error in errors:
        if error["type"] == "too_short" and any(error["loc"] == other["loc"][:-1] for other in errors):
            continue  # too few are left because the ones listed above or below are wrong
        location = list(error["loc"])
        model = kind
        if location[:1] == ["steps"] and len(location) > 2 and location[2] in OPERATIONS:
            model = OPERATIONS[str(location.pop(2))]
        for part in location[:-1]:
            model = _PARTS.get(str(part), model)
        yield f"{_place(location, data)}: {_words(error, model, str(location[-1]) if location else '')}"


def _place(location: list[Any], data: Any) -> str:
    """``steps[2] (id).field`` in place of pydantic's tuple."""
    parts: list[str] = []
    for index, part in enumerate(location):
        if not isinstance(part, int):
            parts.append(f".{part}" if parts else str(part))
            continue
        parts.append(f"[{part}]")
        if index == 1 and location[0] == "steps" and isinstance(data, Mapping):
            step = data["steps"][part]
            if isinstance(step, Mapping) and isinstance(step.get("id"), str):
                parts.append(f" ({step['id'][:64]})")
    return "".join(parts) or "plan"


_BOUNDS = {
    "too_short": ("give at least {}", "min_length"),
    "string_too_short": ("it must have at least {} character", "min_length"),
    "greater_than_equal": ("it must be at least {}", "ge"),
    "less_than_equal": ("it must be at most {}", "le"),
    "greater_than": ("it must be more than {}", "gt"),
    "less_than": ("it must be less than {}", "lt"),
}
"""Kind of pydantic's error to our words and to what holds the bound."""


def _words(error: Any, model: type[BaseModel], last: str) -> str:
    kind, context = error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        return f"there is no {last!r} here; {candidates(last, model.model_fields, noun='fields')}"
    if kind == "missing":
        return "it is missing"
    if kind == "union_tag_invalid":
        tag = str(context["tag"])
        return f"no operation {_short(tag)}; {candidates(tag, OPERATIONS, noun='operations')}"
    if kind == "union_tag_not_found":
        return f"it needs op, one of {', '.join(OPERATIONS)}"
    if kind == "literal_error":
        return f"{_short(error['input'])} is not one of {context['expected']}"
    if kind == "string_pattern_mismatch":
        return (
            f"{_short(error['input'])} is no name (at most 64 letters, digits and _, no digit first); "
            "a plan names tables and steps, never URLs, paths, code or templates"
        )
    if kind in _BOUNDS:
        wording, bound = _BOUNDS[kind]
        return wording.format(context[bound])
    if kind == "value_error":
        return re.sub(r"^Value error, ", "", error["msg"])
    return str(error["msg"]).lower()


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
