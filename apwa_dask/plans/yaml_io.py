"""Plans as YAML that people read, edit and keep: defaults left out, instructions as text blocks."""

from __future__ import annotations

from typing import Any

import yaml

from apwa_dask.plans.loading import load
from apwa_dask.plans.plan import PLAN_VERSION, Plan

__all__ = ["from_yaml", "to_yaml"]

_BLOCK_FROM_CHARS = 60


class _Dumper(yaml.SafeDumper):
    """Long and multi-line text as blocks; no anchors, which `from_yaml` refuses."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    # A block keeps text as it is, but cannot start with a space, have spaces before a line's end, or odd
    # characters.
    plain = all(c.isprintable() or c == "\n" for c in text)
    tidy = plain and text[:1].strip() != "" and all(line == line.rstrip() for line in text.split("\n"))
    block = tidy and ("\n" in text or len(text) > _BLOCK_FROM_CHARS)
    return dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style="|" if block else None if plain else '"'
    )


def _list(dumper: _Dumper, items: list[Any]) -> yaml.SequenceNode:
    short = all(isinstance(item, str) and len(item) <= 40 for item in items) and len(items) <= 8
    return dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=short)


_Dumper.add_representer(str, _text)
_Dumper.add_representer(list, _list)


def to_yaml(plan: Plan) -> str:
    """The plan as YAML; ``from_yaml`` of it is an equal plan.

    Each step's ``input`` is left out where it is the step before it (or the only source).
    """
    return yaml.dump(
        _compact(plan),
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        width=100,
        default_flow_style=False,
    )


def from_yaml(text: str) -> Plan:
    """Read a plan; the opposite of `to_yaml`.

    Raises
    ------
    PlanError
        See `apwa_dask.plans.loading.load`.
    """
    return load(text)


def _compact(plan: Plan) -> dict[str, Any]:
    data = plan.model_dump(mode="json", exclude_defaults=True, exclude={"steps"})
    written: dict[str, Any] = {}
    if plan.version != PLAN_VERSION:
        written["version"] = plan.version
    if plan.query:
        written["query"] = plan.query
    written["sources"] = list(plan.sources)
    previous = plan.sources[0] if len(plan.sources) == 1 else None
    steps = []
    for step in plan.steps:
        steps.append(_compact_step(step, previous))
        previous = step.id
    written["steps"] = steps
    if "output" in data:
        written["output"] = plan.output
    return written


def _compact_step(step: Any, previous: str | None) -> dict[str, Any]:
    data = step.model_dump(mode="json", exclude_defaults=True)
    head: dict[str, Any] = {"id": step.id, "op": step.op}
    if step.input != previous:
        head["input"] = step.input
    if "contract" in data:
        contract = data["contract"]
        if (
            step.op == "filter"
            and set(contract["output"]) == {"keep"}
            and contract["output"]["keep"] == {"type": "boolean"}
        ) or (step.op in ("join", "rank", "resolve") and step.contract.output == step.verdict()):
            del contract["output"]
        else:
            contract["output"] = {name: _compact_field(spec) for name, spec in contract["output"].items()}
    return {**head, **{key: value for key, value in data.items() if key not in ("id", "op", "input")}}


def _compact_field(spec: dict[str, Any]) -> Any:
    """``string`` and ``string?`` in place of a mapping, where nothing else is said."""
    if set(spec) == {"type"}:
        return spec["type"]
    if set(spec) == {"type", "nullable"}:
        return f"{spec['type']}?"
    return spec
