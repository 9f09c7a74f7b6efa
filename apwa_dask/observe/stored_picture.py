"""The picture of a run that this process does not work on, from its folder alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from apwa_dask.execution.events import (
    Event,
    PartitionDone,
    Progress,
    RunFinished,
    RunStarted,
    StageStarted,
    State,
    StepPulse,
)
from apwa_dask.observe.history import History, Picture
from apwa_dask.observe.keeping import kept_picture
from apwa_dask.store.runs import RunStatus

if TYPE_CHECKING:
    from apwa_dask.execution.kept import KeptRun
    from apwa_dask.store.commit import CommitRecord

__all__ = ["LOOK_S", "picture_of_parts", "stored_picture"]

LOOK_S = 3.0
"""The folder is looked into at most so often, for it may be far away."""
_WORDS = "worked on by another process: as of its finished partitions"


def stored_picture(run: KeptRun, clock: Callable[[], float] = time.monotonic) -> Callable[[], Picture]:
    """A function that gives the picture as of now.

    A run that has ended is shown as the process that worked on it saw it. While another process works on it, only
    what is committed is known: rows, outcomes, tokens and money by partition; no latency and no leases.
    """
    picture, looked_s = Picture(), float("-inf")

    def look() -> Picture:
        nonlocal picture, looked_s
        if clock() - looked_s >= LOOK_S:
            picture, looked_s = _look(run), clock()
        return picture

    return look


def _look(run: KeptRun) -> Picture:
    kept = None if run.folder.status is RunStatus.RUNNING else kept_picture(run.folder)
    return kept or picture_of_parts(run)


def picture_of_parts(run: KeptRun) -> Picture:
    """What the commit records of a run add up to."""
    history = History()
    for event in sorted(_events(run), key=lambda event: event.time):
        history(event)
    return history.picture()


def _events(run: KeptRun) -> Iterator[Event]:
    past = run.folder.history()
    begun_s = float(past[0]["at_s"]) if past else 0.0
    model = run.spec.models[""].name if "" in run.spec.models else ""
    budget_usd = run.spec.budget.get("usd")
    yield RunStarted(run.id, begun_s, stages=len(run.stages), budget_usd=budget_usd, model=model)
    last_s = begun_s
    for stage in run.stages:
        records = run.folder.committed(stage.index)
        if not records:
            continue
        yield StageStarted(run.id, begun_s, stage=stage.index, name=stage.name, partitions=0, rows=None)
        for record in records.values():
            last_s = max(last_s, record.ended_s)
            yield from _events_of(run.id, stage.index, record, counts_rows=stage.calls_model)
    status = run.folder.status
    if status is RunStatus.RUNNING:
        yield State(run.id, last_s, words=_WORDS)
    elif status is not RunStatus.CREATED:
        yield RunFinished(run.id, max(last_s, float(past[-1]["at_s"]) if past else 0.0), status=str(status))


def _events_of(run_id: str, stage: int, record: CommitRecord, *, counts_rows: bool) -> Iterator[Event]:
    costs = [line.cost_usd for line in record.ledger]
    yield Progress(
        run_id,
        record.ended_s,
        stage=stage,
        rows_done=record.rows_in if counts_rows else 0,
        rows_failed=record.failed if counts_rows else 0,
        rows_cached=record.cached if counts_rows else 0,
        calls=sum(line.calls for line in record.ledger),
        input_tokens=sum(line.input_tokens for line in record.ledger),
        output_tokens=sum(line.output_tokens for line in record.ledger),
        cost_usd=sum(cost or 0.0 for cost in costs),
        cost_unknown=None in costs,
        worker=record.worker,
    )
    for line in record.ledger:
        outcomes = {line.outcome: line.units}
        yield StepPulse(
            run_id,
            record.ended_s,
            step=line.step,
            worker=record.worker,
            outcomes=outcomes,
            reused=line.reused,
        )
    yield PartitionDone(
        run_id,
        record.ended_s,
        stage=stage,
        partition=record.partition,
        rows_in=record.rows_in,
        rows_out=record.rows_out,
    )
