"""Faults 35 and 40 where a prompt is a comparison of a ranking: who leaves pays nothing twice, one that kills is found.

A ranking's questions are in no partition, and later ones depend on earlier answers, so what holds for rows and for
groups is shown anew.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from pathlib import Path

import dask
import pandas as pd
import pytest
from distributed import Client, LocalCluster

import apwa_dask as apwa
from apwa_dask.testing import Script

pytestmark = pytest.mark.slow

ROWS, WIDTH, BEST = 24, 4, 2
FIRST_ROUND = ROWS // WIDTH
PRELOAD = str(Path(__file__).with_name("deadly_answers.py"))
DEADLY = 7
"""The number of the row that no comparison can be read with."""


def ranked(npartitions: int, k: int = BEST) -> apwa.Table:
    frame = pd.DataFrame({"text": [f"n={n}" for n in range(ROWS)], "n": range(ROWS)})
    table = apwa.from_pandas(frame, npartitions=npartitions)
    return table.rank("The largest number.", inputs="text", k=k, width=WIDTH, id="top")


def numbers_of(text):
    return [int(found) for found in re.findall(r"n=(\d+)", text)]


def largest(request):
    """The right answer; one that ends its reader where the deadly row is among the candidates."""
    numbers = numbers_of(request.text)
    answer = {"best": numbers.index(max(numbers)) + 1}
    return {**answer, "note": "deadly"} if DEADLY in numbers else answer


def harmless(request):
    numbers = numbers_of(request.text)
    return {"best": numbers.index(max(numbers)) + 1}


def test_fault_40_a_comparison_that_kills_is_a_dead_letter_and_the_others_are_paid_once(
    scripted_server, store, workers_model, tmp_path, monkeypatch
):
    lost = tmp_path / "deaths"
    lost.touch()
    server = scripted_server(Script(respond=largest), in_process=True)
    at = workers_model(server, max_concurrency=1)
    monkeypatch.setenv("APWA_TEST_DEATHS", str(lost))
    with (
        dask.config.set({"distributed.deploy.lost-worker-timeout": "10 minutes"}),
        LocalCluster(
            n_workers=2, threads_per_worker=2, processes=True, dashboard_address=None, preload=[PRELOAD]
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        run = ranked(2).run(model=at, store=store, client=client, progress=False).wait(timeout=120)

    asked = Counter(tuple(numbers_of(call.text)) for call in server.log())
    assert set(asked.values()) == {1}, "no comparison is paid twice, whoever died"
    deadly = [numbers for numbers in asked if DEADLY in numbers]
    deaths = len(lost.read_text().splitlines())
    assert 1 < deaths <= len(deadly) * (3 + math.log2(FIRST_ROUND))
    failures = run.failures
    assert failures["outcome"].tolist() == ["poison"] * len(deadly)
    assert failures["attempts"].sum() == deaths
    assert all("processes were lost" in message for message in failures["message"])
    result = run.result(status=True)
    assert result["rank"].tolist() == list(range(1, BEST + 1))
    untouched = set(range(ROWS)) - {number for numbers in deadly for number in numbers}
    found = [number for number in result["n"].tolist() if number in untouched]
    assert found == sorted(untouched, reverse=True)[: len(found)], "those that met no poison are ranked right"


@pytest.mark.parametrize("how", ["retire_workers", "SIGTERM"])
def test_fault_35_a_worker_that_leaves_amid_the_comparisons_costs_nothing(
    processes, scripted_server, store, workers_model, tmp_path, how
):
    server = scripted_server(Script(respond=harmless, latency_s=0.3), in_process=True)
    with processes.Cluster(tmp_path) as cluster, cluster.client() as client:
        cluster.ready(client, 2)
        run = ranked(1).run(
            model=workers_model(server, max_concurrency=2), store=store, client=client, progress=False
        )
        server.wait_until(lambda stats: stats.calls >= FIRST_ROUND // 2)
        cluster.busy_one_leaves(client, how)
        run.wait(timeout=120)

    assert run.result()["n"].tolist() == [ROWS - 1, ROWS - 2]
    asked = Counter(tuple(numbers_of(call.text)) for call in server.log())
    assert set(asked.values()) == {1}
    assert len(run.failures) == 0
