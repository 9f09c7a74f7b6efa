"""Find out how a delimited file is written: delimiter, quoting, title lines, header. Pure functions."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ..scalars import NULL_WORDS, scalar_kind

__all__ = ["Dialect", "sniff"]

DELIMITERS = (",", ";", "\t", "|")
MAX_CELL_CHARS = 1 << 28
_SAMPLE_RECORDS = 500
_LONG_FOR_A_NAME = 80
_TRUST_IN_SUFFIX = 100


@dataclass(frozen=True, slots=True)
class Dialect:
    """How records and cells are told apart.

    Attributes
    ----------
    skip : int
        Records (blank lines not counted) before the first data row, the header among them.
    header : tuple of str or None
        Cells of the header row; None where the file has none.
    width : int
        Cells of a usual record.
    """

    delimiter: str
    quoted: bool
    skip: int
    header: tuple[str, ...] | None
    width: int
    notes: tuple[str, ...] = ()


def records(
    lines: Iterable[str], delimiter: str, *, quoted: bool, strict: bool = False
) -> Iterator[list[str]]:
    """Split lines into records of cells; blank lines are left out.

    The standard library's parser: a quote opens a cell only at its start, two quotes inside stand for one.
    """
    if csv.field_size_limit() < MAX_CELL_CHARS:
        csv.field_size_limit(MAX_CELL_CHARS)  # the default of 128 kB refuses long documents
    if quoted:
        reader = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_MINIMAL, strict=strict)
    else:
        reader = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE)
    return (record for record in reader if record)


def sniff(
    text: str, *, complete: bool, delimiter: str | None = None, hint: str = "", header: bool | None = None
) -> Dialect:
    """Work out the dialect from the start of a file.

    Parameters
    ----------
    text : str
        Decoded, line ends as in the file but lone ``\\r`` already turned into ``\\n``.
    complete : bool
        Whether `text` is the whole file; otherwise its last, perhaps cut, line is not looked at.
    delimiter, header
        What the user said, if anything.
    hint : str
        The delimiter that the suffix suggests.
    """
    lines = list(io.StringIO(text, newline="\n"))  # str.splitlines would also split at form feeds and U+0085
    if not complete and len(lines) > 1:
        lines = lines[:-1]
    found = delimiter or _delimiter(lines, hint)
    quoted = _is_quoted(lines, found)
    rows = _first(records(lines, found, quoted=quoted))
    width = _modal([len(row) for row in rows])
    titles = _title_lines(rows, width)
    rows = rows[titles:]
    notes = []
    if not quoted and any('"' in line for line in lines):
        notes.append("double quotes are ordinary characters here: the file is not consistent with quoting")
    if titles:
        notes.append(f"{titles} line(s) before the table left out")
    has_header = header if header is not None else _has_header(rows)
    if not has_header:
        notes.append("no header row: columns are called column_1, column_2, ...")
    names = tuple(cell.strip().lstrip("\ufeff") for cell in rows[0]) if rows and has_header else None
    return Dialect(
        delimiter=found,
        quoted=quoted,
        skip=titles + int(names is not None),
        header=names,
        width=len(names) if names is not None else max([width, *(len(row) for row in rows[:1])]),
        notes=tuple(notes),
    )


def _first(rows: Iterator[list[str]], count: int = _SAMPLE_RECORDS) -> list[list[str]]:
    taken: list[list[str]] = []
    try:
        for row in rows:
            taken.append(row)
            if len(taken) >= count:
                break
    except csv.Error:
        return taken
    return taken


def _modal(widths: list[int]) -> int:
    """Return the commonest value, the larger of equals; 1 for none."""
    counts = Counter(widths)
    return max(counts, key=lambda width: (counts[width], width)) if counts else 1


def _delimiter(lines: list[str], hint: str) -> str:
    scores = {}
    for candidate in DELIMITERS:
        rows = _first(records(lines, candidate, quoted=True), 200)
        widths = [len(row) for row in rows]
        modal = _modal(widths)
        agree = sum(width == modal for width in widths) / max(1, len(widths))
        # Agreement counts more than width: commas of prose make many, but uneven, cells.
        scores[candidate] = agree**3 * min(modal, 50) if modal > 1 else 0.0
        if modal > 1 and candidate == hint:
            scores[candidate] += _TRUST_IN_SUFFIX
    best = max(DELIMITERS, key=lambda candidate: scores[candidate])
    if scores[best] > 0:
        return best
    return hint or ","


def _is_quoted(lines: list[str], delimiter: str) -> bool:
    """Decide whether double quotes delimit cells, by which reading gives records of one width.

    Unbalanced quotes in plain text swallow line ends when taken as delimiters, so fewer records come out;
    where every line is a well-formed record without quoting, quoting is off.
    """
    if not any('"' in line for line in lines):
        return True
    off = _widths(lines, delimiter, quoted=False)
    on = _widths(lines, delimiter, quoted=True)
    strict = _widths(lines, delimiter, quoted=True, strict=True)
    off_is_even = off is not None and len(set(off)) == 1 and off[0] > 1
    on_is_even = strict is not None and len(set(strict)) == 1
    if on is None:
        return False
    if on_is_even:
        return not (off_is_even and off is not None and len(off) > len(on))
    if off_is_even:
        return len(off or ()) == len(on) and len(set(on)) == 1
    return _agreement(on) >= _agreement(off or [])


def _widths(lines: list[str], delimiter: str, *, quoted: bool, strict: bool = False) -> list[int] | None:
    try:
        return [len(row) for row in records(lines, delimiter, quoted=quoted, strict=strict)]
    except csv.Error:
        return None


def _agreement(widths: list[int]) -> float:
    modal = _modal(widths)
    return sum(width == modal for width in widths) / max(1, len(widths))


def _title_lines(rows: list[list[str]], width: int) -> int:
    """Count the leading records that are too short to belong to the table."""
    if width < 2:
        return 0
    for index, row in enumerate(rows):
        filled = sum(bool(cell.strip()) for cell in row)
        if filled > 0 and 2 * len(row) >= width and (filled > 1 or len(row) >= width):
            return index
    return 0


def _has_header(rows: list[list[str]]) -> bool:
    """Decide whether the first row names the columns.

    It does not when a cell of it is a number or a date, is as long as prose, or occurs again below in its
    column (names do not recur as values).
    """
    if not rows:
        return False
    first, rest = rows[0], rows[1:]
    if any(scalar_kind(cell) for cell in first):
        return _values_as_names(first, rest)
    if any(len(cell) > _LONG_FOR_A_NAME for cell in first):
        return False
    for position, cell in enumerate(first):
        if not cell.strip():
            continue
        again = sum(position < len(row) and row[position] == cell for row in rest)
        if again > 0 and again >= len(rest) * 0.02:
            return False
    return True


def _values_as_names(first: list[str], rest: list[list[str]]) -> bool:
    """Whether a first row that holds numbers still names the columns.

    It does when the cells below are of other kinds, or when its numbers are years in order (a wide table).
    """
    if not rest:
        return False
    like_below = unlike_below = 0
    for position, cell in enumerate(first):
        below = {
            scalar_kind(row[position]) for row in rest[:20] if position < len(row) and row[position].strip()
        }
        kind = scalar_kind(cell)
        if kind and below:
            like_below += kind in below
            unlike_below += kind not in below
        elif _is_word(cell):
            unlike_below += bool(below) and "" not in below
    return unlike_below > like_below or _years_in_order(first, rest)


def _years_in_order(first: list[str], rest: list[list[str]]) -> bool:
    years = [int(cell) for cell in first if re.fullmatch(r"(?:19|20)[0-9]{2}", cell.strip())]
    numbers = sum(bool(scalar_kind(cell)) for cell in first)
    below = [cell for row in rest[:20] for cell in row if re.fullmatch(r"(?:19|20)[0-9]{2}", cell.strip())]
    ascending = all(left < right for left, right in itertools.pairwise(years))
    return len(years) >= 2 and len(years) == numbers and ascending and len(below) < len(years)


def _is_word(cell: str) -> bool:
    return bool(cell.strip()) and cell.strip().lower() not in NULL_WORDS and not scalar_kind(cell)
