"""A plan as Python: a program to keep beside other code, against public names only; run, it is the same plan."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from apwa_dask.plans.plan import PLAN_VERSION, Plan

__all__ = ["to_python"]

_WIDTH = 100
_INDENT = "    "


def to_python(plan: Plan, *, name: str = "plan") -> str:
    """Source code that assigns an equal plan to `name`.

    It imports ``apwa_dask`` and nothing else, and every text of the plan is a literal: no word of a plan,
    whoever wrote it, is ever code. ``load_plan(plan, tables)`` gives what can be run.

    Parameters
    ----------
    plan : Plan
    name : str
        An identifier.

    Raises
    ------
    ValueError
        `name` is no identifier.

    Examples
    --------
    >>> from apwa_dask.plans.plan import Plan
    >>> print(to_python(Plan.from_yaml("sources: [t]\\nsteps: [{op: limit, n: 3}]")))
    import apwa_dask as apwa
    <BLANKLINE>
    plan = apwa.Plan(
        sources=["t"],
        steps=[
            {"op": "limit", "id": "limit_1", "input": "t", "n": 3},
        ],
    )
    <BLANKLINE>
    """
    if not name.isidentifier():
        raise ValueError(f"{name!r} is no name for a variable")
    lines = ["import apwa_dask as apwa", "", f"{name} = apwa.Plan("]
    if plan.version != PLAN_VERSION:
        lines.append(f"{_INDENT}version={plan.version},")
    if plan.query:
        lines.append(f"{_INDENT}query={_literal(plan.query, 1)},")
    lines += [f"{_INDENT}sources={_literal(list(plan.sources), 1)},", f"{_INDENT}steps=["]
    lines += [f"{_INDENT * 2}{_literal(_step(step), 2)}," for step in plan.steps]
    lines.append(f"{_INDENT}],")
    if plan.output is not None:
        lines.append(f"{_INDENT}output={_literal(plan.output, 1)},")
    return "\n".join([*lines, ")", ""])


def _step(step: Any) -> dict[str, Any]:
    given = step.model_dump(mode="json", exclude_defaults=True)
    return {"op": step.op, "id": step.id, "input": step.input, **given}


def _literal(value: Any, depth: int) -> str:
    """A Python literal, on one line where it fits, else one entry a line."""
    flat = _flat(value)
    if len(flat) + len(_INDENT) * depth <= _WIDTH or not isinstance(value, (Mapping, list)) or not value:
        return flat
    inner, end = _INDENT * (depth + 1), _INDENT * depth
    if isinstance(value, Mapping):
        entries = [f"{_flat(key)}: {_literal(entry, depth + 1)}" for key, entry in value.items()]
        return "{\n" + "".join(f"{inner}{entry},\n" for entry in entries) + end + "}"
    entries = [_literal(entry, depth + 1) for entry in value]
    return "[\n" + "".join(f"{inner}{entry},\n" for entry in entries) + end + "]"


def _flat(value: Any) -> str:
    if isinstance(value, str):
        # JSON's text in ASCII is Python's too, except that it writes odd characters as pairs of surrogates.
        plain = value.isascii() and value.isprintable()
        return json.dumps(value) if plain else repr(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_flat(key)}: {_flat(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flat, value)) + "]"
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    return repr(value)
