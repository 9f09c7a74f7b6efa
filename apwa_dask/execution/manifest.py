"""The final record of a run: what was asked, of what, with what, and what came of it. JSON, schema-versioned."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import orjson
from pydantic import BaseModel, ConfigDict, Field

from apwa_dask.errors import StoreError
from apwa_dask.execution.spec import SourceSpec
from apwa_dask.models.model import Model
from apwa_dask.models.prices import price_of
from apwa_dask.tables.manifest import Manifest

if TYPE_CHECKING:
    from apwa_dask.execution.kept import KeptRun
    from apwa_dask.execution.ledger import Entry

__all__ = [
    "ESTIMATE",
    "MANIFEST_VERSION",
    "RunManifest",
    "estimated_figures",
    "manifest_of",
    "manifest_schema",
    "minutes_at_work",
    "versions",
]

MANIFEST_VERSION = 2
ESTIMATE = "estimate.json"
"""Name of the document that holds what the run was thought to cost, written before its first call."""
ESTIMATED = ("calls", "input_tokens", "output_tokens", "cost_usd", "minutes")
_BEGINNINGS, _ENDS = ("started", "resumed"), ("done", "failed", "stopped")
_FROM_OUTSIDE = ("budget", "alarms", "redone")
"""Entries of the history that say nothing of when the run was at work."""
_LISTED_FILES = 1000
_PACKAGES = (
    "apwa-dask",
    "dask",
    "distributed",
    "pandas",
    "pyarrow",
    "duckdb",
    "pydantic",
    "httptools",
    "aiohttp",
    "openai",
    "fsspec",
)
_WHERE_USED = {"aiohttp", "duckdb", "openai"}
"""Most runs do without them."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileFacts(_Frozen):
    """Identity of a file that was read."""

    path: str
    size_bytes: int
    etag: str = ""
    modified: str = ""


class InputFacts(_Frozen):
    """A source as it was read. ``files`` lists the first thousand; ``fingerprint`` covers all of them."""

    kind: str
    fingerprint: str
    partitions: int
    rows: int | None
    columns: dict[str, str]
    files_total: int = 0
    files: list[FileFacts] = []


class ModelFacts(_Frozen):
    """A model as it was asked for; ``resolved`` are the names that the endpoint gave in its answers."""

    asked: str
    resolved: list[str]
    endpoint: str
    embedded: bool
    parameters: dict[str, Any]
    usd_per_million_tokens: dict[str, Any] | None = None


class PartFacts(_Frozen):
    """A committed file of the run."""

    stage: str
    partition: int
    kind: str
    rows: int
    file: str
    size_bytes: int
    sha256: str


class RunManifest(_Frozen):
    """The manifest's schema. No row text, prompt, key or storage option is in it."""

    manifest_version: int = MANIFEST_VERSION
    run_id: str
    name: str
    status: str = "done"
    written_s: float
    started_s: float | None
    versions: dict[str, str]
    query: str
    plan_hash: str
    plan: dict[str, Any]
    inputs: dict[str, InputFacts]
    models: dict[str, ModelFacts]
    models_resolved: list[str]
    namespace: str
    on_error: str
    store_prompts: bool
    retry_of: str | None = None
    budget: dict[str, Any]
    batches: list[dict[str, Any]] = Field(
        default=[], description="of a run in batches: each with its id and end"
    )
    estimate: dict[str, Any] | None = Field(
        description="as it was before the first call; None: none was made"
    )
    actual: dict[str, Any] = Field(description="the same figures as they came out")
    counts: dict[str, Any]
    outcomes: dict[str, int] = Field(description="units of work by how they ended")
    costs: list[dict[str, Any]]
    history: list[dict[str, Any]]
    parts: list[PartFacts]


@cache
def versions() -> dict[str, str]:
    """Versions of Python and of the packages that shape a result."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            # Reading a distribution's metadata takes milliseconds; what is imported says it at once.
            module = sys.modules.get(name.replace("-", "_"))
            if module is not None or name not in _WHERE_USED:
                found[name] = getattr(module, "__version__", None) or version(name)
        except PackageNotFoundError:
            continue
    return found


def manifest_of(run: KeptRun) -> dict[str, Any]:
    """Facts about a run as plain data, valid for `RunManifest`."""
    spec, ledger = run.spec, run.ledger()
    status = run.status_of(ledger)
    history = run.folder.history()
    resolved = sorted({entry.model for entry in ledger if entry.model})
    asked = {alias or "default": model for alias, model in spec.models.items()}
    manifest = RunManifest(
        run_id=run.id,
        name=spec.name,
        status=status["status"] if status["status"] in ("failed", "stopped") else "done",
        written_s=time.time(),
        started_s=history[0]["at_s"] if history else None,
        versions=versions(),
        query=spec.plan.query,
        plan_hash=spec.plan.hash,
        plan=spec.plan.model_dump(mode="json"),
        inputs={alias: _input(run, alias, source) for alias, source in spec.sources.items()},
        models={alias: _model(model, resolved, len(asked)) for alias, model in asked.items()},
        models_resolved=resolved,
        namespace=spec.namespace,
        on_error=spec.on_error,
        store_prompts=spec.store_prompts,
        retry_of=run.folder.spec.get("retry_of"),
        budget=dict(spec.budget),
        batches=run.batch_table(),
        estimate=estimate_of(run),
        actual=_actual(ledger, history),
        counts={k: v for k, v in status.items() if k.startswith("rows") or k in ("calls", "cost_usd")},
        outcomes=_outcomes(ledger),
        costs=[{name: getattr(entry, name) for name in entry.__slots__} for entry in ledger],
        history=history,
        parts=_parts(run),
    )
    return manifest.model_dump(mode="json")


def manifest_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of the manifest, as ``docs/reference/manifest.schema.json`` publishes it."""
    schema = RunManifest.model_json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def estimate_of(run: KeptRun) -> dict[str, Any] | None:
    """What the run was thought to come to, each figure low, expected and high; None where nobody asked."""
    try:
        estimate: dict[str, Any] = orjson.loads(run.folder.get_text(ESTIMATE))
    except StoreError:
        return None
    return estimate


