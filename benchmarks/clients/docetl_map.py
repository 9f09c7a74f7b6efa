"""DocETL: a map operation over JSON, a thread a call in flight, failed rows skipped (it drops them)."""

from __future__ import annotations

import json
import os

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
from _measured import Measured, not_installed

try:
    import pyarrow.parquet  # noqa: F401
    from docetl.runner import DSLRunner
except ImportError as why:
    not_installed("docetl==0.3.0", why)

if __name__ == "__main__":
    with Measured() as clock:
        job = clock.job
        os.environ["OPENAI_API_KEY"], os.environ["OPENAI_API_BASE"] = "benchmark", job["base_url"]
        os.environ["OPENAI_BASE_URL"] = job["base_url"]
        ids, texts = clock.texts()
        clock.out.mkdir(parents=True)
        source, result = clock.out / "source.json", clock.out / "result.json"
        source.write_text(
            json.dumps([{"id": key, "text": text} for key, text in zip(ids, texts, strict=True)])
        )
        label = {
            "name": "label",
            "type": "map",
            "prompt": job["instruction"] + "\n\n{{ input.text }}",
            "output": {
                "schema": {"topic": "enum[billing, delivery, login, other]", "severity": "integer"},
                "mode": "structured_output",
            },
            "skip_on_error": True,
        }
        config = {
            "default_model": "openai/" + job["body"]["model"],
            "datasets": {"tickets": {"type": "file", "path": str(source)}},
            "operations": [label],
            "pipeline": {
                "steps": [{"name": "all", "input": "tickets", "operations": ["label"]}],
                "output": {
                    "type": "file",
                    "path": str(result),
                    "intermediate_dir": str(clock.out / "between"),
                },
            },
            "bypass_cache": True,
        }
        DSLRunner(config, max_threads=job["concurrency"]).load_run_save()
        made = {row["id"]: row for row in json.loads(result.read_text())}
        clock.write(ids, [made.get(key) for key in ids])
    clock.report()
