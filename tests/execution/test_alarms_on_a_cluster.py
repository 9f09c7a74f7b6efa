"""The alarms on a cluster of processes: bounded by the number of workers, counted over all of them."""

from __future__ import annotations

import pandas as pd
import pytest
from distributed import Client, LocalCluster

import apwa_dask as apwa
from apwa_dask.errors import RunError
from apwa_dask.execution.alarms import LEAST_ROWS, SAMPLE
from apwa_dask.testing import Fault, Script

ROWS, WORKERS = 2_000, 2
FRAME = pd.DataFrame({"text": [f"row {k}" for k in range(ROWS)]})
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def client():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", "sk-only-for-loopback")  # workers look for it in their own environment
        with (
            LocalCluster(
                n_workers=WORKERS, threads_per_worker=4, processes=True, dashboard_address="127.0.0.1:0"
            ) as cluster,
            Client(cluster, set_as_default=False) as made,
        ):
            made.wait_for_workers(WORKERS)
            yield made


def table() -> apwa.Table:
    return apwa.from_pandas(FRAME, npartitions=16).map("x", inputs="text", output={"a": int})


def test_what_fails_alike_costs_a_sample_of_each_worker_and_is_one_message(
    scripted_server, model_at, store, client
):
    server = scripted_server(Script(faults=(Fault("status", status=400),)))
    run = table().run(model=model_at(server, max_concurrency=100), store=store, client=client, progress=False)

    with pytest.raises(RunError) as caught:
        run.wait(timeout=60)

    assert caught.value.code == "RUN-ALIKE"
    assert 0 < server.calls <= SAMPLE * WORKERS
    server.set(Script())
    assert len(run.resume().result()) == ROWS


def test_failed_rows_of_all_workers_are_counted_together_and_stop_all_of_them(
    scripted_server, model_at, store, client
):
    server = scripted_server(Script(latency_s=0.01, faults=(Fault("refusal", on=r"row \d*[05]$"),)))
    model = model_at(server, max_concurrency=4)
    run = table().run(model=model, store=store, client=client, progress=False, max_failure_rate=0.1)

    with pytest.raises(RunError) as caught:
        run.wait(timeout=60)

    assert caught.value.code == "RUN-FAILURE-RATE"
    assert LEAST_ROWS <= server.calls < ROWS
    at_stop = server.calls
    server.wait_until(lambda stats: stats.in_flight == 0)
    assert server.calls - at_stop <= 4
    assert len(run.resume(max_failure_rate=1.0).result()) == ROWS
