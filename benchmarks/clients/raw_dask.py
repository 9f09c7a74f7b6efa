"""The floor on Dask: raw aiohttp in one partition of each of two workers, on a cluster that is up before the clock.

What Dask itself costs (scheduler, nannies, heartbeats) is on this client's bill as it is on the engine's.
"""

from __future__ import annotations

import asyncio
from typing import Any

import dask.dataframe as dd
import pandas as pd
from _measured import Measured
from distributed import Client, LocalCluster

WORKERS, THREADS = 2, 4


def labelled(part: pd.DataFrame, job: dict[str, Any], folder: str) -> pd.DataFrame:
    import sys

    if folder not in sys.path:
        sys.path.insert(0, folder)
    from raw_aiohttp import answers

    made = asyncio.run(answers(job, part["prompt"].tolist()))
    rows = [answer or {} for answer in made]
    found = pd.DataFrame(rows, index=part.index, columns=["topic", "severity"])
    return pd.concat([part[["id"]], found], axis=1)


def main(clock: Measured) -> None:
    folder = __file__.rpartition("/")[0]
    share = {**clock.job, "concurrency": max(1, clock.job["concurrency"] // WORKERS)}
    with (
        LocalCluster(
            n_workers=WORKERS, threads_per_worker=THREADS, processes=True, dashboard_address=None
        ) as cluster,
        Client(cluster) as client,
    ):
        client.run(__import__, "aiohttp")
        client.run(__import__, "orjson")
        with clock:
            prompts = pd.read_parquet(clock.folder / "prompts.parquet")
            frame = dd.from_pandas(prompts, npartitions=WORKERS)
            meta = {"id": "int64", "topic": "object", "severity": "int64"}
            result = frame.map_partitions(labelled, share, folder, meta=meta).compute()
            clock.out.mkdir(parents=True)
            result.to_parquet(clock.out / "result.parquet", index=False)
    clock.report()


if __name__ == "__main__":
    main(Measured())
