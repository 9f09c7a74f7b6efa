"""Steps under names that are free, built from the user's own words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from apwa_dask.plans.steps import (
    Concat,
    Join,
    LLMStep,
    Merge,
    Step,
)

__all__ = ["built", "free_name", "names_of", "renamed_step"]


def renamed_step(step: Step, names: Mapping[str, str], *, keep_id: bool = False, lent: bool = True) -> Step:
    """A step with the tables it reads, those lent to its tools and its own id under other names."""
    update: dict[str, Any] = {"input": names.get(step.input, step.input)}
    if not keep_id:
        update["id"] = names.get(step.id, step.id)
    if isinstance(step, (Join, Merge)):
        update["right"] = names.get(step.right, step.right)
    if isinstance(step, Concat):
        update["others"] = tuple(names.get(name, name) for name in step.others)
    if isinstance(step, LLMStep) and step.contract.tables and lent:
        tables = tuple(names.get(name, name) for name in step.contract.tables)
        update["contract"] = step.contract.model_copy(update={"tables": tables})
    return step.model_copy(update=update)


def free_name(name: str, taken: set[str]) -> str:
    if name not in taken:
        return name
    number = 2
    while f"{name}_{number}" in taken:
        number += 1
    return f"{name}_{number}"


def names_of(columns: Sequence[str] | str) -> tuple[str, ...]:
    return (columns,) if isinstance(columns, str) else tuple(columns)


def built(kind: type[Any], **values: Any) -> Any:
    """A step or contract from the user's own words, a wrong one as a teaching error."""
    from pydantic import ValidationError

    from apwa_dask.plans.loading import plan_error

    try:
        return kind.model_validate(values)
    except ValidationError as wrong:
        raise plan_error(wrong, kind) from None
