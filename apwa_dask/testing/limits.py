"""Rate limits of a scripted server: two token buckets, and the headers that announce them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from typing import Literal

from apwa_dask.testing.script import Script

__all__ = ["Bucket", "Limiter", "Verdict", "retry_hint"]


class Bucket:
    """A bucket of `capacity` units that refills continuously at `rate` units a second."""

    def __init__(self, rate: float, burst_s: float, now: float) -> None:
        self.rate = rate
        self.capacity = max(1.0, rate * burst_s)
        self.level = self.capacity
        self.at = now

    def refill(self, now: float) -> None:
        self.level = min(self.capacity, self.level + (now - self.at) * self.rate)
        self.at = now

    def wait_s(self, units: float) -> float:
        """Seconds until `units` are there; a demand above the capacity waits for a full bucket."""
        lacking = min(units, self.capacity) - self.level
        # A millionth forgives rounding, so that a caller who waits exactly as told is let in.
        return 0.0 if lacking <= 1e-6 else lacking / self.rate

    def full_in_s(self) -> float:
        return max(0.0, (self.capacity - self.level) / self.rate)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a call is let in; if not, when to come back and which limit it was; and the headers to send."""

    wait_s: float
    limit: Literal["", "requests", "tokens"]
    headers: tuple[tuple[str, str], ...]


class Limiter:
    """Applies the limits of a script. Time is given by the caller, so it is pure but for its two levels."""

    def __init__(self, script: Script, now: float) -> None:
        self.script = script
        self.requests = None if script.rpm is None else Bucket(script.rpm / 60, script.burst_s, now)
        self.tokens = None if script.tpm is None else Bucket(script.tpm / 60, script.burst_s, now)

    def admit(self, tokens: int, now: float) -> Verdict:
        """Take one request and its tokens from the buckets, or say how long to wait."""
        if self.requests is None and self.tokens is None:
            return Verdict(0.0, "", ())
        request_wait_s = token_wait_s = 0.0
        if self.requests is not None:
            self.requests.refill(now)
            request_wait_s = self.requests.wait_s(1)
        if self.tokens is not None:
            self.tokens.refill(now)
            token_wait_s = self.tokens.wait_s(tokens)
        wait_s = max(request_wait_s, token_wait_s)
        if self.requests is not None and (wait_s == 0 or self.script.charge_rejected):
            # A client that hammers is kept out, but not for ever: the debt stops at one bucket.
            self.requests.level = max(-self.requests.capacity, self.requests.level - 1)
        if self.tokens is not None and wait_s == 0:
            self.tokens.level -= tokens
        limit: Literal["", "requests", "tokens"] = ""
        if wait_s > 0:
            limit = "requests" if request_wait_s >= token_wait_s else "tokens"
        return Verdict(wait_s, limit, tuple(self._headers(now)))

    def charge(self, tokens: int) -> None:
        """Take the tokens of an answer for which none were reserved; the bucket may go into debt."""
        if self.tokens is not None:
            self.tokens.level -= tokens

    def _headers(self, now: float) -> list[tuple[str, str]]:
        dialect = self.script.limit_headers
        if dialect == "none":
            return []
        found: list[tuple[str, str]] = []
        for name, bucket, per_minute in (
            ("requests", self.requests, self.script.rpm),
            ("tokens", self.tokens, self.script.tpm),
        ):
            if bucket is None or per_minute is None:
                continue
            limit, remaining, full_in_s = (
                f"{per_minute:g}",
                str(max(0, int(bucket.level))),
                bucket.full_in_s(),
            )
            if dialect == "openai":
                found.append((f"x-ratelimit-limit-{name}", limit))
                found.append((f"x-ratelimit-remaining-{name}", remaining))
                found.append((f"x-ratelimit-reset-{name}", _go_duration(full_in_s)))
            else:
                found.append((f"anthropic-ratelimit-{name}-limit", limit))
                found.append((f"anthropic-ratelimit-{name}-remaining", remaining))
                found.append((f"anthropic-ratelimit-{name}-reset", _rfc3339(full_in_s)))
        return found


def retry_hint(
    dialect: Literal["seconds", "ms", "date", "none"], wait_s: float, now_epoch_s: float
) -> tuple[tuple[str, str], ...]:
    """Headers that tell a client to wait: whole seconds and dates are rounded up, milliseconds are exact."""
    if dialect == "none":
        return ()
    if dialect == "ms":
        return (("retry-after-ms", str(math.ceil(wait_s * 1000))),)
    if dialect == "seconds":
        return (("retry-after", str(math.ceil(wait_s))),)
    return (("retry-after", formatdate(math.ceil(now_epoch_s + wait_s), usegmt=True)),)


def _go_duration(seconds: float) -> str:
    """As OpenAI writes durations: ``6m0s``, ``1s``, ``12ms``."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(seconds, 60)
    return f"{int(minutes)}m{rest:.3g}s" if minutes else f"{rest:.3g}s"


def _rfc3339(seconds_ahead: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds_ahead)).strftime("%Y-%m-%dT%H:%M:%SZ")
