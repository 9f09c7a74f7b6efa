"""Where words stand in the row's own document: exact offsets, which models get wrong."""

from __future__ import annotations

import re
from itertools import islice
from typing import Annotated, Any

from pydantic import Field

from apwa_dask.agents.unit import Row

__all__ = ["find_text"]

_CONTEXT_CHARS = 60
_MOST_COUNTED = 10_000

Words = Annotated[str, Field(min_length=1, max_length=500, description="literal words, not a pattern")]
Most = Annotated[int, Field(ge=1, le=20)]


def find_text(
    row: Row, words: Words, column: str | None = None, ignore_case: bool = True, most: Most = 10
) -> dict[str, Any]:
    """Find words in the text of the row: start and end in characters (from 0), and what stands around them.

    Any run of spaces and line ends matches any other. `matches` counts up to 10,000, `places` tells the first.
    """
    text = row.text(column)
    # literals joined by runs of white space: nothing in it can backtrack over more than one run
    pattern = r"\s+".join(re.escape(word) for word in words.split()) or re.escape(words)
    found = re.compile(pattern, re.IGNORECASE if ignore_case else 0).finditer(text)
    spans = [match.span() for match in islice(found, _MOST_COUNTED)]
    return {"matches": len(spans), "places": [_place(text, start, end) for start, end in spans[:most]]}


def _place(text: str, start: int, end: int) -> dict[str, Any]:
    return {
        "start": start,
        "end": end,
        "text": text[start:end],
        "around": text[max(start - _CONTEXT_CHARS, 0) : end + _CONTEXT_CHARS],
    }
