"""The task functions: synchronous, module-level, small arguments. They never raise for a row's trouble.

Look in the store, read, run the rows, coerce to the declared schema, write, commit, return. A task that finds
its commit record does nothing, so a lost worker, ``head()`` before ``compute()`` and a resume all cost no
call.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from apwa_dask.errors import ApwaError, RunError
from apwa_dask.execution.alarms import row_error
from apwa_dask.execution.attempts import work_on
from apwa_dask.execution.compile import ERROR, ROW_ID, STATUS, physical_schema
from apwa_dask.execution.frames import RECORD
from apwa_dask.execution.pipeline import Failure, PipelineResult
from apwa_dask.execution.reduce import NOTES_COLUMN, failures_of, is_deferred, ledger_of
from apwa_dask.execution.runtime import StageContext, context_of
from apwa_dask.execution.spec import LAZY_PREFIX, StageRef
from apwa_dask.execution.stopping import DEFERRED, Deferred, Interrupted, write_stop
from apwa_dask.plans.steps import Filter
from apwa_dask.store.commit import CommitRecord, LedgerLine
from apwa_dask.store.killpoints import reach
from apwa_dask.tables.dtypes import to_arrow, to_pandas
from apwa_dask.tables.reading import read_partition, refuse_changed

__all__ = [
    "load_committed",
    "load_source",
    "physical_of_frame",
    "record_frame_partition",
    "record_partition",
    "record_written",
    "run_frame_partition",
    "run_partition",
]


def record_partition(ordinal: int, ref: StageRef) -> pd.DataFrame:
    """Work on one partition of a ``rows`` stage and commit it; return one record row."""
    context = context_of(ref)
    return _record(context, ordinal, lambda: _ensure(context, ordinal, lambda: _input_of(context, ordinal)))


def run_partition(ordinal: int, ref: StageRef) -> pd.DataFrame:
    """Like `record_partition`, but return the partition's rows (lazy frames)."""
    context = context_of(ref)
    return _rows(context, lambda: _ensure(context, ordinal, lambda: _input_of(context, ordinal)))


def record_frame_partition(frame: pd.DataFrame, ordinals: pd.DataFrame, ref: StageRef) -> pd.DataFrame:
    """Work on one partition that Dask hands over (physical columns) and commit it."""
    context, ordinal = context_of(ref), _ordinal(ordinals)
    return _record(
        context, ordinal, lambda: _ensure(context, ordinal, lambda: to_arrow(frame, context.input_schema))
    )


def run_frame_partition(frame: pd.DataFrame, ordinals: pd.DataFrame, ref: StageRef) -> pd.DataFrame:
    """Like `record_frame_partition`, but return the partition's rows (lazy frames)."""
    context, ordinal = context_of(ref), _ordinal(ordinals)
    return _rows(context, lambda: _ensure(context, ordinal, lambda: to_arrow(frame, context.input_schema)))


def record_written(frame: pd.DataFrame, ordinals: pd.DataFrame, ref: StageRef) -> pd.DataFrame:
    """Commit a partition that a frame step or a reduce has computed."""
    context = context_of(ref)
    ordinal = _ordinal(ordinals)
    known = context.folder.commit_of(context.stage.index, ordinal)
    if known is not None:
        return _record_row(known)
    if is_deferred(frame):
        return _record_of_none(ordinal, DEFERRED)
    notes = frame[NOTES_COLUMN].dropna().tolist() if NOTES_COLUMN in frame.columns else []
    table = to_arrow(frame, context.stage.schema)
    failed = table.num_rows - table.column(STATUS).null_count
    result = PipelineResult(table, failures_of(notes), ledger_of(notes), failed, 0)
    attempt = context.folder.begin_attempt(context.stage.index, ordinal, worker=context.worker_name)
    return _record_row(_commit(context, ordinal, result, table.num_rows, time.time(), attempt))


