"""What is known of a plan while it grows: its steps and the columns at that point."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from apwa_dask.plans.infer import is_number, is_ordered, is_text, output_schema, visible
from apwa_dask.plans.loading import OPERATIONS
from apwa_dask.plans.steps import Step
from apwa_dask.tables.profile import ColumnProfile, Profile

__all__ = ["LENGTH_OF", "TIMES_OF", "Sketch", "quoted_name"]

LENGTH_OF = "length of "
"""Prefix of the number that every text column has besides its text: its characters."""

TIMES_OF = "times of "
"""Prefix of how often a word occurs in a text column: ``times of x in column``."""

_NAME_TOKENS = 4
_WORDS_OF_SENTENCE = 4
_SHORT = 10
"""A text column whose longest values are so many times shorter than another's is a name, no text to read."""

_REASONS = {
    "where": "columns decide which rows stay, so no model is paid for it",
    "assign": "a column that is not there is needed, and an expression gives it",
    "filter": "only the meaning of a text decides which rows stay",
    "map": "it stands in a text, which has to be read",
    "aggregate": "numbers are computed, never read",
    "sort": "an order is asked for",
    "limit": "only the first few are asked for",
    "reduce": "one text about many rows is asked for",
}
"""Why the form leads to a step; shown in its explanation."""


