"""Limits are real: counts decide, whatever the client does; headers tell the truth in each dialect."""

from __future__ import annotations

from email.utils import parsedate_to_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apwa_dask.testing import Script
from apwa_dask.testing.limits import Limiter, retry_hint


@given(
    rpm=st.integers(1, 10_000),
    burst_s=st.floats(0.1, 60),
    gaps_s=st.lists(st.floats(0, 2), min_size=1, max_size=200),
)
def test_no_more_is_let_in_than_the_bucket_and_its_refill(
    rpm: int, burst_s: float, gaps_s: list[float]
) -> None:
    now, limiter, let_in = 0.0, Limiter(Script(rpm=rpm, burst_s=burst_s), 0.0), 0
    for gap_s in gaps_s:
        now += gap_s
        let_in += limiter.admit(1, now).wait_s == 0
        assert let_in <= max(1, rpm / 60 * burst_s) + now * rpm / 60 + 1e-3


@given(rpm=st.integers(1, 6000), tpm=st.integers(10, 100_000), tokens=st.integers(1, 5000))
def test_a_caller_who_waits_as_long_as_told_is_let_in(rpm: int, tpm: int, tokens: int) -> None:
    now, limiter = 0.0, Limiter(Script(rpm=rpm, tpm=tpm), 0.0)
    for _ in range(20):
        verdict = limiter.admit(tokens, now)
        if verdict.wait_s > 0:
            now += verdict.wait_s
            assert limiter.admit(tokens, now).wait_s == 0


def test_the_limit_that_bites_is_named() -> None:
    by_requests = Limiter(Script(rpm=60, tpm=60_000), 0.0)
    assert [by_requests.admit(1, 0.0).limit for _ in range(2)] == ["", "requests"]
    by_tokens = Limiter(Script(rpm=6000, tpm=60), 0.0)
    assert [by_tokens.admit(1, 0.0).limit for _ in range(2)] == ["", "tokens"]


def test_a_rejected_call_costs_a_request_only_where_asked() -> None:
    def waits(charge: bool) -> list[float]:
        limiter = Limiter(Script(rpm=60, burst_s=5, charge_rejected=charge), 0.0)
        return [limiter.admit(1, 0.0).wait_s for _ in range(8)][5:]

    assert waits(False) == [1.0, 1.0, 1.0]
    assert waits(True) == [1.0, 2.0, 3.0]


def test_each_dialect_of_the_hint_says_at_least_the_wait() -> None:
    assert retry_hint("seconds", 1.2, 0.0) == (("retry-after", "2"),)
    assert retry_hint("ms", 1.2001, 0.0) == (("retry-after-ms", "1201"),)
    assert retry_hint("none", 1.2, 0.0) == ()
    [(name, date)] = retry_hint("date", 1.2, 1_000_000_000.0)
    assert (name, parsedate_to_datetime(date).timestamp()) == ("retry-after", 1_000_000_002)


def test_a_burst_beyond_the_bucket_gets_429_with_hint_headers_and_body(scripted_server, post) -> None:
    server = scripted_server(rpm=60, burst_s=5)
    got = post(server, *[f"t{i}" for i in range(20)], at_once=True)
    refused = [answer for answer in got if answer.status == 429]
    # Five in the bucket, and one a second of the time the posts took, which is counted by the server.
    span_s = max(call.t_start for call in server.log()) - server.log()[0].t_start
    assert 5 <= 20 - len(refused) <= 6 + span_s
    first = refused[0]
    assert first.json["error"]["code"] == "rate_limit_exceeded"
    assert first.header("retry-after") == "1"
    assert first.header("x-ratelimit-limit-requests") == "60"
    assert first.header("x-ratelimit-remaining-requests") == "0"
    assert first.header("x-ratelimit-reset-requests").endswith("s")
    assert server.stats().by_fault == {"rate_limit": len(refused)}
    assert server.stats().billed == 20 - len(refused)


