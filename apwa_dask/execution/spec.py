"""What travels: a run's frozen settings, written once into its folder; the graph carries only where they are.

No key, client, frame, row text or storage option is in either. Each process reads the folder once.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from apwa_dask.errors import RunError
from apwa_dask.models.model import Model
from apwa_dask.plans.plan import Plan
from apwa_dask.store.runs import RunFolder

__all__ = ["LAZY_PREFIX", "SPEC_VERSION", "RunSpec", "SourceSpec", "StageRef"]

SPEC_VERSION = 1
LAZY_PREFIX = "lazy-"
"""Ids of the folders of lazy frames, which no handle drives, begin so."""


@dataclass(frozen=True, slots=True)
class StageRef:
    """A stage of a run, as it stands in a Dask graph: text and a number."""

    store: str
    run_id: str
    stage: int
    round: int = 0
    """Of a run in batches, whose tasks run again until nothing waits, or of a lazy frame, with each new ceiling: a
    new round is new tasks to Dask."""

    def __dask_tokenize__(self) -> tuple[str, str, int, int]:
        return (self.store, self.run_id, self.stage, self.round)


@dataclass(frozen=True)
class SourceSpec:
    """One source of a run.

    Parameters
    ----------
    kind : str
        ``manifest`` (files; the manifest lies in the run's folder) or ``frame`` (the partitions of a Dask
        frame that only the submitting process holds).
    schema : pyarrow.Schema
        Visible columns.
    index : pyarrow.Schema
        Hidden index columns, empty for files.
    index_names : tuple of (str or None)
        Names of the frame's index levels.
    npartitions : int
    rows : int, optional
        Where known without reading.
    fingerprint : str
        Content identity of the source.
    """

    kind: str
    schema: pa.Schema
    npartitions: int
    rows: int | None = None
    index: pa.Schema = field(default_factory=lambda: pa.schema([]))
    index_names: tuple[str | None, ...] = ()
    fingerprint: str = ""

    def as_dict(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "schema": _schema_text(self.schema),
            "index": _schema_text(self.index),
            "index_names": list(self.index_names),
            "npartitions": self.npartitions,
            "rows": self.rows,
            "fingerprint": self.fingerprint,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SourceSpec:
        return cls(
            data["kind"],
            _schema_of(data["schema"]),
            data["npartitions"],
            data["rows"],
            _schema_of(data["index"]),
            tuple(data["index_names"]),
            data["fingerprint"],
        )


@dataclass(frozen=True)
class RunSpec:
    """Everything a worker needs to know about a run."""

    plan: Plan
    sources: Mapping[str, SourceSpec]
    models: Mapping[str, Model]
    """By alias; the key ``""`` is the run's default model."""
    namespace: str = "default"
    on_error: str = "keep"
    max_failure_rate: float | None = None
    """Share of a stage's rows that may fail before the run stops; None: any."""
    early_stop: bool = True
    """Whether the run stops when the first calls of a step all fail in the same way."""
    budget: Mapping[str, Any] = field(default_factory=dict)
    max_concurrency: int | None = None
    store_prompts: bool = False
    grants: tuple[str, ...] = ()
    name: str = ""
    batch: Mapping[str, Any] | None = None
    """Terms of a run in batches (`models.batch_terms.BatchTerms`); None: live."""
    teaches: str = ""
    """Tells the tables whose estimates learn from the run; empty: it says nothing of any whole table."""

    @property
    def catalog(self) -> dict[str, pa.Schema]:
        """Visible columns by source."""
        return {alias: source.schema for alias, source in self.sources.items()}

    @property
    def indexes(self) -> dict[str, pa.Schema]:
        """Hidden index columns by source."""
        return {alias: source.index for alias, source in self.sources.items()}

    def model_for(self, alias: str | None) -> Model:
        """The model a contract names, else the default."""
        return self.models[alias or ""]

    def as_dict(self) -> dict[str, Any]:
        return {
            "spec_version": SPEC_VERSION,
            "plan": self.plan.model_dump(mode="json"),
            "sources": {alias: source.as_dict() for alias, source in self.sources.items()},
            "models": {alias: model.as_dict() for alias, model in self.models.items()},
            "namespace": self.namespace,
            "on_error": self.on_error,
            "max_failure_rate": self.max_failure_rate,
            "early_stop": self.early_stop,
            "budget": dict(self.budget),
            "max_concurrency": self.max_concurrency,
            "store_prompts": self.store_prompts,
            "grants": list(self.grants),
            "name": self.name,
            "batch": None if self.batch is None else dict(self.batch),
            "teaches": self.teaches,
        }

    @classmethod
    def of(cls, folder: RunFolder) -> RunSpec:
        """The settings in a run's folder, with the latest limits that a resume gave it."""
        spec = cls.from_dict(folder.spec)
        for entry in folder.history():
            if entry["event"] == "budget":
                spec = replace(spec, budget={name: entry.get(name) for name in ("usd", "tokens", "calls")})
                spec = replace(spec, budget={**spec.budget, "name": entry.get("name", "")})
            elif entry["event"] == "alarms":
                spec = replace(
                    spec, max_failure_rate=entry["max_failure_rate"], early_stop=entry["early_stop"]
                )
        return spec

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> RunSpec:
        if data.get("spec_version") != SPEC_VERSION:
            raise RunError(
                f"this run was written by another version of apwa_dask (spec {data.get('spec_version')})",
                fix="resume it with the version named in its manifest, or run the plan again: "
                "paid answers are kept",
                code="RUN-VERSION",
            )
        return cls(
            plan=Plan.model_validate(data["plan"]),
            sources={alias: SourceSpec.from_dict(source) for alias, source in data["sources"].items()},
            models={alias: Model.from_dict(model) for alias, model in data["models"].items()},
            namespace=data["namespace"],
            on_error=data["on_error"],
            max_failure_rate=data.get("max_failure_rate"),
            early_stop=data.get("early_stop", True),
            budget=data["budget"],
            max_concurrency=data["max_concurrency"],
            store_prompts=data["store_prompts"],
            grants=tuple(data["grants"]),
            name=data["name"],
            batch=data.get("batch"),
            teaches=data.get("teaches", ""),
        )


def _schema_text(schema: pa.Schema) -> str:
    return base64.b64encode(schema.serialize().to_pybytes()).decode()


def _schema_of(text: str) -> pa.Schema:
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))
