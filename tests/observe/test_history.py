"""What is kept of a run over time: bounded, adding up, and free of anything a row says."""

from __future__ import annotations

from dataclasses import replace

import pytest

from apwa_dask.execution.events import EndpointPulse, Progress, RunFinished, RunStarted, StepPulse
from apwa_dask.execution.pulse import LATENCY_BINS, latency_bin
from apwa_dask.observe.board import MAX_RUNS, Board
from apwa_dask.observe.history import MAX_ENDPOINTS, MAX_SLOWEST, MAX_STEPS, SILENT_S, History, Picture
from apwa_dask.observe.keeping import history_of, keep_history, kept_picture
from apwa_dask.observe.latency import quantile_s, quantiles_over_time
from apwa_dask.observe.page_tables import summary_html
from apwa_dask.observe.series import Series
from apwa_dask.store.runs import RunStore


def told(*events: object, past: Picture | None = None) -> Picture:
    history = History(past)
    for event in events:
        history(event)
    return history.picture()


def endpoint(time_s: float, worker: str = "a", **fields: object) -> EndpointPulse:
    return EndpointPulse("r", time_s, endpoint="gpt at host", worker=worker, **{"most": 64, **fields})


def test_a_series_grows_coarser_and_loses_no_count():
    series = Series(slots=8, width_s=1.0)
    for second in range(1000):
        series.add(100.0 + second, {"calls": 1.0}, in_flight=float(second % 7))
    data = series.data()
    assert data.slots <= 8
    assert sum(data.count("calls")) == 1000
    assert data.width_s == 128.0
    assert set(data.gauge("in_flight")) == {6.0}


def test_a_report_is_spread_over_the_time_it_is_about():
    series = Series(slots=10, width_s=1.0)
    series.add(0.0)
    series.add(3.5, {"calls": 8.0}, since_s=0.5)
    assert series.data().count("calls") == pytest.approx([4 / 3, 8 / 3, 8 / 3, 4 / 3])


def test_a_gauge_stands_until_the_next_look():
    series = Series(slots=10, width_s=1.0)
    series.add(0.0, in_flight=5.0)
    series.add(3.0, in_flight=2.0)
    assert series.data().gauge("in_flight") == [5.0, 5.0, 5.0, 2.0]


def test_a_series_goes_on_where_another_ended():
    first = Series(slots=8, width_s=1.0)
    first.add(10.0, {"calls": 3.0})
    second = Series(first.data(), slots=8)
    second.add(12.0, {"calls": 4.0})
    assert second.data().count("calls") == [3.0, 0.0, 4.0]


@pytest.mark.parametrize("seconds", [0.002, 0.084, 1.0, 33.3, 1000.0])
def test_a_quantile_is_right_within_a_bin(seconds):
    found = quantile_s({latency_bin(seconds): 10}, 0.5)
    assert found == pytest.approx(seconds, rel=0.19)


def test_quantiles_of_many_calls_are_in_order_and_near():
    bins: dict[int, float] = {}
    for n in range(1, 10_001):
        place = latency_bin(n / 1000)
        bins[place] = bins.get(place, 0) + 1
    assert [quantile_s(bins, q) for q in (0.5, 0.9, 0.99)] == pytest.approx([5.0, 9.0, 9.9], rel=0.1)


def test_latencies_of_all_sizes_have_a_bin():
    assert [latency_bin(s) for s in (-1.0, 0.0, 0.001, 1e9)] == [0, 0, 0, LATENCY_BINS - 1]


def test_gauges_add_up_over_workers_and_a_silent_worker_is_forgotten():
    picture = told(
        endpoint(1.0, "a", in_flight=5, waiting=1, limit=8, answers=10),
        endpoint(1.0, "b", in_flight=7, waiting=2, limit=8, answers=20, throttled=3, pauses=1),
    )
    (one,) = picture.endpoints
    assert (one.answers, one.throttled, one.pauses) == (30, 3, 1)
    assert one.series.gauge("in_flight")[-1] == 12
    assert one.series.gauge("limit")[-1] == 16

    later = told(
        endpoint(2.0 + SILENT_S, "b", in_flight=4),
        endpoint(3.0 + 2 * SILENT_S, "b", in_flight=4),
        past=picture,
    )
    assert [worker.worker for worker in later.workers] == ["b"]


def test_steps_count_outcomes_queues_and_name_their_slowest_rows():
    picture = told(
        StepPulse(
            "r",
            1.0,
            step="s",
            worker="a",
            waiting=7,
            outcomes={"ok": 3},
            took={"0:1": (2.0, 60.0), "0:2": (9.0, 1.0)},
        ),
        StepPulse(
            "r", 2.0, step="s", worker="b", waiting=4, outcomes={"refused": 1}, reused=1, latency={"20": 5}
        ),
        StepPulse(
            "r", 3.0, step="s", worker="a", waiting=2, outcomes={"ok": 5}, latency={"20": 1, "junk": 9}
        ),
    )
    (step,) = picture.steps
    assert (step.waiting, step.reused, dict(step.outcomes)) == (6, 1, {"ok": 8, "refused": 1})
    assert step.latency == {20: 6}
    assert picture.slowest == (("0:2", "s", 9.0, 1.0), ("0:1", "s", 2.0, 60.0))
    assert quantiles_over_time(picture.series)[1][0.5]


