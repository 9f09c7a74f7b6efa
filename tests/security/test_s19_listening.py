"""S19: what the package serves listens on loopback unless told otherwise, and task keys hold no text of users."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
from distributed import Client, LocalCluster, SchedulerPlugin

import apwa_dask as apwa
from apwa_dask.testing import ScriptedServer

pytestmark = pytest.mark.slow
ROOT = str(Path(apwa.__file__).parents[1])
SECRETS = (
    "CANARY-of-a-cell",
    "CANARY-of-a-column",
    "CANARY-of-an-instruction",
    "CANARY-of-a-name",
    "CANARY-file",
)

PROGRAM = """
import json, os, psutil, sys
import pandas as pd
import apwa_dask as apwa
from distributed import Client, LocalCluster

def listening():
    me = psutil.Process()
    family = [me, *me.children(recursive=True)]
    return sorted({c.laddr.ip for p in family for c in p.net_connections("inet") if c.status == psutil.CONN_LISTEN})

seen = {"import": listening()}
run = apwa.from_pandas(pd.DataFrame({"text": ["a"]})).map("x", inputs="text", output={"a": int}).run(
    model=apwa.Model("m", base_url=sys.argv[1]), store=sys.argv[2], progress=False).wait()
seen["run"] = listening()
with run.dashboard():
    seen["dashboard"] = listening()
from apwa_dask.cli.options import Place
from apwa_dask.cli.place import place_of
if __name__ == "__main__":
    with place_of(Place(scheduler=None, workers=1, client=None)) as where:
        where["client"].wait_for_workers(1)
        seen["cluster of the command line"] = listening()
    print(json.dumps(seen))
"""


def test_s19_nothing_listens_but_where_asked_and_then_on_loopback_only(scripted_server, tmp_path, canary_key):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, scripted_server().base_url, str(tmp_path / "store")],
        cwd=tmp_path, capture_output=True, text=True, timeout=200,
        env={**os.environ, "PYTHONPATH": ROOT, "OPENAI_API_KEY": canary_key},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "import": [],
        "run": [],
        "dashboard": ["127.0.0.1"],
        "cluster of the command line": ["127.0.0.1"],
    }


def test_s19_the_dashboard_command_serves_this_machine_only(scripted_server, model_at, store, canary_key):
    table = apwa.from_pandas(pd.DataFrame({"text": ["a"]})).map("x", inputs="text", output={"a": int})
    table.run(model=model_at(scripted_server()), store=store, progress=False).wait()
    process = subprocess.Popen(
        [sys.executable, "-m", "apwa_dask.cli", "dashboard", "--json", "--store", store],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env={**os.environ, "PYTHONPATH": ROOT},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        said = ""
        while not said.rstrip().endswith("}"):
            line = process.stdout.readline()
            assert line, "it ended"
            said += line
        assert json.loads(said)["url"].startswith("http://127.0.0.1:")
        listening = {
            connection.laddr.ip
            for connection in psutil.Process(process.pid).net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        }
        assert listening == {"127.0.0.1"}
    finally:
        process.terminate()
        process.wait(60)


class Keys(SchedulerPlugin):
    """Every name that the scheduler ever had for a task, and all that stands beside it on its pages."""

    name = "keys-of-the-test"

    def __init__(self) -> None:
        self.seen: set[str] = set()

    def update_graph(self, scheduler: Any, *, keys: Any, annotations: Any, **_more: Any) -> None:
        self.seen |= {str(key) for key in keys} | {str(annotations)}

    def transition(self, key: Any, *_states: Any, **_more: Any) -> None:
        self.seen.add(str(key))


@pytest.mark.parametrize("lazily", [False, True], ids=["run", "lazy frame"])
def test_s19_task_keys_hold_no_text_of_users(tmp_path, model_at, store, lazily, canary_key):
    cell, column, instruction, name, file = SECRETS
    frame = pd.DataFrame({column: [f"{cell} {k}" for k in range(12)], "shop": ["a", "b"] * 6})
    (tmp_path / "in").mkdir()
    for part in range(2):
        frame.iloc[part * 6 : part * 6 + 6].to_parquet(tmp_path / "in" / f"{file}-{part}.parquet")
    inside = {"n_workers": 1, "threads_per_worker": 2, "processes": False, "dashboard_address": None}
    with ScriptedServer() as server, LocalCluster(**inside) as cluster, Client(cluster) as client:
        keys = Keys()
        cluster.scheduler.add_plugin(keys)
        table = (
            apwa.read(str(tmp_path / "in" / "*.parquet"))
            .where("shop = 'a'")
            .map(instruction, inputs=column, output={"a": int})
            .reduce(instruction, inputs=column, by="shop", output={"b": str})
        )
        options: dict[str, Any] = {"model": model_at(server), "store": store, "client": client}
        if lazily:
            rows = client.compute(table.to_dask(**options)).result()
        else:
            rows = table.run(name=name, progress=False, **options).result()
        assert len(rows) == 1
        assert len(keys.seen) > 5
        groups = str(list(cluster.scheduler.task_prefixes)) + str(list(cluster.scheduler.task_groups))
    shown = [*sorted(keys.seen), groups]
    assert [text for text in shown if any(secret in text for secret in (*SECRETS, canary_key))] == []
