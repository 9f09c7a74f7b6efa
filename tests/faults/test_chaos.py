"""Workers that die all the time, and a run that ends as if nothing had happened. ``make chaos`` is the long form."""

from __future__ import annotations

import asyncio
import os
import random
import sys
from typing import Any

import cloudpickle
import dask
import pytest
from distributed import Client, LocalCluster
from distributed.chaos import KillWorker
from distributed.core import Status

pytestmark = pytest.mark.slow

ROWS = int(os.environ.get("APWA_CHAOS_ROWS", "2000"))
WORKERS = int(os.environ.get("APWA_CHAOS_WORKERS", "2"))
DEATH_EVERY_S = float(os.environ.get("APWA_CHAOS_DEATH_EVERY_S", "4"))
LIFE_S = DEATH_EVERY_S * WORKERS
"""On average. A worker that lives no longer than its start takes never works at all."""
TWO_DEATHS_SOON = 348259
"""With this seed both workers die within five seconds, and once more soon after they are back."""
SEED = int(os.environ.get("APWA_CHAOS_SEED", "0")) or (
    # the suite sees the same deaths each time; a larger search others
    TWO_DEATHS_SOON if ROWS <= 10_000 else random.SystemRandom().randrange(1, 2**31)
)
TIMEOUT_S = float(os.environ.get("APWA_CHAOS_TIMEOUT_S", "240"))
CONCURRENCY, LATENCY_S, PARTITION_ROWS = 32 if ROWS <= 10_000 else 64, 0.2, 100


class SeededKillWorker(KillWorker):
    """`distributed.chaos.KillWorker`, its lives drawn from a seed and the worker's name and birth."""

    name = "apwa-chaos"

    def __init__(self, life_s: float, seed: int, births: str) -> None:
        super().__init__(life_s, "segfault")
        self.seed, self.births = seed, births

    async def setup(self, worker: Any) -> None:
        """Note the birth, draw the time of death."""
        self.seeded = f"{self.seed}/{worker.name}/{self._born(str(worker.name))}"
        self.waiting = asyncio.create_task(self._live(worker))

    async def _live(self, worker: Any) -> None:
        """A nanny gives up a worker that dies before it has started, and nobody starts it again."""
        while worker.status is not Status.running:  # noqa: ASYNC110 - nothing to wait on
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.5)  # until its nanny knows
        random.seed(self.seeded)
        await super().setup(worker)

    def _born(self, name: str) -> int:
        with open(self.births, "a+") as file:
            file.seek(0)
            birth = sum(line.split()[0] == name for line in file)
            file.write(f"{name} {birth} {os.getpid()}\n")
        return birth


@pytest.mark.timeout(TIMEOUT_S + 120)
def test_a_run_survives_workers_that_die_every_few_seconds(
    processes, scripted_server, store, tmp_path, invariants, model_at, monkeypatch, capfd
):
    with capfd.disabled():
        print(
            f"\nchaos: {ROWS} rows, {WORKERS} workers, one dies every {DEATH_EVERY_S:g} s, APWA_CHAOS_SEED={SEED}"
        )
    births = tmp_path / "births"
    births.touch()
    server = scripted_server(latency_s=LATENCY_S, keep_bodies=ROWS <= 10_000)
    model = model_at(server, max_concurrency=CONCURRENCY)
    monkeypatch.setenv("APWA_TEST_KEY", processes.KEY)
    monkeypatch.setenv("DASK_DISTRIBUTED__LOGGING__DISTRIBUTED", "error")
    table = processes.mapped(ROWS, max(1, ROWS // PARTITION_ROWS))
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with (
        # a local cluster gives up workers that are not back after 15 s, and looks once
        dask.config.set({"distributed.deploy.lost-worker-timeout": "10 minutes"}),
        LocalCluster(
            n_workers=WORKERS, threads_per_worker=2, processes=True, dashboard_address=None, silence_logs=50
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        client.register_plugin(SeededKillWorker(LIFE_S, SEED, str(births)))
        run = table.run(model=model, store=store, client=client, progress=False)
        run.wait(timeout=TIMEOUT_S)
        client.unregister_worker_plugin(SeededKillWorker.name)

    lives = [line.split() for line in births.read_text().splitlines()]
    deaths = len(lives) - WORKERS
    assert deaths >= 2, "too few deaths to show anything"
    # each death loses at most what that worker had in flight, and what its journal had not written for a second
    a_second = CONCURRENCY / LATENCY_S / WORKERS
    allowed = deaths * int(CONCURRENCY + min(processes.UNFLUSHED, a_second))
    again = invariants.paid_again(server.log())
    with capfd.disabled():
        print(f"chaos: {deaths} deaths, {server.calls} calls, {again} of them paid again")
    server_log = server.log()
    quick = model_at(server, max_concurrency=256)
    uninterrupted = table.run(
        model=quick, store=f"{store}-whole", scheduler="threads", progress=False
    ).result(status=True)
    assert server_log.distinct_texts == ROWS
    result = run.result(status=True)
    invariants.i1_every_row_has_one_status(run, ROWS)
    invariants.i2_order_and_index_are_the_inputs(result, processes.frame(ROWS))
    assert run.failures.empty, "a death condemned an innocent row"
    assert again <= allowed
    assert deaths <= len(lives)
    invariants.i6_the_key_is_nowhere(processes.KEY, [store, repr(run), str(run.manifest)])
    invariants.i7_the_result_is_as_if_nothing_had_happened(result, uninterrupted)
