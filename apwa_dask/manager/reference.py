"""What a planner is told of the plan language: written from the steps themselves, so that it cannot drift."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel

from apwa_dask.plans.loading import OPERATIONS
from apwa_dask.plans.steps import LLMStep

__all__ = [
    "CONTRACT_FIELDS",
    "CONTRACT_LEFT_OUT",
    "LEFT_OUT",
    "UNITS",
    "operator_reference",
    "planned_fields",
]

CONTRACT_FIELDS = ("instruction", "inputs", "output")
"""Of a contract, what a planner writes; the rest is the user's to set."""

UNITS: dict[str, tuple[str, ...]] = {
    "map": ("row", "pack(5)", "pack(10)", "pack(20)", "partition"),
    "filter": ("row", "pack(5)", "pack(10)", "pack(20)"),
    "reduce": ("row", "group", "partition"),
}
"""What one agent may work on, where a planner has a choice; a row in every other operation."""

LEFT_OUT: dict[str, str] = {
    "id": "made from the operation and the step's number",
    "op": "chosen with the operation",
    "input": "every operation has it, written before its own fields",
    "reason": "every operation has it, written before its own fields",
    "contract": "written as its fields",
    "seed": "one seed for all: the same question gives the same draw",
    "suffix": "clashing columns of every plan are named alike",
    "embed": "names a model that the user pays: the user's to set",
    "max_pairs": "a ceiling on cost: the user's to set",
    "max_pairs_per_row": "a ceiling on cost: the user's to set",
}
"""Fields of steps that a planner does not write, and why."""

CONTRACT_LEFT_OUT: dict[str, str] = {
    "model": "names a model that the user pays: the user's to set",
    "examples": "right answers are known to the user, who sets them",
    "limits": "ceilings on cost: the user's to set",
}
"""The same of a contract. ``tools`` and ``tables`` are written where tools are registered."""


def operator_reference() -> str:
    """One line an operation: its name, its fields, and what it does, from the step's own docstring."""
    model = [_line(op, step) for op, step in OPERATIONS.items() if issubclass(step, LLMStep)]
    frame = [_line(op, step) for op, step in OPERATIONS.items() if not issubclass(step, LLMStep)]
    return "\n".join(
        [
            "Operations on columns, exact and free:",
            *frame,
            "Operations in which a language model reads rows, slow and paid:",
            *model,
            "A field that may be null stays null unless the question asks for it.",
        ]
    )


def planned_fields(op: str) -> tuple[str, ...]:
    """Fields of an operation that a planner writes, in their order."""
    return tuple(_fields(OPERATIONS[op]))


def _fields(step: type[BaseModel]) -> Iterator[str]:
    if issubclass(step, LLMStep):
        has_output = not hasattr(step, "verdict")
        yield from (name for name in CONTRACT_FIELDS if name != "output" or has_output)
        yield from ("unit" for op in (step.model_fields["op"].default,) if op in UNITS)
    yield from (name for name in step.model_fields if name not in LEFT_OUT)


def _line(op: str, step: type[BaseModel]) -> str:
    about = " ".join((step.__doc__ or "").replace("``", "").replace("contract.", "").split())
    return f"- {op}({', '.join(_fields(step))}): {about}"
