"""Clusters that live in their client's process: several workers share its runtime, and come and go."""

from __future__ import annotations

import pandas as pd
import pytest
from distributed import Client, LocalCluster

import apwa_dask as apwa
from apwa_dask.errors import ApwaError
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


def _table(rows: int) -> apwa.Table:
    frame = pd.DataFrame({"text": [f"row {number}" for number in range(rows)]})
    return apwa.from_pandas(frame, npartitions=4).map("say", inputs="text", output={"a": int})


def test_a_run_on_threads_keeps_its_rows_and_its_money_whatever_cluster_comes_and_goes(
    scripted_server, model_at, store
):
    server = scripted_server(SLOWLY)
    with LocalCluster(n_workers=1, **INSIDE) as cluster, Client(cluster) as client:
        model = model_at(server, max_concurrency=8)
        _table(4).run(model=model, store=store, client=client, progress=False).wait(120)
        budget = apwa.Budget(calls=2 * ROWS)
        run = _table(ROWS).run(model=model, store=store, scheduler="threads", budget=budget, progress=False)
        server.wait_until(lambda stats: stats.calls > ROWS / 4, timeout_s=60)
    assert runtime().lease is None
    assert len(run.wait(120).result()) == ROWS
    assert len(run.failures) == 0
    assert server.calls == ROWS


def test_a_run_of_a_cluster_goes_on_without_it_with_the_money_that_is_left(scripted_server, model_at, store):
    server = scripted_server(SLOWLY)
    model, budget = model_at(server, max_concurrency=8), apwa.Budget(calls=ROWS)
    with LocalCluster(n_workers=1, **INSIDE) as cluster, Client(cluster) as client:
        run = _table(ROWS).run(model=model, store=store, client=client, budget=budget, progress=False)
        server.wait_until(lambda stats: stats.calls > ROWS / 4, timeout_s=60)
        run.stop()
        with pytest.raises(ApwaError):
            run.wait(120).result()
        here = apwa.attach(run.id, store, scheduler="threads", progress=False).resume().wait(120)
    assert len(here.result()) == ROWS
    assert server.calls == ROWS


def test_a_lazy_frame_is_computed_here_when_its_cluster_is_gone(scripted_server, model_at, store):
    server = scripted_server()
    with LocalCluster(n_workers=1, **INSIDE) as cluster, Client(cluster) as client:
        lazy = _table(8).to_dask(model=model_at(server), store=store, client=client)
        assert len(lazy.partitions[0].compute()) == 2
    assert len(lazy.compute(scheduler="threads")) == 8
    assert server.calls == 8
