"""A partition's work from its first marker to its result: begun beside others, or in spans when it has killed.

Before it begins it asks whether an earlier attempt is still at work somewhere (a worker that was retired
finishes the calls it has in flight), and waits for that one, so that nothing is paid twice.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa

from apwa_dask.errors import RunError, StoreError
from apwa_dask.execution.batch_desk import run_deferring
from apwa_dask.execution.bisect import Course, Span, course_of
from apwa_dask.execution.compile import ERROR, ROW_ID, STATUS
from apwa_dask.execution.ledger import Ledger
from apwa_dask.execution.neighbours import was_fatal
from apwa_dask.execution.pipeline import Failure, PipelineResult, run_pipeline
from apwa_dask.execution.runtime import StageContext
from apwa_dask.execution.stopping import Interrupted
from apwa_dask.models.types import OutcomeClass
from apwa_dask.plans.steps import LLMStep
from apwa_dask.store.attempts import Attempt, AttemptLog

__all__ = ["Worked", "begun", "check", "deaths", "marked", "sentence", "work_on"]

logger = logging.getLogger(__name__)

PREDECESSOR_S = 60.0
"""How long an attempt that answers that it is still at work is waited for, at most."""
LANDING_S = 30.0
"""How long the end of a stopped attempt waits for calls in flight."""
_ASK_EVERY_S = 0.1
READING_DEATHS = 6
"""Processes that may die before any row is worked: then the input itself cannot be read."""

Load = Callable[[], pa.Table]


class Worked:
    """What came of a partition: its result, the number of the attempt that made it, and the rows read."""

    def __init__(self, result: PipelineResult, attempt: int, rows_in: int) -> None:
        self.result, self.attempt, self.rows_in = result, attempt, rows_in


@contextmanager
def work_on(context: StageContext, ordinal: int, load: Load) -> Iterator[Worked | None]:
    """Work on a partition; the body commits what comes out.

    The body is inside, because an attempt is over when its commit is: a process that dies in between has
    died of this partition as far as anyone can tell. Yields None where a predecessor has committed meanwhile.
    """
    log = context.folder.attempt_log(context.stage.index, ordinal)
    first = None
    with context.run.runtime.isolation.shared(lambda: check(context)):
        first = log.begin_first(context.worker_name, _address(context))
        if first is not None:
            with marked(context, log, first):
                yield _whole(context, load, first)
            return
    before = deaths(context, log)
    if context.folder.commit_of(context.stage.index, ordinal) is not None:
        yield None
        return
    spans = [attempt.span for attempt in before]
    if course_of(1, spans) is None:  # the number of rows changes nothing here
        with context.run.runtime.isolation.shared(lambda: check(context)), begun(context, log) as attempt:
            yield _whole(context, load, attempt)
        return
    with context.run.runtime.isolation.alone(lambda: check(context)):
        table = _read(context, ordinal, log, load, spans)
        course = course_of(table.num_rows, spans, separable=_separable(context))
        assert course is not None
        logger.warning(
            "partition %d of stage %d ended %d processes: its rows are worked in %d spans, %d rows not at all",
            ordinal,
            context.stage.index,
            len(before),
            len(course.spans),
            len(course.condemned),
        )
        with _spans(context, log, table, course, len(before)) as worked:
            yield worked


def check(context: StageContext) -> None:
    """Begin nothing more where the run is stopping."""
    if context.control.stopping:
        raise Interrupted(context.control.stopping)


def _address(context: StageContext) -> str:
    return context.run.runtime.neighbours.address


# -- as usual


def _whole(context: StageContext, load: Load, attempt: Attempt) -> Worked:
    table = load()
    return Worked(_run(context, table), attempt.number, table.num_rows)


def _run(context: StageContext, table: pa.Table) -> PipelineResult:
    if context.spec.batch is not None:
        return run_deferring(context, table)
    stage, kept = context.stage, context.run.client.prefixes_are_kept
    return run_pipeline(stage.steps, context.agents, table, stage.schema, context.desk(), by_prefix=kept)


@contextmanager
def begun(
    context: StageContext, log: AttemptLog, span: Span | None = None, after: int = 0
) -> Iterator[Attempt]:
    """`marked`, with a new attempt."""
    attempt = log.begin(context.worker_name, _address(context), span, after=after)
    with marked(context, log, attempt):
        yield attempt


@contextmanager
def marked(context: StageContext, log: AttemptLog, attempt: Attempt) -> Iterator[None]:
    """While the body runs this process says, when asked, that the attempt is at work.

    A body that raises leaves a marker, after what was paid is durable: whoever comes next finds it.
    """
    with context.run.runtime.neighbours.working_on(attempt):
        try:
            yield
        except BaseException:
            _end(context, log, attempt)
            raise


def _end(context: StageContext, log: AttemptLog, attempt: Attempt) -> None:
    _let_calls_land(context)
    try:
        context.journal.flush()
        log.end(attempt)
    except StoreError as unreachable:
        # the reason why the body ended is what the user must hear; this attempt will count as a death
        logger.warning("the end of an attempt could not be noted: %s", unreachable)


def _let_calls_land(context: StageContext) -> None:
    """A stop ends the partition's thread at once; who takes the partition over must find the calls in flight paid."""
    give_up_s = time.monotonic() + LANDING_S
    while context.control.stopping and context.run.tasks and time.monotonic() < give_up_s:
        time.sleep(_ASK_EVERY_S / 5)


