"""Cutting long text: pieces that overlap a little, end where sentences or sections end, and know their headings."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Span", "chunk_text", "cut", "heading_starts", "headings_at"]

_SENTENCE_END = re.compile(r"(?:[.!?\u3002\uff01\uff1f]['\")\]]*\s+|[\u3002\uff01\uff1f]|\n\s*)")
_SPACE = re.compile(r"\s+")
_FENCES = ("```", "~~~")
_HEADING_CHARS = 200
_BETWEEN = " > "

Span = tuple[int, int]
"""Where a piece begins and ends in its text, in characters."""


class _Heading(NamedTuple):
    """Where a heading's lines begin and end, its level (1 is the highest), its words."""

    start: int
    end: int
    level: int
    words: str


def chunk_text(text: str, tokens: int, overlap_tokens: int) -> list[str]:
    """The pieces of `cut`."""
    return [text[start:end] for start, end in cut(text, tokens, overlap_tokens)]


def cut(text: str, tokens: int, overlap_tokens: int, before: Sequence[int] = ()) -> list[Span]:
    """Cut text into pieces of about `tokens` tokens that overlap by about `overlap_tokens`.

    In the second half of a piece a cut falls at the last of the places `before`, else after the last sentence, else
    at white space, else at the limit. Every character is in at least one piece. Sizes use four UTF-8 bytes for a
    token, so that scripts with long encodings get shorter pieces. The same text is always cut at the same places.

    Parameters
    ----------
    text : str
    tokens, overlap_tokens : int
        ``overlap_tokens < tokens``.
    before : sequence of int
        Places where a new piece had best begin, ascending.

    Returns
    -------
    list of (int, int)
        At least one piece.
    """
    chars_per_token = 4 * len(text) / max(len(text.encode("utf-8", "surrogatepass")), 1)
    size = max(int(tokens * chars_per_token), 1)
    overlap = min(int(overlap_tokens * chars_per_token), size // 2)
    pieces: list[Span] = []
    start = 0
    while len(text) - start > size:
        end = _end(text, start + size // 2 + 1, start + size, before)
        pieces.append((start, end))
        start = _begin(text, end - overlap, end) if overlap else end
    pieces.append((start, len(text)))
    return pieces


def _end(text: str, low: int, high: int, before: Sequence[int]) -> int:
    """The best place to end a piece in ``(low, high]``."""
    place = bisect_right(before, high) - 1
    if place >= 0 and before[place] > low:
        return before[place]
    for pattern in (_SENTENCE_END, _SPACE):
        ends = [match.end() for match in pattern.finditer(text, low, high)]
        if ends:
            return ends[-1]
    return high


def _begin(text: str, low: int, end: int) -> int:
    """Begin the next piece at the first word that starts in the overlap."""
    match = _SPACE.search(text, low, end)
    return match.end() if match and match.end() < end else low


# --- headings


def headings_at(text: str, pieces: Sequence[Span]) -> list[str | None]:
    """For each piece, the headings it stands under, from the highest: ``Methods > Sampling``; None before the first.

    Counted from where the piece goes beyond the one before it, so that what they share does not decide.
    """
    headings = _headings(text)
    paths: list[str | None] = []
    open_: list[_Heading] = []
    seen = reached = 0
    for start, end in pieces:
        own = max(start, reached)
        while own < end and text[own].isspace():
            own += 1
        while seen < len(headings) and headings[seen].start <= own:
            open_ = [*(above for above in open_ if above.level < headings[seen].level), headings[seen]]
            seen += 1
        # headings that stand together are one path, however deep
        while open_ and seen < len(headings) and not text[open_[-1].end : headings[seen].start].strip():
            open_ = [*(above for above in open_ if above.level < headings[seen].level), headings[seen]]
            seen += 1
        paths.append(_BETWEEN.join(heading.words for heading in open_) or None)
        reached = end
    return paths


def heading_starts(text: str) -> list[int]:
    """Where the headings of a text begin; of several that stand together, the first."""
    headings = _headings(text)
    before = [0, *(heading.end for heading in headings)]
    return [one.start for one, end in zip(headings, before, strict=False) if text[end : one.start].strip()]


def _headings(text: str) -> list[_Heading]:
    """Markdown headings (CommonMark 4.2 and 4.3), those in fenced code left out."""
    found: list[_Heading] = []
    fence = ""
    at, above, above_at = 0, "", 0
    for line in text.splitlines(keepends=True):
        bare = line.strip()
        mark = next((mark for mark in _FENCES if bare.startswith(mark)), "")
        level = len(bare) - len(bare.lstrip("#"))
        if mark and fence in ("", mark):
            fence = "" if fence else mark
            above = ""
        elif fence:
            pass
        elif 1 <= level <= 6 and bare[level : level + 1].isspace():
            _add(found, at, at + len(line), level, bare[level:].strip().rstrip("#").strip())
            above = ""
        elif len(bare) >= 2 and set(bare) in ({"="}, {"-"}) and above:
            _add(found, above_at, at + len(line), 1 if bare[0] == "=" else 2, above)
            above = ""
        else:
            above, above_at = bare, at
        at += len(line)
    return found


def _add(found: list[_Heading], start: int, end: int, level: int, words: str) -> None:
    if words:
        found.append(_Heading(start, end, level, " ".join(words.split())[:_HEADING_CHARS]))
