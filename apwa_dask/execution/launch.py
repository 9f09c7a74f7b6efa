"""From a plan and its tables to a run folder with everything a worker needs, and a `Run` over it."""

from __future__ import annotations

import hashlib
import io
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import dask.dataframe as dd
import orjson
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from apwa_dask.agents.capabilities import known_capabilities
from apwa_dask.agents.toolbox import check_tools
from apwa_dask.errors import ConfigError, candidates
from apwa_dask.execution.alarms import checked_rate
from apwa_dask.execution.asked_again import AskedAgain
from apwa_dask.execution.compile import INDEX_PREFIX, compile_plan
from apwa_dask.execution.executors import Executor
from apwa_dask.execution.foresight import LazyForesight
from apwa_dask.execution.lent import check_lent
from apwa_dask.execution.manifest import ESTIMATE
from apwa_dask.execution.outlook import Outlook
from apwa_dask.execution.priced import asked_models
from apwa_dask.execution.redoing import note_new_files, refuse_lazy_changes
from apwa_dask.execution.results import lazy_frame
from apwa_dask.execution.run import Run, Subscriber
from apwa_dask.execution.runtime import runtime
from apwa_dask.execution.spec import LAZY_PREFIX, RunSpec, SourceSpec
from apwa_dask.execution.stages import StageGraphs
from apwa_dask.models.batch_terms import BatchTerms, check_model
from apwa_dask.models.budget import Budget
from apwa_dask.models.leases import Money
from apwa_dask.models.model import Model
from apwa_dask.models.prices import require_prices
from apwa_dask.plans.plan import Plan
from apwa_dask.plans.steps import Join, Resolve
from apwa_dask.plans.validate import validate
from apwa_dask.store.folder import open_folder
from apwa_dask.store.runs import RunFolder, RunStore
from apwa_dask.tables.changes import changes_of
from apwa_dask.tables.dtypes import arrow_schema_of, to_arrow
from apwa_dask.tables.manifest import Manifest
from apwa_dask.tables.packing import coalesced_rows
from apwa_dask.tables.profile import Profile, profile_source
from apwa_dask.tables.sources import read_sources

__all__ = [
    "FileSource",
    "FrameSource",
    "PandasSource",
    "Settings",
    "Source",
    "again",
    "attach",
    "launch",
    "lazy",
]

ON_ERROR = ("keep", "drop", "raise")
FILES_OF_FRAME = 256
"""At most so many for a caller's frame: a file costs some milliseconds to make durable, however small."""
_SESSION = uuid.uuid4().hex[:8]
"""Lazy frames commit their parts for this session only; a new session is served by the journal."""


@dataclass(frozen=True)
class FileSource:
    """Files, behind a manifest."""

    manifest: Manifest
    storage_options: Mapping[str, Any] | None = None

    @property
    def schema(self) -> pa.Schema:
        return self.manifest.schema

    @cached_property
    def outline(self) -> Profile:
        """Its profile without values: the rows for it are read once."""
        return profile_source(self, samples=0)


@dataclass(frozen=True, eq=False)
class PandasSource:
    """A pandas frame in this process; a run writes it into its folder, so that any process can resume it."""

    frame: pd.DataFrame
    npartitions: int = 1

    @cached_property
    def schema(self) -> pa.Schema:
        return arrow_schema_of(self.frame)


@dataclass(frozen=True, eq=False)
class FrameSource:
    """A Dask frame; its partitions come from its own graph."""

    frame: dd.DataFrame

    @cached_property
    def schema(self) -> pa.Schema:
        return arrow_schema_of(self.frame._meta)


Source = FileSource | PandasSource | FrameSource


@dataclass(frozen=True)
class Settings:
    """What a run may be told, defaults applied."""

    models: Mapping[str, Model]
    store: str
    store_options: Mapping[str, Any] | None = None
    namespace: str = "default"
    budget: Mapping[str, float | None] | None = None
    max_concurrency: int | None = None
    hedge: bool = False
    on_error: str = "keep"
    max_failure_rate: float | None = None
    early_stop: bool = True
    name: str = ""
    store_prompts: bool = False
    grants: tuple[str, ...] = ()
    batch: BatchTerms | None = None
    """Answers come from the endpoint's batches; None: live."""
    estimate: Mapping[str, Any] | None = None
    """What the run was thought to come to; kept beside what it came to."""
    teaches: str = ""
    """As in `RunSpec`."""


