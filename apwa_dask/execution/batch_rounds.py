"""A run in batches, driven: tasks ask, batches answer, tasks run again, until nothing waits.

One process drives: the one that started the run, or the one that resumed it. It alone talks to the endpoint and
spends the budget. It runs in the run's own thread, so it waits simply; no Dask slot is held meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import pandas as pd

from apwa_dask.errors import ProviderError
from apwa_dask.execution.batch_asks import Ask
from apwa_dask.execution.batch_jobs import JobBook, Settlement, Shard
from apwa_dask.execution.batch_purse import BatchPurse
from apwa_dask.execution.batch_replies import Held
from apwa_dask.execution.batch_results import History, Results, refusal_of
from apwa_dask.execution.batch_shards import ShardDraft, reservation
from apwa_dask.execution.events import Event, Progress, State
from apwa_dask.execution.loop import loop, run_sync
from apwa_dask.execution.runtime import RunContext
from apwa_dask.execution.stopping import DEFERRED, Interrupted
from apwa_dask.models.adapt import Adaptation
from apwa_dask.models.batch_lines import read_lines, read_prompts, said_in
from apwa_dask.models.batch_terms import BatchTerms, check_model
from apwa_dask.models.batches import GONE, BatchApi, BatchJob
from apwa_dask.models.budget import RECHECK_S
from apwa_dask.models.endpoints import Lane
from apwa_dask.models.fatal import fatal_error
from apwa_dask.models.leases import Money
from apwa_dask.models.outcomes import Verdict
from apwa_dask.models.redact import without_quotes
from apwa_dask.models.types import OutcomeClass, Reply
from apwa_dask.store.killpoints import reach

__all__ = ["BatchRounds"]

_logger = logging.getLogger(__name__)

GROWTH = 1.5
"""Of the interval between two looks."""
CLOCK_SKEW_S = 3600.0
SILENCE_S = 2 * 3600.0
"""An endpoint that answers no question for so long ends the run's wait; its batches go on."""
CANCEL_TIMEOUT_S = 30.0
CROWDED_S = 900.0
MOST_CROWDED = 40
"""Waits for room among the endpoint's enqueued tokens: at most so long each, and so many without a batch."""
TOKEN_LIMIT_CODE = "token_limit_exceeded"

T = TypeVar("T")


@dataclass
class _Waiting:
    """A batch at work."""

    shard: Shard
    batch_id: str
    seen: BatchJob | None = None
    was_found: bool = False
    """Made by an earlier process, which may have kept its answers before it died."""


