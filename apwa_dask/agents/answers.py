"""From a model's text to typed values: strict JSON first, then JSON in prose or fences. Never raises."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from apwa_dask.agents.coerce import Misfit, coercer
from apwa_dask.plans.schema import Field, Schema

__all__ = ["VERDICT", "AnswerReader", "Invalid", "VerdictReader", "find_json", "flat_map_schema", "parse"]

VERDICT = Schema.of({"answer": {"labels": ["yes", "no"]}})
"""A filter's verdict as small models are asked for it. Measured on a 1.5B model, 36 rows, three conditions:
34 right with these words, 25 with ``{"keep": true|false}``, 25 with ``{"keep": "yes"|"no"}``; label
descriptions (23) and a further sentence of rules (31) were worse. Chosen on the same rows; over eight
conditions 77 of 90, 9 of the 13 misses towards yes.
"""

_THOUGHTS = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)
_LARGEST_SEARCH = 200_000
_MOST_STARTS = 24


@dataclass(frozen=True, slots=True)
class Invalid:
    """Why an answer cannot be used: words short enough to be sent back to the model."""

    reason: str


class AnswerReader:
    """Reads answers of one schema; built once a contract, called once a row.

    Parameters
    ----------
    schema : Schema
    strict : bool
        Reject fields that were not asked for. Otherwise they are dropped.
    """

    def __init__(self, schema: Schema, *, strict: bool = True) -> None:
        self._coercers = tuple((field.name, coercer(field)) for field in schema)
        self._names = frozenset(schema.names)
        self._optional = frozenset(field.name for field in schema if field.nullable)
        self._strict = strict
        self._only = schema.fields[0] if len(schema) == 1 else None

    def read(self, text: str) -> dict[str, Any] | Invalid:
        """Typed values of an answer; `Invalid` with the reason otherwise."""
        try:
            answer = orjson.loads(text)
        except ValueError:
            return self._search(text)
        return self._read(answer)

    def _read(self, answer: Any) -> dict[str, Any] | Invalid:
        """A bare value stands for the only field: models often leave the object out."""
        if isinstance(answer, dict) or self._only is None:
            return self.read_object(answer)
        return self.read_object({self._only.name: answer})

    def read_object(self, answer: Any) -> dict[str, Any] | Invalid:
        """Typed values of a decoded answer."""
        if not isinstance(answer, dict):
            return Invalid("the answer must be one JSON object")
        if answer.keys() != self._names:
            unfit = self._unfit_keys(answer)
            if unfit is not None:
                return unfit
        try:
            return {name: coerce(answer.get(name)) for name, coerce in self._coercers}
        except Misfit as misfit:
            return Invalid(str(misfit))

    def _unfit_keys(self, answer: dict[str, Any]) -> Invalid | None:
        missing = [name for name, _ in self._coercers if name not in answer and name not in self._optional]
        if missing:
            return Invalid(f"the field{'s' if len(missing) > 1 else ''} {', '.join(missing)} must be given")
        if self._strict and not answer.keys() <= self._names:
            return Invalid(f"only these fields may be given: {', '.join(name for name, _ in self._coercers)}")
        return None

    def _search(self, text: str) -> dict[str, Any] | Invalid:
        """The first JSON in the text that fits the schema; else why the first one does not."""
        problem: Invalid | None = None
        for candidate in find_json(text):
            values = self._read(candidate)
            if not isinstance(values, Invalid):
                return values
            problem = problem or values
        if problem is None and self._only is not None and (self._only.labels or self._only.type == "boolean"):
            bare = self.read_object({self._only.name: text.strip().strip("`\"'.")})
            return Invalid("the answer must be JSON") if isinstance(bare, Invalid) else bare
        return problem or Invalid("the answer must be JSON")


class VerdictReader(AnswerReader):
    """Reads `VERDICT` as the ``{keep: boolean}`` that a filter gives, and reads that form too."""

    def __init__(self, *, strict: bool = True) -> None:
        super().__init__(VERDICT, strict=strict)
        self._keep = AnswerReader(Schema.of({"keep": bool}), strict=strict)

    def read_object(self, answer: Any) -> dict[str, Any] | Invalid:
        if isinstance(answer, dict) and "keep" in answer:
            return self._keep.read_object(answer)
        values = super().read_object(answer)
        return values if isinstance(values, Invalid) else {"keep": values["answer"] == "yes"}


def parse(text: str, schema: Schema, *, strict: bool = True) -> dict[str, Any] | Invalid:
    """Read one answer; for many of one schema build an `AnswerReader` once.

    Parameters
    ----------
    text : str
        What the model wrote.
    schema : Schema
    strict : bool
        Reject fields that were not asked for.

    Returns
    -------
    dict or Invalid
        Values in the schema's order that fit `Schema.arrow`, or the reason they cannot be had.
    """
    return AnswerReader(schema, strict=strict).read(text)


def find_json(text: str) -> Iterator[Any]:
    """Objects and arrays that occur in `text`, outermost first, in order; work is bounded.

    The standard decoder takes what strict JSON refuses (NaN, lone surrogates); coercion judges the values.
    """
    text = _THOUGHTS.sub("", text[:_LARGEST_SEARCH])
    decoder = json.JSONDecoder()
    position = 0
    for _ in range(_MOST_STARTS):
        start = _next_start(text, position)
        if start < 0:
            return
        try:
            value, position = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):  # RecursionError: brackets nested by the thousand
            position = start + 1
            continue
        yield value


def flat_map_schema(output: Schema) -> Schema:
    """``{rows: [output]}``: zero or more answers for one row."""
    row = Field(name="item", type="object", fields=output.fields)
    return Schema(fields=(Field(name="rows", type="list", items=row),))


def _next_start(text: str, position: int) -> int:
    starts = [start for start in (text.find("{", position), text.find("[", position)) if start >= 0]
    return min(starts, default=-1)
