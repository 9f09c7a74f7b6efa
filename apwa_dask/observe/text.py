"""Text of models and users, made safe for terminals and logs; and numbers as people write them. Pure."""

from __future__ import annotations

import math
import re

__all__ = [
    "count_text",
    "duration_text",
    "money_text",
    "rate_text",
    "safe_text",
    "seconds_text",
    "shortened",
    "things_text",
]

_SEQUENCE = re.compile(
    r"""
      (?:\x1b\[|\x9b) [0-?]* [ -/]* [@-~]?    # CSI: colours, cursor, clearing
    | (?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])     # OSC (titles, links), DCS, SOS, PM, APC
      .*? (?:\x07|\x1b\\|\x9c|\Z)             # ... up to their end
    | \x1b [ -/]* [0-~]?                      # the other escapes
    """,
    re.VERBOSE | re.DOTALL,
)
# Control characters (but the line feed), and what reorders or hides its surroundings: bidirectional
# controls and tag characters.
_UNSEEN = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\U000e0000-\U000e007f]"
)
_SURROGATE = re.compile("[\ud800-\udfff]")
_BREAKS = re.compile(r"[\s\x1c-\x1f\x85\u2028\u2029]+")
_SCAN_FACTOR = 2


def safe_text(value: object, *, max_chars: int | None = None, keep_lines: bool = False) -> str:
    """Text that cannot steer a terminal, forge a log line, or reorder what stands beside it.

    Escape sequences, control characters, bidirectional controls and tag characters are removed; runs of
    white space become one space; lone surrogates become U+FFFD, so that any stream can encode the result.

    Parameters
    ----------
    value : object
        Anything; None is shown as an empty text.
    max_chars : int, optional
        Longer text is cut, and ends in an ellipsis.
    keep_lines : bool
        Keep line feeds and indentation (tabs become four spaces).

    Examples
    --------
    >>> safe_text("\\x1b[31mred\\x1b[0m\\nalert\\x07")
    'red alert'
    """
    if value is None:
        return ""
    text = value if isinstance(value, str) else str(value)
    if max_chars is not None and not keep_lines:
        text = text[: max_chars * _SCAN_FACTOR + 200]  # a cell may have 10 MB; only its beginning is shown
    text = _SEQUENCE.sub("", text)
    if keep_lines:
        text = "\n".join(text.expandtabs(4).splitlines())
    else:
        text = _BREAKS.sub(" ", text).strip()
    text = _SURROGATE.sub("\ufffd", _UNSEEN.sub("", text))
    return text if max_chars is None else shortened(text, max_chars)


def shortened(text: str, max_chars: int) -> str:
    """`text`, or its beginning and an ellipsis, at most `max_chars` long."""
    return text if len(text) <= max_chars else text[: max(max_chars - 1, 0)].rstrip() + "…"


def count_text(n: int) -> str:
    """A number of things: ``1,234``."""
    return f"{n:,}"


def things_text(n: int, noun: str) -> str:
    """A number and what it counts, in the singular for one: ``1 call``, ``1,234 calls``."""
    return f"{count_text(n)} {noun}{'' if n == 1 else 's'}"


def rate_text(per_s: float) -> str:
    """A rate of rows: ``41/s``, or ``12/min`` where it is slow.

    Examples
    --------
    >>> rate_text(41.3), rate_text(0.2), rate_text(0.004)
    ('41/s', '12/min', '14/h')
    """
    if per_s >= 1:
        return f"{per_s:,.0f}/s" if per_s >= 10 else f"{per_s:.1f}/s"
    if per_s * 60 >= 1:
        return f"{per_s * 60:.0f}/min"
    return f"{per_s * 3600:.0f}/h"


def duration_text(seconds: float) -> str:
    """A duration of two units at most: ``42 s``, ``3 min 20 s``, ``2 h 05 min``, ``3 d 4 h``."""
    if not math.isfinite(seconds):
        return "unknown"
    whole = max(round(seconds), 0)
    if whole < 60:
        if 0 < seconds < 0.1:
            return "<0.1 s"
        return f"{whole} s" if seconds >= 1 or seconds == 0 else f"{seconds:.1f} s"
    if whole < 3600:
        minutes, rest = divmod(whole, 60)
        return f"{minutes} min {rest:02d} s" if minutes < 10 else f"{minutes} min"
    if whole < 48 * 3600:
        hours, rest = divmod(whole, 3600)
        return f"{hours} h {rest // 60:02d} min"
    days, rest = divmod(whole, 86_400)
    return f"{days} d {rest // 3600} h"


def seconds_text(seconds: float | None) -> str:
    """A latency: ``84 ms``, ``1.3 s``; None is an empty text."""
    if seconds is None:
        return ""
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def money_text(usd: float | None) -> str:
    """US dollars with as many digits as matter; None is an unknown price.

    Examples
    --------
    >>> money_text(12.5), money_text(0.0123), money_text(0.0), money_text(None)
    ('$12.50', '$0.0123', '$0', 'unknown')
    """
    if usd is None or not math.isfinite(usd):
        return "unknown"
    if usd == 0:
        return "$0"
    if abs(usd) < 0.0001:
        return "<$0.0001"
    return f"${usd:,.2f}" if abs(usd) >= 1 else f"${usd:.4f}"
