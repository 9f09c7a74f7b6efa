"""Fault 40: rows that end the process which works on them are found, put aside, and cost few processes."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

import cloudpickle
import dask
import pandas as pd
import pytest
from distributed import Client, LocalCluster

import apwa_dask as apwa
from apwa_dask.agents import capabilities
from apwa_dask.execution.bisect import course_of
from apwa_dask.testing import Rule

SCRIPT = (
    Rule("note", {"tool_calls": [{"name": "look", "arguments": {"word": "harmless"}}]}, turn=0),
    Rule("deadly", {"tool_calls": [{"name": "look", "arguments": {"word": "poison"}}]}, turn=0),
    Rule(".", {"severity": 3}),
)


def poisoned(processes, rows: int, deadly: int) -> pd.DataFrame:
    frame = processes.frame(rows)
    frame.iloc[deadly, 0] = "deadly row"
    return frame


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 16, 17, 64, 100, 255, 256, 1000, 4097])
def test_fault_40_a_row_is_found_within_three_and_the_logarithm_of_its_partition(rows):
    for deadly in {0, rows // 3, rows // 2, rows - 1}:
        deaths: list = [None, None]  # among others, before anybody was suspected
        while deadly not in (course := course_of(rows, deaths)).condemned:
            assert course.condemned == ()
            assert [row for span in course.spans for row in range(*span)] == list(range(rows))
            deaths.append(next(span for span in course.spans if deadly in range(*span)))
        assert course.condemned == (deadly,)
        assert len(deaths) <= 3 + math.log2(rows)


def test_fault_40_two_rows_of_one_partition_are_both_found():
    deaths: list = [None, None]
    while (course := course_of(64, deaths)).condemned != (5, 50):
        alive = [span for span in course.spans if span[0] not in course.condemned]
        deaths.append(next(span for span in alive if {5, 50} & set(range(*span))))
    assert len(deaths) <= 2 * (3 + math.log2(64))


def test_fault_40_a_death_or_two_condemn_nobody():
    assert course_of(64, []) is None
    assert course_of(64, [None]) is None
    assert course_of(64, [None] * 9).condemned == ()
    assert course_of(64, [None, None, (0, 64)], separable=False).condemned == ()
    assert course_of(64, [None, None, (0, 64), (0, 64)], separable=False).condemned == tuple(range(64))


@pytest.mark.slow
@pytest.mark.parametrize("death", ["segfault"])
def test_fault_40_on_a_cluster_the_rest_is_done_and_the_row_is_a_dead_letter(
    processes, scripted_server, store, tmp_path, invariants, monkeypatch, death
):
    monkeypatch.setenv("APWA_TEST_KEY", processes.KEY)
    monkeypatch.setattr(capabilities, "_registry", dict(capabilities._registry))
    lost = tmp_path / "deaths"
    lost.touch()
    _register_killer(str(lost), death)
    rows, parts, deadly = 48, 3, 21
    frame = poisoned(processes, rows, deadly)
    table = apwa.from_pandas(frame, npartitions=parts)
    table = table.map("Rate it.", inputs="text", output={"severity": int}, tools=["look"], id="ask")
    server = scripted_server(rules=SCRIPT, answers="fail")
    model = apwa.Model("test-model", base_url=server.base_url, api_key_env="APWA_TEST_KEY")
    with (
        # a local cluster gives up workers that are not back after 15 s, and looks once
        dask.config.set({"distributed.deploy.lost-worker-timeout": "10 minutes"}),
        LocalCluster(n_workers=2, threads_per_worker=2, processes=True, dashboard_address=None) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        run = table.run(model=model, store=store, client=client, progress=False).wait(timeout=200)

    deaths = len(lost.read_text().splitlines())
    assert deaths <= 3 + math.log2(rows / parts)
    failures = run.failures
    assert failures["outcome"].tolist() == ["poison"]
    assert failures["row_id"].tolist() == [failures["row_id"].iloc[0]]
    assert "deadly" in failures["inputs"].iloc[0]
    assert failures["attempts"].iloc[0] == deaths
    result = run.result(status=True)
    invariants.i1_every_row_has_one_status(run, rows)
    invariants.i2_order_and_index_are_the_inputs(result, frame)
    assert result["_apwa_status"].tolist() == ["poison" if k == deadly else "ok" for k in range(rows)]
    assert result["severity"].notna().sum() == rows - 1


@pytest.mark.slow
def test_fault_40_without_a_cluster_each_resume_comes_nearer_until_the_row_is_found(
    processes, scripted_server, store, tmp_path, invariants
):
    rows, parts = 16, 2
    server = scripted_server(rules=(Rule(r"note 9\b", SCRIPT[1].answer, turn=0), SCRIPT[0], SCRIPT[2]))
    lost = tmp_path / "deaths"
    lost.touch()
    options = {
        "url": server.base_url,
        "store": store,
        "rows": rows,
        "npartitions": parts,
        "deaths": str(lost),
    }
    with processes.program("poisoned", tmp_path, **options) as program:
        run_id = program.line("RUN")
        code = program.ended()
    while code == 77:
        assert len(lost.read_text().splitlines()) <= 3 + math.log2(rows / parts)
        with processes.program("resume_poisoned", tmp_path, **options, run=run_id) as program:
            code = program.ended()
    assert code == 0, program.said

    run = apwa.attach(run_id, store, progress=False)
    assert run.failures["outcome"].tolist() == ["poison"]
    assert run.failures["inputs"].tolist() == ["text=note 9"]
    invariants.i1_every_row_has_one_status(run, rows)
    assert run.result()["severity"].notna().sum() == rows - 1


def _register_killer(deaths: str, how: str) -> None:
    """A tool as a notebook defines it: it is sent to the workers."""

    def look(word: str) -> str:
        """Look a word up."""
        import ctypes

        if word == "poison":
            with Path(deaths).open("a") as file:
                file.write(f"{os.getpid()}\n")
            ctypes.string_at(0) if how == "segfault" else os._exit(77)
        return f"found {word}"

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    apwa.capability(name="look")(look)
