"""Forgetting: a run with the answers it paid for, and lazy frames that nobody computes any more."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from apwa_dask.errors import StoreError
from apwa_dask.execution.runtime import runtime
from apwa_dask.execution.spec import RunSpec
from apwa_dask.store.journal import PurgeReport
from apwa_dask.store.runs import RunFolder, RunStore

__all__ = ["LAZY_PREFIX", "Purged", "purge", "sweep_lazy"]

LAZY_PREFIX = "lazy-"
LAZY_AGE_S = 7 * 24 * 3600.0
"""Lazy frames serve the session that made them; one that has not moved for so long is nobody's."""


@dataclass(frozen=True, slots=True)
class Purged:
    """What was deleted.

    Parameters
    ----------
    run_id : str
    answers : PurgeReport, optional
        What went from the journal; None where its answers were kept for other runs.
    """

    run_id: str
    answers: PurgeReport | None = None


def purge(
    store: str, run_id: str, *, answers: bool = False, storage_options: Mapping[str, Any] | None = None
) -> Purged:
    """Delete a run: its folder, and with `answers` every record of the journal that it paid for.

    Raises
    ------
    RunError
        There is no such run.
    StoreError
        ``STORE-CLAIMED`` where a living process works on it; or the store cannot be written.
    """
    here = runtime()
    here.remember_options(store, storage_options)
    runs = RunStore(store, here.options_of(store))
    run = runs.open(run_id)
    if run.holder() is not None:
        runs.purge(run_id)  # says who works on it, and deletes nothing
    report = None
    if answers:
        # the journal first: should it fail, the run is still there to say which namespace is meant
        journal = here.journal(store, RunSpec.of(run).namespace, store_prompts=False)
        journal.refresh()
        report = journal.purge(run_id)
    here.forget(run_id)
    runs.purge(run_id)
    return Purged(run_id, report)


def sweep_lazy(
    store: str,
    *,
    older_than_s: float = LAZY_AGE_S,
    storage_options: Mapping[str, Any] | None = None,
    now_s: float | None = None,
) -> tuple[str, ...]:
    """Delete the folders of lazy frames that were made, and last worked on, longer ago than `older_than_s`.

    Their answers stay in the journal: the same lazy frame, made again, is computed without a call.

    Returns
    -------
    tuple of str
        Ids of what was deleted.
    """
    runs = RunStore(store, storage_options)
    now = time.time() if now_s is None else now_s
    swept = []
    for run_id in runs.ids():
        if not run_id.startswith(LAZY_PREFIX):
            continue
        moved_s = _last_moved_s(runs.open(run_id))
        if moved_s is None or now - moved_s < older_than_s:
            continue
        runs.purge(run_id)
        swept.append(run_id)
    return tuple(swept)


def _last_moved_s(run: RunFolder) -> float | None:
    """When it was made or last committed a partition; None where another process deletes it meanwhile."""
    try:
        spec = run.spec
        stages = range(len(spec.get("plan", {}).get("steps", ())) + 1)
        ends = [record.ended_s for stage in stages for record in run.committed(stage).values()]
        return max([float(spec["created_s"]), *ends])
    except (FileNotFoundError, StoreError):
        return None
