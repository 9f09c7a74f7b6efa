"""The floor: aiohttp, a semaphore, a body of constant bytes. No retries, journal, types or budget."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import aiohttp
import orjson
import pandas  # noqa: F401 - pyarrow imports it on first use: before the clock
import pyarrow.parquet  # noqa: F401
from _measured import Measured


async def answers(job: dict[str, Any], prompts: list[str]) -> list[dict[str, Any] | None]:
    prefix, suffix = job["prefix"].encode(), job["suffix"].encode()
    url = job["base_url"] + "/chat/completions"
    slots = asyncio.Semaphore(job["concurrency"])
    headers = {"Content-Type": "application/json", "Authorization": "Bearer benchmark"}

    async def one(prompt: str) -> dict[str, Any] | None:
        body = prefix + orjson.dumps({"role": "user", "content": prompt}) + suffix
        try:
            async with slots, session.post(url, data=body) as response:
                document = orjson.loads(await response.read())
            return orjson.loads(document["choices"][0]["message"]["content"])
        except (aiohttp.ClientError, ValueError, KeyError):
            return None

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
        return await asyncio.gather(*map(one, prompts))


def main(run: Any) -> None:
    with Measured() as clock:
        ids, prompts = clock.prompts()
        clock.write(ids, run(answers(clock.job, prompts)))
    clock.report()


if __name__ == "__main__":
    if len(sys.argv) > 3:
        import uvloop

        main(uvloop.run)
    else:
        main(asyncio.run)
