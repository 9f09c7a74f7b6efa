"""LangChain: `ChatOpenAI.with_structured_output(...).abatch`, exceptions returned, its own two retries on."""

from __future__ import annotations

import asyncio

from _measured import Measured, not_installed

try:
    import pyarrow.parquet  # noqa: F401
    from _label import Label, fields
    from langchain_openai import ChatOpenAI
except ImportError as why:
    not_installed("langchain-openai==1.7.3", why)

if __name__ == "__main__":
    with Measured() as clock:
        job = clock.job
        ids, texts = clock.texts()
        model = ChatOpenAI(model=job["body"]["model"], base_url=job["base_url"], api_key="benchmark")
        chain = model.with_structured_output(Label, method="json_schema")
        prompts = [[("system", job["instruction"]), ("user", text)] for text in texts]
        made = asyncio.run(
            chain.abatch(prompts, config={"max_concurrency": job["concurrency"]}, return_exceptions=True)
        )
        clock.write(ids, [fields(label if isinstance(label, Label) else None) for label in made])
    clock.report()
