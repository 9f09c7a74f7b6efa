"""What a planner is told of the plan language: written from the steps themselves, so that it cannot drift."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel

from apwa_dask.plans.loading import OPERATIONS
from apwa_dask.plans.steps import LLMStep

__all__ = ["CONTRACT_FIELDS", "UNITS", "operator_reference", "planned_fields"]

CONTRACT_FIELDS = ("instruction", "inputs", "output")
"""Of a contract, what a planner writes; the rest is the user's to set."""

UNITS: dict[str, tuple[str, ...]] = {
    "map": ("row", "pack(5)", "pack(10)", "pack(20)", "partition"),
    "filter": ("row", "pack(5)", "pack(10)", "pack(20)"),
    "reduce": ("row", "group", "partition"),
}
"""What one agent may work on, where a planner has a choice; a row in every other operation."""

_GIVEN = frozenset(
    {
        "id",
        "input",
        "reason",
        "op",
        "contract",
        "seed",
        "suffix",
        "fraction",
        "headings",
        "max_levels",
        "embed",
        "max_pairs",
        "max_pairs_per_row",
    }
)
"""Fields that a planner does not write: made by us, or left at their defaults."""


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
    yield from (name for name in step.model_fields if name not in _GIVEN)


def _line(op: str, step: type[BaseModel]) -> str:
    about = " ".join((step.__doc__ or "").replace("``", "").replace("contract.", "").split())
    return f"- {op}({', '.join(_fields(step))}): {about}"
