"""Faults 5 and 57 of the matrix on four worker processes: one limit, one budget, each request once."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from statistics import median

import pandas as pd
import pytest
from distributed import Client, LocalCluster

import apwa_dask as apwa
from apwa_dask.errors import BudgetError
from apwa_dask.testing import ServerLog

RPM = 3_600
PER_S = RPM / 60
WORKERS = 4
KEY = "sk-CANARY-of-four-workers"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("APWA_TEST_KEY", KEY)  # workers look for it in their own environment
        with LocalCluster(
            n_workers=WORKERS, threads_per_worker=2, processes=True, dashboard_address="127.0.0.1:0"
        ) as made:
            yield made


@pytest.fixture
def client(cluster: LocalCluster, canary_key: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    monkeypatch.setenv("APWA_TEST_KEY", KEY)
    with Client(cluster, set_as_default=False) as made:
        made.wait_for_workers(WORKERS)
        yield made


def mapped(frame: pd.DataFrame, npartitions: int = 16) -> apwa.Table:
    return apwa.from_pandas(frame, npartitions=npartitions).map("say", inputs="text", output={"a": int})


def frame_of(rows: int, distinct: int | None = None) -> pd.DataFrame:
    return pd.DataFrame({"text": [f"row {k % (distinct or rows)}" for k in range(rows)], "k": range(rows)})


def rate_per_s(log: ServerLog) -> float:
    """Answers a second in most half seconds from the first call to the last: a machine that stands still for a
    moment is not the pace's fault."""
    times = [call.t_start for call in log if call.status == 200]
    halves = Counter(int((t - times[0]) / 0.5) for t in times)
    return 2 * median(halves[k] for k in range(int((times[-1] - times[0]) / 0.5)))


def test_fault_05_four_processes_with_one_key_share_one_limit(
    scripted_server, model_at, invariants, store, client
):
    frame = frame_of(600)
    server = scripted_server(rpm=RPM, latency_s=0.02)

    model = model_at(server, max_concurrency=64)
    run = mapped(frame).run(model=model, store=store, client=client, progress=False)
    result = invariants.hold(run, server, frame, canary=KEY)

    assert (result["_apwa_status"] == "ok").all()
    assert len({record.worker for record in run.folder.committed(0).values()}) == WORKERS
    log = server.log()
    assert sum(call.status == 429 for call in log) <= 0.01 * len(log)
    assert rate_per_s(log) >= 0.85 * PER_S


def test_distinct_requests_are_sent_once_over_all_processes(
    scripted_server, model_at, invariants, store, client
):
    """Every partition holds the same sixty texts, and all partitions begin at once."""
    frame = frame_of(960, distinct=60)
    server = scripted_server(latency_s=0.2)

    run = mapped(frame).run(model=model_at(server), store=store, client=client, progress=False)
    result = run.result(status=True)

    invariants.i1_every_row_has_one_status(run, len(frame))
    invariants.i2_order_and_index_are_the_inputs(result, frame)
    assert result.groupby("text")["a"].nunique().eq(1).all()
    assert len({record.worker for record in run.folder.committed(0).values()}) == WORKERS
    assert server.calls == int(run.costs()["calls"].sum()) == 60


def test_fault_57_one_budget_for_four_workers_and_through_a_resume(
    scripted_server, model_at, invariants, store, client
):
    frame, price, in_flight = frame_of(400), apwa.Price(10.0, 20.0), 8
    server = scripted_server(latency_s=0.01)
    model = model_at(server, max_concurrency=in_flight, price=price, max_output_tokens=60)

    run = mapped(frame).run(model=model, store=store, client=client, budget=0.05, progress=False)
    invariants.stopped_with(run, BudgetError, "BUDGET-REACHED")
    invariants.i5_spent_within(server, 0.05, price, in_flight + WORKERS, (200, 60))
    with pytest.raises(BudgetError):
        run.resume().wait()
    invariants.i5_spent_within(server, 0.05, price, in_flight + WORKERS, (200, 60))

    result = run.resume(budget=5.0).result(status=True)

    invariants.i1_every_row_has_one_status(run, len(frame))
    assert (result["_apwa_status"] == "ok").all()
    invariants.i4_little_is_paid_again(server, 0)


def test_fault_57_two_clients_on_one_named_budget_spend_it_once(
    scripted_server, model_at, store, cluster, client
):
    server = scripted_server(latency_s=0.05)
    model = model_at(server, max_concurrency=8)
    budget = apwa.Budget(calls=150, name="the team's")
    frames = [frame_of(100), frame_of(100).assign(text=lambda f: "other " + f["text"])]
    said: list[BudgetError] = []

    def spend(frame: pd.DataFrame, who: Client) -> None:
        run = mapped(frame, 8).run(model=model, store=store, client=who, budget=budget, progress=False)
        try:
            run.wait(timeout=120)
        except BudgetError as reached:
            said.append(reached)

    with Client(cluster, set_as_default=False) as second:
        threads = [
            threading.Thread(target=spend, args=(frame, who))
            for frame, who in zip(frames, (client, second), strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert said, "both together need more than there is"
    assert 0.9 * 150 <= server.calls <= 150
    assert min(len(server.log().matching("^row")), len(server.log().matching("^other"))) > 0
