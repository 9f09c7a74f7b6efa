"""How long answers and rows in a prompt are likely to be, before any was seen: priors, each with its range."""

from __future__ import annotations

from collections.abc import Sequence

from apwa_dask.agents.describe import column_name
from apwa_dask.agents.tokens import estimate_tokens
from apwa_dask.plans.contract import Contract
from apwa_dask.plans.explain import Range
from apwa_dask.plans.schema import Field, Schema

__all__ = ["TOKENS_ERROR", "answer_tokens", "row_overhead", "summary_tokens", "tool_turn_tokens"]

TOKENS_ERROR = (0.65, 1.0, 1.5)
"""Vocabularies differ: four characters a token is prose; digits, code and punctuation take more, long words less."""

_SCALARS = {
    "boolean": Range(1, 1, 2),
    "integer": Range(1, 2, 4),
    "number": Range(1, 4, 7),
    "date": Range(4, 6, 10),
    "datetime": Range(8, 12, 20),
}
_TEXT = Range(6, 25, 90)
"""A phrase, a sentence, a paragraph."""
_SHORT_TEXT = Range(2, 5, 20)
"""One of several: an item of a list."""
_SUMMARY = Range(50, 140, 400)
_ITEMS = Range(1, 3, 8)
"""Items of a list, rows of an answer with rows."""
_AROUND_FIELD = Range(2, 4, 6)
"""Quotes, colon, comma and blanks around a name and its value."""
_TOOL_CALL = Range(8, 20, 60)
_TOOL_RESULT = Range(5, 40, 200)


def answer_tokens(schema: Schema) -> Range:
    """Tokens of one answer in JSON, as models usually fill such fields. Thinking is not counted: nobody knows it."""
    return _object(schema.fields, _TEXT)


def summary_tokens(schema: Schema) -> Range:
    """The same, of an answer that sums many rows up."""
    return _object(schema.fields, _SUMMARY)


def tool_turn_tokens() -> tuple[Range, Range]:
    """What one use of a tool is answered with, and by how much it lengthens the next prompt."""
    return _TOOL_CALL, _TOOL_CALL + _TOOL_RESULT


def row_overhead(contract: Contract) -> int:
    """Tokens of a row's message around its cells: the columns are named where there are several."""
    if len(contract.inputs) == 1:
        return 4
    return 4 + sum(estimate_tokens(column_name(name)) + 2 for name in contract.inputs)


def _object(fields: Sequence[Field], text: Range) -> Range:
    found = Range(1, 2, 4)
    for field in fields:
        name = estimate_tokens(field.name)
        found += Range(name, name, name + 2) + _AROUND_FIELD + _value(field, text)
    return found


def _value(field: Field, text: Range) -> Range:
    if field.labels is not None:
        lengths = [estimate_tokens(label) for label in field.labels]
        return Range(min(lengths), max(1.0, sum(lengths) / len(lengths)), 2 * max(lengths))
    if field.type == "list":
        assert field.items is not None
        one = _value(field.items, _SHORT_TEXT) + Range(1, 2, 3)
        return Range(*(getattr(one, at) * getattr(_ITEMS, at) for at in ("low", "expected", "high")))
    if field.type == "object":
        return _object(field.fields, _SHORT_TEXT)
    return _SCALARS.get(field.type, text)