class BatchRounds:
    """Drives one run in batches.

    Parameters
    ----------
    context : RunContext
        Of the run in this process.
    purse : BatchPurse
        The run's money, with its ceiling as it is now.
    emit : callable
        Takes events.
    """

    def __init__(self, context: RunContext, purse: BatchPurse, emit: Callable[[Event], None]) -> None:
        self._context, self._emit, self._purse = context, emit, purse
        self._terms = BatchTerms(**(context.spec.batch or {}))
        self._room = context.batches
        self._book = JobBook(self._room.folder)
        self._history = History(self._terms.attempts)
        self._lanes: dict[str, Lane] = {}
        self._apis: dict[str, BatchApi] = {}
        self._most_tokens: dict[str, int | None] = {}
        self._waiting: list[_Waiting] = []
        self._crowded = 0
        """Refusals for want of room, one after the other."""
        self._round = 0
        self._words = ""
        self._wake = threading.Event()
        self._heard_s = time.monotonic()
        self._why = ""
        self._cancels = False

    # -- life

    def open(self) -> None:
        """Check that there are batches and prices, and find again what an earlier process had made.

        Raises
        ------
        ConfigError, ProviderError, BudgetError
            Before anything is spent.
        """
        for alias in dict.fromkeys(step.contract.model or "" for step in self._context.spec.plan.llm_steps):
            check_model(self._context.spec.models[alias])
            self._lanes[alias] = run_sync(self._context.client.preflight(self._context.spec.models[alias]))
            self._apis[alias] = BatchApi(self._lanes[alias])
            self._most_tokens[alias] = self._terms.max_enqueued_tokens
            self._heed(self._apis[alias].check())
        self._room.asks.clear()
        for end in self._book.settlements():
            self._history.add(end)
            self._purse.found(end.spent, Money())
        for shard, batch_id in self._book.unsettled():
            self._find_again(shard, batch_id)

    def close(self) -> None:
        """Delete the request lines, and end the sessions; batches at work go on."""
        self._room.asks.clear()
        self._room.replies.flush()
        self._purse.leave(sum((waiting.shard.reserved for waiting in self._waiting), Money()))
        for api in self._apis.values():
            run_sync(api.close())

    def stop(self, why: str, *, cancel: bool) -> None:
        """Wait for nothing more. From any thread.

        Parameters
        ----------
        cancel : bool
            Also end the batches at the endpoint; otherwise they go on, and a resume finds their answers.
        """
        self._why, self._cancels = why, cancel
        self._wake.set()

    def work(self, stage: int, collect: Callable[[int], pd.DataFrame]) -> pd.DataFrame:
        """Run a stage's tasks, round after round, until no row waits; the records of the last round.

        Parameters
        ----------
        stage : int
        collect : callable
            Runs the tasks of the stage in the round of this number.
        """
        while True:
            self._heed_stop()
            round_, self._round = self._round, self._round + 1
            records = collect(round_)
            if not (records["stopped"] == DEFERRED).any():
                return records
            self._answer(stage, round_)

    # -- one round

    def _answer(self, stage: int, round_: int) -> None:
        """Make batches of what was asked, and wait until all that is out has come back."""
        drafts: dict[str, ShardDraft] = {}
        known = {bytes.fromhex(key) for waiting in self._waiting for key in waiting.shard.keys}
        for asks in self._room.asks.read(round_):
            self._heed_stop()
            answered = self._room.replies.get([ask.key for ask in asks])
            for ask in asks:
                if ask.key in known or ask.key in answered:
                    continue
                known.add(ask.key)
                if ask.line_bytes > self._terms.max_bytes:
                    self._turn_down(ask)
                else:
                    self._add(drafts, ask, stage)
        for draft in drafts.values():
            self._send(draft)
        self._purse.say()
        while self._waiting:
            self._await_one()
        self._room.asks.clear()
        self._room.replies.flush()
        self._tell()

    def _turn_down(self, ask: Ask) -> None:
        words = f"a request of {ask.line_bytes:,} bytes does not fit the input file of a batch"
        reply = Reply(OutcomeClass.TOO_LARGE, message=words, attempts=0)
        self._room.replies.put(ask.key, Held(reply, ask.owner))

    def _add(self, drafts: dict[str, ShardDraft], ask: Ask, stage: int) -> None:
        reserved = reservation(ask, self._lanes[ask.model].price)
        draft = drafts.get(ask.model)
        if draft is not None and not draft.has_room(ask):
            self._send(drafts.pop(ask.model))
        while not self._purse.reserve(reserved):
            # What is reserved may come back, when the batches that hold it have ended.
            for alias in list(drafts):
                self._send(drafts.pop(alias))
            if self._waiting:
                self._await_one()
            elif self._purse.may_return:
                self._wake.wait(RECHECK_S)
                self._heed_stop()
            else:
                raise self._purse.used_up(reserved)
        if ask.model not in drafts:
            limit = self._most_tokens[ask.model]
            drafts[ask.model] = ShardDraft(ask.model, stage, self._terms, limit)
        drafts[ask.model].add(ask, reserved)

    def _send(self, draft: ShardDraft) -> None:
        """Make a batch, once its prompt tokens have room among those that wait at the endpoint."""
        while self._is_crowded(draft):
            self._await_one()
        if self._crowded:
            self._wake.wait(min(self._terms.poll_most_s * 2 ** (self._crowded - 1), CROWDED_S))
        self._heed_stop()
        shard = self._book.open_shard(draft.shard(self._context.folder.run_id))
        api = self._apis[draft.model]
        name = f"{shard.run_id}-{shard.id}.jsonl"
        file_id = self._heed(api.upload(b"".join(draft.lines()), name))
        job = self._heed(api.create(file_id, shard.metadata))
        reach("batch.created")
        self._waiting.append(_Waiting(shard, self._book.made(shard, job.id)))
        self._tell()

    def _is_crowded(self, draft: ShardDraft) -> bool:
        limit = self._most_tokens[draft.model]
        mine = [waiting.shard.tokens for waiting in self._waiting if waiting.shard.model == draft.model]
        return limit is not None and bool(mine) and sum(mine) + draft.tokens > limit

    # -- waiting

    def _await_one(self) -> None:
        """Wait until at least one batch has ended, and settle all that have."""
        interval_s = self._terms.poll_first_s
        while True:
            self._heed_stop()
            ended = [waiting for waiting in self._waiting if self._look(waiting)]
            self._tell()
            for waiting in ended:
                self._settle(waiting)
            if ended:
                return
            self._wake.wait(interval_s)
            interval_s = min(interval_s * GROWTH, self._terms.poll_most_s)

    def _look(self, waiting: _Waiting) -> bool:
        """Whether the batch has ended. An endpoint that is silent for a while is no news."""
        try:
            shard = waiting.shard
            look = self._apis[shard.model].get(
                waiting.batch_id, shard.metadata, since_s=shard.made_s - CLOCK_SKEW_S
            )
            waiting.seen = self._heed(look)
        except ProviderError as trouble:
            if trouble.code != "PROVIDER-UNREACHABLE" or time.monotonic() > self._heard_s + SILENCE_S:
                raise
            return False
        self._heard_s = time.monotonic()
        return waiting.seen.ended

    def _settle(self, waiting: _Waiting) -> None:
        """Make the answers of an ended batch durable, then close its shard.

        Raises
        ------
        ProviderError
            The endpoint refuses for good, in the batch as a whole or in one of its lines.
        Interrupted
            Somebody else has cancelled the batch.
        """
        shard, job = waiting.shard, waiting.seen
        assert job is not None
        lane = self._lanes[shard.model]
        adaptation = self._room.adaptations().get(shard.model, Adaptation())
        prompts: dict[str, str] = {}
        if self._context.spec.store_prompts:
            prompts = read_prompts(self._heed(self._apis[shard.model].results(job.input_file_id)) or b"")
        results = Results(shard, lane, adaptation, self._history, prompts)
        is_lost = job.status == GONE
        for file_id in (job.output_file_id, job.error_file_id):
            content = self._heed(self._apis[shard.model].results(file_id))
            is_lost = is_lost or content is None
            results.take(read_lines(content or b"", lane.secrets))
        refusal = self._refused(waiting, job, results) if job.status == "failed" else None
        in_time = job.status in ("completed", "expired", GONE)
        self._crowded = 0 if in_time else self._crowded
        end = results.settled(job, in_time=in_time)
        if is_lost:
            end = replace(end, spent=end.spent.at_least(shard.reserved))
            _logger.warning(
                "what batch %s answered is gone at the endpoint: its %d requests are asked again",
                job.id,
                len(end.missed),
            )
        self._keep(results, self._kept_before(results) if waiting.was_found else frozenset())
        reach("batch.kept")
        self._book.settle(shard, end)
        self._close(waiting, end, results)
        if refusal is not None:
            raise refusal
        if results.fatal is not None:
            raise self._fatal(results, job, results.fatal)
        if job.status == "cancelled" and not self._book.was_cancelled_by_us(shard):
            raise Interrupted(f"batch {job.id} was cancelled at the endpoint")

    def _fatal(self, results: Results, job: BatchJob, verdict: Verdict) -> ProviderError:
        """The error of a line that is refused for good, in words that do not quote what was asked."""
        asked = self._heed(self._apis[results.shard.model].results(job.input_file_id))
        if asked is None:  # who knows what the words quote
            safe = verdict._replace(words="")
        else:
            said = said_in(read_prompts(asked)[results.fatal_key])
            safe = verdict._replace(words=without_quotes(verdict.words, said))
        return self._heed(fatal_error(results.lane, safe))

    def _kept_before(self, results: Results) -> frozenset[bytes]:
        """Requests whose answers are on this run's bill already, failed ones too: each is there once."""
        records = self._context.journal.records_of([record.key for record in results.records])
        run_id = results.shard.run_id
        return frozenset(key for key, of_key in records.items() if any(r.run_id == run_id for r in of_key))

    def _keep(self, results: Results, known: frozenset[bytes]) -> None:
        for key, held in results.replies.items():
            self._room.replies.put(key, held)
        for record in results.records:
            if record.key not in known:
                self._context.journal.put(record)
        self._context.journal.flush()
        self._room.replies.flush()
        if results.lowered is not None:
            self._room.adapt(results.shard.model, results.lowered)

    def _close(self, waiting: _Waiting, end: Settlement, results: Results) -> None:
        self._waiting.remove(waiting)
        self._history.add(end)
        self._purse.settle(waiting.shard.reserved, end.spent)
        self._emit(
            Progress(
                waiting.shard.run_id,
                time.time(),
                stage=waiting.shard.stage,
                calls=end.spent.calls,
                input_tokens=results.usage.input,
                output_tokens=results.usage.output,
                cost_usd=end.spent.usd,
                cost_unknown=results.lane.price is None,
                in_flight=sum(len(other.shard.keys) for other in self._waiting),
                worker=self._context.runtime.worker_name,
                paid=_paid(results),
            )
        )

    def _refused(self, waiting: _Waiting, job: BatchJob, results: Results) -> ProviderError | None:
        """What to make of a batch that failed in validation: None when asking again will do."""
        shard = waiting.shard
        if any(problem.code == TOKEN_LIMIT_CODE for problem in job.problems) and self._crowded < MOST_CROWDED:
            # Others may fill the endpoint's queue: ask for less, and later.
            waiting_tokens = sum(w.shard.tokens for w in self._waiting if w.shard.model == shard.model)
            self._most_tokens[shard.model] = max(waiting_tokens // 2, 1)
            self._crowded += 1
            return None
        results.refuse(job)
        if results.replies:
            return None
        return refusal_of(shard, job, self._lanes[shard.model].model.name)

    # -- after a crash

    def _find_again(self, shard: Shard, batch_id: str) -> None:
        """A shard that an earlier process did not close: its batch is at work, was made unheard, or never was."""
        api = self._apis[shard.model]
        if not batch_id:
            found = self._heed(api.find(shard.metadata, since_s=shard.made_s - CLOCK_SKEW_S))
            if not found:
                self._book.settle(shard, Settlement("never made"))
                return
            batch_id = self._book.made(shard, found[0].id)
        self._purse.found(Money(), shard.reserved)
        self._waiting.append(_Waiting(shard, batch_id, was_found=True))

    # -- stopping, telling

    def _heed_stop(self) -> None:
        if not self._why:
            return
        deaf = sum(not self._cancel(waiting) for waiting in self._waiting) if self._cancels else 0
        raise Interrupted(f"{self._why} ({deaf} batches could not be cancelled)" if deaf else self._why)

    def _cancel(self, waiting: _Waiting) -> bool:
        self._book.cancelled_by_us(waiting.shard)
        try:
            run_sync(self._apis[waiting.shard.model].cancel(waiting.batch_id), CANCEL_TIMEOUT_S)
        except (ProviderError, TimeoutError):
            return False  # it goes on, and a resume finds what came of it
        return True

    def _heed(self, question: Coroutine[Any, Any, T]) -> T:
        """The answer to a question to the endpoint, or the stop that comes meanwhile."""
        future = asyncio.run_coroutine_threadsafe(question, loop())
        while True:
            try:
                return future.result(timeout=0.5)
            except TimeoutError:
                if future.done():
                    raise
                if self._why:
                    future.cancel()
                    self._heed_stop()

    def _tell(self) -> None:
        """Say what is waited for, when it has changed."""
        if not self._waiting:
            words = "running"
        else:
            total = sum(len(waiting.shard.keys) for waiting in self._waiting)
            done = sum(waiting.seen.done for waiting in self._waiting if waiting.seen is not None)
            count = len(self._waiting)
            noun = "batch" if count == 1 else "batches"
            words = f"waiting for {count} {noun}: {done:,} of {total:,} done"
        if words != self._words:
            self._words = words
            self._emit(State(self._context.folder.run_id, time.time(), words=words))


def _paid(results: Results) -> dict[str, tuple[int, int, float]]:
    """Answers, tokens and money by step: what the run is forecast again from."""
    found: dict[str, tuple[int, int, float]] = {}
    for record in results.records:
        answers, tokens, cost_usd = found.get(record.step_id, (0, 0, 0.0))
        used = record.input_tokens + record.output_tokens
        found[record.step_id] = (answers + 1, tokens + used, cost_usd + (record.cost_usd or 0.0))
    return found
