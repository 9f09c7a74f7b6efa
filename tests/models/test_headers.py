"""Headers of every dialect, and garbage in their place."""

from __future__ import annotations

import math
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from multidict import CIMultiDict

from apwa_dask.models.headers import (
    MAX_WAIT_S,
    Window,
    announced,
    duration_s,
    retry_after_s,
    should_retry,
)

NOW = 1_792_000_000.0  # Wed, 14 Oct 2026 17:46:40 GMT


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "0.25"}, 0.25),
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after-ms": "250", "Retry-After": "7"}, 0.25),
        ({"Retry-After": "Wed, 14 Oct 2026 17:47:10 GMT"}, 30.0),
        ({"Retry-After": "Wed, 14 Oct 2026 17:00:00 GMT"}, 0.0),
        ({"Retry-After": "2m30s"}, 150.0),
        ({"Retry-After": "300"}, 300.0),
        ({"Retry-After": "1e308"}, MAX_WAIT_S),
        ({"Retry-After": "inf"}, MAX_WAIT_S),
        ({"Retry-After": "-5"}, 0.0),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": ""}, None),
        ({"Retry-After": "9" * 1000}, None),
        ({}, None),
    ],
)
def test_a_wait_is_read_in_every_dialect_and_clamped(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_s(CIMultiDict(headers), None, NOW) == seconds


@pytest.mark.parametrize(
    "date", ["Wed Oct 14 17:47:10 2026", "Wednesday, 14-Oct-26 17:47:10 GMT", "Wed, 14 Oct 2026 17:47:10"]
)
@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/New_York"])
def test_a_date_without_a_zone_is_meant_in_utc(monkeypatch: pytest.MonkeyPatch, zone: str, date: str) -> None:
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("TZ", zone)
        time.tzset()
        found = retry_after_s(CIMultiDict({"Retry-After": date}), None, NOW)
    time.tzset()
    assert found == 30.0


def test_google_puts_the_wait_into_the_body() -> None:
    kind = "type.googleapis.com/google.rpc.RetryInfo"
    error = {"details": [{"@type": "other"}, {"@type": kind, "retryDelay": "31.5s"}]}
    assert retry_after_s(CIMultiDict(), error, NOW) == 31.5


def test_limits_of_openai() -> None:
    headers = {
        "x-ratelimit-limit-requests": "500",
        "x-ratelimit-remaining-requests": "499",
        "x-ratelimit-reset-requests": "120ms",
        "x-ratelimit-limit-tokens": "30000",
        "x-ratelimit-remaining-tokens": "29000",
        "x-ratelimit-reset-tokens": "2s",
    }
    limits = announced(CIMultiDict(headers))
    assert limits.requests == Window(500, 499, 0.12)
    assert limits.tokens == Window(30000, 29000, 2.0)
    assert limits.requests.per_s == pytest.approx(500 / 60)


def test_limits_of_anthropic() -> None:
    headers = {
        "anthropic-ratelimit-requests-limit": "50",
        "anthropic-ratelimit-requests-remaining": "49",
        "anthropic-ratelimit-requests-reset": "2026-10-14T17:46:42Z",
        "anthropic-ratelimit-input-tokens-limit": "40000",
        "anthropic-ratelimit-input-tokens-remaining": "40000",
        "anthropic-ratelimit-input-tokens-reset": "2026-10-14T17:46:40Z",
    }
    limits = announced(CIMultiDict(headers), NOW)
    assert limits.requests == Window(50, 49, 2.0)
    assert limits.tokens == Window(40000, 40000, 0.0)


def test_a_limit_by_the_day_is_not_taken_for_one_by_the_minute() -> None:
    """200 a day, one gone: it comes back after 432 seconds."""
    headers = {
        "x-ratelimit-limit-requests": "200",
        "x-ratelimit-remaining-requests": "199",
        "x-ratelimit-reset-requests": "7m12s",
    }
    window = announced(CIMultiDict(headers)).requests
    assert window is not None
    assert window.per_s == pytest.approx(200 / 86400)


NAMES = (
    "retry-after", "retry-after-ms", "x-should-retry",
    "x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests",
    "x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens",
    "anthropic-ratelimit-requests-limit", "anthropic-ratelimit-requests-remaining",
    "anthropic-ratelimit-requests-reset", "anthropic-ratelimit-tokens-limit",
    "anthropic-ratelimit-tokens-remaining", "anthropic-ratelimit-tokens-reset",
)  # fmt: skip

VALUES = st.one_of(
    st.text(max_size=30),
    st.floats().map(str),
    st.integers().map(str),
    st.floats().map(lambda x: f"{x}s"),
    st.integers(0, 99999).map(lambda x: f"{x}h{x}m"),
    st.datetimes().map(lambda d: d.isoformat() + "Z"),
    st.sampled_from(["1e308", "-1", "NaN", "Infinity", "0", "9" * 39, "Mon, 99 Foo 2026 00:00:00 GMT", "²"]),
)


@given(
    headers=st.dictionaries(st.sampled_from(NAMES), VALUES),
    body=st.recursive(st.none() | st.text(), st.lists),
)
@example(headers={"retry-after": "Mon, 01 Jan 0001 00:00:00 +2400"}, body=None)
@example(headers={"retry-after": "Fri, 31 Dec 9999 23:59:59 -2359"}, body=None)
def test_garbage_never_raises_and_never_stalls(headers: dict[str, str], body: object) -> None:
    named = CIMultiDict(headers)
    wait = retry_after_s(named, {"details": body}, NOW)
    assert wait is None or 0 <= wait <= MAX_WAIT_S
    limits = announced(named, NOW)
    for window in (limits.requests, limits.tokens):
        if window is not None:
            assert window.limit > 0
            assert window.remaining >= 0
            assert math.isfinite(window.per_s)
            assert window.per_s > 0
    assert should_retry(named) in (True, False, None)


@given(st.text(max_size=50))
def test_durations_are_numbers_or_nothing(text: str) -> None:
    span = duration_s(text)
    assert span is None or 0 <= span <= 7 * 86400