def test_tokens_are_reserved_before_and_charged_after(scripted_server, post) -> None:
    server = scripted_server(tpm=60, burst_s=100, answers="echo")  # a bucket of 100, a token a second
    reserved = post(server, "x" * 40, "x" * 40, max_tokens=90)
    assert [got.status for got in reserved] == [200, 429]
    server.reset()
    unreserved = post(server, "x" * 400, "x" * 400)  # 100 tokens in, and 100 out that nobody announced
    assert [got.status for got in unreserved] == [200, 429]
    assert unreserved[0].header("x-ratelimit-limit-tokens") == "60"


@pytest.mark.parametrize(
    ("dialect", "name"),
    [("openai", "x-ratelimit-remaining-requests"), ("anthropic", "anthropic-ratelimit-requests-remaining")],
)
def test_a_good_answer_also_announces_the_limits(scripted_server, post, dialect, name) -> None:
    [got] = post(scripted_server(rpm=600, limit_headers=dialect), "x")
    assert (got.status, got.header(name)) == (200, "9")


def test_a_limit_can_be_silent_or_a_page(scripted_server, post) -> None:
    quiet = scripted_server(rpm=1, limit_headers="none", retry_after="none", limit_html=True)
    _, got = post(quiet, "a", "b")
    assert got.status == 429
    assert got.body.startswith(b"<html>")
    assert not [name for name in got.headers if "ratelimit" in name.lower() or "retry" in name.lower()]


def test_the_limit_can_change_while_the_server_runs(scripted_server, post) -> None:
    server = scripted_server(rpm=1)
    assert [got.status for got in post(server, "a", "b")] == [200, 429]
    server.set(server.script.but(rpm=6000))
    assert [got.status for got in post(server, "c", "d")] == [200, 200]
    assert server.calls == 4


def test_slots_bound_the_calls_answered_at_once_and_the_rest_wait_in_order(scripted_server, post) -> None:
    server = scripted_server(slots=3, latency_s=0.02)
    got = post(server, *[f"t{i}" for i in range(30)], at_once=True)
    assert [answer.status for answer in got] == [200] * 30
    stats = server.stats()
    assert stats.max_answering == 3
    assert stats.max_in_flight > 3
    assert (stats.answering, stats.in_flight) == (0, 0)
    ends = [call.t_end for call in server.log()]
    assert ends == sorted(ends)


def test_more_slots_free_the_waiting_calls(scripted_server, post) -> None:
    server = scripted_server(slots=0, latency_s=0.0)
    got = post(server, "a", "b", at_once=True, timeout_s=1.0)
    assert [answer.error for answer in got] == ["TimeoutError", "TimeoutError"]
    server.wait_until(lambda stats: stats.in_flight == 0)
    assert [call.billed for call in server.log()] == [False, False]
    server.set(server.script.but(slots=1))
    assert post(server, "c")[0].status == 200


def test_ten_thousand_waiting_calls_answered_at_once_do_not_overflow_the_stack() -> None:
    from apwa_dask.testing.service import Service
    from apwa_dask.testing.wire import Reply, Request

    class Client:
        number, exchange, replies = 1, None, 0

        def answer(self, reply: Reply) -> None:
            type(self).replies += 1
            exchange, self.exchange = self.exchange, None
            exchange.done(aborted=False)

    service = Service(Script(slots=0))
    body = b'{"model":"m","messages":[{"role":"user","content":"x"}]}'
    for _ in range(10_000):
        service.serve(Request("POST", "/v1/chat/completions", {}, body), Client())
    assert Client.replies == 0
    service.desk.use(Script(slots=1))
    assert Client.replies == 10_000


def test_lognormal_latency_repeats_with_its_seed_and_has_its_tail() -> None:
    import statistics

    from apwa_dask.testing import Lognormal
    from apwa_dask.testing.chat import Desk

    def draws(seed: int) -> list[float]:
        script = Script(latency_s=Lognormal(0.2, 2.0, seed))
        desk = Desk(script, clock=lambda: 0.0, wall=lambda: 0.0, sink=None)
        return [desk._latency_s() for _ in range(5000)]

    assert draws(1) == draws(1) != draws(2)
    cuts = statistics.quantiles(draws(1), n=100)
    assert cuts[49] == pytest.approx(0.2, rel=0.1)
    assert cuts[98] == pytest.approx(2.0, rel=0.25)