@dataclass(frozen=True)
class Sketch:
    """A plan that grows by one choice at a time.

    Attributes
    ----------
    table : str
        Alias of the source.
    schema : pyarrow.Schema
        Columns after the last step.
    profile : Profile
    steps : tuple of Step
    """

    table: str
    schema: pa.Schema
    profile: Profile
    steps: tuple[Step, ...] = ()
    measures: Mapping[str, str] = field(default_factory=dict)
    """``length of x`` to the column that holds it, once it is made."""

    @classmethod
    def of(cls, table: str, schema: pa.Schema, profile: Profile) -> Sketch:
        """An empty plan over one table."""
        return cls(table, visible(schema), profile)

    @property
    def head(self) -> str:
        """What the next step reads."""
        return self.steps[-1].id if self.steps else self.table

    def with_step(self, op: str, **fields: Any) -> Sketch:
        """The plan with one more step, which reads the last one."""
        number = sum(step.op == op for step in self.steps) + 1
        step: Any = OPERATIONS[op].model_validate(
            {
                "id": _free(f"{op}_{number}", self.table),
                "input": self.head,
                "reason": _REASONS.get(op, ""),
                **fields,
            }
        )
        return replace(self, schema=output_schema(step, [self.schema]), steps=(*self.steps, step))

    def with_measure(self, name: str) -> tuple[Sketch, str]:
        """The plan with the measure as a column (made where it is none yet), and that column's name."""
        if not name.startswith((LENGTH_OF, TIMES_OF)) or name in self.schema.names:
            return self, name
        if name in self.measures:
            return self, self.measures[name]
        if name.startswith(TIMES_OF):
            return self._with_times(name)
        text = name.removeprefix(LENGTH_OF)
        column = self.new_name(f"{text}_length" if text.isidentifier() else "text_length")
        grown = self.with_step("assign", columns={column: f"length({quoted_name(text)})"})
        return replace(grown, measures={**self.measures, name: column}), column

    def _with_times(self, name: str) -> tuple[Sketch, str]:
        word, _, text = name.removeprefix(TIMES_OF).rpartition(" in ")
        pattern = re.escape(word.lower()).replace("'", "''")
        column = self.new_name("times")
        counted = rf"len(regexp_extract_all(lower({quoted_name(text)}), '\b{pattern}\b'))"
        grown = self.with_step("assign", columns={column: counted})
        return replace(grown, measures={**self.measures, name: column}), column

    def new_name(self, wanted: str) -> str:
        """The name, or one with a number where a column has it (in any case: SQL cannot tell them apart)."""
        taken = {name.lower() for name in self.schema.names}
        name, number = wanted, 1
        while name.lower() in taken or name.lower().startswith("_apwa"):
            number += 1
            name = f"{wanted}_{number}"
        return name

    @property
    def aggregated(self) -> bool:
        """Whether the rows are groups by now."""
        return any(step.op == "aggregate" for step in self.steps)

    @property
    def is_judged(self) -> bool:
        """Whether a model judged which rows of two tables belong together."""
        return any(step.op == "join" for step in self.steps)

    # --- columns by what can be done with them

    @property
    def numbers(self) -> list[str]:
        """Numeric columns, and the length of each text column."""
        lengths = [] if self.aggregated else [LENGTH_OF + name for name in self.texts]
        made = set(self.measures.values())
        return [f.name for f in self.schema if is_number(f.type) and f.name not in made] + lengths

    def comparable(self, value: float) -> list[str]:
        """Numbers that a value can tell apart: not those whose whole range is on one side of it."""
        ranges = {column.name: (column.low, column.high) for column in self.profile.columns}
        return [name for name in self.numbers if _within(value, *ranges.get(name, (None, None)))]

    @property
    def texts(self) -> list[str]:
        """Text columns."""
        return [f.name for f in self.schema if is_text(f.type)]

    @property
    def times(self) -> list[str]:
        """Dates and timestamps."""
        return [f.name for f in self.schema if pa.types.is_date(f.type) or pa.types.is_timestamp(f.type)]

    @property
    def truths(self) -> list[str]:
        """Boolean columns."""
        return [f.name for f in self.schema if pa.types.is_boolean(f.type)]

    @property
    def keys(self) -> list[str]:
        """Columns that rows can be grouped by: of few enough values, or made by a step."""
        known = {column.name: column for column in self.profile.columns}
        rows = self.profile.rows
        return [f.name for f in self.schema if is_ordered(f.type) and _repeats(known.get(f.name), rows)]

    @property
    def media(self) -> list[str]:
        """Binary columns with images or recordings in them."""
        empty = {column.name for column in self.profile.columns if column.null_share == 1}
        binary = (
            f.name for f in self.schema if pa.types.is_binary(f.type) or pa.types.is_large_binary(f.type)
        )
        return [name for name in binary if name not in empty]

    @property
    def readable(self) -> list[str]:
        """Columns to read: images, and texts, but ids and names only where there is nothing longer."""
        longest = {
            column.name: column.tokens.p95 for column in self.profile.columns if column.tokens is not None
        }
        if self.media:
            return [*self.media, *(name for name in self.texts if longest.get(name, 0) > 2 * _NAME_TOKENS)]
        limit = max((longest.get(name, 0) for name in self.texts), default=0) / _SHORT
        return [name for name in self.texts if longest.get(name, limit) >= limit] or self.texts

    @property
    def prose(self) -> list[str]:
        """Columns to read that hold sentences, and no mere names, or images."""
        spaced = {
            column.name
            for column in self.profile.columns
            if any(sample.count(" ") >= _WORDS_OF_SENTENCE - 1 for sample in column.samples)
        }
        return [name for name in self.readable if name in spaced or name in self.media]

    @property
    def complete_values(self) -> dict[str, tuple[str, ...]]:
        """Columns whose every value is known from the profile."""
        return dict(self._complete())

    def _complete(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        for column in self.profile.columns:
            whole = column.distinct is not None and 0 < column.distinct <= len(column.samples)
            if whole and column.name in self.texts and not any(s.endswith("…") for s in column.samples):
                yield column.name, column.samples


def quoted_name(name: str) -> str:
    """A column in SQL."""
    return '"' + name.replace('"', '""') + '"'


def _within(value: float, low: Any, high: Any) -> bool:
    return not isinstance(low, (int, float)) or not isinstance(high, (int, float)) or low <= value <= high


def _repeats(column: ColumnProfile | None, rows: int | None) -> bool:
    """Whether some values come several times, and are no long texts. What a step made is taken to repeat."""
    if column is None or column.distinct is None or rows is None:
        return True
    if column.tokens is None or column.tokens.median <= _NAME_TOKENS:
        return column.distinct < max(rows, 2)
    return column.tokens.median <= 3 * _NAME_TOKENS and column.distinct <= rows / 2


def _free(wanted: str, table: str) -> str:
    return wanted if wanted != table else f"{wanted}_of_{table}"
