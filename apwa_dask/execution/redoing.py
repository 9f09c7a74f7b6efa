"""Sources that change under a run: going on is refused, or what changed is redone in a run of its own.

A run never mixes rows of an old file with rows of a new one. `redo` makes a new run over the sources as they are now;
finished partitions whose files did not change are taken over as they are, and of the others only the rows that the
journal does not know are paid.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from apwa_dask.errors import ConfigError, SourceError, StoreError, candidates
from apwa_dask.execution.asked_again import AskedAgain
from apwa_dask.execution.claims import held
from apwa_dask.execution.compile import Stage
from apwa_dask.execution.runtime import runtime
from apwa_dask.models.budget import Budget
from apwa_dask.store.commit import CommitRecord, LedgerLine
from apwa_dask.store.runs import RunFolder, RunStore
from apwa_dask.tables.changes import Changes, changes_of, revised
from apwa_dask.tables.manifest import Manifest

if TYPE_CHECKING:
    from apwa_dask.execution.run import Run

__all__ = [
    "ON_CHANGE",
    "OnChange",
    "changes_under",
    "checked_on_change",
    "note_new_files",
    "redo",
    "refuse_changes",
    "refuse_lazy_changes",
]

OnChange = Literal["refuse", "redo"]
ON_CHANGE = ("refuse", "redo")
_THREADS = 8
_logger = logging.getLogger(__name__)

Kept = Mapping[int, int]
"""New ordinal -> the old ordinal of the same partition."""


def checked_on_change(on_change: str) -> str:
    """`on_change`, when it has a meaning.

    Raises
    ------
    ConfigError
        It has none; the message names those that have.
    """
    if on_change in ON_CHANGE:
        return on_change
    raise ConfigError(
        f"on_change={on_change!r} has no meaning",
        fix=candidates(on_change, ON_CHANGE, noun="values"),
        code="CONFIG-ON-CHANGE",
    )


def changes_under(run: Run) -> Changes:
    """What has changed in the files of a run since it read them; a Dask frame's own files are not known."""
    total = Changes()
    for alias, manifest in _manifests(run).items():
        total += changes_of(manifest, runtime().options_of(f"{run.id}/{alias}"))
    return total


def refuse_changes(changes: Changes, run_id: str) -> None:
    """Say what changed, and what can be done.

    Raises
    ------
    SourceError
        Anything has changed.
    """
    if not changes:
        return
    raise SourceError(
        "files of the source are not as they were when this run read them",
        where=str(changes),
        why="its finished partitions hold answers about what stood there before",
        fix="redo what changed, and nothing else: run.resume(on_change='redo'), or: "
        f"apwa resume {run_id} --on-change redo; or put the files back",
        saved="paid answers are kept: rows that did not change cost nothing again",
        code="SOURCE-CHANGED",
    )


def refuse_lazy_changes(changes: Changes) -> None:
    """The same for a lazy frame, whose table is as it was when it was read.

    Raises
    ------
    SourceError
        Anything has changed.
    """
    if changes:
        raise SourceError(
            "files of the source are not as they were when the table was read",
            where=str(changes),
            why="a lazy frame would mix rows of the old files with rows of the new ones",
            fix="read the source again, apwa.read(...), and make the frame from that table",
            saved="paid answers are kept: rows that did not change cost nothing again",
            code="SOURCE-CHANGED",
        )


def note_new_files(changes: Changes) -> None:
    """Before a run: files that changed or are gone are refused, and new ones are named in the log.

    What a table reads is fixed when it is read; a run never takes in a file that its plan and its estimate have not
    seen.

    Raises
    ------
    SourceError
        Files have changed, or are gone.
    """
    if changes.changed or changes.gone:
        raise SourceError(
            "files of the source are not as they were when the table was read",
            where=str(replace(changes, added=())),
            why="the plan and its estimate are of the files as they were",
            fix="read the source again, apwa.read(...), and run that table",
            saved="nothing was called; paid answers are kept: rows that did not change cost nothing again",
            code="SOURCE-CHANGED",
        )
    if changes.added:
        _logger.warning(
            "the source has files that were not there when the table was read, and this run leaves them out: %s; "
            "to have them, read the source again, apwa.read(...)",
            replace(changes, changed=(), gone=()),
        )


def redo(run: Run, *, retry_failed: bool = False) -> Run:
    """A new run over the sources as they are now, with the finished partitions that did not change; not yet started.

    Parameters
    ----------
    run : Run
        Not at work anywhere. It stays as it is.
    retry_failed : bool
        Take over only partitions without failed rows, and ask again what failed.
    """
    from apwa_dask.execution.run import Run

    with held(run.folder, runtime().worker_name, lambda why: None):
        old = _manifests(run)
        new = {
            alias: revised(manifest, runtime().options_of(f"{run.id}/{alias}"))
            for alias, manifest in old.items()
        }
        folder = _folder(run, new, {"retry_of": run.id} if retry_failed else {})
        kept = _kept(run, old, new)
        _take_over(run, folder, kept, but_failed=retry_failed)
        if retry_failed:
            AskedAgain.write(folder, run.asked_in_vain())
        run.folder.append_history("redone", by=folder.run_id)
    runtime().copy_options(run.id, folder.run_id, run.spec.sources)
    run.executor.admit(run.spec.plan.tools, run._frames)
    return Run(run.store, folder, run.executor, run._frames, tuple(run._subscribers))


