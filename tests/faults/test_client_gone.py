"""Clients that die, freeze, are interrupted, or run inside a loop of their own: faults 38, 39 and 47."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pandas as pd
import pytest

import apwa_dask as apwa
from apwa_dask.testing import Fault

pytestmark = pytest.mark.slow

ROWS, PARTS, CONCURRENCY = 240, 6, 8
SOON_S = 5.0
"""A second, on a machine that does nothing else."""
WATCHFUL = str(Path(__file__).with_name("watch_clients_closely.py"))


@pytest.fixture(scope="module")
def cluster(processes, tmp_path_factory):
    with processes.Cluster(tmp_path_factory.mktemp("clients"), preload=WATCHFUL) as made:
        made.add_worker()
        yield made


@pytest.fixture
def client(cluster):
    with cluster.client() as made:
        cluster.ready(made, 1)
        yield made


@pytest.fixture(scope="module")
def whole(processes, tmp_path_factory) -> pd.DataFrame:
    from apwa_dask.testing import ScriptedServer

    with ScriptedServer() as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("APWA_TEST_KEY", processes.KEY)
        model = apwa.Model("test-model", base_url=server.base_url, api_key_env="APWA_TEST_KEY")
        table = processes.mapped(ROWS, PARTS)
        store = str(tmp_path_factory.mktemp("whole"))
        return table.run(model=model, store=store, scheduler="threads", progress=False).result(status=True)


@pytest.fixture(autouse=True)
def _key(processes, monkeypatch):
    monkeypatch.setenv("APWA_TEST_KEY", processes.KEY)


def options(server, store: str, **more) -> dict:
    return {"url": server.base_url, "store": store, "rows": ROWS, "npartitions": PARTS, **more}


def resumed(
    processes, invariants, run_id, store, server, whole, *, lost: int, where: dict, left: list
) -> None:
    """The run goes on in this process, and holds I1 to I7."""
    run = apwa.attach(run_id, store, progress=False, **where).resume()
    run.wait(timeout=120)
    invariants.hold(
        run,
        server,
        processes.frame(ROWS),
        paid_again=lost,
        interrupted=True,
        canary=processes.KEY,
        left_behind=left,
        uninterrupted=whole,
    )


@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_fault_38_a_client_that_is_gone_stops_the_spending_of_its_runs(
    processes, cluster, client, scripted_server, store, tmp_path, invariants, whole, how
):
    server = scripted_server(
        latency_s=0.8
    )  # the whole run would take a multiple of the client's time to live
    given = options(server, store, cluster=cluster.address, concurrency=4)
    with processes.program("whole", tmp_path, **given) as program:
        run_id = program.line("RUN")
        server.wait_until(lambda stats: stats.calls >= 10)
        gone_s = time.monotonic()
        program.kill() if how == "killed" else program.freeze()

        # nobody works any more: then no call can follow
        processes.until(lambda: not any(client.run(_at_work).values()), "the workers to stop")
        server.wait_until(lambda stats: stats.in_flight == 0)
        after = [call for call in server.log() if call.t_start > gone_s + 30]
        stopped_at = server.calls
        assert after == []
        assert stopped_at < ROWS
        if how == "frozen":
            program.thaw()
            program.ended()

    gone = apwa.attach(run_id, store, progress=False)
    # the worker lived, and has flushed all that was answered
    processes.until(lambda: processes.at_risk(gone, server) == 0, "all answers in the journal")
    where = {"client": client}
    server.set(server.script.but(latency_s=0.0))
    left = [*cluster.logs, program.output]
    resumed(processes, invariants, run_id, store, server, whole, lost=0, where=where, left=left)
    assert server.calls == ROWS


def _at_work() -> bool:
    """Runs on each worker."""
    from apwa_dask.execution.runtime import runtime

    return runtime().neighbours.busy


def test_fault_39_ctrl_c_stops_dispatch_within_a_second_and_leaves_a_run_to_resume(
    processes, scripted_server, store, tmp_path, invariants, whole
):
    server = scripted_server(latency_s=0.5)
    with processes.program("interrupted", tmp_path, **options(server, store)) as program:
        run_id = program.line("RUN")
        server.wait_until(lambda stats: stats.calls >= 40)
        asked_s = time.monotonic()
        program.signal(signal.SIGINT)
        assert program.line("STATUS") == "stopped"
        assert program.ended() == 0

    late = [call for call in server.log() if call.t_start > asked_s + SOON_S]
    assert late == []
    assert server.calls < ROWS
    server.set(server.script.but(latency_s=0.0))
    where = {"scheduler": "threads"}
    left = [program.output]
    resumed(processes, invariants, run_id, store, server, whole, lost=0, where=where, left=left)
    assert server.calls == ROWS


def test_fault_39_the_second_ctrl_c_hangs_up_on_calls_that_nobody_answers(
    processes, scripted_server, store, tmp_path, invariants, whole
):
    server = scripted_server(faults=(Fault("hang"),))
    with processes.program("interrupted", tmp_path, **options(server, store)) as program:
        run_id = program.line("RUN")
        server.wait_until(lambda stats: stats.in_flight >= 1)
        program.signal(signal.SIGINT)
        program.line("WORDS stopping")
        assert program.is_alive  # it drains: the calls may be billed
        program.signal(signal.SIGINT)
        program.ended(timeout_s=30)

    server.wait_until(lambda stats: stats.in_flight == 0)
    assert server.calls <= CONCURRENCY
    hung = server.calls
    server.set(server.script.but(faults=()))
    run = apwa.attach(run_id, store, progress=False, scheduler="threads").resume().wait(timeout=60)
    assert run.status()["status"] == "done", run.folder.history()
    assert server.calls == hung + ROWS
    pd.testing.assert_frame_equal(run.result(status=True), whole)


CELL = """
import asyncio
import pandas as pd
import apwa_dask as apwa

