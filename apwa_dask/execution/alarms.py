"""What stops a run that fails, before it has paid for the failure of every row.

Two alarms. *Alike*: while nothing of a step has come out well, at most `SAMPLE` of its units (rows, packs) are
under way or done in a process, and when all of them have failed in the same way, the run stops. *Rate*: when more than
``max_failure_rate`` of a stage's rows have failed, the run stops; it counts all processes, in the process that
submitted the run, from the progress reports that travel there anyway.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from apwa_dask.agents.agent import Conversation
from apwa_dask.agents.outcome import Outcome
from apwa_dask.errors import ConfigError, RunError
from apwa_dask.execution.events import Event, Progress
from apwa_dask.execution.failures import normalised

if TYPE_CHECKING:
    from apwa_dask.execution.pipeline import Failure
    from apwa_dask.store.commit import CommitRecord

__all__ = [
    "LEAST_ROWS",
    "SAMPLE",
    "FailureRate",
    "Kind",
    "Probation",
    "alike",
    "alike_error",
    "checked_rate",
    "row_error",
]

SAMPLE = 50
"""Units of a step that may fail alike, for each process, before the run stops."""
_FIRST = 6
"""Of these, how many one partition may start at once: a sample of several partitions is more than one of the first
rows of a sorted table."""
LEAST_ROWS = 50
"""A share of failed rows means nothing before so many rows of a stage have ended, or all of a smaller one."""

_SAVED = "finished partitions and paid answers are kept; rows without an outcome are still pending"


@dataclass(frozen=True, slots=True)
class Kind:
    """How a unit failed: its class, and its message without what belongs to this row only."""

    outcome: str
    words: str


def alike(outcome: str, message: str) -> Kind:
    """The kind of a failure; equal for failures of the same cause.

    Examples
    --------
    >>> alike("bad_input", "HTTP 400 (row 7: 'abc' is bad)") == alike("bad_input", 'HTTP 400 (row 12: "x" is bad)')
    True
    """
    return Kind(str(outcome), normalised(message)[:300])


class Probation:
    """The first units of one step of a run in this process. Any thread may call.

    Parameters
    ----------
    raise_alarm : callable
        Called once with the message of the failures, before those that wait are let go: it must stop the run.
    passed : bool
        The step has shown before that it can succeed, or the alarm is off.
    """

    def __init__(self, raise_alarm: Callable[[str], None], *, passed: bool = False) -> None:
        self.passed = passed
        """Whether all units may start. Never false again."""
        self._raise_alarm = raise_alarm
        self._lock = threading.Lock()
        self._tickets = SAMPLE
        self._failed = 0
        self._kind: Kind | None = None
        self._waiting: deque[_Batch] = deque()

    def start(
        self,
        conversations: Sequence[Conversation],
        submit: Callable[[Sequence[Conversation], Callable[[int], None]], None],
        done: Callable[[int], None],
    ) -> None:
        """Start the conversations that may start; the others when it is decided."""
        batch = _Batch(conversations, submit, done)
        with self._lock:
            now = len(conversations) if self.passed else min(self._tickets, _FIRST, len(conversations))
            self._tickets -= now
            if now < len(conversations):
                self._waiting.append(batch)
            part = batch.take(now)
        batch.start(part, self.landed)

    def succeed(self) -> None:
        """Something of this step came out well, now or in an earlier process: let all go."""
        if not self.passed:
            self._let_go()

    def landed(self, conversation: Conversation) -> None:
        """A conversation of this step has ended."""
        if self.passed:
            return
        ended = list(conversation.outcomes.values())
        if not ended or any(one.ok or one.outcome.is_pending for one in ended):
            self._let_go()
            return
        if sum(one.attempts for one in ended) == 0:
            self._start_next(given_back=1)  # what failed without a call has cost nothing
            return
        alarm = self._count(ended)
        if alarm is not None:
            self._raise_alarm(alarm)
            self._let_go()
        self._start_next()

    def _count(self, ended: Sequence[Outcome]) -> str | None:
        """Count one failed unit; the message when it is the last of a sample that failed alike."""
        kinds = {alike(one.outcome, one.message) for one in ended}
        with self._lock:
            self._kind = self._kind or next(iter(kinds))
            same = kinds == {self._kind}
            self._failed += 1
            full = self._failed >= SAMPLE
        if not same:
            self._let_go()
            return None
        return f"{ended[0].outcome}: {ended[0].message}" if full else None

    def _start_next(self, given_back: int = 0) -> None:
        """Start one more, of the batch that has waited longest for its turn."""
        with self._lock:
            self._tickets += given_back
            if self._tickets == 0 or not self._waiting:
                return
            self._tickets -= 1
            batch = self._waiting.popleft()
            part = batch.take(1)
            if batch.left:
                self._waiting.append(batch)
        batch.start(part, self.landed)

    def _let_go(self) -> None:
        with self._lock:
            self.passed = True
            waiting, self._waiting = list(self._waiting), deque()
            parts = [(batch, batch.take(batch.left)) for batch in waiting]
        for batch, part in parts:
            batch.start(part, self.landed)


class _Batch:
    """Conversations that were submitted together, and how many of them have started."""

    def __init__(
        self,
        conversations: Sequence[Conversation],
        submit: Callable[[Sequence[Conversation], Callable[[int], None]], None],
        done: Callable[[int], None],
    ) -> None:
        self._conversations, self._submit, self._done = conversations, submit, done
        self._started = 0

    @property
    def left(self) -> int:
        return len(self._conversations) - self._started

    def take(self, count: int) -> range:
        """The positions of the next ones; under the lock of who shares them out."""
        first, self._started = self._started, self._started + count
        return range(first, self._started)

    def start(self, part: range, landed: Callable[[Conversation], None]) -> None:
        if not part:
            return
        conversations = self._conversations[part.start : part.stop]

        def done(position: int) -> None:
            self._done(part.start + position)
            landed(conversations[position])

        self._submit(conversations, done)


class FailureRate:
    """Counts the rows of a run in all processes, from their progress reports.

    Parameters
    ----------
    limit : float
        Share of failed rows, 0 to 1, that a stage may have.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._lock = threading.Lock()
        self._rows: Counter[int] = Counter()
        self._failed: Counter[int] = Counter()
        self._reasons: Counter[str] = Counter()

    def see(self, event: Event) -> RunError | None:
        """The error that stops the run, once a stage has passed the limit."""
        if not isinstance(event, Progress):
            return None
        with self._lock:
            self._rows[event.stage] += event.rows_done
            self._failed[event.stage] += event.rows_failed
            self._reasons.update(event.failures)
            rows, failed = self._rows[event.stage], self._failed[event.stage]
        if rows < LEAST_ROWS:
            return None
        return self.judge(rows, failed)

    def check(self, records: Collection[CommitRecord]) -> None:
        """Raise what `judge` says of a stage whose parts are these."""
        error = self.judge(sum(r.rows_in for r in records), sum(r.failed for r in records))
        if error is not None:
            raise error

    def judge(self, rows: int, failed: int) -> RunError | None:
        """The error for these counts; None while they are within the limit."""
        if rows == 0 or failed <= self.limit * rows:
            return None
        with self._lock:
            common = self._reasons.most_common(3)
        return RunError(
            f"{failed} of {rows} rows failed, more than max_failure_rate={self.limit:g} allows",
            why="; ".join(f"{count} x {words}" for words, count in common),
            fix="remove the cause and call run.resume(), or allow more: run.resume(max_failure_rate=...)",
            saved=_SAVED,
            code="RUN-FAILURE-RATE",
        )


