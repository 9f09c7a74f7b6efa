"""Fault 48: many tiny partitions and one giant. Counted in tasks and files: seconds depend on the machine."""

from __future__ import annotations

import os
import threading
from collections import Counter
from pathlib import Path

import pytest

from apwa_dask.tables.packing import MANY_PARTITIONS
from apwa_dask.testing import Fault, On

pytestmark = pytest.mark.slow

TINY = int(os.environ.get("APWA_TINY_PARTITIONS", "1000"))
"""Partitions of a row each; ``make soak`` takes 10,000."""


def files(store: str) -> Counter[str]:
    """Files of a store by the folder they are in, below the run."""
    found = [path.relative_to(store).parts for path in Path(store).rglob("*") if path.is_file()]
    return Counter(parts[2] if parts[0] == "runs" else parts[0] for parts in found)


@pytest.fixture
def disk(monkeypatch) -> Counter[str]:
    """Files of the store that were written, read, and named by listings."""
    from apwa_dask.store.local_folder import LocalFolder

    done: Counter[str] = Counter()
    lock = threading.Lock()

    def counted(what, method, amount):
        def call(self, *args, **kwargs):
            found = method(self, *args, **kwargs)
            with lock:
                done[what] += amount(found)
            return found

        return call

    for what, name, amount in (
        ("written", "_write_temp", lambda found: 1),
        ("read", "read", lambda found: 1),
        ("listed", "entries", len),
    ):
        monkeypatch.setattr(LocalFolder, name, counted(what, getattr(LocalFolder, name), amount))
    return done


def test_fault_48_tiny_partitions_share_tasks_and_a_task_costs_a_few_files_however_many_there_are(
    processes, scripted_server, store, workers_model, invariants, disk, monkeypatch
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
        model=workers_model(server, max_concurrency=64), store=store, scheduler="threads", progress=False
    )
    run.wait(timeout=1200)
    run.result()

    parts = -(-TINY // (TINY // MANY_PARTITIONS))
    assert MANY_PARTITIONS <= parts <= 2 * MANY_PARTITIONS
    assert sum(tasks) <= parts + 2
    # of each partition: marker, part, commit, at most a segment; the source is in 256 files
    assert disk["written"] <= 4 * parts + 300
    assert disk["read"] <= 5 * parts + 1000
    assert disk["listed"] <= 10 * parts + 1000, "a few listings of a stage, however many partitions"
    kept = files(store)
    assert kept["attempts"] == kept["commit"] == kept["data"] == parts
    assert kept["journal"] <= parts + 20
    assert sum(count for name, count in kept.items() if name.startswith("source-")) <= 256
    assert run.folder.committed_count(0) == parts
    invariants.hold(run, server, processes.frame(TINY), paid_again=0, canary=processes.KEY)


def test_fault_48_fewer_rows_than_partitions_asked_for_are_a_partition_each(
    processes, scripted_server, store, workers_model
):
    options = {"store": store, "scheduler": "threads", "progress": False}
    run = processes.mapped(100, 1000).run(model=workers_model(scripted_server()), **options).wait(timeout=60)

    assert run.folder.committed_count(0) == 100


def test_fault_48_tiny_partitions_on_a_cluster_are_one_task_each_and_one_giant_keeps_the_window_full(
    processes, scripted_server, store, tmp_path, workers_model, invariants
):
    rows, concurrency, tiny = 3000, 32, max(200, TINY // 5)
    with processes.Cluster(tmp_path) as cluster, cluster.client() as client:
        cluster.add_worker(threads=4)
        cluster.ready(client, 1)
        server = scripted_server()
        options = {"store": store, "client": client, "progress": False}
        run = processes.mapped(tiny, tiny).run(model=workers_model(server), **options).wait(timeout=600)
        invariants.hold(run, server, processes.frame(tiny), paid_again=0)
        done = client.run_on_scheduler(_tasks_done)
        assert done <= 2 * tiny + 20

        # some calls last as long as it takes to fill the window, however busy the machine is
        long = Fault("slow", on=On(calls=tuple(range(1000, 1000 + 2 * concurrency))), delay_s=2.0)
        giant_server = scripted_server(latency_s=0.02, faults=(long,))
        giant = processes.mapped(rows, 1).run(
            model=workers_model(giant_server, max_concurrency=concurrency), namespace="giant", **options
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
