"""Faults 35 and 40 where a prompt belongs to a group: who leaves pays nothing twice, a group that kills is found.

Groups are in no partition of the result before they are answered, so what holds for partitions is shown anew.
"""

from __future__ import annotations

import math
from pathlib import Path

import dask
import pandas as pd
import pytest
from distributed import Client, LocalCluster

import apwa_dask as apwa
from apwa_dask.testing import Rule

pytestmark = pytest.mark.slow

GROUPS, ROWS_EACH, DEADLY = 8, 3, 5
PRELOAD = str(Path(__file__).with_name("deadly_answers.py"))


def grouped(npartitions: int) -> apwa.Table:
    """Groups that lie in all partitions; one of them is asked about in words that the server knows."""
    rows = [
        (f"g{k % GROUPS}", "poison" if k % GROUPS == DEADLY else "harmless")
        for k in range(GROUPS * ROWS_EACH)
    ]
    frame = pd.DataFrame([{"team": team, "text": f"{word} note {k}"} for k, (team, word) in enumerate(rows)])
    table = apwa.from_pandas(frame, npartitions=npartitions)
    return table.reduce("Sum up.", inputs="text", by="team", output={"summary": str}, id="sum")


def test_fault_40_a_group_that_kills_is_a_dead_letter_and_the_others_are_paid_once(
    scripted_server, store, workers_model, tmp_path, invariants, monkeypatch
):
    lost = tmp_path / "deaths"
    lost.touch()
    server = scripted_server(
        rules=(Rule("poison", {"summary": "deadly"}), Rule(".", {"summary": "all is well"}))
    )
    at = workers_model(server, max_concurrency=1)
    monkeypatch.setenv("APWA_TEST_DEATHS", str(lost))
    with (
        dask.config.set({"distributed.deploy.lost-worker-timeout": "10 minutes"}),
        LocalCluster(
            n_workers=2, threads_per_worker=2, processes=True, dashboard_address=None, preload=[PRELOAD]
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        run = grouped(2).run(model=at, store=store, client=client, progress=False).wait(timeout=120)

    deaths = len(lost.read_text().splitlines())
    assert 1 < deaths <= 3 + math.log2(GROUPS)
    assert server.calls == GROUPS
    failures = run.failures
    assert failures["outcome"].tolist() == ["poison"]
    assert failures["inputs"].tolist() == [f"team=g{DEADLY}"]
    assert failures["attempts"].tolist() == [deaths]
    assert f"{deaths} processes were lost" in failures["message"].iloc[0]
    invariants.i1_every_row_has_one_status(run, GROUPS)
    result = run.result(status=True).set_index("team")
    assert result["_apwa_status"].to_dict() == {
        f"g{k}": "poison" if k == DEADLY else "ok" for k in range(GROUPS)
    }
    assert result["summary"].notna().sum() == GROUPS - 1


@pytest.mark.parametrize("how", ["retire_workers", "SIGTERM"])
def test_fault_35_a_worker_that_leaves_amid_the_groups_costs_nothing(
    processes, scripted_server, store, workers_model, tmp_path, how
):
    server = scripted_server(latency_s=2.0)  # whoever leaves has calls in flight, and waits for them
    with processes.Cluster(tmp_path) as cluster, cluster.client() as client:
        cluster.ready(client, 2)
        run = grouped(1).run(
            model=workers_model(server, max_concurrency=4), store=store, client=client, progress=False
        )
        server.wait_until(lambda stats: stats.calls >= GROUPS // 2)
        cluster.busy_one_leaves(client, how)
        run.wait(timeout=120)

    assert server.calls == GROUPS
    assert run.result()["summary"].notna().sum() == GROUPS