def load_committed(ordinal: int, ref: StageRef, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """The committed rows of one partition of a stage."""
    return to_pandas(_committed(context_of(ref), ordinal, columns))


def load_source(ordinal: int, ref: StageRef, alias: str) -> pd.DataFrame:
    """One partition of a source with its bookkeeping columns."""
    return to_pandas(_source_table(context_of(ref), alias, ordinal))


def physical_of_frame(frame: pd.DataFrame, ordinals: pd.DataFrame, ref: StageRef, alias: str) -> pd.DataFrame:
    """A partition of a caller's frame with bookkeeping and index columns in front."""
    source = context_of(ref).spec.sources[alias]
    flat = frame.reset_index(drop=True)
    flat.columns = [str(name) for name in flat.columns]
    columns: dict[str, object] = {}
    ordinal = _ordinal(ordinals)
    columns[ROW_ID] = pd.array([f"{ordinal}:{k}" for k in range(len(frame))], dtype="string[pyarrow]")
    columns[STATUS] = pd.array([None] * len(frame), dtype="string[pyarrow]")
    columns[ERROR] = pd.array([None] * len(frame), dtype="string[pyarrow]")
    for level, field in enumerate(source.index):
        columns[field.name] = frame.index.get_level_values(level)
    ahead = pd.DataFrame(columns, index=flat.index)
    return pd.concat([ahead, flat], axis=1)


# -- one partition


def _record(context: StageContext, ordinal: int, work: Callable[[], CommitRecord]) -> pd.DataFrame:
    """One record row: of the commit, or of why the run stopped before it."""
    try:
        return _record_row(work())
    except Deferred:
        return _record_of_none(ordinal, DEFERRED)
    except (Interrupted, ApwaError) as reason:
        _hand_over(context)
        context.run.stop(str(reason), reason if isinstance(reason, ApwaError) else None)
        cause = context.control.error or reason
        return _record_of_none(ordinal, write_stop(cause))


def _record_of_none(ordinal: int, why: str) -> pd.DataFrame:
    return _record_of(ordinal, 0, why)


def _rows(context: StageContext, work: Callable[[], CommitRecord]) -> pd.DataFrame:
    """The rows of a lazy partition. What stops a lazy frame is raised to whoever computes it, who may try
    again.
    """
    with context.run.tasks_of_frame.at_work():
        try:
            return to_pandas(context.read(work()))
        except (Interrupted, ApwaError) as reason:
            _hand_over(context)
            context.run.stop(str(reason), reason if isinstance(reason, ApwaError) else None)
            stopped = _raisable(context.control.error or reason)
        raise stopped  # out here nothing led to it: Dask would send that along


def _hand_over(context: StageContext) -> None:
    """A worker that leaves its cluster does not end the run: the cluster gives the task to another."""
    instead = context.run.runtime.neighbours.interruption(context.control.stopping)
    if not isinstance(instead, Interrupted):
        raise instead from None


def _raisable(reason: BaseException) -> BaseException:
    if isinstance(reason, ApwaError):
        return reason.alone()
    return RunError(
        f"the computation was stopped: {reason}",
        fix="compute the frame again",
        saved="paid answers are in the journal and will not be paid again",
        code="RUN-STOPPED",
    )


def _ensure(context: StageContext, ordinal: int, load: Callable[[], pa.Table]) -> CommitRecord:
    known = context.folder.commit_of(context.stage.index, ordinal)
    if known is not None:
        _refuse_stale(context, ordinal)
        context.reused(known)
        return known
    if context.control.stopping:
        raise Interrupted(context.control.stopping)
    started = time.time()
    with work_on(context, ordinal, load) as worked:
        if worked is None:
            return _committed_meanwhile(context, ordinal)
        result = _on_error(context, worked.result)
        return _commit(context, ordinal, result, worked.rows_in, started, worked.attempt)


def _refuse_stale(context: StageContext, ordinal: int) -> None:
    """A lazy frame that is computed again stands for its files as they are now; a run for what it has read."""
    (source,) = context.stage.inputs
    if not context.ref.run_id.startswith(LAZY_PREFIX) or not isinstance(source, str):
        return
    spec = context.spec.sources[source]
    if spec.kind == "manifest" and spec.npartitions:
        refuse_changed(context.manifest(source), ordinal, context.storage_options(source))


def _committed_meanwhile(context: StageContext, ordinal: int) -> CommitRecord:
    known = context.folder.commit_of(context.stage.index, ordinal)
    assert known is not None
    context.reused(known)
    return known


def _on_error(context: StageContext, result: PipelineResult) -> PipelineResult:
    policy = context.spec.on_error
    if policy == "keep" or not result.failures:
        return result
    if policy == "raise":
        error = row_error(result.failures[0])
        context.run.stop("a row failed", error)
        raise error
    good = pc.is_null(result.table.column(STATUS))
    return PipelineResult(
        result.table.filter(good), result.failures, result.ledger, result.failed_rows, result.cached_rows
    )


def _commit(
    context: StageContext, ordinal: int, result: PipelineResult, rows_in: int, started: float, attempt: int
) -> CommitRecord:
    folder, stage = context.folder, context.stage.index
    reach("partition.before_write")
    part = folder.write_part(stage, ordinal, attempt, result.table)
    failures = None
    if result.failures:
        failures = folder.write_failures(stage, ordinal, attempt, _failures_table(result.failures))
    context.journal.flush()
    reach("partition.before_commit")
    record = CommitRecord(
        stage=str(stage),
        partition=ordinal,
        attempt=attempt,
        rows_in=rows_in,
        rows_out=result.table.num_rows,
        failed=result.failed_rows + _lost_in_filters(context, result.failures),
        cached=result.cached_rows,
        part=part,
        failures=failures,
        ledger=tuple(LedgerLine(**asdict(entry)) for entry in result.ledger),
        started_s=started,
        ended_s=time.time(),
        worker=context.worker_name,
    )
    winner = folder.commit(stage, ordinal, record)
    reach("partition.after_commit")
    context.committed(winner)
    return winner


def _lost_in_filters(context: StageContext, failures: Sequence[Failure]) -> int:
    """Rows that a filter could not judge: they are in no result, and have failed all the same."""
    filters = {step.id for step in context.stage.steps if isinstance(step, Filter)}
    return sum(failure.step in filters for failure in failures)


def _failures_table(failures: Sequence[Failure]) -> pa.Table:
    ordered = sorted(failures, key=_place)  # not in the order in which they happened to fail
    return pa.Table.from_pylist([asdict(failure) for failure in ordered], schema=FAILURES)


def _place(failure: Failure) -> tuple[list[int], str]:
    """Rows in their order: ids are numbers joined by points and colons."""
    return [int(number) for number in re.findall(r"\d+", failure.row_id)], failure.row_id


FAILURES = pa.schema(
    [
        ("row_id", pa.string()),
        ("step", pa.string()),
        ("outcome", pa.string()),
        ("message", pa.string()),
        ("attempts", pa.int64()),
        ("input_tokens", pa.int64()),
        ("output_tokens", pa.int64()),
        ("cost_usd", pa.float64()),
        ("request_id", pa.string()),
        ("model", pa.string()),
        ("raw", pa.string()),
        ("inputs", pa.string()),
        ("prompt_hash", pa.string()),
    ]
)
"""Columns of the failure records beside each part."""


# -- inputs


def _input_of(context: StageContext, ordinal: int) -> pa.Table:
    (source,) = context.stage.inputs
    if isinstance(source, str):
        return _source_table(context, source, ordinal)
    return _committed(context.sibling(source), ordinal, None)


def _source_table(context: StageContext, alias: str, ordinal: int) -> pa.Table:
    spec = context.spec.sources[alias]
    if spec.npartitions == 0:
        return physical_schema(spec.schema, spec.index).empty_table()
    if spec.kind == "frame":
        raise RunError(
            f"source {alias!r} of this run is a frame that only the session which made it holds",
            fix="call run() again on the same table: finished work and paid answers are reused",
            code="RUN-SOURCE",
        )
    table = read_partition(
        context.manifest(alias), ordinal, row_ids=True, storage_options=context.storage_options(alias)
    )
    nothing = pa.nulls(table.num_rows, pa.string())
    data = [table.column(field.name).cast(field.type) for field in (*spec.index, *spec.schema)]
    return pa.Table.from_arrays(
        [table.column(ROW_ID), nothing, nothing, *data], schema=physical_schema(spec.schema, spec.index)
    )


def _committed(context: StageContext, ordinal: int, columns: Sequence[str] | None) -> pa.Table:
    record = context.folder.commit_of(context.stage.index, ordinal)
    if record is None:
        raise RunError(
            f"partition {ordinal} of stage {context.stage.index} is not committed",
            fix=f"resume the run: apwa resume {context.ref.run_id}",
            code="RUN-PART",
        )
    return context.read(record, columns)


def _ordinal(ordinals: pd.DataFrame) -> int:
    return int(ordinals["ordinal"].iloc[0])


def _record_row(record: CommitRecord) -> pd.DataFrame:
    return _record_of(record.partition, record.rows_out, None)


def _record_of(partition: int, rows_out: int, stopped: str | None) -> pd.DataFrame:
    """Typed when it is made: to cast a frame of one row costs three times as much, for each partition."""
    numbers = {"partition": np.array([partition]), "rows_out": np.array([rows_out])}
    return pd.DataFrame({**numbers, "stopped": np.array([stopped], dtype=object)}, columns=RECORD.columns)
