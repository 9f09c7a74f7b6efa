"""Adaptive scaling: workers are added and retired in the middle of a run, and nothing is paid twice."""

from __future__ import annotations

import contextlib
import io
import time

import dask.dataframe as dd
import pandas as pd
import pytest
from distributed import Client, LocalCluster

import apwa_dask as apwa

pytestmark = pytest.mark.slow
SIZES = (160, 8, 8, 8)
"""One long partition: the workers of the others have nothing more to do, and are taken away while it goes on."""


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-only-for-loopback")


def part(number: int) -> pd.DataFrame:
    return pd.DataFrame({"text": [f"part {number} row {k}" for k in range(SIZES[number])]})


def test_a_run_goes_on_while_workers_are_added_and_retired_and_pays_once(scripted_server, store):
    server = scripted_server(latency_s=0.6)
    model = apwa.Model("m", base_url=server.base_url, max_concurrency=4)
    frame = dd.concat([dd.from_pandas(part(number), npartitions=1) for number in range(len(SIZES))])
    table = apwa.from_dask(frame).map("x", inputs="text", output={"a": int})
    with (
        LocalCluster(n_workers=0, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        adaptive = cluster.adapt(minimum=0, maximum=3, interval="100ms", wait_count=2, target_duration="1s")
        run = table.run(model=model, store=store, client=client, progress=False)
        end_s = time.monotonic() + 120
        while not any(told["status"] == "down" for _, told in adaptive.log) and time.monotonic() < end_s:
            time.sleep(0.05)
        server.set(server.script.but(latency_s=0.05))  # what was waited for has been seen
        result = run.result()
        ended_s = time.time()
        changes = [(when, told["status"]) for when, told in adaptive.log]

    assert len(result) == sum(SIZES)
    assert result["a"].notna().all()
    assert server.calls == server.log().distinct_texts == sum(SIZES)
    assert "up" in {status for _, status in changes}, changes
    assert [when for when, status in changes if status == "down" and when < ended_s], (
        "retired while the run went on"
    )


def test_the_block_of_the_page_runs(page, folder, scripted_server, monkeypatch):
    monkeypatch.chdir(folder)
    server = scripted_server()
    for name, value in {"OPENAI_BASE_URL": server.base_url, "APWA_STORE": str(folder / "store"),
                        "DASK_APWA__PROGRESS": "silent"}.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    code = page("workers.md").blocks("python")[0]
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(code, {"__name__": "__main__"})
    assert said.getvalue() == "24 rows\n"
    assert server.calls == 24
