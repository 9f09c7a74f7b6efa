"""The coordinator: shares of one limit, one pace, one pause. Pure, on a clock of the test's."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apwa_dask.models.coordinator import Coordinator
from apwa_dask.models.headers import Announced, Window
from apwa_dask.models.lanes import Lane
from apwa_dask.models.leases import Grant, Notice, Report, Want
from apwa_dask.models.pace import Bucket
from apwa_dask.models.shares import Shares

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


def settle(coordinator: Coordinator, *names: str) -> None:
    """Each has its share of the calls in flight, and took no permit."""
    for name in names * 2:
        coordinator.lease(name, GATE, Want(50, requests=0), Report())


def test_a_lone_holder_gets_all(coordinator: Coordinator) -> None:
    assert ask(coordinator, "a").concurrency == 64
    assert ask(coordinator, "a", want=3).concurrency == 64, "what nobody wants is nobody's loss"


def test_two_holders_share_alike_after_one_renewal(coordinator: Coordinator) -> None:
    ask(coordinator, "a")
    assert ask(coordinator, "b").concurrency == 0, "the other may still use what it was granted"
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
        assert sum(shares.values()) <= most


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


def hungry(coordinator: Coordinator, holder: str, **more: object) -> Grant:
    want = Want(50, requests=50, hungry=True, **more)  # type: ignore[arg-type]
    return coordinator.lease(holder, GATE, want, Report())


def hear(coordinator: Coordinator, rpm: float, remaining: float = 0.0, holder: str = "a") -> None:
    ask(coordinator, holder, want=0, limits=Announced(requests=Window(rpm, remaining, 0.0)))


@pytest.mark.parametrize("holders", [1, 4])
def test_a_wide_limit_is_granted_as_paces_that_add_up_to_it(
    coordinator: Coordinator, clock: Clock, holders: int
) -> None:
    hear(coordinator, 600)
    for _ in range(3):
        clock.now += 1.0
        paces = {str(k): hungry(coordinator, str(k)).requests_per_s for k in range(holders)}
        coordinator.release_holder("a")
        assert sum(paces.values()) <= 10.0 + 1e-9
    assert list(paces.values()) == pytest.approx([10 / holders] * holders)


@settings(max_examples=200, deadline=None)
@given(
    events=st.lists(
        st.tuples(
            st.integers(0, 4), st.booleans(), st.floats(0, 30), st.floats(0, 5), st.sampled_from([0, 1, 9])
        ),
        max_size=60,
    )
)
def test_paces_never_add_up_to_more_than_the_limit(
    events: list[tuple[int, bool, float, float, int]],
) -> None:
    clock = Clock()
    coordinator = Coordinator(clock=clock)
    hear(coordinator, 60 * 20)
    paces: dict[str, float] = {}
    ends: dict[str, float] = {}
    for number, waits, per_s, passed_s, want in events:
        clock.now += passed_s
        name = str(number)
        grant = coordinator.lease(name, GATE, Want(want, hungry=waits, per_s=per_s), Report())
        assert grant.paced
        assert 0.0 <= grant.requests_per_s <= 20.0 + 1e-6
        paces[name], ends[name] = grant.requests_per_s, clock.now + grant.expires_s
        assert sum(pace for who, pace in paces.items() if ends[who] >= clock.now) <= 20.0 + 1e-6


def test_who_does_not_use_its_pace_leaves_it_to_those_who_wait(
    coordinator: Coordinator, clock: Clock
) -> None:
    hear(coordinator, 600)
    for _ in range(3):
        clock.now += 1.0
        calm = coordinator.lease("calm", GATE, Want(1, per_s=1.0), Report()).requests_per_s
        busy = hungry(coordinator, "a").requests_per_s
    assert calm == pytest.approx(1.25)
    assert busy == pytest.approx(8.75)
    idle = coordinator.lease("calm", GATE, Want(0), Report()).requests_per_s
    assert (idle, hungry(coordinator, "a").requests_per_s) == (0.0, pytest.approx(10.0))


@pytest.mark.parametrize("holders", [2, 8])
def test_a_narrow_limit_is_booked_permit_by_permit_at_moments_of_their_own(
    coordinator: Coordinator, clock: Clock, holders: int
) -> None:
    """60 a minute, for ten minutes: each holder asks again when its permit may be used."""
    names = [str(k) for k in range(holders)]
    ready = dict.fromkeys(names, 0.0)
    for name in names:
        hear(coordinator, 60, 1.0, name)
    settle(coordinator, *names)
    moments = []
    while clock.now < 600:
        name = min(ready, key=lambda n: ready[n])
        clock.now = max(clock.now, ready[name])
        grant = hungry(coordinator, name)
        assert (grant.requests, grant.paced) == (1, False)
        ready[name] = clock.now + grant.start_in_s
        moments.append(ready[name])
    gaps = [later - sooner for sooner, later in pairwise(moments)]
    assert min(gaps[1:]) == pytest.approx(1.0)
    assert max(gaps) == pytest.approx(1.0)


def test_another_limit_voids_what_was_promised_under_the_old_one(
    coordinator: Coordinator, clock: Clock
) -> None:
    for name in "ab":
        hear(coordinator, 60, holder=name)
    settle(coordinator, "a", "b")
    waits = [hungry(coordinator, name) for name in "abababab"]
    assert [grant.start_in_s for grant in waits] == pytest.approx([1, 2, 3, 4, 5, 6, 7, 8])
    hear(coordinator, 30)
    halved = hungry(coordinator, "a")
    assert (halved.epoch, halved.start_in_s) == (waits[0].epoch + 1, pytest.approx(2.0))
    hear(coordinator, 60)
    doubled = hungry(coordinator, "b")
    assert (doubled.epoch, doubled.start_in_s) == (halved.epoch + 1, pytest.approx(1.0))


def test_a_limit_that_wobbles_voids_nothing(coordinator: Coordinator) -> None:
    hear(coordinator, 60)
    before = ask(coordinator, "a").epoch
    hear(coordinator, 66)
    assert ask(coordinator, "a").epoch == before


def test_permits_for_tokens_are_granted_beside_those_for_requests(coordinator: Coordinator) -> None:
    """Calls of 800 tokens under 1,000 a second: one at a time, whoever sends it."""
    limits = Announced(requests=Window(600, 10, 0.0), tokens=Window(60_000, 1000, 0.0))
    want = Want(5, requests=5, tokens=800, tokens_per_call=800)
    settle(coordinator, "a", "b")
    grant = coordinator.lease("a", GATE, want, Report(limits=limits))
    assert (grant.requests, grant.tokens, grant.start_in_s) == (5, 500, 0.0)
    grant = coordinator.lease("a", GATE, want, Report())
    assert grant.tokens == 250, "a quarter second of the rate, or half of what is there"


def test_tokens_have_a_pace_beside_requests(coordinator: Coordinator) -> None:
    limits = Announced(requests=Window(600, 10, 0.0), tokens=Window(60_000, 1000, 0.0))
    want = Want(5, requests=5, tokens=80, tokens_per_call=80, hungry=True)
    grant = coordinator.lease("a", GATE, want, Report(limits=limits))
    assert (grant.requests_per_s, grant.tokens_per_s) == (10.0, 1000.0)


def test_before_anyone_was_answered_few_go_and_soon_more(coordinator: Coordinator, clock: Clock) -> None:
    """1,000 processes begin at once, and nobody knows a limit yet."""
    names = [str(k) for k in range(1000)]

    def free() -> int:
        return sum(ask(coordinator, name).requests is None for name in names)

    counts = []
    for _ in range(12):
        counts.append(free())
        clock.now += 0.1
    assert counts[:4] == [1, 2, 4, 8]
    assert counts[-1] == 1000
    ask(coordinator, "0", admitted=1)
    assert ask(coordinator, "new").requests is None


def test_a_refusal_is_told_to_all_others_once(clock: Clock) -> None:
    told: list[tuple[Notice, list[str]]] = []

    def tell(notice: Notice, holders: list[str]) -> None:
        if notice.share is None:
            told.append((notice, holders))

    coordinator = Coordinator(clock, tell=tell)
    for name in "abc":
        ask(coordinator, name)
    ask(coordinator, "b", throttled=1, pause_s=4.0)
    ask(coordinator, "c", throttled=1, pause_s=4.0)
    assert told == [(Notice(GATE, 4.0, 1), ["a", "c"])]
    for _ in range(100):  # a storm
        clock.now += 0.05
        ask(coordinator, "a", throttled=1, pause_s=4.0)
    assert len(told) <= 1 + 10
    ask(coordinator, "a", throttled=1, pause_s=60.0)
    assert told[-1][0].pause_s == pytest.approx(60.0)


def test_what_a_lease_costs_hardly_grows_with_the_holders(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shares are reckoned anew, over all holders, once for many leases."""
    reckoned = []
    real = Shares._reckon
    monkeypatch.setattr(
        Shares, "_reckon", lambda shares, most, now: (reckoned.append(most), real(shares, most, now))
    )
    coordinator = Coordinator(clock)
    names = [str(k) for k in range(1600)]
    for name in names:
        ask(coordinator, name, want=500, most=1000)
    reckoned.clear()
    for k, name in enumerate(names):
        ask(coordinator, name, want=400 + k % 100, most=1000)
    assert 10 <= len(reckoned) <= 16


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


