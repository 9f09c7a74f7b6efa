"""Words of a server that may be shown: no key, no header, no row text, one line, bounded."""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["safe_identifier", "safe_words", "without_quotes"]

MAX_WORDS = 240
QUOTE_LENGTH = 16
"""A run of so many characters shared with the row counts as a quotation of it."""

_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_.:/-]{0,63}")
_SECRETS = re.compile(
    r"""\b(?:sk|pk|rk|gsk|xai|hf|key|AIza|AKIA|ghp)[-_A-Za-z0-9*.]{6,}   # keys by their usual prefixes
      | \bBearer\s+\S+
      | (?<=://)[^/\s@]+@                                               # user and password of a URL
      | (?i:api[-_ ]?key|token|secret|password)["']?\s*[:=]\s*["']?\S+
      | \S*\*{3,}\S*                                                    # a key the provider masked itself
    """,
    re.VERBOSE,
)


def safe_words(text: object, secrets: Iterable[str] = ()) -> str:
    """One bounded line of a server's message, with everything that looks like a credential masked.

    Examples
    --------
    >>> safe_words("Incorrect API key provided: sk-abcdefgh12345678.")
    'Incorrect API key provided: [masked]'
    """
    if not isinstance(text, str):
        return ""
    words = " ".join(text.split())
    for secret in secrets:
        if secret:
            words = words.replace(secret, "[masked]")
    words = _SECRETS.sub("[masked]", words[: 4 * MAX_WORDS])
    words = "".join(c if c.isprintable() else "?" for c in words)
    return words if len(words) <= MAX_WORDS else words[: MAX_WORDS - 3] + "..."


def safe_identifier(value: object) -> str:
    """An error code or type as it stands, if it has the shape of one; else nothing."""
    text = value if isinstance(value, str) else ""
    return text if _IDENTIFIER.fullmatch(text) else ""


def without_quotes(words: str, contents: Iterable[str]) -> str:
    """The words, or a note in their place where they quote one of these texts.

    Some servers echo the input in their error. A message travels into logs and reports, the row must not.
    """
    for content in contents:
        row = " ".join(content.split())
        if row and _shares_a_run(words, row):
            return "[the endpoint's message quotes the row: withheld]"
    return words


def _shares_a_run(words: str, row: str) -> bool:
    if len(row) <= QUOTE_LENGTH:
        return len(row) >= 4 and row in words
    return any(words[i : i + QUOTE_LENGTH] in row for i in range(len(words) - QUOTE_LENGTH + 1))
