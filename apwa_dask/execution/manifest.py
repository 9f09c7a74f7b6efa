"""The final record of a run: what was asked, of what, with what, and what came of it. JSON,
schema-versioned.
"""

from __future__ import annotations

import platform
import time
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from apwa_dask.execution.run import Run

__all__ = ["MANIFEST_VERSION", "manifest_of", "versions"]

MANIFEST_VERSION = 1
_PACKAGES = (
    "apwa-dask",
    "dask",
    "distributed",
    "pandas",
    "pyarrow",
    "duckdb",
    "pydantic",
    "aiohttp",
    "openai",
    "fsspec",
)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that shape a result."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def manifest_of(run: Run) -> dict[str, Any]:
    """Facts about a run as plain data. No row text, prompt, key or storage option is among them."""
    spec = run.spec
    parts = [record for stage in run.stages for record in run.folder.committed(stage.index).values()]
    return {
        "manifest_version": MANIFEST_VERSION,
        "run_id": run.id,
        "name": spec.name,
        "versions": versions(),
        "written_s": time.time(),
        "query": spec.plan.query,
        "plan_hash": spec.plan.hash,
        "plan": spec.plan.model_dump(mode="json"),
        "inputs": {
            alias: {
                "kind": source.kind,
                "fingerprint": source.fingerprint,
                "partitions": source.npartitions,
                "rows": source.rows,
                "columns": {field.name: str(field.type) for field in source.schema},
            }
            for alias, source in spec.sources.items()
        },
        "models": {
            alias or "default": {
                "asked": model.name,
                "endpoint": model.endpoint_identity,
                "embedded": model.is_local,
                "parameters": model.canonical_parameters(),
            }
            for alias, model in spec.models.items()
        },
        "models_resolved": sorted({entry.model for entry in run.ledger() if entry.model}),
        "namespace": spec.namespace,
        "on_error": spec.on_error,
        "budget": dict(spec.budget),
        "counts": {
            k: v for k, v in run.status().items() if k.startswith("rows") or k in ("calls", "cost_usd")
        },
        "costs": run.costs().to_dict("records"),
        "history": run.folder.history(),
        "parts": [
            {
                "stage": record.stage,
                "partition": record.partition,
                "rows": record.rows_out,
                "file": record.part.name,
                "sha256": record.part.sha256,
            }
            for record in parts
        ],
    }
