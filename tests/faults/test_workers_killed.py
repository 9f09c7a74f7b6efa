"""Workers that die, freeze, are retired or lose their scheduler: faults 33 to 37, at random times and at named ones."""

from __future__ import annotations

import signal

import pandas as pd
import pytest

import apwa_dask as apwa
from apwa_dask.errors import BudgetError, RunError
from apwa_dask.store.killpoints import KILL_AT_VARIABLE

pytestmark = pytest.mark.slow

ROWS, PARTS, CONCURRENCY, WORKERS = 240, 12, 8, 2
NEAR_A_POINT = 3 * CONCURRENCY
"""The points are reached soon after the journal was flushed, or before much was paid."""
KILL_POINTS = [
    "call.before",
    "call.answered",
    "journal.after_rename",
    "partition.before_commit",
    "partition.after_commit",
]


@pytest.fixture(scope="module")
def cluster(processes, tmp_path_factory):
    env = {"DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "3s"}
    with processes.Cluster(tmp_path_factory.mktemp("cluster"), env=env) as made:
        for _ in range(WORKERS):
            made.add_worker()
        yield made


@pytest.fixture
def client(cluster):
    with cluster.client() as made:
        cluster.ready(made, WORKERS)
        yield made


@pytest.fixture(scope="module")
def whole(processes, tmp_path_factory) -> pd.DataFrame:
    """The same rows without any fault, on threads (I7)."""
    from apwa_dask.testing import ScriptedServer

    with ScriptedServer() as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("APWA_TEST_KEY", processes.KEY)
        model = apwa.Model("test-model", base_url=server.base_url, api_key_env="APWA_TEST_KEY")
        run = processes.mapped(ROWS, PARTS).run(
            model=model, store=str(tmp_path_factory.mktemp("whole")), scheduler="threads", progress=False
        )
        return run.result(status=True)


@pytest.fixture
def start(processes, client, model_at, store, monkeypatch):
    """Starts the run of these tests on the cluster."""
    monkeypatch.setenv("APWA_TEST_KEY", processes.KEY)

    def begin(server, **options):
        model = model_at(server, max_concurrency=CONCURRENCY)
        monkeypatch.setenv("APWA_TEST_KEY", processes.KEY)
        table = processes.mapped(ROWS, PARTS)
        return table.run(model=model, store=store, client=client, progress=False, **options)

    return begin


def held(processes, invariants, cluster, run, server, whole, *, lost: int) -> None:
    """I1 to I7 after deaths that could lose so many calls."""
    invariants.hold(
        run,
        server,
        processes.frame(ROWS),
        paid_again=lost,
        interrupted=True,
        canary=processes.KEY,
        left_behind=cluster.logs,
        uninterrupted=whole,
    )


def test_fault_33_a_killed_worker_costs_what_was_in_flight_and_unflushed(
    processes, cluster, start, scripted_server, invariants, whole
):
    server = scripted_server(latency_s=0.05)
    run = start(server)
    server.wait_until(lambda stats: stats.calls >= ROWS // 3)

    cluster.workers[0].kill()
    lost = processes.at_risk(run, server)
    run.wait(timeout=120)

    assert lost <= CONCURRENCY + WORKERS * processes.UNFLUSHED
    held(processes, invariants, cluster, run, server, whole, lost=lost)


def test_fault_34_all_workers_killed_twice_and_the_run_ends_when_others_come(
    processes, cluster, client, start, scripted_server, invariants, whole
):
    server = scripted_server(latency_s=0.1)
    run = start(server)
    lost = 0
    for share in (5, 2):
        server.wait_until(lambda stats, share=share: stats.calls >= ROWS // share)
        for worker in cluster.workers:
            worker.kill()
        lost += processes.at_risk(run, server)
        cluster.ready(client, WORKERS)
    run.wait(timeout=120)

    held(processes, invariants, cluster, run, server, whole, lost=lost)


@pytest.mark.parametrize("how", ["retire_workers", "SIGTERM"])
def test_fault_35_a_worker_that_leaves_in_order_costs_nothing(
    processes, cluster, client, start, scripted_server, invariants, whole, how
):
    server = scripted_server(latency_s=0.2)
    run = start(server)
    server.wait_until(lambda stats: stats.calls >= ROWS // 4)
    leaving = cluster.workers[0]

    if how == "SIGTERM":
        leaving.signal(signal.SIGTERM)
    else:
        client.retire_workers([cluster.address_of(client, leaving)])
    leaving.ended()
    run.wait(timeout=120)

    held(processes, invariants, cluster, run, server, whole, lost=0)
    assert server.calls == ROWS


def test_fault_35_a_worker_that_leaves_in_order_gives_back_the_money_it_was_lent(
    processes, cluster, client, start, scripted_server, slow_from
):
    """The ceiling is what the rows need, to the call: none of it may go with the worker."""
    server = scripted_server(latency_s=0.02, faults=(slow_from(ROWS // 4 + 1),))
    run = start(server, budget=apwa.Budget(calls=ROWS))
    server.wait_until(lambda stats: stats.calls >= ROWS // 4 + CONCURRENCY)
    leaving = cluster.workers[0]

    client.retire_workers([cluster.address_of(client, leaving)])
    leaving.ended()
    server.set(server.script.but(faults=()))
    run.wait(timeout=120)

    assert server.calls == ROWS


def test_fault_33_nothing_is_waited_for_of_the_money_that_a_killed_worker_was_lent(
    processes, cluster, client, start, scripted_server, slow_from
):
    """It counts as spent at once: the run ends when the others' money does, and the ceiling holds."""
    server = scripted_server(latency_s=0.02, faults=(slow_from(ROWS // 4 + 1),))
    run = start(server, budget=apwa.Budget(calls=ROWS // 2))
    server.wait_until(lambda stats: stats.calls >= ROWS // 4 + CONCURRENCY)
    dead = cluster.workers[0]
    address = cluster.address_of(client, dead)
    assert any(client.run_on_scheduler(_held_by, address))

    dead.kill()
    processes.until(lambda: address not in client.scheduler_info()["workers"], "the death is seen")

    assert client.run_on_scheduler(_is_waited_for, address) is False
    server.set(server.script.but(faults=()))
    with pytest.raises(BudgetError, match="used up"):
        run.wait(timeout=120)
    assert server.calls <= ROWS // 2


def _leases(dask_scheduler, address):
    purses = dask_scheduler.plugins["apwa-coordinator"].coordinator._purses
    return [
        lease for purse in purses._of.values() for key, lease in purse.leases.items() if key[0] == address
    ]


def _held_by(address, dask_scheduler=None):
    return [lease.held.calls for lease in _leases(dask_scheduler, address)]


def _is_waited_for(address, dask_scheduler=None):
    leases = _leases(dask_scheduler, address)
    assert leases
    assert all(lease.is_gone for lease in leases)
    return any(lease.is_leaving for lease in leases)


def test_fault_36_a_frozen_worker_that_wakes_up_cannot_commit_what_others_have_done(
    processes, cluster, start, scripted_server, invariants, whole
):
    server = scripted_server(latency_s=0.1)
    run = start(server)
    server.wait_until(lambda stats: stats.calls >= ROWS // 4)
    zombie = cluster.workers[0]

    zombie.freeze()
    lost = processes.at_risk(run, server)
    try:
        run.wait(timeout=120)
        published = run.folder.committed(0)
        at_thaw = server.calls
    finally:
        zombie.thaw()
    zombie.ended()  # it has lost its place in the cluster, and ends by itself

    assert run.folder.committed(0) == published
    held(processes, invariants, cluster, run, server, whole, lost=lost + server.calls - at_thaw)
    assert server.calls - at_thaw <= CONCURRENCY
    rows = sum(run.folder.read_part(record).num_rows for record in run.folder.committed(0).values())
    assert rows == ROWS


def test_fault_37_a_killed_scheduler_names_the_way_on_and_the_run_ends_on_another_cluster(
    processes,
    cluster,
    client,
    model_at,
    store,
    scripted_server,
    invariants,
    whole,
    monkeypatch,
    tmp_path,
    slow_from,
):
    server = scripted_server(latency_s=0.1, faults=(slow_from(ROWS // 4 + 1),))
    model = model_at(server, max_concurrency=CONCURRENCY)
    monkeypatch.setenv("APWA_TEST_KEY", processes.KEY)
    doomed_env = {"DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "5s"}
    with processes.Cluster(tmp_path, env=doomed_env) as doomed, doomed.client() as its_client:
        doomed.ready(its_client, 1)
        run = processes.mapped(ROWS, PARTS).run(model=model, store=store, client=its_client, progress=False)
        server.wait_until(lambda stats: stats.calls >= ROWS // 4)

        doomed.scheduler.kill()
        with pytest.raises(RunError) as told:
            run.wait(timeout=120)

        doomed.workers[0].ended()  # workers end without their scheduler, and flush
        lost = processes.at_risk(run, server)
    assert told.value.code == "RUN-CLUSTER"
    assert f"apwa resume {run.id}" in told.value.fix
    assert run.status()["status"] in ("failed", "stopped")
    assert server.calls < ROWS

    server.set(server.script.but(faults=()))
    resumed = apwa.attach(run.id, store, client=client, progress=False).resume()
    resumed.wait(timeout=120)
    held(processes, invariants, cluster, resumed, server, whole, lost=lost)


@pytest.mark.parametrize("point", KILL_POINTS)
def test_fault_33_a_worker_killed_at_a_named_point(
    processes, cluster, client, start, scripted_server, invariants, whole, point
):
    cluster.workers[0].kill()
    armed = cluster.add_worker(env={KILL_AT_VARIABLE: f"{point}:3"})
    del cluster.workers[0]
    cluster.ready(client, WORKERS)
    server = scripted_server(latency_s=0.02)

    run = start(server)
    run.wait(timeout=120)

    assert armed.ended() == -signal.SIGKILL, "the point was never reached"
    held(processes, invariants, cluster, run, server, whole, lost=NEAR_A_POINT)


@pytest.mark.parametrize("point", KILL_POINTS)
def test_fault_33_a_single_process_killed_at_a_named_point(
    processes, scripted_server, store, tmp_path, invariants, whole, point, monkeypatch
):
    monkeypatch.setenv("APWA_TEST_KEY", processes.KEY)
    server = scripted_server(latency_s=0.01)
    options = {"url": server.base_url, "store": store, "rows": ROWS, "npartitions": PARTS}
    with processes.program("whole", tmp_path, **options, env={KILL_AT_VARIABLE: f"{point}:2"}) as program:
        run_id = program.line("RUN")
        assert program.ended() == -signal.SIGKILL, "the point was never reached"

    run = apwa.attach(run_id, store, progress=False).resume()
    run.wait(timeout=60)

    invariants.hold(
        run,
        server,
        processes.frame(ROWS),
        paid_again=NEAR_A_POINT,
        interrupted=True,
        canary=processes.KEY,
        left_behind=[program.output],
        uninterrupted=whole,
    )
