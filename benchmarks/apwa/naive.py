"""What people write on Dask: `map_partitions`, `AsyncOpenAI` and `gather`; no journal, no common limit, no tree.

Each partition keeps its share of the calls in flight busy; the client's own two retries stay on; a row whose
call fails has no answer and takes no other with it. A summary of all is one more call about what the
partitions gave.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import dask.dataframe as dd
import pandas as pd
from openai import AsyncOpenAI, BadRequestError, OpenAI, OpenAIError

from benchmarks.apwa.conversations import Attempt, as_format, words_of
from benchmarks.apwa.jobs import MODEL, WHOLE, Job, Json, Workload
from benchmarks.apwa.workloads import WORKLOADS

__all__ = ["WORKERS", "naive_dask"]

WORKERS = 2
PARTITION_ROWS = 2_000


def naive_dask(job: Job, workload: Workload, items: pd.DataFrame) -> Attempt:
    """Answers from Dask's default scheduler: the cluster's, where there is one.

    Parameters
    ----------
    items : pandas.DataFrame
        Columns ``key`` and ``text``.
    """
    partitions = max(WORKERS, -(-len(items) // PARTITION_ROWS))
    meta = {"key": "object", "answer": "object"}
    frame = dd.from_pandas(items, npartitions=partitions, sort=False)
    done = frame.map_partitions(_answered, job, meta=meta).compute()
    attempt = Attempt(items_sent=len(items))
    attempt.answers = {
        key: None if pd.isna(answer) else json.loads(answer)
        for key, answer in zip(done["key"], done["answer"], strict=True)
    }
    if not workload.whole:
        return attempt
    parts = "\n\n".join(answer["summary"] for answer in attempt.answers.values() if answer is not None)
    attempt.answers = {}
    try:
        with OpenAI(base_url=job.base_url, api_key="benchmark") as client:
            asked = _body("Make one summary of these summaries.", parts, workload.schema(WHOLE))
            completion = client.chat.completions.create(**asked)
        attempt.answers = {WHOLE: json.loads(completion.choices[0].message.content or "")}
    except BadRequestError as why:
        attempt.ending = words_of(why)
    return attempt


def _answered(part: pd.DataFrame, job: Job) -> pd.DataFrame:
    answers = asyncio.run(_ask_all(part, job))
    return pd.DataFrame({"key": part["key"], "answer": pd.Series(answers, index=part.index, dtype="object")})


async def _ask_all(part: pd.DataFrame, job: Job) -> list[str | None]:
    workload = WORKLOADS[job.workload]
    slots = asyncio.Semaphore(max(1, job.concurrency // WORKERS))

    async def ask(key: str, text: str) -> str | None:
        try:
            async with slots:
                asked = _body(workload.asked(key), text, workload.schema(key))
                completion = await client.chat.completions.create(**asked)
            content: str | None = completion.choices[0].message.content
            return content
        except OpenAIError:
            return None

    async with AsyncOpenAI(base_url=job.base_url, api_key="benchmark") as client:
        return await asyncio.gather(*map(ask, part["key"], part["text"]))


def _body(task: str, text: str, schema: Json) -> dict[str, Any]:
    return {
        "model": MODEL,
        "messages": [
            {"role": "system", "content": f"{task} Answer with JSON."},
            {"role": "user", "content": text},
        ],
        "response_format": as_format(schema),
    }
