"""What an endpoint says about its limits, in every dialect, as plain clamped numbers. Pure; survives garbage.

Dialects: ``Retry-After`` in seconds or as an HTTP date (RFC 9110, 10.2.3) and ``retry-after-ms``;
``x-ratelimit-{limit,remaining,reset}-{requests,tokens}`` with Go durations (``6m0s``, ``120ms``);
``anthropic-ratelimit-{requests,tokens,input-tokens}-{limit,remaining,reset}`` with RFC 3339 times; and
Google's ``RetryInfo.retryDelay`` in the body of an error.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

__all__ = ["MAX_WAIT_S", "Announced", "Window", "announced", "retry_after_s", "should_retry"]

MAX_WAIT_S = 3600.0
"""No word of a server makes us wait longer at a time; after it we ask again."""

MAX_COUNT = 1e12
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|us|µs|ns|d|h|m|s)")
_UNIT_S = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}


@dataclass(frozen=True, slots=True)
class Window:
    """One announced limit: how much a minute (or longer), what is left, and when it is full again."""

    limit: float
    remaining: float
    reset_s: float

    @property
    def missing(self) -> float:
        """Units that are used up and not refilled yet, at most: a bucket may hold less than the limit."""
        missing = self.limit - self.remaining
        return missing if self.reset_s <= 0 else min(missing, self.reset_s * self.per_s)

    @property
    def per_s(self) -> float:
        """Refill a second.

        Limits are meant for a minute. A reset beyond it means a longer window (requests a day), whose refill
        is what is missing over the time it takes to come back.
        """
        if self.reset_s > 90:
            return max(self.limit - self.remaining, 1.0) / self.reset_s
        return self.limit / 60


@dataclass(frozen=True, slots=True)
class Announced:
    """The limits named by one response; None for those it does not name.

    ``counts_made``: they are of a dialect whose limit of tokens does not count the most that may be answered.
    """

    requests: Window | None = None
    tokens: Window | None = None
    counts_made: bool = field(default=False, compare=False)

    def __bool__(self) -> bool:
        return self.requests is not None or self.tokens is not None

    @property
    def lack_tokens(self) -> bool:
        """Of a refusal: it was not for the number of requests."""
        return self.tokens is not None and (self.requests is None or self.requests.remaining >= 1)


def announced(headers: Mapping[str, str], now_epoch_s: float | None = None) -> Announced:
    """Read the limits that the headers of a response announce. Names must be looked up case-insensitively."""
    if "x-ratelimit-limit-requests" in headers or "x-ratelimit-limit-tokens" in headers:
        return Announced(_openai(headers, "requests"), _openai(headers, "tokens"))
    if "anthropic-ratelimit-requests-limit" in headers or "anthropic-ratelimit-tokens-limit" in headers:
        now = time.time() if now_epoch_s is None else now_epoch_s
        tokens = _anthropic(headers, "tokens", now) or _anthropic(headers, "input-tokens", now)
        return Announced(_anthropic(headers, "requests", now), tokens, counts_made=True)
    return Announced()


def _openai(headers: Mapping[str, str], name: str) -> Window | None:
    limit = _count(headers.get(f"x-ratelimit-limit-{name}"))
    remaining = _count(headers.get(f"x-ratelimit-remaining-{name}"))
    if not limit or remaining is None:
        return None
    return Window(limit, remaining, duration_s(headers.get(f"x-ratelimit-reset-{name}")) or 0.0)


def _anthropic(headers: Mapping[str, str], name: str, now_epoch_s: float) -> Window | None:
    limit = _count(headers.get(f"anthropic-ratelimit-{name}-limit"))
    remaining = _count(headers.get(f"anthropic-ratelimit-{name}-remaining"))
    if not limit or remaining is None:
        return None
    reset_s = _until_s(headers.get(f"anthropic-ratelimit-{name}-reset"), now_epoch_s)
    return Window(limit, remaining, reset_s or 0.0)


def retry_after_s(
    headers: Mapping[str, str], error: object = None, now_epoch_s: float | None = None
) -> float | None:
    """Seconds an endpoint asks to wait, in [0, `MAX_WAIT_S`]; None when it says nothing that makes sense.

    Parameters
    ----------
    headers : mapping
        Case-insensitive.
    error : object
        The ``error`` object of the body, for `RetryInfo`.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return _clamped(milliseconds / 1000)
    stated = headers.get("retry-after")
    if stated is not None:
        seconds = _number(stated)
        if seconds is not None:
            return _clamped(seconds)
        now = time.time() if now_epoch_s is None else now_epoch_s
        until = _http_date_s(stated, now)
        if until is not None:
            return _clamped(until)
        span = duration_s(stated)
        if span is not None:
            return _clamped(span)
    return _retry_info_s(error)


def should_retry(headers: Mapping[str, str]) -> bool | None:
    """``x-should-retry``, which overrules the status; None when absent."""
    stated = headers.get("x-should-retry")
    return {"true": True, "false": False}.get(stated.strip().lower()) if stated else None


def duration_s(text: str | None) -> float | None:
    """A Go duration, or a bare number of seconds; None for anything else.

    Examples
    --------
    >>> duration_s("6m0s"), duration_s("120ms"), duration_s("7.66s"), duration_s("soon")
    (360.0, 0.12, 7.66, None)
    """
    if not text or len(text) > 40:
        return None
    stripped = text.strip()
    parts = _DURATION.findall(stripped)
    if parts and "".join(number + unit for number, unit in parts) == stripped:
        return _clamped(sum(float(number) * _UNIT_S[unit] for number, unit in parts), 7 * 86400.0)
    number = _number(stripped)
    return None if number is None else _clamped(number, 7 * 86400.0)


def _retry_info_s(error: object) -> float | None:
    details = error.get("details") if isinstance(error, Mapping) else None
    if not isinstance(details, list):
        return None
    for detail in details:
        if isinstance(detail, Mapping) and str(detail.get("@type", "")).endswith("RetryInfo"):
            delay: Any = detail.get("retryDelay")
            span = duration_s(delay) if isinstance(delay, str) else None
            return None if span is None else _clamped(span)
    return None


def _number(text: str | None) -> float | None:
    """A number with a sense: NaN has none, and a negative wait is a wait of zero."""
    if not text or len(text) > 40:
        return None
    try:
        number = float(text)
    except ValueError:
        return None
    return None if math.isnan(number) else number


def _count(text: str | None) -> float | None:
    number = _number(text)
    return None if number is None or number < 0 else min(number, MAX_COUNT)


def _clamped(seconds: float, most_s: float = MAX_WAIT_S) -> float:
    return min(max(seconds, 0.0), most_s)


def _http_date_s(text: str, now_epoch_s: float) -> float | None:
    try:
        return _in_utc(parsedate_to_datetime(text)).timestamp() - now_epoch_s
    except (ValueError, TypeError, OverflowError, IndexError, OSError):
        return None


def _until_s(text: str | None, now_epoch_s: float) -> float | None:
    if not text or len(text) > 40:
        return None
    try:
        return _clamped(_in_utc(datetime.fromisoformat(text)).timestamp() - now_epoch_s, 7 * 86400.0)
    except (ValueError, OverflowError, OSError):
        return None


def _in_utc(moment: datetime) -> datetime:
    """A date without a zone is meant in UTC (RFC 9110, 5.6.7, asctime), whatever this machine's zone is."""
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