def checked_rate(rate: float) -> float:
    """`rate`, when it is a share.

    Raises
    ------
    ConfigError
        It is not between 0 and 1.
    """
    if 0 <= rate <= 1:
        return rate
    raise ConfigError(
        f"max_failure_rate={rate!r} is no share of rows",
        fix="a number from 0 (no row may fail) to 1 (all may); 0.05 is five in a hundred",
        code="CONFIG-FAILURE-RATE",
    )


def alike_error(step_id: str, message: str) -> RunError:
    """The one message for a sample that failed alike."""
    return RunError(
        f"the first {SAMPLE} calls of step {step_id!r} all failed in the same way: {message}",
        where=f"step {step_id!r}",
        why="what every row meets is not the fault of a row: the endpoint, a parameter, the instruction or schema",
        fix="remove the cause and call run.resume(); where rows are expected to fail like this, "
        "run with early_stop=False, or go on with run.resume(early_stop=False)",
        saved=_SAVED,
        code="RUN-ALIKE",
    )


def row_error(failure: Failure) -> RunError:
    """The error of ``on_error="raise"`` for the first row that fails."""
    return RunError(
        f"a row failed and on_error is 'raise': {failure.outcome}: {failure.message}",
        where=f"step {failure.step!r}, row {failure.row_id}",
        fix="look at the row, or run with on_error='keep' and look at run.failures",
        saved="all paid answers are in the journal and will not be paid again",
        code="RUN-ROW",
    )
