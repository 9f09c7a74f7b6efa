"""One client in a process of its own: ``python client.py JOB.json OUT CLIENT``."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import dask.dataframe  # noqa: E402, F401 - before the clock, as for everyone
import pandas as pd  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402

from benchmarks.apwa.jobs import Job, Told, Workload  # noqa: E402
from benchmarks.apwa.workloads import WORKLOADS  # noqa: E402
from benchmarks.clients._measured import Measured  # noqa: E402

__all__ = ["CLIENTS", "ENGINES", "write_answers"]

_ANSWERS = pa.schema([("key", pa.string()), ("answer", pa.string())])
_BATCH_ROWS = 10_000

Client = Callable[[Measured, Job, Workload], None]


def write_answers(told: Told, folder: Path) -> None:
    """Put answers into ``result.parquet``, a batch at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(folder / "result.parquet", _ANSWERS) as writer:
        rows: list[dict[str, str | None]] = []
        for key, answer in told:
            rows.append({"key": key, "answer": None if answer is None else json.dumps(answer)})
            if len(rows) == _BATCH_ROWS:
                writer.write_table(pa.Table.from_pylist(rows, schema=_ANSWERS))
                rows = []
        writer.write_table(pa.Table.from_pylist(rows, schema=_ANSWERS))


def engine(clock: Measured, job: Job, workload: Workload, where: Mapping[str, Any] | None = None) -> None:
    """The engine, with journal, ledger, checked answers and committed parts."""
    for name in (
        "aiohttp",
        "jsonschema",
        "uvloop",
        "apwa_dask.execution.partition",
        "apwa_dask.models.client",
    ):
        importlib.import_module(name)
    where = {"scheduler": "threads"} if where is None else where
    with clock:
        write_answers(workload.run(job, where, str(clock.out / "store")), clock.out)


def engine_on_dask(clock: Measured, job: Job, workload: Workload) -> None:
    """The same on the worker processes of a cluster."""
    with _cluster(threads=4) as client:
        engine(clock, job, workload, {"client": client})


def one_agent(clock: Measured, job: Job, workload: Workload) -> None:
    """See `conversations.one_agent`."""
    from benchmarks.apwa import conversations

    with clock:
        attempt = conversations.one_agent(job, workload, workload.items(clock.folder))
        _keep(clock, attempt)


def one_chat(clock: Measured, job: Job, workload: Workload, *, forgets: bool = False) -> None:
    """See `conversations.one_chat`."""
    from benchmarks.apwa import conversations

    with clock:
        attempt = conversations.one_chat(job, workload, workload.items(clock.folder), forgets=forgets)
        _keep(clock, attempt)


def forgetting_chat(clock: Measured, job: Job, workload: Workload) -> None:
    """A chat that drops older turns when it is full."""
    one_chat(clock, job, workload, forgets=True)


def naive_dask(clock: Measured, job: Job, workload: Workload) -> None:
    """See `naive.naive_dask`; its cluster is up before the clock starts."""
    from benchmarks.apwa import naive

    with _cluster(threads=1) as client:
        client.run(_at_home)
        client.run(importlib.import_module, "benchmarks.apwa.naive")
        with clock:
            items = pd.DataFrame([(each.key, each.text) for each in workload.items(clock.folder)])
            items.columns = pd.Index(["key", "text"])
            _keep(clock, naive.naive_dask(job, workload, items))


CLIENTS: Mapping[str, Client] = {
    "engine": engine,
    "engine on Dask": engine_on_dask,
    "one agent": one_agent,
    "one chat": one_chat,
    "one chat that forgets": forgetting_chat,
    "naive Dask": naive_dask,
}
ENGINES = ("engine", "engine on Dask")


def _keep(clock: Measured, attempt: Any) -> None:
    write_answers(attempt.answers.items(), clock.out)
    clock.said |= {
        "items_sent": attempt.items_sent,
        "cached_tokens": attempt.cached_tokens,
        "ending": attempt.ending,
    }


def _at_home() -> None:
    """On a worker: find the benchmark's modules."""
    sys.path.insert(0, str(ROOT))


@contextmanager
def _cluster(threads: int) -> Iterator[Any]:
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=2, threads_per_worker=threads, processes=True, dashboard_address=None
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def main() -> None:
    """Do one job with the client that the third word names."""
    os.environ["OPENAI_API_KEY"] = "benchmark"
    clock = Measured()
    job = Job(**clock.job)
    CLIENTS[sys.argv[3]](clock, job, WORKLOADS[job.workload])
    clock.report()


if __name__ == "__main__":
    main()