# -- who was here before


def deaths(context: StageContext, log: AttemptLog) -> list[Attempt]:
    """Earlier attempts that took their process with them, once none is at work any more."""
    neighbours = context.run.runtime.neighbours
    give_up_s = time.monotonic() + PREDECESSOR_S
    while True:
        unended = [attempt for attempt in log.all() if not attempt.ended]
        busy = [attempt for attempt in unended if neighbours.at_work(attempt)]
        if not busy or time.monotonic() > give_up_s:
            break
        check(context)
        time.sleep(_ASK_EVERY_S)
    context.journal.refresh()  # what they paid for and flushed
    return [attempt for attempt in unended if attempt not in busy and was_fatal(attempt)]


# -- by itself, in spans


def _separable(context: StageContext) -> bool:
    """Rows whose prompts hold other rows cannot be worked apart without changing what is asked."""
    return all(step.contract.unit == "row" for step in context.stage.steps if isinstance(step, LLMStep))


def _read(
    context: StageContext, ordinal: int, log: AttemptLog, load: Load, spans: Sequence[Span | None]
) -> pa.Table:
    """The input, read under a marker of its own: a file may kill as well as a row."""
    reading = sum(span is None for span in spans)
    if reading >= READING_DEATHS:
        raise RunError(
            f"partition {ordinal} of stage {context.stage.index} ended {reading} processes before a row was worked",
            where=context.folder.url,
            why="reading its input ends the process: memory, or a file that breaks its reader",
            fix="look at the worker's log; cut the file smaller, or leave it out",
            saved="all other partitions, and every journaled answer",
            code="RUN-POISON",
        )
    attempt = log.begin(context.worker_name, _address(context), after=len(spans))
    with marked(context, log, attempt):
        table = load()
    log.end(attempt)
    return table


@contextmanager
def _spans(
    context: StageContext, log: AttemptLog, table: pa.Table, course: Course, lost: int
) -> Iterator[Worked]:
    """Span after span; the last one's marker stays until the body has committed."""
    judged = _condemn(table, course.condemned, lost)
    results: list[PipelineResult] = []
    number = 0
    for start, stop in course.spans[:-1]:
        with begun(context, log, (start, stop), number) as attempt:
            results.append(_run(context, judged.slice(start, stop - start)))
            context.journal.flush()
        log.end(attempt)
        number = attempt.number
    start, stop = course.spans[-1]
    with begun(context, log, (start, stop), number) as attempt:
        results.append(_run(context, judged.slice(start, stop - start)))
        results.append(_dead_letters(context, judged, course.condemned, lost))
        yield Worked(_joined(results, context.stage.schema), attempt.number, table.num_rows)


def _condemn(table: pa.Table, rows: Sequence[int], lost: int) -> pa.Table:
    """The table with a failed status on these rows, so that no step works on them."""
    if not rows:
        return table
    statuses, errors = table.column(STATUS).to_pylist(), table.column(ERROR).to_pylist()
    for row in rows:
        statuses[row], errors[row] = OutcomeClass.POISON.value, sentence(lost)
    for name, values in ((STATUS, statuses), (ERROR, errors)):
        place = table.column_names.index(name)
        table = table.set_column(place, table.schema.field(place), pa.array(values, pa.string()))
    return table


def sentence(lost: int, what: str = "row") -> str:
    """Why a row or a prompt is a dead letter."""
    return f"working on this {what} ended its process: {lost} processes were lost until it was found"


def _dead_letters(context: StageContext, table: pa.Table, rows: Sequence[int], lost: int) -> PipelineResult:
    steps = [step for step in context.stage.steps if isinstance(step, LLMStep)]
    step_id = steps[0].id if steps else context.stage.steps[0].id
    shown = [name for name in (steps[0].contract.inputs if steps else ()) if name in table.column_names]
    failures = tuple(
        Failure(
            row_id=table.column(ROW_ID)[row].as_py(),
            step=step_id,
            outcome=OutcomeClass.POISON.value,
            message=sentence(lost),
            attempts=lost,
            input_tokens=0,
            output_tokens=0,
            cost_usd=0.0,
            request_id="",
            model="",
            raw=None,
            inputs="; ".join(f"{name}={str(table.column(name)[row].as_py())[:500]}" for name in shown),
        )
        for row in rows
    )
    return PipelineResult(context.stage.schema.empty_table(), failures, Ledger(), 0, 0)


def _joined(results: Sequence[PipelineResult], schema: pa.Schema) -> PipelineResult:
    return PipelineResult(
        pa.concat_tables([result.table for result in results]) if results else schema.empty_table(),
        tuple(failure for result in results for failure in result.failures),
        Ledger(entry for result in results for entry in result.ledger),
        sum(result.failed_rows for result in results),
        sum(result.cached_rows for result in results),
    )
