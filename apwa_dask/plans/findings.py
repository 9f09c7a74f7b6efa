"""What a check of a plan finds, and what it knows of each table on its way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

__all__ = ["Findings", "Lineage", "Problem", "Warning", "listed"]

_MOST_NAMED = 8


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a plan: where (``step.field``) and what, with the candidates in the text."""

    step: str
    field: str
    text: str

    def __str__(self) -> str:
        place = ".".join(part for part in (self.step, self.field) if part)
        return f"{place}: {self.text}"


@dataclass(frozen=True, slots=True)
class Warning:
    """Something lawful that is probably not meant."""

    step: str
    text: str

    def __str__(self) -> str:
        return f"{self.step}: {self.text}" if self.step else self.text


@dataclass
class Findings:
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Warning] = field(default_factory=list)

    def add(self, step: str, place: str, text: str) -> None:
        self.problems.append(Problem(step, place, text))


@dataclass(frozen=True)
class Lineage:
    """A table on its way through the plan. `writers`: column to the step that wrote it."""

    schema: pa.Schema
    writers: Mapping[str, str]


def listed(fields: Sequence[pa.Field]) -> str:
    """``price (double), name (string)``; of many, the first and how many there are."""
    shown = ", ".join(f"{field.name} ({_named(field.type)})" for field in fields[:_MOST_NAMED]) or "none"
    return shown + (f", ... ({len(fields)} in all)" if len(fields) > _MOST_NAMED else "")


def _named(of: pa.DataType) -> str:
    return f"category of {of.value_type}" if pa.types.is_dictionary(of) else str(of)
