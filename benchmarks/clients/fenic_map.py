"""fenic: `semantic.map` with a response format. It has no setting for calls in flight; its rates are out of the way.

Its token counter needs a tokenizer file, which it would fetch: point ``TIKTOKEN_CACHE_DIR`` at a folder that has it
(litellm ships one in ``litellm/litellm_core_utils/tokenizers``).
"""

from __future__ import annotations

import os

from _measured import Measured, not_installed

try:
    import fenic
    import pyarrow.parquet  # noqa: F401
    from _label import KNOWN_MODEL, Label
except ImportError as why:
    not_installed("fenic==0.13.0 with openai==2.54.0", why)

if __name__ == "__main__":
    os.environ["OPENAI_API_KEY"] = "benchmark"
    with Measured() as clock:
        job = clock.job
        ids, texts = clock.texts()
        model = fenic.OpenAILanguageModel(
            model_name=KNOWN_MODEL, rpm=10_000_000, tpm=10_000_000_000, base_url=job["base_url"]
        )
        clock.out.mkdir(parents=True)
        config = fenic.SessionConfig(
            app_name="benchmark",
            db_path=clock.out,
            semantic=fenic.SemanticConfig(language_models={"model": model}),
        )
        session = fenic.Session.get_or_create(config)
        frame = session.create_dataframe({"id": ids, "text": texts})
        label = fenic.semantic.map(
            job["instruction"] + "\n\n{{ text }}", text=fenic.col("text"), response_format=Label
        )
        made = frame.select(fenic.col("id"), label.alias("label")).to_pylist()
        clock.write([row["id"] for row in made], [row["label"] for row in made])
        session.stop()
    clock.report()