def _manifests(run: Run) -> dict[str, Manifest]:
    options = runtime().options_of(run.store)
    return {
        alias: Manifest.load(run.folder.source_manifest_url(alias), options)
        for alias, source in run.spec.sources.items()
        if source.kind == "manifest"
    }


def _folder(run: Run, new: Mapping[str, Manifest], marks: Mapping[str, str]) -> RunFolder:
    sources = {
        alias: replace(
            source,
            npartitions=new[alias].npartitions,
            rows=new[alias].rows,
            fingerprint=new[alias].fingerprint,
        )
        if alias in new
        else source
        for alias, source in run.spec.sources.items()
    }
    spec = replace(run.spec, sources=sources, budget=_left(run), teaches="")
    store = RunStore(run.store, runtime().options_of(run.store))
    kept = {name: value for name, value in run.folder.spec.items() if name not in ("run_id", "created_s")}
    folder = store.create(store.new_run_id(), {**kept, **spec.as_dict(), **marks, "redo_of": run.id})
    for alias, manifest in new.items():
        folder.put_text(f"source-{alias}.json", manifest.encode().decode())
    return folder


def _left(run: Run) -> dict[str, Any]:
    """The budget less what the old run has spent of it: a ceiling holds over both. A named purse knows by itself."""
    budget = Budget.from_dict(run.spec.budget)
    if not budget or budget.name:
        return dict(run.spec.budget)
    paid = run._spent()
    return replace(
        budget,
        usd=None if budget.usd is None else max(budget.usd - paid.usd, 0.0),
        tokens=None if budget.tokens is None else max(budget.tokens - paid.tokens, 0),
        calls=None if budget.calls is None else max(budget.calls - paid.calls, 0),
    ).as_dict()


# -- taking over


@dataclass(frozen=True)
class _Whole:
    """Partitions of a source or stage that are as they were, and whether all of them are."""

    kept: Kept
    complete: bool


def _kept(run: Run, old: Mapping[str, Manifest], new: Mapping[str, Manifest]) -> dict[int, Kept]:
    """By stage: partitions whose inputs, down to the files, did not change."""
    known: dict[str | int, _Whole] = {}
    for alias, source in run.spec.sources.items():
        if alias in old:
            known[alias] = _kept_of_source(old[alias], new[alias])
        else:
            known[alias] = _Whole({k: k for k in range(source.npartitions)}, True)
    by_stage: dict[int, Kept] = {}
    for stage in run.stages:
        found = _kept_of_stage(run, stage, known)
        known[stage.index] = found
        by_stage[stage.index] = found.kept
    return by_stage


def _kept_of_source(old: Manifest, new: Manifest) -> _Whole:
    before = {old.partition_key(k): k for k in range(old.npartitions)}
    kept = {k: before[key] for k in range(new.npartitions) if (key := new.partition_key(k)) in before}
    whole = old.npartitions == new.npartitions and all(kept.get(k) == k for k in range(new.npartitions))
    return _Whole(kept, whole)


def _kept_of_stage(run: Run, stage: Stage, known: Mapping[str | int, _Whole]) -> _Whole:
    inputs = [known[name] for name in stage.inputs]
    if stage.kind == "rows":
        return inputs[0]
    if all(one.complete for one in inputs):
        return _Whole({k: k for k in run.folder.committed(stage.index)}, True)
    return _Whole({}, False)


def _take_over(run: Run, folder: RunFolder, kept: Mapping[int, Kept], *, but_failed: bool) -> None:
    work: list[tuple[CommitRecord, int]] = []
    for stage, ordinals in kept.items():
        records = run.folder.committed(stage)
        for new, old in ordinals.items():
            record = records.get(old)
            if record is not None and not (but_failed and (record.failed or record.failures)):
                work.append((record, new))
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="apwa-redo") as pool:
        list(pool.map(lambda item: _copy(run.folder, folder, *item), work))


def _copy(source: RunFolder, target: RunFolder, record: CommitRecord, ordinal: int) -> None:
    """One finished partition, under its new number; a damaged one is worked again."""
    try:
        rows = source.read_part(record)
        failures = None if record.failures is None else source.read_part(record.failures)
    except StoreError as damaged:
        if damaged.code != "STORE-DAMAGED":
            raise
        return
    attempt = target.begin_attempt(record.stage, ordinal, worker=runtime().worker_name)
    target.commit(
        record.stage,
        ordinal,
        replace(
            record,
            partition=ordinal,
            attempt=attempt,
            generation=0,
            part=target.write_part(record.stage, ordinal, attempt, rows),
            failures=None
            if failures is None
            else target.write_failures(record.stage, ordinal, attempt, failures),
            ledger=tuple(_not_paid_here(line) for line in record.ledger),
        ),
    )


def _not_paid_here(line: LedgerLine) -> LedgerLine:
    return LedgerLine(line.step, line.model, line.outcome, line.units, line.units, cost_usd=0.0)