def test_nothing_is_held_after_the_end():
    picture = told(
        RunStarted("r", 0.0),
        endpoint(1.0, in_flight=5, paused="paused until 12:00: rate limit"),
        StepPulse("r", 1.0, step="s", worker="a", waiting=7),
        RunFinished("r", 9.0),
    )
    assert picture.workers == ()
    assert picture.steps[0].waiting == 0
    assert picture.endpoints[0].paused == ""
    assert picture.endpoints[0].series.gauge("in_flight")[-1] == 0


def test_a_history_is_bounded_whatever_it_is_told():
    history = History()
    for n in range(5000):
        history(
            StepPulse(
                "r", float(n), step=f"s{n}", worker="w", outcomes={"ok": 1}, took={f"{n}": (float(n), 0.0)}
            )
        )
        history(EndpointPulse("r", float(n), endpoint=f"e{n}", worker=f"w{n}", answers=1))
        history(Progress("r", float(n), rows_done=1, worker=f"w{n % 50}"))
    picture = history.picture()
    assert len(picture.steps) == MAX_STEPS
    assert len(picture.endpoints) == MAX_ENDPOINTS
    assert len(picture.slowest) == MAX_SLOWEST
    assert picture.slowest[0][2] == MAX_STEPS - 1
    assert picture.series.slots <= 400
    assert sum(picture.series.count("rows")) == pytest.approx(5000)


def test_a_kept_picture_is_read_back_as_it_was_and_a_resume_goes_on(tmp_path):
    folder = RunStore(str(tmp_path)).create("20260101-000000-abcdef12", {})
    assert kept_picture(folder) is None
    history = history_of(folder)
    history(RunStarted("r", 100.0, budget_usd=2.0))
    history(Progress("r", 101.0, rows_done=7, worker="w"))
    history(endpoint(101.0, in_flight=3, answers=7))
    keep_history(folder, history, "done")
    kept, seen = kept_picture(folder), history.picture()
    assert kept.series == seen.series
    assert kept.state.stages == seen.state.stages
    assert kept.endpoints[0].answers == 7
    assert (kept.state.status, kept.workers) == ("done", ())

    more = history_of(folder)
    more(RunStarted("r", 200.0))
    more(Progress("r", 201.0, rows_done=3, worker="w"))
    assert sum(more.picture().series.count("rows")) == pytest.approx(10)


def test_a_picture_of_another_version_is_as_good_as_none(tmp_path):
    folder = RunStore(str(tmp_path)).create("20260101-000000-abcdef12", {})
    folder.put_text("seen.json", '{"state": [1]}')
    assert kept_picture(folder) is None


def test_a_board_keeps_the_latest_runs_apart():
    board = Board()
    for n in range(MAX_RUNS + 3):
        board(Progress(f"run-{n}", float(n), rows_done=n, worker="w"))
    pictures = board.pictures()
    assert [picture.state.run_id for picture in pictures] == [f"run-{n}" for n in range(3, MAX_RUNS + 3)]
    assert replace(pictures[-1].state, run_id="").rows_done == MAX_RUNS + 2


def test_words_of_different_moments_never_add_up_to_more_calls_than_the_ceiling():
    history = History()
    history(RunStarted("r", 0.0))
    history(Progress("r", 0.5, in_flight=60, worker="a"))
    for at_s, worker, in_flight in ((1.0, "a", 24), (1.1, "b", 16), (3.0, "a", 16)):
        history(EndpointPulse("r", at_s, endpoint="m", worker=worker, in_flight=in_flight, most=32, limit=32))
    (endpoint,) = history.picture().endpoints
    assert max(value for value in endpoint.series.gauge("in_flight") if value == value) == 32
    assert "<b>32</b>" in summary_html(history.picture(), 4.0)
    alone = History()
    alone(EndpointPulse("r", 1.0, endpoint="m", worker="a", in_flight=40, most=32))
    (endpoint,) = alone.picture().endpoints
    assert max(endpoint.series.gauge("in_flight")) == 40, "what one process says of itself is shown as it is"


def test_reports_that_meet_in_a_slot_do_not_look_like_a_peak():
    series = Series(width_s=0.25)
    series.add(0.0)
    for worker_s in (0.0, 0.9):  # two processes that tell of a hundred answers a second, every two seconds
        for k in range(20):
            since_s = worker_s + 2.0 * k
            series.add(since_s + 2.0, {"answers": 200.0}, since_s=since_s)
    rates = series.data().per_s("answers")
    assert all(rate == pytest.approx(200.0) for rate in rates[4:-5])
    assert sum(series.data().count("answers")) == pytest.approx(2 * 20 * 200)
