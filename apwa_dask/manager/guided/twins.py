"""Two tables with records of the same things: which are the same is judged by reading, among those most alike."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from apwa_dask.manager.briefing import Tables
from apwa_dask.manager.guided.sketch import Sketch
from apwa_dask.plans.infer import is_text, output_schema, visible
from apwa_dask.plans.steps import Join
from apwa_dask.tables.profile import ColumnProfile

__all__ = ["Twins", "join_twins", "twins_of"]

_SAME = re.compile(
    r"\b(?:the same|also (?:occur|appear)|not (?:occur|appear)|duplicates?|match(?:es|ing)?|in both|in common"
    r"|missing (?:from|in))\b",
    re.IGNORECASE,
)
_THINGS = (
    re.compile(r"\bthe same ([a-z][a-z-]{2,30})\b", re.IGNORECASE),
    re.compile(
        r"\b(?:its|their|the|which) ([a-z][a-z-]{2,30}?)s? (?:also |do not |never )?(?:occur|appear)",
        re.IGNORECASE,
    ),
)
_ABSENT = re.compile(
    r"\b(?:do not|does not|don't|never|not)\b[^.?]*\b(?:occur|appear|match)|\bmissing (?:from|in)\b"
)
_ALSO = re.compile(
    r"\balso (?:occur|appear|listed|found|in|stand)|\bhave (?:a|any) (?:match|duplicate)", re.IGNORECASE
)
_SENTENCE_TOKENS = 6
"""Shorter texts are names and categories, that many records share."""

PAIRS = "pairs of rows that are the same"


@dataclass(frozen=True, slots=True)
class Twins:
    """Two tables of records of one kind.

    Attributes
    ----------
    left, right : str
        The rows of the left one are asked about, where only one is.
    shared : tuple of str
        Columns of both, by which records are compared.
    like : str
        The column by which records that may be the same are found.
    thing : str
        What both may be, such as ``publication``; empty where the question has no word for it.
    """

    left: str
    right: str
    shared: tuple[str, ...]
    like: str
    thing: str

    def choices(self, question: str) -> dict[str, str]:
        """Words for what the result may be, to how the tables are joined: one, where the question leaves no doubt."""
        also = f"rows of {self.left} that are also in {self.right}"
        absent = f"rows of {self.left} that are not in {self.right}"
        if _ABSENT.search(question):
            return {absent: "anti"}
        if _ALSO.search(question):
            return {also: "semi"}
        return {PAIRS: "inner"} if self._asks_about_both(question) else {PAIRS: "inner", also: "semi"}

    def _asks_about_both(self, question: str) -> bool:
        """Whether both are named side by side: "rows of a.csv and b.csv", "rows of a and b"."""
        names = (re.escape(table) for table in (self.left, self.right))
        return (
            re.search(r"\b{}\b[.\w]*,? and (?:of )?{}\b".format(*names), question, re.IGNORECASE) is not None
        )


def twins_of(tables: Tables, question: str) -> Twins | None:
    """The two tables, where the question speaks of the same things in both and their columns are alike."""
    if len(tables) != 2 or _SAME.search(question) is None:
        return None
    left, right = _in_order(list(tables), question)
    shared = [name for name in _texts_and_numbers(left, tables) if name in _texts_and_numbers(right, tables)]
    compared = [name for name in shared if not _is_id(name)]
    lengths = {name: _median(name, left, tables) for name in compared}
    like = max(compared, key=lambda name: lengths[name], default="")
    if len(compared) < 2 or lengths[like] < _SENTENCE_TOKENS:
        return None
    things = (found.group(1).lower() for pattern in _THINGS if (found := pattern.search(question)))
    thing = next(things, "")
    return Twins(left, right, tuple(compared), like, thing)


def join_twins(twins: Twins, how: str, tables: Tables) -> Sketch:
    """A plan that begins with the judged join."""
    sketch = Sketch.of(twins.left, *tables[twins.left])
    schema, profile = tables[twins.right]
    fields: Mapping[str, Any] = {
        "id": "join_1" if "join_1" not in tables else "join_of_tables",
        "input": twins.left,
        "right": twins.right,
        "how": how,
        "similar_left": (twins.like,),
        "similar_right": (twins.like,),
        "reason": "only reading both records tells whether they are the same; those most alike are compared",
        "contract": {
            "instruction": f"Both records describe the same {twins.thing or 'thing'}, whatever the spelling.",
            "inputs": (*twins.shared, *(f"{name}{_SUFFIX}" for name in twins.shared)),
            "output": Join.verdict(),
        },
    }
    step = Join.model_validate(fields)
    joined = output_schema(step, [sketch.schema, visible(schema)])
    added = () if how != "inner" else tuple(_beside(column, sketch.schema) for column in profile.columns)
    columns = (*sketch.profile.columns, *added)
    return replace(
        sketch, schema=joined, steps=(step,), profile=replace(sketch.profile, columns=columns, exact=False)
    )


_SUFFIX = str(Join.model_fields["suffix"].default)


def _beside(column: ColumnProfile, left: pa.Schema) -> ColumnProfile:
    return replace(column, name=f"{column.name}{_SUFFIX}") if column.name in left.names else column


def _in_order(tables: list[str], question: str) -> tuple[str, str]:
    """The table that the question names first is asked about; as they were given where it names none."""
    lowered = question.lower()
    places = {table: found.start() if (found := _named(table, lowered)) else len(lowered) for table in tables}
    first, second = sorted(tables, key=lambda table: places[table])
    return first, second


def _named(table: str, lowered: str) -> re.Match[str] | None:
    return re.search(rf"\b{re.escape(table.lower())}\b", lowered)


def _texts_and_numbers(table: str, tables: Tables) -> list[str]:
    return [f.name for f in visible(tables[table][0]) if is_text(f.type) or pa.types.is_integer(f.type)]


def _is_id(name: str) -> bool:
    return name.lower() == "id" or name.lower().endswith(("_id", "_key"))


def _median(name: str, table: str, tables: Tables) -> int:
    column = next((one for one in tables[table][1].columns if one.name == name), None)
    return column.tokens.median if column is not None and column.tokens is not None else 0
