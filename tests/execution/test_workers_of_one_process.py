"""Clusters that live in their client's process: several workers share its runtime, and come and go."""

from __future__ import annotations

import pandas as pd
import pytest
from distributed import Client, LocalCluster

import apwa_dask as apwa
from apwa_dask.execution.hand_over import lend
from apwa_dask.execution.runtime import runtime
from apwa_dask.testing import Script

INSIDE = {"threads_per_worker": 2, "processes": False, "dashboard_address": None}
ROWS = 400
SLOWLY = Script(latency_s=0.02)


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-only-for-loopback")


@pytest.mark.parametrize("leaves", [0, 1])
def test_a_worker_that_leaves_its_process_leaves_the_others_their_rows_and_their_money(
    scripted_server, model_at, store, leaves
):
    server = scripted_server(SLOWLY)
    frame = pd.DataFrame({"text": [f"row {number}" for number in range(ROWS)]})
    table = apwa.from_pandas(frame, npartitions=8).map("say", inputs="text", output={"a": int})
    with LocalCluster(n_workers=2, **INSIDE) as cluster, Client(cluster) as client:
        run = table.run(
            model=model_at(server, max_concurrency=8),
            store=store,
            client=client,
            progress=False,
            budget=apwa.Budget(calls=2 * ROWS),
        )
        server.wait_until(lambda stats: stats.calls > ROWS / 4, timeout_s=60)
        workers = list(client.scheduler_info(n_workers=-1)["workers"])
        client.retire_workers([workers[leaves]], close_workers=True)

        assert len(run.wait(120).result()) == ROWS
        assert len(run.failures) == 0
        assert server.calls == ROWS
        assert runtime().neighbours.address == workers[1 - leaves]
    assert runtime().lease is None


def test_a_process_asks_no_cluster_that_is_gone_for_storage_options():
    with LocalCluster(n_workers=2, **INSIDE) as cluster, Client(cluster) as client:
        lend(client, {"memory://lent": {"skip_instance_cache": True}})
        assert runtime().options_of("memory://lent") == {"skip_instance_cache": True}
        client.retire_workers(list(client.scheduler_info(n_workers=-1)["workers"])[1:], close_workers=True)
        assert runtime().options_of("memory://lent") == {"skip_instance_cache": True}
    assert runtime().options_of("memory://lent") is None