def launch(
    plan: Plan,
    sources: Mapping[str, Source],
    settings: Settings,
    executor: Executor,
    subscribers: Sequence[Subscriber] = (),
) -> Run:
    """Validate, write the run's folder, and return the run, not yet started.

    Raises
    ------
    PlanError
        Before anything is written or any model is called.
    SourceError
        Likewise, where files have changed or are gone since the table was read. New ones are named in the log.
    """
    _check(plan, sources, settings)
    for source in sources.values():
        if isinstance(source, FileSource):
            note_new_files(changes_of(source.manifest, source.storage_options, look_inside=False))
    frames = {alias: source.frame for alias, source in sources.items() if isinstance(source, FrameSource)}
    executor.admit(plan.tools, frames)
    runtime().remember_options(settings.store, settings.store_options)
    store = RunStore(settings.store, settings.store_options)
    run_id = store.new_run_id()
    folder = _prepare(store, run_id, plan, sources, settings)
    return Run(settings.store, folder, executor, frames, tuple(subscribers))


def lazy(
    plan: Plan,
    sources: Mapping[str, Source],
    settings: Settings,
    executors: Sequence[Executor],
    *,
    status: bool = False,
) -> dd.DataFrame:
    """The plan's result as a lazy Dask frame: the calls are in its graph. Nothing is called here.

    The frame may be computed by any of the `executors`; its budget is kept by the last of them.
    """
    _check(plan, sources, settings)
    runtime().remember_options(settings.store, settings.store_options)
    store = RunStore(settings.store, settings.store_options)
    identity = hashlib.sha256(plan.hash.encode())
    for alias, source in sorted(sources.items()):
        identity.update(f"{alias}={_fingerprint(source)}\n".encode())
    for alias, model in sorted(settings.models.items()):
        identity.update(repr((alias, sorted(model.as_dict().items(), key=str))).encode())
    identity.update(repr((settings.store, settings.namespace)).encode())
    identity.update(
        repr((settings.on_error, settings.max_failure_rate, settings.early_stop, settings.hedge)).encode()
    )
    run_id = f"{LAZY_PREFIX}{identity.hexdigest()[:24]}-{_SESSION}"
    known = run_id in store.ids()
    if known:  # by this session, whose finished partitions it serves
        for source in sources.values():
            if isinstance(source, FileSource):
                refuse_lazy_changes(changes_of(source.manifest, source.storage_options))
    folder = store.open(run_id) if known else _prepare(store, run_id, plan, sources, settings)
    if Budget.from_dict(RunSpec.of(folder).budget) != (budget := Budget.from_dict(settings.budget or {})):
        folder.append_history("budget", **budget.as_dict())
    spec = RunSpec.of(folder)
    stages = compile_plan(spec.plan, spec.catalog, spec.indexes)
    frames = {alias: source.frame for alias, source in sources.items() if isinstance(source, FrameSource)}
    foresight = LazyForesight(run_id, Outlook(spec.plan, stages, settings.estimate))
    for executor in executors:
        executor.admit(plan.tools, frames)
        executor.lend(runtime().options_for(settings.store, run_id))
        executor.listen(run_id, foresight)
    paid = _paid(settings, run_id) if known and budget else Money()
    runtime().frame_purses.keep(executors[-1].purses, run_id, budget, paid)
    graphs = StageGraphs(
        spec, stages, settings.store, run_id, frames, lambda index: len(folder.committed(index))
    )
    # with another ceiling its tasks are others to Dask, which may remember how the old ones ended
    graphs.round = sum(entry["event"] == "budget" for entry in folder.history())
    return lazy_frame(graphs.rows(stages[-1]), spec, stages[-1], status=status)


def _paid(settings: Settings, run_id: str) -> Money:
    journal = runtime().journal(settings.store, settings.namespace, store_prompts=settings.store_prompts)
    paid = journal.paid_by(run_id)
    return Money(paid.cost_usd, paid.tokens, paid.calls)


def attach(
    store_url: str,
    run_id: str,
    executor: Executor,
    store_options: Mapping[str, Any] | None = None,
    subscribers: Sequence[Subscriber] = (),
) -> Run:
    """The run with this id, as stored."""
    runtime().remember_options(store_url, store_options)
    folder = RunStore(store_url, store_options).open(run_id)
    return Run(store_url, folder, executor, {}, tuple(subscribers))


