"""The reducer: adding up deltas in any split gives the same counts."""

from __future__ import annotations

from functools import reduce

from hypothesis import given
from hypothesis import strategies as st

from apwa_dask.execution.events import (
    EndpointPulse,
    Event,
    PartitionDone,
    Progress,
    RunFinished,
    RunStarted,
    StageFinished,
    StageStarted,
    State,
)
from apwa_dask.observe.state import ProgressState


def after(*events: Event) -> ProgressState:
    return reduce(ProgressState.apply, events, ProgressState())


def started(rows: int | None = 100, **changes) -> tuple[Event, ...]:
    return (
        RunStarted("r", 1000.0, stages=changes.pop("stages", 1), **changes),
        StageStarted("r", 1000.0, stage=0, name="judge", partitions=4, rows=rows),
    )


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50), st.integers(0, 3)), max_size=20))
def test_deltas_of_many_workers_add_up_whatever_their_order(parts):
    events = [
        Progress("r", 1000.0 + i, rows_done=done, rows_failed=failed, worker=f"w{worker}", in_flight=worker)
        for i, (done, failed, worker) in enumerate(parts)
    ]
    forwards, backwards = after(*started(None), *events), after(*started(None), *reversed(events))
    assert forwards.rows_done == backwards.rows_done == sum(done for done, _, _ in parts)
    assert forwards.rows_failed == backwards.rows_failed == sum(failed for _, failed, _ in parts)


def test_gauges_are_the_last_word_of_each_worker_not_a_sum_over_time():
    state = after(
        *started(),
        Progress("r", 1001, worker="a", in_flight=8),
        Progress("r", 1002, worker="b", in_flight=4),
        Progress("r", 1003, worker="a", in_flight=2),
    )
    assert state.in_flight == 6
    assert state.apply(RunFinished("r", 1004)).in_flight == 0


def test_rows_of_a_partition_committed_by_an_earlier_attempt_count_as_done_and_reused():
    state = after(*started(), PartitionDone("r", 1001, rows_in=25, rows_out=25, reused=True))
    assert (state.rows_done, state.rows_reused) == (25, 25)


def test_a_partition_worked_on_twice_never_shows_more_rows_than_there_are():
    state = after(*started(100), Progress("r", 1001, rows_done=80), Progress("r", 1002, rows_done=80))
    assert state.rows_done == 100
    assert state.stages[0].rows_left == 0


def test_a_total_that_nobody_knows_stays_unknown_until_the_stage_ends():
    state = after(*started(None), Progress("r", 1001, rows_done=7))
    assert state.rows_total is None
    assert state.apply(StageFinished("r", 1002)).rows_total == 7


def test_one_unknown_price_makes_the_cost_unknown_for_good():
    state = after(
        *started(),
        Progress("r", 1001, cost_usd=0.5, cost_unknown=True),
        Progress("r", 1002, cost_usd=0.5),
    )
    assert state.cost_unknown
    assert state.cost_usd == 1.0


def test_ten_thousand_equal_failures_are_one_group():
    events = [
        Progress("r", 1001 + i, rows_failed=1, failures={"truncated: 512 tokens": 1}) for i in range(10_000)
    ]
    (group,) = after(*started(None), *events).failure_groups
    assert (group.words, group.rows) == ("truncated: 512 tokens", 10_000)


def test_ever_different_failures_do_not_grow_the_state():
    events = [Progress("r", 1001 + i, failures={f"refused: {i}": 1}) for i in range(500)]
    state = after(*started(None), *events)
    assert len(state.failures) <= 101
    assert sum(state.failures.values()) == 500


def test_the_eta_is_a_range_between_the_recent_and_the_mean_rate():
    state = after(*started(1000), Progress("r", 1010, rows_done=10), Progress("r", 1020, rows_done=10))
    steady_low, steady_high = state.eta_s
    assert steady_low == steady_high == 980.0
    slowing = after(
        *started(1000),
        Progress("r", 1010, rows_done=400),
        *[Progress("r", 1010 + 5 * i, rows_done=5) for i in range(1, 20)],
    )
    low, high = slowing.eta_s
    assert low < high


def test_there_is_no_eta_while_the_size_is_unknown_or_nothing_was_done():
    assert after(*started(None), Progress("r", 1001, rows_done=7)).eta_s is None
    assert after(*started(100)).eta_s is None


def test_a_long_run_keeps_a_bounded_past():
    state = after(*started(None), *[Progress("r", 1000 + i / 100, rows_done=1) for i in range(20_000)])
    assert len(state.samples) <= 70
    assert 90 < state.rate_per_s < 110


def test_a_pause_is_told_in_the_words_it_came_with():
    state = after(*started(), State("r", 1001, words="paused until 13:05: the endpoint asks for 60 s"))
    assert state.words.startswith("paused until 13:05")


def test_an_event_of_a_later_version_changes_nothing():
    class Later(Event):
        pass

    state = after(*started())
    assert state.apply(Later("r", 1001)) == state


def test_calls_that_wait_for_a_slot_are_not_in_flight():
    events = (
        *started(),
        Progress("r", 1001, worker="a", in_flight=32),
        EndpointPulse("r", 1001, worker="a", endpoint="m at h", in_flight=16, waiting=16),
        Progress("r", 1001, worker="b", in_flight=4),
        EndpointPulse(
            "r", 1001, worker="b", endpoint="m at h", in_flight=9
        ),  # five of them are another run's
        Progress("r", 1001, worker="c", in_flight=3),  # has not told of its endpoint yet
    )
    assert after(*events).in_flight == 16 + 4 + 3
