"""The coordinator: shares of one limit, one pace, one pause. Pure, on a clock of the test's."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apwa_dask.models.coordinator import Coordinator
from apwa_dask.models.headers import Announced, Window
from apwa_dask.models.leases import Grant, Report, Want
from apwa_dask.models.pace import Bucket

GATE = "endpoint|key|model"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def coordinator(clock: Clock) -> Coordinator:
    return Coordinator(clock=clock, expires_s=15.0)


def ask(coordinator: Coordinator, holder: str, want: int = 1000, most: int = 64, **report: object) -> Grant:
    return coordinator.lease(holder, GATE, Want(want, requests=want, max_concurrency=most), Report(**report))  # type: ignore[arg-type]


def test_a_lone_holder_gets_all(coordinator: Coordinator) -> None:
    assert ask(coordinator, "a").concurrency == 64
    assert ask(coordinator, "a", want=3).concurrency == 64, "what nobody wants is nobody's loss"


def test_two_holders_share_alike_after_one_renewal(coordinator: Coordinator) -> None:
    ask(coordinator, "a")
    assert ask(coordinator, "b").concurrency == 1, "the other may still use what it was granted"
    assert ask(coordinator, "a").concurrency == 32
    assert ask(coordinator, "b").concurrency == 32


def test_what_one_does_not_want_the_other_gets(coordinator: Coordinator) -> None:
    for _ in range(3):
        ask(coordinator, "a", want=4)
        grant = ask(coordinator, "b", want=100)
    assert grant.concurrency >= 55


def test_the_share_of_a_released_holder_returns_at_once(coordinator: Coordinator) -> None:
    for _ in range(2):
        ask(coordinator, "a"), ask(coordinator, "b")
    coordinator.release_holder("a")
    assert ask(coordinator, "b").concurrency == 64


def test_the_share_of_a_silent_holder_returns_after_its_lease(coordinator: Coordinator, clock: Clock) -> None:
    for _ in range(2):
        ask(coordinator, "a"), ask(coordinator, "b")
    clock.now += 14.0
    assert ask(coordinator, "b").concurrency == 32
    clock.now += 2.0
    assert ask(coordinator, "b").concurrency == 64


@settings(max_examples=200, deadline=None)
@given(
    events=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 200), st.floats(0, 5)), max_size=60),
    most=st.integers(1, 100),
)
def test_shares_never_add_up_to_more_than_the_limit(events: list[tuple[int, int, float]], most: int) -> None:
    clock = Clock()
    coordinator = Coordinator(clock=clock)
    for holder, want, passed_s in events:
        clock.now += passed_s
        if want == 0:
            coordinator.release_holder(str(holder))
            continue
        ask(coordinator, str(holder), want, most)
        shares = coordinator.in_flight_share(GATE)
        assert sum(shares.values()) <= max(most, most - 1 + len(shares))
        assert all(share >= 1 for share in shares.values())


def test_a_pause_is_told_to_everyone_as_a_span(coordinator: Coordinator, clock: Clock) -> None:
    ask(coordinator, "a", pause_s=30.0, throttled=1)
    clock.now += 10.0
    grant = ask(coordinator, "b")
    assert grant.pause_s == pytest.approx(20.0)
    assert grant.penalties == 1


def test_refusals_of_one_moment_are_one_penalty(coordinator: Coordinator, clock: Clock) -> None:
    for holder in "abcd":
        ask(coordinator, holder, throttled=5)
    assert ask(coordinator, "a").penalties == 1
    clock.now += 1.0
    assert ask(coordinator, "b", throttled=1).penalties == 2


def test_a_stop_reaches_every_holder_and_can_be_taken_back(coordinator: Coordinator) -> None:
    coordinator.stop(GATE, "the run was stopped")
    assert ask(coordinator, "b").stop == "the run was stopped"
    coordinator.stop(GATE, "")
    assert ask(coordinator, "b").stop == ""


def test_gates_do_not_know_each_other(coordinator: Coordinator) -> None:
    ask(coordinator, "a", pause_s=60.0)
    other = coordinator.lease("a", "another gate", Want(5), Report())
    assert (other.pause_s, other.concurrency) == (0.0, 64)


def test_without_an_announced_limit_there_are_no_permits_to_count(coordinator: Coordinator) -> None:
    assert ask(coordinator, "a").requests is None


@pytest.mark.parametrize("holders", [1, 4])
def test_an_announced_rate_is_granted_in_full_and_not_more(
    coordinator: Coordinator, clock: Clock, holders: int
) -> None:
    """600 a minute, for ten minutes: each holder asks again when its block may be used."""
    limits = Announced(requests=Window(600, 10, 0.0))
    granted, ready = 0, dict.fromkeys(map(str, range(holders)), 0.0)
    for name in ready:
        ask(coordinator, name, want=0, limits=limits)
    while clock.now < 600:
        name = min(ready, key=lambda n: ready[n])
        clock.now = max(clock.now, ready[name])
        grant = ask(coordinator, name, want=500)
        assert grant.requests
        granted += grant.requests
        ready[name] = clock.now + grant.start_in_s
    assert 0.98 * 6000 <= granted <= 6000 + 10 + 3 * holders


def test_permits_for_tokens_are_granted_beside_those_for_requests(coordinator: Coordinator) -> None:
    limits = Announced(requests=Window(600, 10, 0.0), tokens=Window(60_000, 1000, 0.0))
    grant = coordinator.lease("a", GATE, Want(5, requests=5, tokens=800), Report(limits=limits))
    assert (grant.requests, grant.tokens, grant.start_in_s) == (5, 800, 0.0)
    grant = coordinator.lease("a", GATE, Want(5, requests=5, tokens=800), Report())
    assert grant.tokens == 250, "a quarter second of the rate"
    assert grant.start_in_s == pytest.approx(0.05)


def test_words_of_a_server_only_lower_the_level(clock: Clock) -> None:
    bucket = Bucket.announced(Window(600, 10, 0.0), 0.0)
    bucket.take(8, 0.0)
    bucket.heard(Window(600, 9, 0.0), 0.0)  # said before the server saw the eight
    assert bucket.level == 2
    bucket.heard(Window(600, 0, 0.0), 0.0)  # someone else uses this key
    assert bucket.level == 0


def test_an_answer_to_one_holder_is_known_to_the_others(coordinator: Coordinator) -> None:
    assert not ask(coordinator, "a").answered
    assert ask(coordinator, "a", admitted=1).answered
    assert ask(coordinator, "b").answered
