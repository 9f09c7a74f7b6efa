"""Prompts that belong to no partition (groups of a reduce, questions of a ranking), held to their ends.

They have what a partition has (`apwa_dask.execution.attempts`): a marker before the first call and another when
all is durable. Who does the same work again, because a worker left or died, waits for an attempt that is still at
work, and finds its answers; prompts that were there when processes died are worked by themselves, in spans, until
the one that kills is found.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from apwa_dask.agents.conversation import Conversation
from apwa_dask.agents.outcome import Outcome
from apwa_dask.errors import ApwaError
from apwa_dask.execution.attempts import begun, check, deaths, marked, sentence
from apwa_dask.execution.batch_desk import defer_all
from apwa_dask.execution.bisect import course_of
from apwa_dask.execution.stopping import Interrupted
from apwa_dask.models.types import OutcomeClass
from apwa_dask.store.attempts import AttemptLog

if TYPE_CHECKING:
    from apwa_dask.execution.runtime import StageContext

__all__ = ["hold_all"]

logger = logging.getLogger(__name__)


def hold_all(context: StageContext, conversations: Sequence[Conversation], step_id: str) -> list[Outcome]:
    """Hold conversations of one row each to their ends, from a task thread.

    Returns
    -------
    list of Outcome
        In the order of `conversations`. ``poison`` where working on one has ended its process, again and again.

    Raises
    ------
    Interrupted
        The run is stopping. On a cluster, what moves the task to another worker, where only this one leaves.
    Deferred
        Answers wait for a batch.
    """
    open_ = [held for held in conversations if not held.finished]
    lost = 0
    if context.spec.batch is not None:
        defer_all(context, conversations, step_id)
    elif open_ and context.desk().pays:
        try:
            lost = _hold_marked(context, open_, step_id)
        except Interrupted as stopped:
            raise _end(context, str(stopped)) from None
    else:
        _hold(context, open_, step_id)
    outcomes = [held.outcomes[0] for held in conversations]
    return [
        outcome._replace(attempts=lost) if outcome.outcome is OutcomeClass.POISON else outcome
        for outcome in outcomes
    ]


def _end(context: StageContext, why: str) -> BaseException:
    """A move to another worker, else the error that stopped the run, else its end without one."""
    interruption = context.run.runtime.neighbours.interruption(why)
    error = context.control.error
    is_end = isinstance(interruption, Interrupted) and isinstance(error, ApwaError)
    return error.alone() if is_end else interruption  # type: ignore[union-attr]


def _hold_marked(context: StageContext, conversations: Sequence[Conversation], step_id: str) -> int:
    """Hold them under a marker; how many processes were lost to them before."""
    log = _log_of(context, conversations)
    isolation = context.run.runtime.isolation
    with isolation.shared(lambda: check(context)):
        first = log.begin_first(context.worker_name, context.run.runtime.neighbours.address)
        if first is not None:
            with marked(context, log, first):
                _hold(context, conversations, step_id)
                _settle(context)
            log.end(first)
            return 0
    before = deaths(context, log)
    course = course_of(len(conversations), [attempt.span for attempt in before])
    if course is None:
        with isolation.shared(lambda: check(context)), begun(context, log) as attempt:
            _hold(context, conversations, step_id)
            _settle(context)
        log.end(attempt)
        return len(before)
    with isolation.alone(lambda: check(context)):
        logger.warning(
            "%d prompts of step %r ended %d processes: they are worked in %d spans, %d not at all",
            len(conversations),
            step_id,
            len(before),
            len(course.spans),
            len(course.condemned),
        )
        for place in course.condemned:
            conversations[place].give_up(OutcomeClass.POISON, sentence(len(before), "prompt"))
        for start, stop in course.spans:
            with begun(context, log, span=(start, stop)) as attempt:
                _hold(context, conversations[start:stop], step_id)
                _settle(context)
            log.end(attempt)
    return len(before)


def _log_of(context: StageContext, conversations: Sequence[Conversation]) -> AttemptLog:
    """Named by the prompts: whoever has the same work to do finds the same marks."""
    requests = [request for held in conversations if (request := held.request) is not None]
    keys = b"".join(request.fingerprint(context.spec.namespace) for request in requests)
    return context.folder.prompts_log(context.stage.index, hashlib.sha256(keys).hexdigest()[:32])


def _settle(context: StageContext) -> None:
    """An attempt that has ended has its answers in the store, for whoever does its work again."""
    context.journal.flush()


def _hold(context: StageContext, conversations: Sequence[Conversation], step_id: str) -> None:
    desk = context.desk()
    held = [conversation for conversation in conversations if not conversation.finished]
    desk.reuse(held)
    flying = [conversation for conversation in held if not conversation.finished]
    if flying:
        ended: list[int] = []
        wake = threading.Event()
        desk.submit(flying, step_id, ended.append, wake.set)
        while len(ended) < len(flying):
            wake.wait()
            wake.clear()
    for conversation in held:
        for outcome in conversation.outcomes.values():
            if outcome.outcome.is_pending:
                raise context.run.runtime.neighbours.interruption(context.control.stopping or outcome.message)
