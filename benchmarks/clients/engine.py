"""The engine as users call it: checked answers, journal, commits, ledger, run folder and all.

With the word ``dask``: on two worker processes of a cluster that is up before the clock starts.
"""

from __future__ import annotations

import importlib
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

# What the engine and Dask import on first use is imported before the clock, as it is for the other clients.
import aiohttp  # noqa: F401
import dask.dataframe  # noqa: F401
import distributed
import jsonschema  # noqa: F401
import uvloop  # noqa: F401
from _measured import Measured

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import apwa_dask as apwa
import apwa_dask.api
import apwa_dask.execution.plugin
import apwa_dask.execution.run
import apwa_dask.observe.keeping
import apwa_dask.observe.progress
import apwa_dask.store.local_folder
import apwa_dask.store.runs
import apwa_dask.tables.sources
from apwa_dask.models.model import Model
from benchmarks.workload import INSTRUCTION, MODEL, OUTPUT

WORKERS, THREADS = 2, 4


def warm() -> None:
    """On a worker: the imports that its first partition would make."""
    for name in (
        "aiohttp",
        "jsonschema",
        "uvloop",
        "apwa_dask.execution.partition",
        "apwa_dask.execution.plugin",
        "apwa_dask.models.client",
    ):
        importlib.import_module(name)


def main(clock: Measured, where: dict[str, Any]) -> None:
    with clock:
        job = clock.job
        model = Model(MODEL, base_url=job["base_url"], max_concurrency=job["concurrency"])
        table = apwa.read(str(clock.folder / "rows.parquet"))
        labelled = table.map(INSTRUCTION, inputs="text", output=OUTPUT, id="label")
        run = labelled.run(model=model, store=str(clock.out), progress=False, **where)
        run.wait()
    result = run.result(status=True)
    result[["id", "topic", "severity"]].to_parquet(clock.out / "result.parquet", index=False)
    clock.said["classes"] = result["_apwa_status"].value_counts().to_dict()


if __name__ == "__main__":
    os.environ["OPENAI_API_KEY"] = "benchmark"
    clock = Measured()
    with ExitStack() as stack:
        where: dict[str, Any] = {"scheduler": "threads"}
        if len(sys.argv) > 3:
            cluster = stack.enter_context(
                distributed.LocalCluster(
                    n_workers=WORKERS, threads_per_worker=THREADS, processes=True, dashboard_address=None
                )
            )
            client = stack.enter_context(distributed.Client(cluster))
            client.run(warm)
            where = {"client": client}
        main(clock, where)
    clock.report()
