"""An answer's schema in words: its compact form, and a line for each field and label."""

from __future__ import annotations

from apwa_dask.agents.clean import clean_text
from apwa_dask.plans.schema import Field, Schema

__all__ = ["answer_shape", "column_name", "field_lines"]

_TYPE_WORDS = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "date": "date as YYYY-MM-DD",
    "datetime": "date and time as YYYY-MM-DDTHH:MM:SSZ",
}


def column_name(name: str) -> str:
    """A column's name on one line."""
    return " ".join(clean_text(name).split())


def answer_shape(schema: Schema, key: str | None = None) -> str:
    """The compact form of an answer, with placeholders in angle brackets; with `key`, of answers for rows."""
    members = ",".join(f'"{field.name}":{_placeholder(field)}' for field in schema)
    return f"{{{members}}}" if key is None else f'{{"rows":[{{"{key}":<row number>,{members}}}, ...]}}'


def field_lines(schema: Schema, *, brief: bool = False) -> list[str]:
    """A line for each field, and below it for each label; `brief` leaves out what the shape says already."""
    return [line for field in schema for line in _field_lines(field, 0, brief=brief)]


def _placeholder(field: Field) -> str:
    if field.type == "list" and field.items is not None:
        return f"[{_placeholder(field.items)}, ...]"
    if field.type == "object":
        return "{" + ",".join(f'"{member.name}":{_placeholder(member)}' for member in field.fields) + "}"
    words = "label" if field.labels is not None else _type_words(field)
    placeholder = f"<{words} or null>" if field.nullable else f"<{words}>"
    quoted = field.type in ("string", "date", "datetime") and not field.nullable
    return f'"{placeholder}"' if quoted else placeholder


def _type_words(field: Field) -> str:
    words = _TYPE_WORDS[field.type]
    low, high = (None if bound is None else _bound(bound) for bound in (field.minimum, field.maximum))
    if low is not None and high is not None:
        return f"{words} from {low} to {high}"
    if low is not None:
        return f"{words}, at least {low}"
    return f"{words}, at most {high}" if high is not None else words


def _bound(bound: float) -> str:
    return str(int(bound)) if bound.is_integer() else repr(bound)


def _field_lines(field: Field, depth: int, *, brief: bool) -> list[str]:
    """One line a field; a small model gets only the lines that say more than the shape does."""
    indent = "  " * depth
    about = column_name(field.description)
    parts = [_kind_words(field)]
    if field.nullable:
        parts.append("null if the input does not say")
    line = f"{indent}- {field.name} ({'; '.join(parts)}){': ' + about if about else ''}"
    below = _label_lines(field, depth + 1)
    for member in field.fields or (field.items.fields if field.items is not None else ()):
        below += _field_lines(member, depth + 1, brief=brief)
    if field.items is not None and field.items.labels:
        below += _label_lines(field.items, depth + 1)
    says_nothing_new = not about and not below and not field.nullable
    return [] if brief and says_nothing_new else [line, *below]


def _kind_words(field: Field) -> str:
    if field.type == "list":
        assert field.items is not None
        return f"list of {'objects' if field.items.type == 'object' else _kind_words(field.items)}"
    if field.type == "object":
        return "object"
    return "one of these labels" if field.labels is not None else _type_words(field)


def _label_lines(field: Field, depth: int) -> list[str]:
    indent = "  " * depth
    return [
        f'{indent}- "{label}"' + (f": {column_name(about)}" if about else "")
        for label, about in (field.labels or {}).items()
    ]
