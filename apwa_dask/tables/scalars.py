"""Text to typed values: which type all cells of a column share, and the checked conversion to it."""

from __future__ import annotations

import re
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from .schema import misfit

__all__ = ["NULL_WORDS", "ColumnGuess", "scalar_kind", "text_to_type"]

NULL_WORDS = ("null", "none", "nan", "na", "n/a")
"""Words, in any case, that mean "missing" in a column that is otherwise not text; in a text column, text."""

# No leading zeros (codes stay text), at most 18 digits (fits 64 bits), no thousands separators.
_DAY = r"[0-9]{4}-[01][0-9]-[0-3][0-9]"
_CLOCK = r"[T ][0-2][0-9]:[0-5][0-9](?::[0-5][0-9](?:\.[0-9]{1,6})?)?"
_PATTERNS = {
    "boolean": r"(?i:true|false)",
    "integer": r"-?(?:0|[1-9][0-9]{0,17})",
    "number": r"-?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?",
    "date": _DAY,
    "timestamp": f"{_DAY}(?:{_CLOCK})?",
    "instant": f"{_DAY}{_CLOCK}(?:Z|[+-][0-9]{{2}}:?[0-9]{{2}})",
}
_COMPILED = {name: re.compile(pattern) for name, pattern in _PATTERNS.items()}
_TYPES = {
    "boolean": pa.bool_(),
    "integer": pa.int64(),
    "number": pa.float64(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us"),
    "instant": pa.timestamp("us", tz="UTC"),
}
_MAX_DIGITS_OF_A_DOUBLE = 17
_DIGITS_ALWAYS_EXACT = 15
_FEW = 512


def scalar_kind(text: str) -> str:
    """Return the name of the narrowest type that `text` reads as, "" for plain text or nothing."""
    stripped = text.strip()
    return next((name for name, pattern in _COMPILED.items() if pattern.fullmatch(stripped)), "")


class ColumnGuess:
    """The types that all cells of a column seen so far would fit; narrowed batch by batch."""

    def __init__(self) -> None:
        self.possible = set(_PATTERNS)
        self.seen_any = False

    def see(self, cells: list[str]) -> None:
        """Take note of more cells; blank cells and null words say nothing."""
        if not self.possible:
            return
        values = [
            stripped for cell in cells if (stripped := cell.strip()) and stripped.lower() not in NULL_WORDS
        ]
        if not values:
            return
        self.seen_any = True
        if len(values) <= _FEW:
            for name in tuple(self.possible):
                pattern = _COMPILED[name]
                if not all(pattern.fullmatch(value) for value in values):
                    self.possible.discard(name)
        else:
            array = pa.array(values, pa.string())
            for name in tuple(self.possible):
                if not pc.all(pc.match_substring_regex(array, f"^(?:{_PATTERNS[name]})$")).as_py():
                    self.possible.discard(name)
        self._reject_uncastable(values)

    def _reject_uncastable(self, values: list[str]) -> None:
        """Drop types whose pattern fits but whose values do not exist (30 February) or lose digits."""
        if "number" in self.possible and any(_loses_digits(value) for value in values):
            self.possible.discard("number")
        for name in ("date", "timestamp", "instant"):
            if name not in self.possible:
                continue
            try:
                pc.cast(pa.array(values, pa.string()), _TYPES[name])
            except pa.ArrowInvalid:
                self.possible.discard(name)

    @property
    def type(self) -> pa.DataType:
        """The narrowest type left; string where there is none, null where no value was seen."""
        if not self.seen_any:
            return pa.null()
        return next((_TYPES[name] for name in _PATTERNS if name in self.possible), pa.string())


def _loses_digits(number: str) -> bool:
    if len(number) <= _DIGITS_ALWAYS_EXACT:
        return False
    whole = number.lstrip("-").isdigit()
    return int(float(number)) != int(number) if whole else len(number) > _MAX_DIGITS_OF_A_DOUBLE + 2


def text_to_type(column: Any, field: pa.Field, *, path: str, first_row: int) -> Any:
    """Convert a column of cells to its declared type; an empty cell is null.

    Raises
    ------
    SourceError
        Naming file, row and column of the first cell that does not fit.
    """
    if pa.types.is_string(field.type):
        return pc.if_else(pc.equal(column, ""), pa.scalar(None, pa.string()), column)
    if pa.types.is_binary(field.type):
        return pc.cast(column, field.type)
    stripped = pc.utf8_trim_whitespace(column)
    missing = pc.is_in(pc.utf8_lower(stripped), value_set=pa.array(["", *NULL_WORDS]))
    stripped = pc.if_else(missing, pa.scalar(None, pa.string()), stripped)
    try:
        return _cast_text(stripped, field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        pass
    for row, cell in enumerate(stripped.to_pylist()):
        try:
            _cast_text(pa.array([cell], pa.string()), field.type)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            raise misfit(
                field, path=path, row=first_row + row, found=scalar_kind(cell or "") or "string"
            ) from None
    raise misfit(field, path=path, row=first_row)


def _cast_text(column: Any, kind: pa.DataType) -> Any:
    if pa.types.is_boolean(kind):
        lowered = pc.utf8_lower(column)
        known = pc.is_in(lowered, value_set=pa.array(["true", "false"]))
        if not pc.all(pc.or_kleene(known, pc.is_null(column))).as_py():
            raise pa.ArrowInvalid("not a boolean")
        return pc.equal(lowered, "true")
    return pc.cast(column, kind)