asyncio.get_running_loop()  # of the kernel itself
table = apwa.from_pandas(pd.DataFrame({"text": [f"note {k}" for k in range(40)]}), npartitions=4)
table = table.map("How severe?", inputs="text", output={"severity": int})
model = apwa.Model("test-model", base_url=URL, api_key_env="APWA_TEST_KEY")
options = {"model": model, "store": STORE, "progress": False}
blocking = table.run(**options).result()["severity"].tolist()
awaited = (await table.run(**options)).result()["severity"].tolist()
frame = table.to_dask(model=model, store=STORE)
lazy = frame.compute()["severity"].tolist()

def in_a_loop_of_its_own():
    async def inside():
        return table.run(**options).result()["severity"].tolist()

    return [asyncio.run(inside()), asyncio.run(inside())]  # a loop that is made again

in_threads = await asyncio.to_thread(in_a_loop_of_its_own)
print(blocking == awaited == lazy == in_threads[0] == in_threads[1], len(blocking))
print("nest_asyncio" in __import__("sys").modules)
"""


def test_fault_47_a_running_loop_is_no_obstacle_and_nothing_is_paid_twice(
    processes, scripted_server, store, monkeypatch
):
    manager = pytest.importorskip(
        "jupyter_client.manager", reason="the notebook's packages are not installed"
    )
    monkeypatch.setenv("PYTHONPATH", processes.ROOT)
    server = scripted_server()
    said: list[str] = []

    def collect(message: dict) -> None:
        content = message["content"]
        said.append(content.get("text", "") or "\n".join(content.get("traceback", ())))

    kernels, kernel = manager.start_new_kernel(kernel_name="python3")
    try:
        code = f"URL, STORE = {server.base_url!r}, {store!r}\n{CELL}"
        done = kernel.execute_interactive(code, timeout=120, output_hook=collect)
    finally:
        kernel.stop_channels()
        kernels.shutdown_kernel(now=True)
    assert done["content"]["status"] == "ok", said
    assert "".join(said).split() == ["True", "40", "False"]
    assert server.calls == 40
