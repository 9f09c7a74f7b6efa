"""What users write: one AsyncOpenAI client, a semaphore and gather. The schema is prebuilt: cheaper."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pandas  # noqa: F401 - pyarrow imports it on first use: before the clock
import pyarrow as pa
import pyarrow.parquet as pq
from _measured import Measured
from openai import AsyncOpenAI


async def answers(job: dict[str, Any], prompts: list[str]) -> list[dict[str, Any]]:
    slots = asyncio.Semaphore(job["concurrency"])
    constant = dict(job["body"])
    messages = constant.pop("messages")

    async def one(prompt: str) -> dict[str, Any]:
        async with slots:
            completion = await client.chat.completions.create(
                messages=[*messages, {"role": "user", "content": prompt}], **constant
            )
        return json.loads(completion.choices[0].message.content or "")

    async with AsyncOpenAI(base_url=job["base_url"], api_key="benchmark") as client:
        return await asyncio.gather(*map(one, prompts))


if __name__ == "__main__":
    with Measured() as clock:
        table = pq.read_table(clock.folder / "prompts.parquet")
        made = asyncio.run(answers(clock.job, table.column("prompt").to_pylist()))
        Path(clock.out).mkdir(parents=True)
        result = pa.Table.from_pylist(made).add_column(0, "id", table.column("id"))
        pq.write_table(result, clock.out / "result.parquet")
