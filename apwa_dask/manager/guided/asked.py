"""What a question asks of each row that no column holds, so that it must be read out of a text.

Found by how English says it ("the company that issued the most ...", "by type", "a total above 200", "have the
status Final"): a small model asked to plan such a question counts, compares or sorts columns that are not there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from apwa_dask.manager.guided import said
from apwa_dask.manager.guided.sketch import Sketch

__all__ = ["Asked", "asked_of", "first_of_order"]

_N = r"(?P<noun>[a-z][a-z-]{2,30})"
_NAME = r"(?P<name>(?-i:[A-Z0-9])[\w.&'’-]*(?:\s+(?-i:[A-Z0-9])[\w.&'’-]*)*)"
_BOUND = r"(?:above|over|below|under|more than|less than|fewer than|greater than|at least|at most)"
_NOT_OFTEN = r"(?! (?:frequent|common|often|popular|likely))"
_PERIOD = r"(?P<part>year|month|decade)"

_PATTERNS: tuple[tuple[str, str, str], ...] = (
    ("distinct", "text", rf"\bhow many (?:different|distinct|unique) {_N}"),
    ("group", "date", rf"\b(?:per|by|for each|in each) {_PERIOD} of (?:the |each )?(?:\w+['’]s )?{_N}"),
    ("group", "text", rf"\bwhich {_N} (?:\w+ ){{1,3}}?the (?:most|fewest)\b{_NOT_OFTEN}"),
    ("group", "text", rf"\bthe (?:\w+ )?{_N} (?:with|who have|that have|having) the (?:most|fewest)\b"),
    ("group", "text", rf"\b(?:count|number|how many)\b[^.?]*\b(?:by|per) (?:the |their )?{_N}"),
    (
        "number",
        "number",
        rf"(?<!average )(?<!mean )\b(?:sum|average|mean|total) of (?:the |all |their )*{_N}",
    ),
    ("number", "number", rf"\b(?:average|mean) (?!of\b){_N}\b"),
    ("bound", "number", rf"\b(?:an?|the|whose|with) {_N} (?:is |of )?{_BOUND}\s+\d"),
    ("equal", "text", rf"\b(?:have|has|with) (?:the |an? )?{_N} {_NAME}"),
    ("equal", "text", rf"\b(?P<verb>issued|written|sold|published|sent|signed) by {_NAME}"),
)
"""Use, kind and pattern, the surest first."""
_AGENTS = {
    "issued": "issuer",
    "written": "author",
    "sold": "seller",
    "published": "publisher",
    "sent": "sender",
    "signed": "signer",
}
_MEASURES = frozenset(
    {"length", "number", "count", "characters", "words", "rows", "name", "names", "text", "all"}
)
"""Nouns that are no value of a text."""
_PERIODS = ("year", "month", "decade")
_DOCUMENT_TOKENS = 40
"""A text of fewer tokens holds no amounts or dates: a question after them is about columns, or not to answer."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One value of each text.

    Attributes
    ----------
    name : str
        Of its column.
    kind : str
        ``text``, ``number`` or ``date``.
    use : str
        ``group`` and ``distinct``: counted by it; ``number``: reckoned with; ``bound``, ``equal``: rows kept by it.
    part : str
        ``year``, ``month`` or ``decade`` of a date that is counted by.
    said : str
        What it must equal.
    """

    name: str
    kind: str
    use: str
    part: str = ""
    said: str = ""


def asked_of(question: str, sketch: Sketch) -> tuple[Asked, ...]:
    """What must be read out of a text, each once; nothing where a column may hold it.

    Where a value that is grouped by, or reckoned with, can be neither in a column nor in a text, nothing is: then
    the question has no answer here.
    """
    if not sketch.readable or sketch.steps:
        return ()
    found: dict[str, Asked] = {}
    for one in _mentioned(question):
        if _is_held(one.name, sketch) or (one.part and _is_held(one.part, sketch)):
            continue
        if one.kind != "text" and not _has_documents(sketch):
            return ()
        if not (one.part and any(other.part == one.part for other in found.values())):
            found.setdefault(one.name, one)
    return tuple(found.values())


def first_of_order(question: str) -> tuple[bool, int] | None:
    """Whether the most (else the fewest) come first and how many of them are wanted; None for no order."""
    ranked = re.search(r"\b(most|fewest)\b", question, re.IGNORECASE)
    if ranked is None:
        return None
    before = said.numbers(question[: ranked.start()])
    return ranked.group(1).lower() == "most", int(before[-1]) if before else 1


def _mentioned(question: str) -> Iterator[Asked]:
    for use, kind, pattern in _PATTERNS:
        for match in re.finditer(pattern, question, re.IGNORECASE):
            parts = match.groupdict()
            noun = _AGENTS.get((parts.get("verb") or "").lower()) or _singular(parts.get("noun") or "")
            if noun in _PERIODS and use == "group":
                yield Asked("date", "date", use, noun)
            elif noun and noun not in _MEASURES and _singular(noun) not in said.ROW_WORDS:
                name = re.sub(r"\W+", "_", noun)
                yield Asked(name, kind, use, parts.get("part") or "", (parts.get("name") or "").rstrip(".?"))


def _singular(noun: str) -> str:
    noun = noun.lower()
    if noun.endswith("ies"):
        return f"{noun[:-3]}y"
    return noun[:-1] if noun.endswith("s") and not noun.endswith(("ss", "us")) else noun


def _is_held(name: str, sketch: Sketch) -> bool:
    """Whether any word of a column's name is it."""
    words: Sequence[str] = [
        _singular(word) for column in sketch.schema.names for word in re.findall(r"[a-z]+", column.lower())
    ]
    return name in words or name == _singular(sketch.table.lower())


def _has_documents(sketch: Sketch) -> bool:
    """Whether there are texts long enough to state amounts and dates."""
    known = {column.name: column.tokens for column in sketch.profile.columns}
    return any(
        tokens is not None and tokens.median >= _DOCUMENT_TOKENS
        for tokens in (known.get(name) for name in sketch.readable)
    )