def estimated_figures(run: KeptRun) -> dict[str, tuple[float, float, float]]:
    """What the run was thought to come to, each figure low, expected, high; those that were known."""
    known = estimate_of(run) or {}
    figures = {name: known.get(name) for name in ESTIMATED}
    return {
        name: (figure["low"], figure["expected"], figure["high"])
        for name, figure in figures.items()
        if figure
    }


def minutes_at_work(history: Sequence[Mapping[str, Any]]) -> float:
    """Minutes between starts and ends; of a life that was cut off, up to the last that it wrote."""
    total_s, begun_s, last_s = 0.0, None, 0.0
    for entry in history:
        begins, ends = entry["event"] in _BEGINNINGS, entry["event"] in _ENDS
        if begun_s is not None and (begins or ends):
            total_s += (last_s if begins else entry["at_s"]) - begun_s
            begun_s = None
        if begins:
            begun_s = entry["at_s"]
        if entry["event"] not in _FROM_OUTSIDE:
            last_s = entry["at_s"]
    return (total_s + (0.0 if begun_s is None else last_s - begun_s)) / 60


def _actual(ledger: list[Entry], history: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    costs = [entry.cost_usd for entry in ledger]
    return {
        "calls": sum(entry.calls for entry in ledger),
        "input_tokens": sum(entry.input_tokens for entry in ledger),
        "output_tokens": sum(entry.output_tokens for entry in ledger),
        "cost_usd": None if None in costs else sum(cost or 0.0 for cost in costs),
        "minutes": minutes_at_work(history),
        "reused": sum(entry.reused for entry in ledger),
    }


def _outcomes(ledger: list[Entry]) -> dict[str, int]:
    found: dict[str, int] = {}
    for entry in ledger:
        if entry.units:
            found[entry.outcome] = found.get(entry.outcome, 0) + entry.units
    return found


def _input(run: KeptRun, alias: str, source: SourceSpec) -> InputFacts:
    files: list[FileFacts] = []
    total = 0
    manifest = source_manifest(run, alias)
    if manifest is not None:
        total = len(manifest.files)
        files = [
            FileFacts(path=file.path, size_bytes=file.size, etag=file.etag, modified=file.modified)
            for file in manifest.files[:_LISTED_FILES]
        ]
    return InputFacts(
        kind=source.kind,
        fingerprint=source.fingerprint,
        partitions=source.npartitions,
        rows=source.rows,
        columns={field.name: str(field.type) for field in source.schema},
        files_total=total,
        files=files,
    )


def source_manifest(run: KeptRun, alias: str) -> Manifest | None:
    """The list of a source's partitions as the run's folder keeps it; None for a caller's frame."""
    from apwa_dask.execution.runtime import runtime

    if run.spec.sources[alias].kind != "manifest":
        return None
    return Manifest.load(run.folder.source_manifest_url(alias), runtime().options_of(run.store))


def _model(model: Model, resolved: list[str], models: int) -> ModelFacts:
    answered = resolved if models == 1 else [name for name in resolved if name.startswith(model.name)]
    price = price_of(model)
    return ModelFacts(
        asked=model.name,
        resolved=answered,
        endpoint=str(model.endpoint_identity),
        embedded=model.is_local,
        parameters=dict(model.canonical_parameters()),
        usd_per_million_tokens=None if price is None else asdict(price),
    )


def _parts(run: KeptRun) -> list[PartFacts]:
    return [
        PartFacts(
            stage=record.stage,
            partition=record.partition,
            kind=kind,
            rows=file.rows,
            file=file.name,
            size_bytes=file.size_bytes,
            sha256=file.sha256,
        )
        for stage in run.stages
        for record in run.folder.committed(stage.index).values()
        for kind, file in (("rows", record.part), ("failures", record.failures))
        if file is not None
    ]
