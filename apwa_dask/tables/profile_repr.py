"""A profile as text and as HTML. Both only format what is there: nothing is read, computed or spent."""

from __future__ import annotations

import re
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .profile import ColumnProfile, Profile

__all__ = ["html", "text"]

_MAX_SHOWN = 40
# What steers a terminal, reorders its surroundings, or is not seen: samples are text of strangers.
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u202a-\u202e\u2066-\u2069\U000e0000-\U000e007f]")
_HEADINGS = ("column", "type", "null", "distinct", "range or tokens", "values")


def text(profile: Profile) -> str:
    """Return the profile as an aligned plain-text table."""
    rows = [_HEADINGS, *(_cells(column) for column in profile.columns[:_MAX_SHOWN])]
    widths = [max(len(row[index]) for row in rows) for index in range(len(_HEADINGS) - 1)]
    lines = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]])
        for row in rows
    ]
    return "\n".join([_title(profile), *(f"  {line}".rstrip() for line in lines), *_rest(profile)])


def html(profile: Profile) -> str:
    """Return the profile as an HTML table: escaped, no scripts, no colours of its own."""
    head = "".join(f"<th>{escape(name)}</th>" for name in _HEADINGS)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in _cells(column)) + "</tr>"
        for column in profile.columns[:_MAX_SHOWN]
    )
    rest = "".join(f"<div>{escape(line.strip())}</div>" for line in _rest(profile))
    table = f'<table style="text-align:left"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    return f"<div><div><b>{escape(_title(profile))}</b></div>{table}{rest}</div>"


def _title(profile: Profile) -> str:
    about = "" if profile.exact else "about "
    rows = "unknown number of" if profile.rows is None else f"{about}{profile.rows:,}"
    tokens = "" if profile.est_tokens is None else f", about {profile.est_tokens:,} tokens"
    seen = "" if profile.sampled_rows == profile.rows else f" (statistics from {profile.sampled_rows:,} rows)"
    row_word = "row" if profile.rows == 1 else "rows"
    pieces = "1 partition" if profile.npartitions == 1 else f"{profile.npartitions:,} partitions"
    return f"{_line(profile.name)}: {rows} {row_word}, {pieces}{tokens}{seen}"


def _rest(profile: Profile) -> list[str]:
    hidden = profile.omitted_columns + max(0, len(profile.columns) - _MAX_SHOWN)
    return [f"  ... {hidden:,} more columns"] if hidden else []


def _cells(column: ColumnProfile) -> tuple[str, ...]:
    null = "" if column.null_share is None else f"{column.null_share:.0%}"
    distinct = "" if column.distinct is None else f"{column.distinct:,}"
    return (_line(column.name), column.type, null, distinct, _spread(column), _values(column))


def _spread(column: ColumnProfile) -> str:
    if column.low is not None:
        return _line(f"{column.low} to {column.high}")
    if column.tokens is None:
        return ""
    return f"{column.tokens.median}, p95 {column.tokens.p95}, max {column.tokens.longest} tokens"


def _values(column: ColumnProfile) -> str:
    return " | ".join(_line(sample) for sample in column.samples) or _line(column.detail)


def _line(value: str) -> str:
    return " ".join(_CONTROL.sub("", value).split())
