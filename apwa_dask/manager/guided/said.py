"""What a question itself says: its numbers and phrases. Values that it does not say cannot be chosen."""

from __future__ import annotations

import re

__all__ = [
    "ROW_WORDS",
    "bounds",
    "names",
    "numbers",
    "occurrences",
    "quoted",
    "speaks_of_length",
    "split_at",
]

_ROWS = "row record item entry document file message text line sentence page picture image photo recording"
ROW_WORDS = frozenset(_ROWS.split())
"""Words for a row, not for something in it."""

_WORDS = (
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
)
_LARGE = {"twenty": 20, "thirty": 30, "fifty": 50, "hundred": 100, "thousand": 1000, "dozen": 12}
_NAMED = {**{word: value for value, word in enumerate(_WORDS)}, **_LARGE}
_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:,\d{3})*(?:\.\d+)?(?!\w)")
_CAPITAL = r"[A-ZÀ-ÖØ-Þ\d][\w'’&-]*"
_NAME = re.compile(rf"{_CAPITAL}(?:\s+(?:(?:of|the|and|for|de|la|van|von|der)\s+){{0,3}}{_CAPITAL})*")
_BOUNDS = (
    (("above",), r"more than|over|above|greater than|longer than|larger than|after|exceed\w*"),
    (("below",), r"fewer than|less than|below|under|shorter than|smaller than|before"),
    (("at least",), r"at least|no fewer than|not less than|from"),
    (("at most",), r"at most|up to|no more than|not more than|until"),
    (("not equal to",), r"other than|not"),
)
_SUPERLATIVE = (
    "longest|shortest|largest|smallest|biggest|highest|lowest|newest|oldest|latest|earliest|cheapest|greatest|most|"
    "least|fewest|best|worst"
)
_ANY = ("equal to", "at least", "at most", "above", "below")
_LENGTH = re.compile(r"\b(?:char|length|long|short|letters?\b|words?\b)", re.IGNORECASE)
_MOST_NAMES = 60


def numbers(question: str) -> list[float]:
    """Numbers in digits or words, in order, each once.

    Examples
    --------
    >>> numbers("The five with more than 1,200.5 points")
    [1200.5, 5]
    """
    digits = [float(found.replace(",", "")) for found in _NUMBER.findall(question)]
    named = [float(_NAMED[word]) for word in re.findall(r"[a-z]+", question.lower()) if word in _NAMED]
    return [int(value) if value.is_integer() else value for value in dict.fromkeys([*digits, *named])]


def bounds(question: str) -> list[tuple[float, tuple[str, ...]]]:
    """Each number with the comparisons that the words before it allow.

    Examples
    --------
    >>> bounds("more than five with at most 3.5, in 1999")
    [(3.5, ('at most',)), (1999, ('equal to', 'at least', 'at most', 'above', 'below')), (5, ('above',))]
    """
    taken = {split_at(question), *(value for _, _, value in occurrences(question))}
    return [
        (value, _comparisons(value, question))
        for value in numbers(question)
        if value not in taken
        and not re.search(rf"\b(?:{_written(value)})\s+(?:{_SUPERLATIVE})", question, re.IGNORECASE)
        and not re.search(rf"\b(?:top|first|last)\s+(?:{_written(value)})(?!\w)", question, re.IGNORECASE)
    ]


def _comparisons(value: float, question: str) -> tuple[str, ...]:
    written = _written(value)
    for allowed, words in _BOUNDS:
        if re.search(rf"\b(?:{words})\s+(?:than\s+)?(?:{written})(?!\w)", question, re.IGNORECASE):
            return allowed
    return _ANY


def _written(value: float) -> str:
    names = [word for word, named in _NAMED.items() if named == value]
    return "|".join([*names, *(re.escape(text) for text in (f"{value:,}", str(value)))])


def occurrences(question: str) -> list[tuple[str, str, float]]:
    """Words whose occurrences in a text are counted, with the bound.

    Examples
    --------
    >>> occurrences("Which letters use the word 'Love' (any case) at least 20 times?")
    [('Love', 'at least', 20)]
    """
    found = []
    for word in quoted(question):
        rest = question[question.find(word) + len(word) :]
        times = re.match(r"[^.?]*?\b(at least|at most|more than|fewer than|less than) (\w+) times\b", rest)
        values = numbers(times.group(2)) if times else []
        if times and values:
            how = {"more than": "above", "fewer than": "below", "less than": "below"}
            found.append((word, how.get(times.group(1), times.group(1)), values[0]))
    return found


def split_at(question: str) -> float | None:
    """The value that parts the rows in two: "before 1900, and from 1900 on"."""
    found = re.search(
        r"\b(?:before|until|below|under) (\d+)\b.*\b(?:from|after|since|above) \1\b", question, re.IGNORECASE
    )
    return float(found.group(1)) if found else None


def speaks_of_length(question: str) -> bool:
    """Whether lengths of texts are meant."""
    return _LENGTH.search(question) is not None


def names(question: str) -> list[str]:
    """What is written like a name or a code: in quotes, or with capital letters or digits inside a sentence.

    Examples
    --------
    >>> names("Which speakers gave State of the Union addresses in New York after 1950?")
    ['State of the Union', 'New York', '1950']
    """
    sentences = re.split(r"(?<=[.?!:])\s+", question)
    inside = [rest for _, _, rest in (sentence.partition(" ") for sentence in sentences)]
    found = [*quoted(question), *(name for rest in inside for name in _NAME.findall(rest))]
    return list(dict.fromkeys(found))[:_MOST_NAMES]


def quoted(question: str) -> list[str]:
    """What stands in quotes, and the word after "the word"."""
    marks = re.findall(r"[\"“”]([^\"“”]{1,80})[\"“”]|(?<!\w)['‘]([^'‘’]{1,80})['’](?!\w)", question)
    words = re.findall(r"\b(?:words?|phrases?|terms?)\s+([\w-]{2,40})", question, re.IGNORECASE)
    return list(dict.fromkeys([*(one or other for one, other in marks), *words]))
