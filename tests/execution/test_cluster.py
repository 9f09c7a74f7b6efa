"""The same answers on a cluster of processes: one gate, bounded repeats after a death, all flushed."""

from __future__ import annotations

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import cloudpickle
import dask.dataframe as dd
import pandas as pd
import pytest
from distributed import Client, LocalCluster

import apwa_dask as apwa
from apwa_dask.errors import BudgetError, ConfigError, ProviderError
from apwa_dask.execution import plugin
from apwa_dask.execution.events import State
from apwa_dask.testing import Script, grep_canary

FRAME = pd.DataFrame({"text": [f"note {k}" for k in range(240)], "shop": [f"s{k % 3}" for k in range(240)]})
THREADS, WORKERS = 4, 2
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(
            "OPENAI_API_KEY", "sk-CANARY-of-the-cluster"
        )  # workers look for it in their own environment
        with LocalCluster(
            n_workers=WORKERS, threads_per_worker=THREADS, processes=True, dashboard_address="127.0.0.1:0"
        ) as made:
            yield made


@pytest.fixture
def client(cluster, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-CANARY-of-the-cluster")
    with Client(cluster, set_as_default=False) as made:
        made.wait_for_workers(WORKERS)
        yield made


def mapped(npartitions: int = 8) -> apwa.Table:
    return apwa.from_pandas(FRAME, npartitions=npartitions).map("x", inputs="text", output={"a": int})


def test_a_cluster_gives_what_threads_give_and_pays_each_request_once(
    scripted_server, model_at, store, client
):
    server = scripted_server()
    model = model_at(server, max_concurrency=6)
    table = mapped().where("a > 10").filter("really?", inputs=["text", "a"])

    here = table.run(model=model, store=store, scheduler="threads", namespace="here", progress=False).result()
    paid = server.calls
    run = table.run(model=model, store=store, client=client, progress=False)
    result = run.result()

    pd.testing.assert_frame_equal(result, here)
    assert server.calls == 2 * paid
    assert server.max_in_flight <= 6
    assert len({record.worker for record in run.folder.committed(0).values()}) == WORKERS


def test_a_dask_frame_is_worked_on_its_cluster(scripted_server, model_at, store, client):
    server = scripted_server()
    table = apwa.from_dask(dd.from_pandas(FRAME, npartitions=5)).map("x", inputs="text", output={"a": int})

    run = table.run(model=model_at(server), store=store, client=client, progress=False)

    assert run.result()["text"].tolist() == FRAME["text"].tolist()
    assert server.calls == 240


def test_a_lazy_frame_is_computed_on_a_cluster_and_pays_once(scripted_server, model_at, store, client):
    server = scripted_server()
    lazy = mapped().to_dask(model=model_at(server), store=store, client=client)

    counted = client.compute(lazy.map_partitions(len)).result()
    whole = client.compute(lazy).result()

    assert sum(counted) == len(whole) == server.calls == 240


def refused(compute) -> None:
    with pytest.raises(BudgetError, match="budget is used up"):
        compute()


def test_a_lazy_frame_computed_here_and_on_its_cluster_spends_its_budget_once(
    scripted_server, model_at, store, client
):
    server = scripted_server()
    lazy = mapped().to_dask(model=model_at(server), store=store, client=client, budget=apwa.Budget(calls=30))

    refused(lambda: lazy.compute(scheduler="threads"))
    assert server.calls == 30
    refused(lambda: client.compute(lazy).result())
    assert server.calls == 30


def test_a_lazy_frame_computed_here_and_on_its_cluster_at_once_spends_its_budget_once(
    scripted_server, model_at, store, client
):
    server = scripted_server()
    lazy = mapped().to_dask(model=model_at(server), store=store, client=client, budget=apwa.Budget(calls=100))
    together = threading.Barrier(2)

    def compute(where) -> None:
        together.wait(60)
        refused(where)

    with ThreadPoolExecutor(2) as pool:
        both = [
            pool.submit(compute, lambda: lazy.compute(scheduler="threads")),
            pool.submit(compute, lambda: client.compute(lazy).result()),
        ]
    for done in both:
        done.result()
    assert server.calls == 100


def test_a_lazy_frame_that_is_made_again_on_a_cluster_takes_along_what_it_has_spent(
    scripted_server, model_at, store, client
):
    server = scripted_server()
    options = {"model": model_at(server), "store": store, "budget": apwa.Budget(calls=30)}
    here = mapped().to_dask(**options)
    refused(lambda: here.compute(scheduler="threads"))
    assert server.calls == 30

    there = mapped().to_dask(**options, client=client)
    refused(lambda: client.compute(there).result())
    refused(lambda: here.compute(scheduler="threads"))
    assert server.calls == 30

    more = mapped().to_dask(**{**options, "budget": apwa.Budget(calls=240)}, client=client)
    assert len(client.compute(more).result()) == server.calls == 240


@pytest.mark.parametrize("by", [(), "shop"])
def test_reduce_on_a_cluster_is_that_of_threads(scripted_server, model_at, store, client, by):
    server = scripted_server()
    table = mapped().reduce("sum up", inputs="text", by=by, output={"summary": str})
    options = {"model": model_at(server), "store": store, "progress": False}

    there = table.run(client=client, **options).result()
    calls = server.calls
    here = table.run(scheduler="sync", **options).result()

    pd.testing.assert_frame_equal(there, here)
    assert server.calls == calls == 240 + (3 if by else 1)


def test_progress_of_all_workers_reaches_the_client(scripted_server, model_at, store, client):
    events = []
    run = (
        mapped()
        .run(model=model_at(scripted_server()), store=store, client=client, progress=events.append)
        .wait()
    )

    def total(name: str) -> int:
        return sum(getattr(event, name, 0) for event in events if type(event).__name__ == "Progress")

    assert run.status()["rows_out"] == 240
    assert total("rows_done") == total("calls") == 240


def test_a_killed_worker_costs_at_most_what_was_in_flight_and_unflushed(
    scripted_server, model_at, store, client, cluster
):
    server = scripted_server(latency_s=0.05)
    model = model_at(server, max_concurrency=8)
    run = mapped(12).run(model=model, store=store, client=client, progress=False)
    server.wait_until(lambda stats: stats.calls >= 100)
    victim = next(iter(client.run(os.getpid).values()))

    os.kill(victim, signal.SIGKILL)
    result = run.result()

    assert result["text"].tolist() == FRAME["text"].tolist()
    assert result["a"].notna().all()
    assert server.log().distinct_texts == 240
    assert server.calls - 240 <= 8 + 256
    again = mapped(12).run(model=model, store=store, scheduler="threads", progress=False).result()
    pd.testing.assert_frame_equal(again, result)
    client.wait_for_workers(WORKERS)


def test_retired_workers_flush_what_was_paid(scripted_server, model_at, store, client, cluster):
    server = scripted_server()
    lazy = mapped(2).to_dask(model=model_at(server), store=store, client=client)
    client.compute(lazy).result()

    cluster.scale(0)
    while client.scheduler_info(n_workers=-1)["workers"]:
        time.sleep(0.05)
    cluster.scale(WORKERS)
    client.wait_for_workers(WORKERS)

    again = mapped(3).run(model=model_at(server), store=store, client=client, progress=False).result()
    assert len(again) == server.calls == 240


def test_the_budget_is_one_for_all_workers(scripted_server, model_at, store, client):
    server = scripted_server()
    run = mapped().run(
        model=model_at(server), store=store, client=client, progress=False, budget=apwa.Budget(calls=50)
    )

    with pytest.raises(BudgetError):
        run.wait()
    assert server.calls == 50

    assert len(run.resume(budget=apwa.Budget(calls=1000)).result()) == 240
    assert server.calls == 240


def test_a_budget_that_runs_name_is_one_on_a_cluster_for_live_runs_and_batches(
    scripted_server, model_at, store, client
):
    server = scripted_server()
    live = {"model": model_at(server), "store": store, "client": client, "progress": False}
    batch = {**live, "mode": apwa.BatchTerms(poll_first_s=0.05, poll_most_s=0.2)}
    team = apwa.Budget(calls=300, name="of a cluster")
    assert len(mapped().run(**live, budget=team).result()) == server.calls == 240

    severe = mapped().map("how severe is it?", inputs="text", output={"severe": int})
    run = severe.run(**batch, budget=team)
    with pytest.raises(BudgetError, match="by the runs that share it: 300 of 300 calls"):
        run.wait()
    assert server.calls == 300
    run.resume(budget=apwa.Budget(calls=1000, name="of a cluster")).wait()
    assert run.status()["rows_failed"] == 0


def test_a_wrong_key_stops_all_workers(scripted_server, model_at, store, client):
    server = scripted_server(Script(api_key="sk-another"))

    with pytest.raises(ProviderError, match="OPENAI_API_KEY"):
        mapped().run(model=model_at(server), store=store, client=client, progress=False).wait()

    assert server.calls <= WORKERS


def test_stopping_reaches_all_workers_and_the_run_goes_on_later(
    scripted_server, model_at, store, client, slow_from
):
    server = scripted_server(faults=(slow_from(21),))
    run = mapped().run(model=model_at(server, max_concurrency=4), store=store, client=client, progress=False)
    server.wait_until(lambda stats: stats.calls >= 20)

    run.stop().wait()
    stopped_at = server.calls

    assert run.status()["status"] == "stopped"
    assert stopped_at < 240
    server.set(Script())
    assert len(run.resume().result()) == 240
    assert server.calls == server.log().distinct_texts == 240


def test_the_key_is_in_no_graph_and_no_log_of_the_cluster(scripted_server, model_at, store, client, tmp_path):
    server = scripted_server(Script(api_key="sk-CANARY-of-the-cluster"))
    lazy = mapped().to_dask(model=model_at(server), store=store, client=client)
    client.compute(lazy).result()
    run = mapped().run(model=model_at(server), store=store, client=client, progress=False).wait()

    places = [
        cloudpickle.dumps(lazy),
        str(client.get_worker_logs()),
        str(client.get_scheduler_logs()),
        str(client.get_events("apwa")),
        str(run.manifest),
        tmp_path,
    ]
    assert server.calls == 240
    assert grep_canary(places, "sk-CANARY-of-the-cluster") == []


def test_another_version_on_the_workers_is_refused_before_any_call(
    scripted_server, model_at, store, client, monkeypatch
):
    server = scripted_server()
    monkeypatch.setattr(apwa, "__version__", "999.0")
    monkeypatch.setattr(plugin, "_PREPARED", type(plugin._PREPARED)())

    with pytest.raises(ConfigError, match=r"999\.0"):
        mapped().run(model=model_at(server), store=store, client=client, progress=False)

    assert server.calls == 0


def test_a_cluster_is_prepared_once(client, monkeypatch):
    plugin.prepare_cluster(client)
    asked = []
    monkeypatch.setattr(plugin, "_versions", lambda client: asked.append(client) or {})

    plugin.prepare_cluster(client)

    assert asked == []


def test_a_run_without_workers_says_that_it_waits_and_goes_on_when_there_are_some(
    scripted_server, model_at, store, monkeypatch, slow_from
):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-CANARY-of-the-cluster")
    server = scripted_server(latency_s=0.02, faults=(slow_from(21),))
    said: list[str] = []
    waits, works = [threading.Event(), threading.Event()], threading.Event()

    def watch(event):
        if isinstance(event, State):
            said.append(event.words)
            if event.words == "running":
                works.set()
            if event.words == plugin.WAITING:
                waits[said.count(plugin.WAITING) - 1].set()

    with (
        LocalCluster(n_workers=0, threads_per_worker=2, dashboard_address=None) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        run = mapped().run(
            model=model_at(server, max_concurrency=4), store=store, client=client, progress=watch
        )
        assert waits[0].wait(120), "adaptive scaling at nought"
        cluster.scale(1)
        server.wait_until(lambda stats: stats.calls >= 20)
        assert works.wait(120), "it works again"
        cluster.scale(0)
        assert waits[1].wait(120), "all workers lost"
        server.set(Script())
        cluster.scale(1)
        assert len(run.result()) == len(FRAME)
    assert server.calls <= len(FRAME) + 4


def test_a_process_whose_cluster_is_gone_works_by_itself_again(
    scripted_server, model_at, store, monkeypatch, caplog
):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-only-for-loopback")
    server = scripted_server()
    inside = {"n_workers": 1, "threads_per_worker": 1, "processes": False, "dashboard_address": None}
    with LocalCluster(**inside) as cluster, Client(cluster) as client:
        mapped(2).run(model=model_at(server), store=store, client=client, progress=False).wait()
    before = server.calls

    other = mapped(2).map("again", inputs="text", output={"b": int}, id="again")
    run = other.run(model=model_at(server), store=store, scheduler="threads", progress=False).wait()

    assert len(run.failures) == 0
    assert server.calls == 2 * before
    assert "loop is closed" not in caplog.text
