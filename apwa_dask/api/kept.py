"""Runs that a store keeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from apwa_dask.api.learning import Notebook
from apwa_dask.api.settings import store_url, subscribers_for
from apwa_dask.api.teaching import Learner, profiles_of_run
from apwa_dask.execution import launch as engine
from apwa_dask.execution import purging
from apwa_dask.execution.executors import executor_for
from apwa_dask.execution.run import Run
from apwa_dask.store.runs import RunStore, RunSummary

__all__ = ["attach", "purge", "runs", "sweep_lazy"]


def runs(store: str | None = None, *, storage_options: Mapping[str, Any] | None = None) -> list[RunSummary]:
    """All runs in a store, newest first."""
    return [
        info
        for info in RunStore(store_url(store), storage_options).list()
        if not info.run_id.startswith("lazy-")
    ]


def attach(
    run_id: str,
    store: str | None = None,
    *,
    client: Any = None,
    scheduler: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    progress: Any = None,
) -> Run:
    """Find a run again, in any process: look at it, or go on with ``resume()``."""
    learner = Learner(Notebook(), profiles_of_run)
    subscribers = (*subscribers_for(progress), learner)
    run = engine.attach(
        store_url(store), run_id, executor_for(client, scheduler), storage_options, subscribers
    )
    learner.run = run
    return run


def purge(
    run_id: str,
    store: str | None = None,
    *,
    answers: bool = False,
    storage_options: Mapping[str, Any] | None = None,
) -> purging.Purged:
    """Delete a run and its results; with `answers` also every answer that it paid for, so that nothing of it is left.

    Raises
    ------
    RunError, StoreError
        There is no such run; a living process works on it.
    """
    return purging.purge(store_url(store), run_id, answers=answers, storage_options=storage_options)


def sweep_lazy(
    store: str | None = None,
    *,
    older_than_s: float = purging.LAZY_AGE_S,
    storage_options: Mapping[str, Any] | None = None,
) -> tuple[str, ...]:
    """Delete what lazy frames left behind that have not moved for so long; their answers stay in the journal."""
    return purging.sweep_lazy(store_url(store), older_than_s=older_than_s, storage_options=storage_options)
