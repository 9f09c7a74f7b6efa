"""One function a field: a JSON value in, a Python value that fits the field's Arrow type out, or `Misfit`."""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from apwa_dask.agents.clean import clean_text
from apwa_dask.plans.schema import Field

__all__ = ["Coerce", "Misfit", "coercer"]

Coerce = Callable[[Any], Any]

_INTEGER = re.compile(r"[+-]?\d{1,19}(?:\.0+)?")
_NUMBER = re.compile(r"[+-]?(?:\d{1,400}(?:\.\d{0,400})?|\.\d{1,400})(?:[eE][+-]?\d{1,4})?")
_BOOLEANS = {"true": True, "false": False, "yes": True, "no": False}
_INT64 = range(-(2**63), 2**63)
_ABSENT = frozenset({"", "null"})


class Misfit(ValueError):
    """A value does not fit its field; the message is short and quotes no answer text."""


def coercer(field: Field) -> Coerce:
    """The function that reads this field's values, nulls included."""
    coerce = _COERCERS[field.type](field) if field.labels is None else _label(field)
    return _nullable(coerce) if field.nullable else _not_null(field.name, coerce)


def _nullable(coerce: Coerce) -> Coerce:
    def read(value: Any) -> Any:
        if value is None or (isinstance(value, str) and value.strip().lower() in _ABSENT):
            return None
        return coerce(value)

    return read


def _not_null(name: str, coerce: Coerce) -> Coerce:
    def read(value: Any) -> Any:
        if value is None:
            raise Misfit(f"{name} must not be null")
        return coerce(value)

    return read


def _string(field: Field) -> Coerce:
    name = field.name

    def read(value: Any) -> str:
        if isinstance(value, str):
            return clean_text(value)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise Misfit(f"{name} must be text")
        return str(value)

    return read


def _label(field: Field) -> Coerce:
    assert field.labels is not None
    name, exact = field.name, {label: label for label in field.labels}
    loose: dict[str, str | None] = {}
    for label in exact:
        loose[_squeezed(label)] = None if _squeezed(label) in loose else label
    known = ", ".join(exact) if len(exact) <= 30 else f"{', '.join(list(exact)[:30])}, ..."

    def read(value: Any) -> str:
        if isinstance(value, str):
            label = exact.get(value) or loose.get(_squeezed(value))
            if label is not None:
                return label
        raise Misfit(f"{name} must be exactly one of: {known}")

    return read


def _squeezed(label: str) -> str:
    """Case, spaces and joiners do not tell labels apart, unless they are all that does."""
    return re.sub(r"[\s_-]+", "", label).casefold()


def _integer(field: Field) -> Coerce:
    name, check = field.name, _bounds(field)

    def read(value: Any) -> int:
        if type(value) is not int:
            value = _whole(value, name)
        if value not in _INT64:
            raise Misfit(f"{name} is too large a number")
        return int(check(value))

    return read


def _whole(value: Any, name: str) -> int:
    if isinstance(value, str) and _INTEGER.fullmatch(value.strip()):
        return int(value.strip().partition(".")[0])
    if isinstance(value, float) and value.is_integer():
        return int(value)
    raise Misfit(f"{name} must be a whole number")


def _float(field: Field) -> Coerce:
    name, check = field.name, _bounds(field)

    def read(value: Any) -> float:
        if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
            value = float(value)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise Misfit(f"{name} must be a number")
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise Misfit(f"{name} must be a finite number")
        return float(check(number))

    return read


def _bounds(field: Field) -> Callable[[float], float]:
    low = -math.inf if field.minimum is None else field.minimum
    high = math.inf if field.maximum is None else field.maximum
    if field.minimum is None and field.maximum is None:
        words = ""
    elif field.maximum is None:
        words = f"{field.name} must be at least {low:g}"
    elif field.minimum is None:
        words = f"{field.name} must be at most {high:g}"
    else:
        words = f"{field.name} must be from {low:g} to {high:g}"

    def check(number: float) -> float:
        if low <= number <= high:
            return number
        raise Misfit(words)

    return check


def _boolean(field: Field) -> Coerce:
    name = field.name

    def read(value: Any) -> bool:
        if isinstance(value, str):
            value = _BOOLEANS.get(value.strip().lower())
        if isinstance(value, bool):
            return value
        raise Misfit(f"{name} must be true or false")

    return read


def _date(field: Field) -> Coerce:
    name = field.name

    def read(value: Any) -> dt.date:
        try:
            if isinstance(value, str):
                text = value.strip()
                return (
                    dt.date.fromisoformat(text) if len(text) <= 10 else dt.datetime.fromisoformat(text).date()
                )
        except ValueError:
            pass  # told below, like every other kind of misfit
        raise Misfit(f"{name} must be a date as YYYY-MM-DD")

    return read


def _datetime(field: Field) -> Coerce:
    name = field.name

    def read(value: Any) -> dt.datetime:
        try:
            if isinstance(value, str):
                moment = dt.datetime.fromisoformat(value.strip())
                return moment.replace(tzinfo=dt.UTC) if moment.tzinfo is None else moment.astimezone(dt.UTC)
        except (ValueError, OverflowError):
            pass  # told below, like every other kind of misfit
        raise Misfit(f"{name} must be a date and time as YYYY-MM-DDTHH:MM:SSZ")

    return read


def _list(field: Field) -> Coerce:
    assert field.items is not None
    name, element = field.name, coercer(field.items)

    def read(value: Any) -> list[Any]:
        if not isinstance(value, list):
            raise Misfit(f"{name} must be a list")
        return [element(member) for member in value]

    return read


def _object(field: Field) -> Coerce:
    name, members = field.name, {member.name: (coercer(member), member.nullable) for member in field.fields}

    def read(value: Any) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise Misfit(f"{name} must be an object")
        extra = next((key for key in value if key not in members), None)
        if extra is not None:
            raise Misfit(f"{name} has a field that was not asked for")
        missing = [key for key, (_, optional) in members.items() if key not in value and not optional]
        if missing:
            raise Misfit(f"{name} lacks {', '.join(missing)}")
        return {key: coerce(value.get(key)) for key, (coerce, _) in members.items()}

    return read


_COERCERS: dict[str, Callable[[Field], Coerce]] = {
    "string": _string,
    "integer": _integer,
    "number": _float,
    "boolean": _boolean,
    "date": _date,
    "datetime": _datetime,
    "list": _list,
    "object": _object,
}