def question(coordinator: Coordinator, number: int, heard: int, series: int = 7, **report: object) -> Grant:
    want = Want(50, requests=50, hungry=True, series=series, number=number, heard=heard)
    return coordinator.lease("a", GATE, want, Report(**report))  # type: ignore[arg-type]


def narrow(coordinator: Coordinator) -> None:
    """One call in ten seconds, and two processes: permits are booked at their moments."""
    hear(coordinator, 6)
    settle(coordinator, "a", "b")


def test_permits_of_an_answer_that_came_too_late_are_there_for_others(
    coordinator: Coordinator, clock: Clock
) -> None:
    narrow(coordinator)
    assert question(coordinator, 1, heard=0).start_in_s == pytest.approx(10.0)
    lost = question(coordinator, 2, heard=1)
    assert lost.start_in_s == pytest.approx(20.0)
    clock.now += 1.0
    assert question(coordinator, 3, heard=1).start_in_s == pytest.approx(19.0), "in the place of the lost one"
    assert hungry(coordinator, "b").start_in_s == pytest.approx(29.0)
    assert question(coordinator, 4, heard=3).start_in_s == pytest.approx(39.0), "and the heard one stands"


def test_a_question_that_arrives_after_its_successor_grants_and_books_nothing(
    coordinator: Coordinator, clock: Clock
) -> None:
    narrow(coordinator)
    question(coordinator, 1, heard=0)
    assert question(coordinator, 3, heard=1, throttled=1).penalties == 1
    shares = coordinator.in_flight_share(GATE)
    clock.now += 1.0
    late = question(coordinator, 2, heard=1, throttled=1)
    assert (late.requests, late.tokens, late.concurrency) == (0, 0, 0)
    assert coordinator.in_flight_share(GATE) == shares
    following = hungry(coordinator, "b")
    assert (following.start_in_s, following.penalties) == (pytest.approx(29.0), 1)


def test_a_report_is_booked_once_though_its_answer_was_lost_twice(
    coordinator: Coordinator, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    booked: list[tuple[int, int]] = []
    real = Lane.learn

    def learn(lane: Lane, report: Report, now: float) -> bool:
        booked.append((report.admitted, report.throttled))
        return real(lane, report, now)

    monkeypatch.setattr(Lane, "learn", learn)
    question(coordinator, 1, heard=0, admitted=5, throttled=1)
    for number, admitted in ((2, 8), (3, 9)):  # each tells again what was not answered
        clock.now += 11.0
        question(coordinator, number, heard=0, admitted=admitted, throttled=1)
    question(coordinator, 4, heard=3, admitted=2)
    assert booked == [(5, 1), (3, 0), (1, 0), (2, 0)]


def test_a_gate_made_anew_in_a_known_process_counts_its_questions_anew(coordinator: Coordinator) -> None:
    narrow(coordinator)
    question(coordinator, 9, heard=8)
    assert question(coordinator, 1, heard=0, series=8).requests == 1
