"""What arguments and configuration mean: models, store, who listens, what is known of a source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pyarrow as pa

from apwa_dask import config
from apwa_dask.agents.capabilities import known_capabilities
from apwa_dask.execution import launch as engine
from apwa_dask.models.batch_terms import BatchTerms
from apwa_dask.models.defaults import resolve_models
from apwa_dask.models.model import Model
from apwa_dask.models.prices import with_prices
from apwa_dask.plans.plan import Plan
from apwa_dask.plans.validate import validate
from apwa_dask.store.names import default_store
from apwa_dask.tables.profile import Profile, profile_frame, profile_source

__all__ = [
    "ModelLike",
    "batch_terms",
    "check_plan",
    "models_of",
    "profile_of",
    "store_url",
    "subscribers_for",
    "with_alarms",
]

ModelLike = Model | str | Mapping[str, Model | str] | None


def models_of(model: ModelLike) -> dict[str, Model]:
    """Models by alias, from the argument or the configuration, at the configured prices."""
    found = resolve_models(config.get("model", None) if model is None else model)
    prices = config.get("prices")
    return {alias: with_prices(one, prices) for alias, one in found.items()}


def batch_terms(mode: BatchTerms | str | None) -> BatchTerms | None:
    """What a mode means, the configured one where none is given."""
    return mode if isinstance(mode, BatchTerms) else BatchTerms.of(config.get("mode", mode))


def store_url(store: str | None) -> str:
    return store or config.get("store", None) or default_store()


def with_alarms(
    settings: engine.Settings, max_failure_rate: float | None, early_stop: bool | None
) -> engine.Settings:
    """`settings` with what stops a run that fails, as given or configured."""
    return replace(
        settings,
        max_failure_rate=config.get("max-failure-rate", max_failure_rate),
        early_stop=config.get("early-stop", early_stop),
    )


def subscribers_for(progress: Any) -> tuple[Any, ...]:
    if progress is False:
        return ()
    if callable(progress):
        return (progress,)
    from apwa_dask.observe.progress import ProgressOfRun

    return (ProgressOfRun(),)


def check_plan(plan: Plan, catalog: Mapping[str, pa.Schema]) -> None:
    """Validate a plan whose model aliases get their models only when it runs."""
    validate(plan, catalog, tools=frozenset(known_capabilities() if plan.tools else ()), models=plan.models)


def profile_of(source: engine.Source, samples: int) -> Profile:
    if isinstance(source, engine.FileSource):
        return profile_source(source, samples=samples) if samples else source.outline
    if isinstance(source, engine.PandasSource):
        rows = len(source.frame)
        return profile_frame(source.frame, rows=rows, npartitions=source.npartitions, samples=samples)
    first = source.frame.partitions[0].compute(scheduler="threads") if samples else source.frame._meta
    return profile_frame(first, rows=None, npartitions=source.frame.npartitions, samples=samples)
