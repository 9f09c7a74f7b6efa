"""semlib: `Session.map` with a pydantic type, cache in memory. Needs Python 3.12; one failing row ends the map."""

from __future__ import annotations

import asyncio
import os
from typing import Any

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
from _measured import Measured, not_installed

try:
    import pyarrow.parquet  # noqa: F401
    from _label import KNOWN_MODEL, Label, fields
    from semlib import Session
    from semlib.cache import InMemoryCache
except (ImportError, SyntaxError) as why:
    not_installed("semlib==1.0.0 (Python 3.12)", ImportError(str(why)))


async def answers(job: dict[str, Any], texts: list[str]) -> list[dict[str, Any] | None]:
    os.environ["OPENAI_API_KEY"], os.environ["OPENAI_BASE_URL"] = "benchmark", job["base_url"]
    model = "openai/" + KNOWN_MODEL
    session = Session(model=model, max_concurrency=job["concurrency"], cache=InMemoryCache())
    made = await session.map(texts, lambda text: f"{job['instruction']}\n\n{text}", return_type=Label)
    return [fields(label) for label in made]


if __name__ == "__main__":
    with Measured() as clock:
        ids, texts = clock.texts()
        clock.write(ids, asyncio.run(answers(clock.job, texts)))
    clock.report()