def again(run: Run) -> Run:
    """A new run of the same plan over the same sources: good answers come from the journal, failures are
    tried.
    """
    store = RunStore(run.store, runtime().options_of(run.store))
    folder = store.create(
        store.new_run_id(), {**run.folder.spec, **_alarms_of(run.spec), "teaches": "", "retry_of": run.id}
    )
    for alias, source in run.spec.sources.items():
        if source.kind == "manifest":
            name = f"source-{alias}.json"
            folder.put_text(name, run.folder.get_text(name))
    AskedAgain.write(folder, run.asked_in_vain())
    runtime().copy_options(run.id, folder.run_id, run.spec.sources)
    fresh = Run(run.store, folder, run.executor, run._frames, tuple(run._subscribers))
    run.executor.admit(run.spec.plan.tools, run._frames)
    return fresh.start()


def _alarms_of(spec: RunSpec) -> dict[str, Any]:
    """As a resume may have set them."""
    return {"max_failure_rate": spec.max_failure_rate, "early_stop": spec.early_stop}


def _check_embeds(step_id: str, alias: str, settings: Settings) -> None:
    """Vectors come from an endpoint that has them, and before the questions that a batch could hold."""
    if settings.batch is not None:
        raise ConfigError(
            f"the block of {step_id!r} embeds texts, which are asked for live",
            where=f"step {step_id!r}, embed=",
            why="which rows meet is known only when all vectors are there, and a batch job may take a day for them",
            fix="run it live (leave out mode='batch', --batch), or leave embed out of the step: the nearest texts are "
            "then found by shared parts of words, and the pairs may go as a batch",
            saved="no call was made",
            code="CONFIG-BATCH",
        )
    model = settings.models.get(alias)
    if model is not None and model.is_local:
        raise ConfigError(
            f"the embedded model has no embeddings for the block of {step_id!r}",
            where=f"step {step_id!r}, embed={alias!r}",
            why="it answers in words and has no vectors to compare texts by",
            fix=f"give it a model of embeddings, such as model={{..., {alias!r}: apwa.Model(name, base_url=...)}}; "
            "or leave embed out: the nearest texts are then found by shared parts of words",
            saved="no call was made",
            code="CONFIG-MODEL",
        )


# -- preparing a folder


def _check(plan: Plan, sources: Mapping[str, Source], settings: Settings) -> None:
    if settings.on_error not in ON_ERROR:
        raise ConfigError(
            f"on_error={settings.on_error!r} has no meaning",
            fix=candidates(settings.on_error, ON_ERROR, noun="values"),
            code="CONFIG-ON-ERROR",
        )
    if settings.max_failure_rate is not None:
        checked_rate(settings.max_failure_rate)
    require_prices(asked_models(plan, settings.models), (settings.budget or {}).get("usd"))
    for step in plan.llm_steps:
        if isinstance(step, Join | Resolve) and step.embed is not None:
            _check_embeds(step.id, step.embed, settings)
    if settings.batch is not None:
        for step in plan.llm_steps:
            check_model(settings.models[step.contract.model or ""])
    validate(
        plan,
        {alias: source.schema for alias, source in sources.items()},
        tools=frozenset(known_capabilities() if plan.tools else ()),
        models=frozenset(alias for alias in settings.models if alias),
    )
    check_tools(plan, settings.grants)
    check_lent(plan, {alias for alias, source in sources.items() if isinstance(source, FrameSource)})


def _prepare(
    store: RunStore, run_id: str, plan: Plan, sources: Mapping[str, Source], settings: Settings
) -> RunFolder:
    specs = {}
    staged: dict[str, FileSource] = {}
    for alias in plan.sources:
        source = sources[alias]
        specs[alias], manifest = _spec_of(
            settings, run_id, alias, source, coalesce=not _answers_for_partitions(plan)
        )
        if manifest is not None:
            staged[alias] = manifest
    spec = RunSpec(
        plan=plan,
        sources=specs,
        models={alias: _pinned(model, settings) for alias, model in settings.models.items()},
        namespace=settings.namespace,
        on_error=settings.on_error,
        max_failure_rate=settings.max_failure_rate,
        early_stop=settings.early_stop,
        budget=dict(settings.budget or {}),
        max_concurrency=settings.max_concurrency,
        store_prompts=settings.store_prompts,
        grants=settings.grants,
        name=settings.name,
        batch=None if settings.batch is None else settings.batch.as_dict(),
        teaches=settings.teaches,
    )
    folder = store.create(run_id, spec.as_dict())
    if settings.estimate is not None:
        folder.put_text(ESTIMATE, orjson.dumps(dict(settings.estimate)).decode())
    for alias, source in staged.items():
        folder.put_text(f"source-{alias}.json", source.manifest.encode().decode())
        runtime().remember_options(f"{run_id}/{alias}", source.storage_options)
    return folder


