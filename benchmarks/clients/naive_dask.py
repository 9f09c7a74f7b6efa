"""What users write on Dask: `map_partitions` with the official client, one blocking call a row.

Generous to it: two processes with threads and partitions for all the calls in flight that the job allows (the
default would be one thread a core), and a cluster that is up before the clock starts.
"""

from __future__ import annotations

import json
from typing import Any

import dask.dataframe as dd
import pandas as pd
from _measured import Measured
from distributed import Client, LocalCluster
from openai import OpenAI


def labelled(part: pd.DataFrame, job: dict[str, Any]) -> pd.DataFrame:
    constant = dict(job["body"])
    messages = constant.pop("messages")
    made = []
    with OpenAI(base_url=job["base_url"], api_key="benchmark") as client:
        for prompt in part["prompt"]:
            completion = client.chat.completions.create(
                messages=[*messages, {"role": "user", "content": prompt}], **constant
            )
            made.append(json.loads(completion.choices[0].message.content or ""))
    answers = pd.DataFrame(made, index=part.index, columns=["topic", "severity"])
    return pd.concat([part[["id"]], answers], axis=1)


def main(clock: Measured) -> None:
    concurrency = clock.job["concurrency"]
    with (
        LocalCluster(
            n_workers=2,
            threads_per_worker=max(1, concurrency // 2),
            processes=True,
            dashboard_address=None,
        ) as cluster,
        Client(cluster) as client,
    ):
        client.run(__import__, "openai")
        with clock:
            prompts = pd.read_parquet(clock.folder / "prompts.parquet")
            frame = dd.from_pandas(prompts, npartitions=min(concurrency, len(prompts)))
            meta = {"id": "int64", "topic": "object", "severity": "int64"}
            result = frame.map_partitions(labelled, clock.job, meta=meta).compute()
            clock.out.mkdir(parents=True)
            result.to_parquet(clock.out / "result.parquet", index=False)
    clock.report()


if __name__ == "__main__":
    main(Measured())
