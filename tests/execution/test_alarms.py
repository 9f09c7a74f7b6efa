"""A run that fails stops by itself: alike at the start, too often later, or with its first row where asked."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

import apwa_dask as apwa
from apwa_dask.agents.outcome import Outcome
from apwa_dask.errors import ConfigError, RunError
from apwa_dask.execution.alarms import LEAST_ROWS, SAMPLE, FailureRate, Probation, alike
from apwa_dask.execution.events import Progress
from apwa_dask.models.types import OutcomeClass
from apwa_dask.testing import Fault, On, Script

ROWS = 600
FRAME = pd.DataFrame({"text": [f"row {k}" for k in range(ROWS)], "k": range(ROWS)})
ALL_FAIL = Script(faults=(Fault("status", status=400),))
EVERY_FIFTH = Script(faults=(Fault("refusal", on=r"row \d*[05]$"),))
SLOWLY = dataclasses.replace(EVERY_FIFTH, latency_s=0.02)
"""A run of all rows takes seconds: what looks at it ten times a second has the time to stop it."""


def table(npartitions: int = 6, rows: int = ROWS) -> apwa.Table:
    frame = FRAME.head(rows)
    return apwa.from_pandas(frame, npartitions=npartitions).map("x", inputs="text", output={"a": int})


def stopped(run: apwa.Run, code: str) -> RunError:
    with pytest.raises(RunError) as caught:
        run.wait(timeout=60)
    assert caught.value.code == code
    assert caught.value.fix
    assert caught.value.saved
    assert run.status()["status"] == "failed"
    return caught.value


@pytest.mark.parametrize("npartitions", [1, 6])
def test_what_fails_alike_from_the_start_costs_a_sample_and_is_one_message(
    scripted_server, model_at, store, npartitions
):
    server = scripted_server(ALL_FAIL)
    run = table(npartitions).run(
        model=model_at(server, max_concurrency=200), store=store, scheduler="threads", progress=False
    )

    error = stopped(run, "RUN-ALIKE")

    assert server.calls == SAMPLE
    assert "bad_input" in error.what
    assert "early_stop=False" in error.fix
    server.set(Script())
    assert run.resume().result(status=True)["_apwa_status"].eq("ok").all()
    assert server.calls == SAMPLE + ROWS


def test_it_is_switched_off_where_asked_also_on_resume(scripted_server, model_at, store):
    server = scripted_server(ALL_FAIL)
    model = model_at(server)
    run = table(rows=120).run(model=model, store=store, progress=False, early_stop=False)
    assert run.result(status=True)["_apwa_status"].eq("bad_input").all()
    assert server.calls == 120

    server.reset()
    stops = table().run(model=model, store=store, progress=False)
    stopped(stops, "RUN-ALIKE")
    assert len(stops.resume(early_stop=False).wait().failures) == ROWS
    assert server.calls == SAMPLE + ROWS


def test_a_step_that_succeeds_once_may_fail_for_all_other_rows(scripted_server, model_at, store):
    server = scripted_server(Script(faults=(Fault("refusal", on=r"row [1-9]"),)))
    run = table(1, rows=200).run(model=model_at(server, max_concurrency=1), store=store, progress=False)

    assert run.result(status=True)["_apwa_status"].tolist() == ["ok", *["refused"] * 199]


def test_failures_of_two_kinds_do_not_stop_it(scripted_server, model_at, store):
    kinds = (Fault("refusal", on=r"row \d*[02468]$"), Fault("status", status=400))
    server = scripted_server(Script(faults=kinds))
    run = table(rows=200).run(model=model_at(server), store=store, progress=False)

    assert set(run.result(status=True)["_apwa_status"]) == {"refused", "bad_input"}


def test_rows_that_fail_without_a_call_do_not_count(scripted_server, model_at, store):
    server = scripted_server()
    frame = pd.DataFrame({"text": [None] * 200 + ["good"]})
    run = (
        apwa.from_pandas(frame)
        .map("x", inputs="text", output={"a": int})
        .run(model=model_at(server), store=store, progress=False)
    )

    assert run.result(status=True)["_apwa_status"].tolist() == ["bad_input"] * 200 + ["ok"]
    assert server.calls == 1


@pytest.mark.parametrize(("attempts", "raised"), [(0, []), (1, ["too_large: it cannot fit"])])
def test_what_comes_back_without_a_call_fills_no_sample_and_lets_the_next_start(
    attempts: int, raised: list[str]
) -> None:
    failed = Outcome(OutcomeClass.TOO_LARGE, message="it cannot fit", attempts=attempts)
    units: list[Any] = [SimpleNamespace(outcomes={0: failed}) for _ in range(3 * SAMPLE)]
    alarms, ended = list[str](), set[int]()
    begun: deque[Callable[[], None]] = deque()

    def submit(part: Sequence[Any], done: Callable[[int], None]) -> None:
        begun.extend(partial(done, position) for position in range(len(part)))

    Probation(alarms.append).start(units, submit, ended.add)
    while begun and not alarms:
        begun.popleft()()
    assert alarms == raised
    assert len(ended) == (SAMPLE if raised else len(units))


def test_a_retry_of_rows_that_fail_again_is_no_reason_to_stop(scripted_server, model_at, store):
    server = scripted_server(Script(faults=(Fault("refusal", on=r"row \d?[0-9]$"),)))
    run = table(6, rows=300).run(model=model_at(server), store=store, progress=False).wait()
    assert len(run.failures) == 100

    again = run.retry_failed().wait()

    assert len(again.failures) == 100
    assert server.calls == 400


def test_the_sample_is_of_several_partitions_not_of_the_first_rows_of_a_sorted_table(
    scripted_server, model_at, store
):
    server = scripted_server(Script(latency_s=0.05, faults=(Fault("refusal", on=r"row \d?[0-9]$"),)))
    run = table(6, rows=600).run(model=model_at(server, max_concurrency=64), store=store, progress=False)

    assert run.wait().status()["rows_failed"] == 100


def test_the_second_step_is_judged_for_itself(scripted_server, model_at, store):
    script = Script(faults=(Fault("status", status=400, on=On(prompt="second task")),))
    server = scripted_server(script)
    both = table().map("second task", inputs="text", output={"b": str}, id="second")

    run = both.run(model=model_at(server), store=store, progress=False)

    assert "step 'second'" in stopped(run, "RUN-ALIKE").where
    assert server.log().by_status[400] == SAMPLE


def test_a_lazy_frame_stops_alike_too(scripted_server, model_at, store):
    server = scripted_server(ALL_FAIL)
    lazy = table().to_dask(model=model_at(server), store=store)

    with pytest.raises(RunError, match="same way"):
        lazy.compute(scheduler="threads")

    assert server.calls == SAMPLE


# -- the share of failed rows


def test_above_the_rate_dispatch_stops_and_a_resume_with_more_room_ends_it(scripted_server, model_at, store):
    server = scripted_server(SLOWLY)
    model = model_at(server, max_concurrency=4)
    run = table().run(model=model, store=store, progress=False, max_failure_rate=0.1)

    error = stopped(run, "RUN-FAILURE-RATE")

    assert "max_failure_rate=0.1" in error.what
    assert "refused" in error.why
    assert server.calls < ROWS
    at_stop = server.calls
    finished = apwa.attach(run.id, store, progress=False).resume(max_failure_rate=0.5)
    assert len(finished.result()) == ROWS
    assert len(finished.failures) == ROWS // 5
    good_paid_twice = server.calls - ROWS
    assert good_paid_twice <= at_stop // 5 + 8  # only failed rows are asked again


def test_within_the_rate_nothing_stops(scripted_server, model_at, store):
    server = scripted_server(EVERY_FIFTH)
    run = table().run(model=model_at(server), store=store, progress=False, max_failure_rate=0.4)

    assert len(run.result()) == ROWS
    assert server.calls == ROWS


def test_few_rows_are_judged_at_the_end_of_their_stage(scripted_server, model_at, store):
    server = scripted_server(Script(faults=(Fault("refusal", on=r"row 0$"),)))
    few = LEAST_ROWS - 30
    run = table(2, rows=few).run(model=model_at(server), store=store, progress=False, max_failure_rate=0.01)

    error = stopped(run, "RUN-FAILURE-RATE")

    assert f"1 of {few} rows" in error.what
    assert run.resume(max_failure_rate=1.0).result()["k"].tolist() == list(range(few))
    assert server.calls == few


def test_rows_that_a_filter_cannot_judge_count_as_failed(scripted_server, model_at, store):
    server = scripted_server(SLOWLY)
    kept = apwa.from_pandas(FRAME, npartitions=6).filter("is it good?", inputs="text")

    run = kept.run(model=model_at(server), store=store, progress=False, max_failure_rate=0.1)

    stopped(run, "RUN-FAILURE-RATE")
    assert run.resume(max_failure_rate=1.0).wait().status()["rows_failed"] == ROWS // 5 == len(run.failures)


def test_a_lazy_frame_keeps_the_rate(scripted_server, model_at, store):
    server = scripted_server(SLOWLY)
    lazy = table().to_dask(model=model_at(server, max_concurrency=4), store=store, max_failure_rate=0.1)

    with pytest.raises(RunError, match="max_failure_rate"):
        lazy.compute(scheduler="threads")

    assert server.calls < ROWS


@pytest.mark.parametrize("rate", [-0.1, 1.5])
def test_a_rate_is_a_share(scripted_server, model_at, store, rate):
    server = scripted_server()
    with pytest.raises(ConfigError):
        table().run(model=model_at(server), store=store, progress=False, max_failure_rate=rate)
    assert server.calls == 0


def test_the_counts_of_all_processes_meet():
    rate = FailureRate(0.1)
    one, two = (
        Progress("r", 0.0, rows_done=200, rows_failed=failed, worker=w) for w, failed in (("a", 0), ("b", 60))
    )
    assert rate.see(one) is None
    assert rate.see(two) is not None
    alone = FailureRate(0.1)
    for _ in range(LEAST_ROWS - 1):
        assert alone.see(Progress("r", 0.0, rows_done=1, rows_failed=1)) is None
    assert alone.see(Progress("r", 0.0, rows_done=1, rows_failed=1)) is not None


def test_what_is_alike():
    assert alike("bad_input", "HTTP 400 (row 7: 'abc')") == alike("bad_input", "HTTP 400 (row 12: 'x')")
    assert alike("bad_input", "HTTP 400 (too long)") != alike("bad_input", "HTTP 400 (too short)")
    assert alike("refused", "no") != alike("filtered", "no")


# -- what becomes of failed rows


def test_failed_rows_are_kept_in_place_with_nulls_and_a_status_only_when_asked(
    scripted_server, model_at, store
):
    server = scripted_server(EVERY_FIFTH)
    run = table(rows=50).run(model=model_at(server), store=store, progress=False, on_error="keep")

    plain, told = run.result(), run.result(status=True)

    assert list(plain.columns) == ["text", "k", "a"]
    assert list(told.columns) == ["text", "k", "a", "_apwa_status", "_apwa_error"]
    assert plain["k"].tolist() == list(range(50))
    assert plain["a"].isna().tolist() == [k % 5 == 0 for k in range(50)]
    assert told["_apwa_error"].notna().tolist() == [k % 5 == 0 for k in range(50)]


def test_the_first_failed_row_ends_the_run_while_its_neighbours_are_still_to_come(
    scripted_server, model_at, store
):
    server = scripted_server(Script(faults=(Fault("refusal", on=r"row 3$"),)))
    run = table(1).run(
        model=model_at(server, max_concurrency=2), store=store, progress=False, on_error="raise"
    )

    error = stopped(run, "RUN-ROW")

    assert "row 0:3" in error.where
    assert server.calls < ROWS / 4
    server.set(Script())
    assert len(run.resume().result()) == ROWS
    assert server.calls == ROWS + 1
