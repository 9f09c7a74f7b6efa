"""Fault 48: many tiny partitions and one giant. Counted in tasks and files: seconds depend on the machine."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("faults-layout")]

TINY = 400
"""Partitions of a row each. All that is counted is proportional to them."""


@pytest.fixture
def key(processes, monkeypatch):
    monkeypatch.setenv("APWA_TEST_KEY", processes.KEY)


@pytest.fixture
def model(model_at, processes, monkeypatch):
    def at(server, **fields):
        made = model_at(server, **fields)
        monkeypatch.setenv("APWA_TEST_KEY", processes.KEY)
        return made

    return at


def files(store: str) -> Counter[str]:
    """Files of a store by the folder they are in, below the run."""
    found = [path.relative_to(store).parts for path in Path(store).rglob("*") if path.is_file()]
    return Counter(parts[2] if parts[0] == "runs" else parts[0] for parts in found)


def test_fault_48_a_partition_costs_one_task_and_three_files_however_small(
    processes, scripted_server, store, model, invariants, monkeypatch
):
    from apwa_dask.execution import executors

    tasks = []
    execute = executors.LocalExecutor.execute

    def counted(self, records):
        tasks.append(len(records.__dask_graph__()))
        return execute(self, records)

    monkeypatch.setattr(executors.LocalExecutor, "execute", counted)
    server = scripted_server()
    run = processes.mapped(TINY, TINY).run(
        model=model(server, max_concurrency=64), store=store, scheduler="threads", progress=False
    )
    run.wait(timeout=120)

    invariants.hold(run, server, processes.frame(TINY), paid_again=0, canary=processes.KEY)
    assert sum(tasks) <= TINY + 2
    kept = files(store)
    assert kept["attempts"] == kept["commit"] == kept["data"] == TINY
    assert kept["journal"] <= TINY + 20
    assert run.folder.committed_count(0) == TINY


def test_fault_48_tiny_partitions_on_a_cluster_are_one_task_each_and_one_giant_keeps_the_window_full(
    processes, scripted_server, store, tmp_path, model, invariants
):
    rows, concurrency = 3000, 32
    with processes.Cluster(tmp_path) as cluster, cluster.client() as client:
        cluster.add_worker(threads=4)
        cluster.ready(client, 1)
        server = scripted_server()
        options = {"store": store, "client": client, "progress": False}
        run = processes.mapped(200, 200).run(model=model(server), **options).wait(timeout=120)
        invariants.hold(run, server, processes.frame(200), paid_again=0)
        done = client.run_on_scheduler(_tasks_done)
        assert done <= 2 * 200 + 20

        giant_server = scripted_server(latency_s=0.05)
        giant = processes.mapped(rows, 1).run(
            model=model(giant_server, max_concurrency=concurrency), namespace="giant", **options
        )
        giant.wait(timeout=120)
        invariants.hold(giant, giant_server, processes.frame(rows), paid_again=0)
        assert giant_server.max_in_flight == concurrency
        # threads beside a giant partition are free, and it is one task: nothing waits for it but its own rows
        assert client.run_on_scheduler(_tasks_done) - done <= 20


def _tasks_done(dask_scheduler) -> int:
    """Runs on the scheduler: how many tasks of ours it has seen done."""
    return sum(
        prefix.state_counts["memory"]
        for name, prefix in dask_scheduler.task_prefixes.items()
        if "apwa" in name
    )