def _pinned(model: Model, settings: Settings) -> Model:
    pinned = replace(model.pinned(), hedge=model.hedge or settings.hedge)
    if settings.max_concurrency is None:
        return pinned
    return replace(pinned, max_concurrency=settings.max_concurrency)


def _spec_of(
    settings: Settings, run_id: str, alias: str, source: Source, *, coalesce: bool
) -> tuple[SourceSpec, FileSource | None]:
    if isinstance(source, FileSource):
        manifest = source.manifest.coalesced() if coalesce else source.manifest
        return SourceSpec(
            "manifest", manifest.schema, manifest.npartitions, manifest.rows, fingerprint=manifest.fingerprint
        ), replace(source, manifest=manifest)
    if isinstance(source, FrameSource):
        meta = source.frame._meta
        return SourceSpec(
            "frame",
            source.schema,
            source.frame.npartitions,
            None,
            _index_schema(meta),
            tuple(meta.index.names),
            _fingerprint(source),
        ), None
    # what lies in the run's own folder is nobody's to change
    manifest = replace(_write_frame(settings, run_id, alias, source, coalesce=coalesce), asked=None)
    spec = SourceSpec(
        "manifest",
        source.schema,
        manifest.npartitions,
        len(source.frame),
        _index_schema(source.frame),
        tuple(source.frame.index.names),  # type: ignore[arg-type]
        manifest.fingerprint,
    )
    return spec, FileSource(manifest)


def _index_schema(frame: pd.DataFrame) -> pa.Schema:
    return arrow_schema_of(_index_columns(frame))


def _index_columns(frame: pd.DataFrame) -> pd.DataFrame:
    levels = {f"{INDEX_PREFIX}{k}": frame.index.get_level_values(k) for k in range(frame.index.nlevels)}
    return pd.DataFrame(levels).reset_index(drop=True)


def _answers_for_partitions(plan: Plan) -> bool:
    """Whether an agent sees a partition as its table: then which rows make one is part of the question."""
    return any(step.contract.unit == "partition" for step in plan.llm_steps)


def _write_frame(
    settings: Settings, run_id: str, alias: str, source: PandasSource, *, coalesce: bool
) -> Manifest:
    """The frame as Parquet files in the run's folder, index columns included: a row group for each partition."""
    flat = source.frame.reset_index(drop=True)
    flat.columns = [str(name) for name in flat.columns]
    flat = pd.concat([_index_columns(source.frame), flat], axis=1)
    schema = arrow_schema_of(flat)
    table = to_arrow(flat, schema)
    rows = -(-max(table.num_rows, 1) // max(source.npartitions, 1))
    if coalesce:
        rows = coalesced_rows(rows, -(-table.num_rows // rows))
    npartitions = -(-max(table.num_rows, 1) // rows)
    folder = (
        open_folder(settings.store, settings.store_options)
        .child("runs")
        .child(run_id)
        .child(f"source-{alias}")
    )
    names: list[str] = []
    rows_of_file = rows * -(-npartitions // FILES_OF_FRAME)
    for start in range(0, max(table.num_rows, 1), rows_of_file):
        names.append(f"{len(names):06d}.parquet")
        data = io.BytesIO()
        pq.write_table(table.slice(start, rows_of_file), data, compression="zstd", row_group_size=rows)
        folder.write(names[-1], data.getvalue())
    found = read_sources(
        [f"{folder.url}/{name}" for name in names],
        format="parquet",
        storage_options=settings.store_options,
        partition_rows=rows,
        partition_tokens=10**12,
    )
    return next(iter(found.values())).manifest


def _fingerprint(source: Source) -> str:
    if isinstance(source, FileSource):
        return source.manifest.fingerprint
    if isinstance(source, FrameSource):
        return hashlib.sha256(str(source.frame._name).encode()).hexdigest()
    hashes = pd.util.hash_pandas_object(source.frame.astype(str), index=True).to_numpy()
    head = f"{list(source.frame.columns)}{list(map(str, source.frame.dtypes))}{source.npartitions}"
    return hashlib.sha256(head.encode() + hashes.tobytes()).hexdigest()
