"""pydantic-ai: one `Agent` with a native output type, a semaphore and gather; a row that fails fails alone."""

from __future__ import annotations

import asyncio
from typing import Any

from _measured import Measured, not_installed

try:
    import pyarrow.parquet  # noqa: F401
    from _label import Label, fields
    from pydantic_ai import Agent, NativeOutput
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider
except ImportError as why:
    not_installed("pydantic-ai-slim[openai]==2.68.0", why)


async def answers(job: dict[str, Any], texts: list[str]) -> list[dict[str, Any] | None]:
    provider = OpenAIProvider(base_url=job["base_url"], api_key="benchmark")
    model = OpenAIChatModel(job["body"]["model"], provider=provider)
    agent = Agent(model, output_type=NativeOutput(Label), system_prompt=job["instruction"])
    slots = asyncio.Semaphore(job["concurrency"])

    async def one(text: str) -> dict[str, Any] | None:
        async with slots:
            try:
                return fields((await agent.run(text)).output)
            except Exception:  # whatever the library raises is this row's failure
                return None

    return await asyncio.gather(*map(one, texts))


if __name__ == "__main__":
    with Measured() as clock:
        ids, texts = clock.texts()
        clock.write(ids, asyncio.run(answers(clock.job, texts)))
    clock.report()
