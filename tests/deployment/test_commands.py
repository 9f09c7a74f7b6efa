"""The other lines that the deployment pages print: a plain cluster, a worker with a lifetime, doctor, the settings."""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from distributed import Client, PipInstall

import apwa_dask as apwa
from apwa_dask import config

pytestmark = pytest.mark.slow
ROWS = 320


@pytest.fixture(scope="module")
def plain(page, folder, processes):
    """The scheduler and the worker of the first page."""
    shown = page("index.md")
    (scheduler_command,) = shown.commands("dask scheduler")
    (worker_command,) = shown.commands("dask worker")
    with contextlib.ExitStack() as stack:

        def start(command: list[str], name: str) -> Any:
            assert command[0] == "dask"
            return stack.enter_context(
                processes.Child(["-m", *command], folder / f"{name}.log", None, folder)
            )

        start(scheduler_command, "plain-scheduler")
        worker = start(worker_command, "plain-worker")
        address = shown.address.replace("tls", "tcp")
        with Client(address, timeout=60, set_as_default=False) as client:
            client.wait_for_workers(1, timeout=60)
            yield SimpleNamespace(page=shown, client=client, address=address, start=start, worker=worker)


def test_doctor_finds_the_cluster_of_the_page(plain, tmp_path):
    (command,) = plain.page.commands("apwa doctor")
    done = subprocess.run(
        [sys.executable, "-m", "apwa_dask.cli", *command[1:], "--json", "--store", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(Path(apwa.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert checks["cluster"]["detail"] == f"1 worker at {plain.address}"


def test_a_worker_whose_lifetime_ends_in_the_middle_of_a_run_costs_nothing(
    plain, page, mapped, scripted_server, processes, store, monkeypatch
):
    """The line of the page for spot machines, with seconds for minutes."""
    monkeypatch.setenv("OPENAI_API_KEY", processes.KEY)
    (command,) = page("workers.md").commands("dask worker")
    given = {"55m": "10s", "5m": "1s", command[2]: plain.address}
    command = [given.get(argument, argument) for argument in command]
    assert {"10s", "1s", plain.address} <= set(command)
    server = scripted_server(latency_s=0.6)
    model = apwa.Model("m", base_url=server.base_url, max_concurrency=4)
    run = mapped(ROWS, 32).run(model=model, store=store, client=plain.client, progress=False)
    server.wait_until(lambda stats: stats.calls >= 2)

    leaving = plain.start(command, "spot")
    processes.until(lambda: sum(map(bool, plain.client.processing().values())) == 2, "both have work")
    assert leaving.ended(120) == 0
    left_at = server.calls
    server.set(server.script.but(latency_s=0.0))
    result = run.result()

    assert left_at < ROWS, "it left in the middle"
    assert len(result) == ROWS
    assert result["severity"].notna().all()
    assert server.calls == ROWS


def test_the_page_retires_workers_in_order(plain, page, processes):
    names: dict[str, Any] = {}
    (code,) = [block for block in page("workers.md").blocks("python") if "def retire" in block]
    exec(code, names)
    plain.start(["dask", "worker", plain.address, "--no-nanny", "--no-dashboard"], "retired")
    plain.client.wait_for_workers(2, timeout=60)
    leaving = names["retire"](plain.client, 1)
    assert len(leaving) == 1
    processes.until(lambda: leaving[0] not in plain.client.scheduler_info(n_workers=-1)["workers"], "it left")


def test_the_page_shows_the_whole_configuration_file_with_its_defaults(page):
    (shown,) = page("environment.md").blocks("yaml")
    assert yaml.safe_load(shown) == {"apwa": dict(config.defaults())}


def test_the_plugin_of_the_page_takes_its_arguments(page):
    (code,) = page("environment.md").blocks("python")
    assert f'packages=["apwa-dask=={apwa.__version__}"], restart_workers=True' in code
    assert {"packages", "restart_workers"} <= set(inspect.signature(PipInstall).parameters)
