"""The floor: aiohttp, a semaphore, a body of constant bytes. No retries, journal, types or budget."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pandas  # noqa: F401 - pyarrow imports it on first use: before the clock
import pyarrow as pa
import pyarrow.parquet as pq
from _measured import Measured


async def answers(job: dict[str, Any], prompts: list[str]) -> list[dict[str, Any]]:
    prefix, suffix = job["prefix"].encode(), job["suffix"].encode()
    url = job["base_url"] + "/chat/completions"
    slots = asyncio.Semaphore(job["concurrency"])
    headers = {"Content-Type": "application/json", "Authorization": "Bearer benchmark"}

    async def one(prompt: str) -> dict[str, Any]:
        body = prefix + orjson.dumps({"role": "user", "content": prompt}) + suffix
        async with slots, session.post(url, data=body) as response:
            document = orjson.loads(await response.read())
        return orjson.loads(document["choices"][0]["message"]["content"])

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
        return await asyncio.gather(*map(one, prompts))


def main(run: Any) -> None:
    with Measured() as clock:
        table = pq.read_table(clock.folder / "prompts.parquet")
        made = run(answers(clock.job, table.column("prompt").to_pylist()))
        Path(clock.out).mkdir(parents=True)
        result = pa.Table.from_pylist(made).add_column(0, "id", table.column("id"))
        pq.write_table(result, clock.out / "result.parquet")


if __name__ == "__main__":
    if len(sys.argv) > 3:
        import uvloop

        main(uvloop.run)
    else:
        main(asyncio.run)
