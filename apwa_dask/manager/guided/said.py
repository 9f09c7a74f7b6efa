"""What a question itself says: its numbers and phrases. Values that it does not say cannot be chosen."""

from __future__ import annotations

import re

__all__ = ["numbers", "phrases"]

_WORDS = "zero one two three four five six seven eight nine ten eleven twelve".split()
_LARGE = {"twenty": 20, "thirty": 30, "fifty": 50, "hundred": 100, "thousand": 1000, "dozen": 12}
_NAMED = {**{word: value for value, word in enumerate(_WORDS)}, **_LARGE}
_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:,\d{3})*(?:\.\d+)?(?!\w)")
_TOKEN = re.compile(r"[^\s,;:?!()\"“”]+")
_MOST_WORDS = 3
_MOST_PHRASES = 160


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


def phrases(question: str) -> list[str]:
    """Runs of up to three words of a question, as they are written there.

    Examples
    --------
    >>> phrases("from New York?")
    ['from', 'from New', 'from New York', 'New', 'New York', 'York']
    """
    words = [word.strip("'’.") for word in _TOKEN.findall(question)]
    runs = [
        " ".join(words[start : start + length])
        for start in range(len(words))
        for length in range(1, _MOST_WORDS + 1)
        if start + length <= len(words)
    ]
    return [run for run in dict.fromkeys(runs) if run][:_MOST_PHRASES]
