"""`Run`: the handle of one execution. Found again by id from storage, in any process.

The run itself is a thread that takes the stages one after the other; the handle waits for it, stops it, and
reads what it has stored.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import dask.dataframe as dd
import pandas as pd

from apwa_dask.errors import ApwaError, BudgetError, RunError, StoreError
from apwa_dask.execution.alarms import FailureRate, checked_rate
from apwa_dask.execution.batch_purse import BatchPurse
from apwa_dask.execution.batch_rounds import BatchRounds
from apwa_dask.execution.claims import held
from apwa_dask.execution.compile import Stage
from apwa_dask.execution.events import (
    Event,
    Forecast,
    RunFinished,
    RunStarted,
    StageFinished,
    StageStarted,
    State,
    open_all,
)
from apwa_dask.execution.executors import Executor, LocalExecutor
from apwa_dask.execution.foresight import Foresight
from apwa_dask.execution.kept import KeptRun
from apwa_dask.execution.manifest import estimated_figures
from apwa_dask.execution.outlook import with_left
from apwa_dask.execution.priced import kept_budget
from apwa_dask.execution.redoing import OnChange, changes_under, checked_on_change, redo, refuse_changes
from apwa_dask.execution.results import answered_by, result_frame, whole_result
from apwa_dask.execution.runtime import runtime
from apwa_dask.execution.stages import StageGraphs, check_consumed
from apwa_dask.execution.stopping import DEFERRED, Interrupted, read_stop
from apwa_dask.models.budget import Budget
from apwa_dask.models.leases import Money
from apwa_dask.store.runs import RunFolder

__all__ = ["Run"]

Subscriber = Callable[[Event], None]
_logger = logging.getLogger(__name__)

ABANDON_S = 5.0
"""How long the second Ctrl-C waits until all calls are hung up on."""


class Run(KeptRun):
    """A plan at work, or finished, or interrupted.

    Not made by hand: `Table.run`, `apwa_dask.ask` and `apwa_dask.attach` return one at once. `wait`, `result`
    and `frame` wait for it.

    Attributes
    ----------
    id : str
        Sortable by time; finds the run again with ``apwa_dask.attach(id)``.
    """

    def __init__(
        self,
        store: str,
        folder: RunFolder,
        executor: Executor,
        frames: Mapping[str, dd.DataFrame] | None = None,
        subscribers: tuple[Subscriber, ...] = (),
    ) -> None:
        super().__init__(store, folder, frames or {})
        self.executor = executor
        self._subscribers = list(subscribers)
        self._thread: threading.Thread | None = None
        self._finished = threading.Event()
        self._error: BaseException | None = None
        self._stopping = ""
        self._rate: FailureRate | None = None
        self._alarm: RunError | None = None
        self._foresight: Foresight | None = None
        self._batches: BatchRounds | None = None

    # -- life

    def start(self) -> Run:
        """Begin, or go on, in the background."""
        from apwa_dask.observe.keeping import history_of

        if self._thread is not None and self._thread.is_alive():
            return self
        self._finished.clear()
        self._history = self._history or history_of(self.folder)
        self._error, self._stopping, self._alarm = None, "", None
        limit = self.spec.max_failure_rate
        self._rate = None if limit is None else FailureRate(limit)
        open_all(self._subscribers)
        self._thread = threading.Thread(target=self._drive, name=f"apwa-run-{self.id[-6:]}", daemon=True)
        self._thread.start()
        return self

    def resume(
        self,
        *,
        budget: Budget | float | None = None,
        max_failure_rate: float | None = None,
        early_stop: bool | None = None,
        on_change: OnChange = "refuse",
    ) -> Run:
        """Go on where the run stopped: committed partitions are kept, paid answers are not paid again.

        A run that is still stopping is waited for first.

        Parameters
        ----------
        budget : float or Budget, optional
            A new ceiling for the whole run, what it has spent already included.
        max_failure_rate : float, optional
            Another share of failed rows, 0 to 1, above which the run stops.
        early_stop : bool, optional
            Whether it still stops when the first calls of a step all fail in the same way.
        on_change : {"refuse", "redo"}
            When files of the source have changed, are gone or are new: refuse to go on, or redo what changed.

        Returns
        -------
        Run
            This run. Under ``on_change="redo"``, where something has changed, a new one over the files as they
            are now: finished partitions that did not change are in it, and rows that did not change cost nothing.

        Raises
        ------
        SourceError
            Files have changed; they are named.
        """
        checked_on_change(on_change)
        if self._stopping:
            self._join(None)
        done = self.status()["status"] == "done"
        if done and on_change == "refuse":
            return self
        if budget is not None:
            self.spec = replace(self.spec, budget=kept_budget(budget, self.spec.plan, self.spec.models))
            self.folder.append_history("budget", **self.spec.budget)
        self.executor.admit(self.spec.plan.tools, self._frames)
        if max_failure_rate is not None or early_stop is not None:
            self._set_alarms(max_failure_rate, early_stop)
        changes = changes_under(self)
        if changes and on_change == "redo":
            return redo(self).start()
        refuse_changes(changes, self.id)
        return self if done else self.start()

    def _set_alarms(self, max_failure_rate: float | None, early_stop: bool | None) -> None:
        rate = self.spec.max_failure_rate if max_failure_rate is None else checked_rate(max_failure_rate)
        early = self.spec.early_stop if early_stop is None else early_stop
        self.folder.append_history("alarms", max_failure_rate=rate, early_stop=early)
        self.spec = replace(self.spec, max_failure_rate=rate, early_stop=early)

    def stop(self, why: str = "stopped by the user") -> Run:
        """Start no further call; calls in flight finish and are kept. Returns at once.

        Batches at the provider are cancelled; what they have answered by then is kept, and paid.
        """
        return self._halt(why, cancel=True)

    def leave(self, why: str = "left by the user") -> Run:
        """Like `stop`, but batches at the provider go on: a `resume`, in any process, finds their answers."""
        return self._halt(why, cancel=False)

    def _halt(self, why: str, *, cancel: bool) -> Run:
        self._stopping = why
        self._emit(State(self.id, time.time(), words=f"stopping: {why}"))
        if (batches := self._batches) is not None:
            batches.stop(why, cancel=cancel)
        self.executor.stop(self.id, why)
        return self

    def wait(self, timeout: float | None = None) -> Run:
        """Wait until the run has ended.

        Ctrl-C once stops dispatch, drains, and leaves a run that can be resumed; twice also hangs up on the
        calls in flight. Batches go on at the provider.

        Raises
        ------
        ApwaError
            What stopped the run: wrong key, budget, a failed row under ``on_error="raise"``.
        TimeoutError
            After `timeout` seconds; the run goes on.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            self._join(deadline)
        except KeyboardInterrupt as interrupt:
            interrupt.add_note(self.how_to_go_on)
            self._interrupted()
            raise
        if self._error is not None:
            raise self._error
        return self

    def _interrupted(self) -> None:
        """Ctrl-C: stop dispatch and wait for calls in flight; at the second, hang up on them."""
        try:
            self.leave("interrupted")
            self._join(None)
        except KeyboardInterrupt as interrupt:
            interrupt.add_note(self.how_to_go_on)
            self.executor.abandon(self.id)
            self._finished.wait(ABANDON_S)
            raise

    def _join(self, deadline: float | None) -> None:
        if self._thread is None:
            return
        while not self._finished.wait(0.2):
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError(f"run {self.id} is still going")

    def __await__(self) -> Generator[Any, None, Run]:
        return asyncio.to_thread(self.wait).__await__()

    # -- what came out

    @property
    def frame(self) -> dd.DataFrame:
        """The committed rows as a Dask frame, in the order of the input. Waits; raises like `wait`."""
        self._await_result()
        return result_frame(self, status=False)

    def result(self, *, status: bool = False) -> pd.DataFrame:
        """The rows as a pandas frame, in the order of the input. Waits; raises like `wait`.

        Parameters
        ----------
        status : bool
            Add ``_apwa_status`` (``ok`` or the failure's class) and ``_apwa_error``.

        Returns
        -------
        pandas.DataFrame
            ``attrs`` says which run it is from and who answered; Parquet and Feather files keep it.
        """
        self._await_result()
        frame = whole_result(self, status=status)
        frame.attrs["apwa"] = {"run": self.id, "answers_by": answered_by(self.spec)}
        return frame

    def _await_result(self) -> None:
        self.wait()
        last = self.stages[-1]
        if self._missing(last):
            raise RunError(
                f"run {self.id} is {self.status()['status']}: not all of its rows are done",
                fix=f"go on with run.resume(), or: apwa resume {self.id}",
                saved="finished partitions and paid answers are kept",
                code="RUN-UNFINISHED",
            )

    def _state(self) -> str:
        if self._thread is not None and self._thread.is_alive():
            return "stopping" if self._stopping else "running"
        return super()._state()

    def report(self, path: str | None = None) -> str:
        """One offline HTML page about this run; written to `path` when given."""
        from apwa_dask.observe.run_report import report_of

        html = report_of(self)
        if path is not None:
            with open(path, "w", encoding="utf-8") as file:
                file.write(html)
        return html

    def export(
        self, path: str, *, status: bool = False, safe_csv: bool = True, overwrite: bool = False
    ) -> str:
        """Write the result to one file; the suffix names the format (parquet, arrow, jsonl, csv).

        A file that is there already is an error, or is replaced in one step with ``overwrite=True``. With
        `safe_csv`, cells that a spreadsheet would run as a formula get an apostrophe in front.
        """
        from apwa_dask.execution.export import export

        return export(self.result(status=status), path, safe_csv=safe_csv, overwrite=overwrite)

    def retry_failed(self, *, on_change: OnChange = "refuse") -> Run:
        """Try the failed rows again, in a run of its own over the same sources; good rows cost nothing.

        After a run without failures this is a no-op.

        Parameters
        ----------
        on_change : {"refuse", "redo"}
            When files of the source have changed, are gone or are new: refuse, or redo them too.

        Raises
        ------
        SourceError
            Files have changed; they are named.
        """
        checked_on_change(on_change)
        if all(
            record.failed == 0 and record.failures is None
            for s in self.stages
            for record in self._committed(s).values()
        ):
            return self
        changes = changes_under(self)
        if changes and on_change == "redo":
            return redo(self, retry_failed=True).start()
        refuse_changes(changes, self.id)
        from apwa_dask.execution.launch import again

        return again(self)

    # -- the thread

    def subscribe(self, subscriber: Subscriber) -> None:
        """Deliver further events to `subscriber` too."""
        self._subscribers.append(subscriber)

    def _emit(self, event: Event) -> None:
        if self._history is not None:
            self._history(event)
        for subscriber in self._subscribers:
            subscriber(event)
        if isinstance(event, Forecast | RunStarted | StageStarted | StageFinished | RunFinished):
            self.executor.tell(event)
        forecast = None if self._foresight is None else self._foresight.see(event)
        if forecast is not None:
            self._emit(forecast)
        error = None if self._rate is None else self._rate.see(event)
        if error is not None and self._alarm is None:
            self._alarm = error
            self.executor.stop(self.id, error.what)

    def _drive(self) -> None:
        from apwa_dask.observe.keeping import keep_history

        status, message, is_ours = "done", "", False
        try:
            self._emit(
                RunStarted(
                    self.id,
                    time.time(),
                    plan_hash=self.spec.plan.hash,
                    stages=len(self.stages),
                    budget_usd=self.spec.budget.get("usd"),
                    model=self.spec.models[""].name if "" in self.spec.models else "",
                    estimated=estimated_figures(self),
                )
            )
            with held(self.folder, runtime().worker_name, self.leave):
                is_ours = True
                self.executor.lend(runtime().options_for(self.store, self.id))
                self.executor.open(
                    self.id,
                    Budget(**self.spec.budget),
                    self._spent() if self.folder.history() else Money(),
                    self._emit,
                )
                self._foresight = Foresight(self)
                self.folder.append_history("resumed" if self.folder.history() else "started")
                with self._batching():
                    self._run_stages()
                self.folder.append_history("done")
                self._journal().flush()  # what the manifest sums up
                keep_history(self.folder, self._history, "done")  # the manifest is the last to be written
                self._write_manifest()
        except BaseException as failure:
            status, message = self._failed(failure)
            if is_ours:  # who was refused leaves the run to the one who works on it
                self.executor.stop(self.id, message)
                message = self._note_end(status, message)
                keep_history(self.folder, self._history, status)
        finally:
            try:
                if is_ours:
                    runtime().forget(self.id)
                if self._foresight is not None:
                    self._foresight.close()
                self._emit(RunFinished(self.id, time.time(), status=status, message=message))
            finally:
                self._finished.set()  # whatever a subscriber raises: somebody is waiting

    def _note_end(self, status: str, message: str) -> str:
        """Keep what is in flight, and say how it ended and what is left; where the store refuses that, the answers
        wait in memory.
        """
        try:
            runtime().settle(self.id)
            here = isinstance(self.executor, LocalExecutor)  # elsewhere workers may still be writing down
            foresight = self._foresight if status != "failed" else None
            left = None if foresight is None else foresight.left(exactly=here)
            if left is not None and isinstance(self._error, BudgetError):
                self._error = with_left(self._error, left)
                message = self._error.what
            facts = {} if left is None else left.as_dict()
            self.folder.append_history("failed" if status == "failed" else "stopped", why=message, **facts)
        except StoreError as unreachable:
            self._error = self._error or unreachable
        return message

    def _failed(self, failure: BaseException) -> tuple[str, str]:
        """What the end means to the user, and the error to raise in `wait`."""
        error = failure
        if isinstance(error, Interrupted):
            return "stopped", self._stopping or str(error)
        self._error = error
        if isinstance(error, BudgetError):
            return "budget", error.what
        return "failed", error.what if isinstance(error, ApwaError) else type(error).__name__

    def _run_stages(self) -> None:
        graphs = StageGraphs(
            self.spec,
            self.stages,
            self.store,
            self.id,
            self._frames,
            lambda index: len(self.folder.committed(index)),
        )
        for stage in self.stages:
            if self._stopping:
                raise Interrupted(self._stopping)
            records = graphs.records(stage)
            rows = self._rows_of(stage)
            self._emit(
                StageStarted(
                    self.id,
                    time.time(),
                    stage=stage.index,
                    name=stage.name,
                    partitions=records.npartitions,
                    rows=rows if stage.calls_model else 0,  # progress is about rows that cost something
                )
            )
            made = self._made(graphs, stage, records)
            check_consumed(stage, rows, self._committed(stage).values())
            self._check_rate(stage)
            self.folder.append_history("stage", stage=stage.index, partitions=len(made))
            rows_out = int(made["rows_out"].sum())
            self._emit(StageFinished(self.id, time.time(), stage=stage.index, rows_out=rows_out))

    @contextmanager
    def _batching(self) -> Iterator[None]:
        """While the body runs, what waits is answered by batches, where the run is in that mode."""
        if self.spec.batch is None:
            yield
            return
        purse = BatchPurse(Budget(**self.spec.budget), self.id, self.executor.purses)
        self._batches = BatchRounds(runtime().run(self.store, self.id), purse, self._emit)
        try:
            self._batches.open()
            yield
        finally:
            self._batches.close()
            self._batches = None

    def _made(self, graphs: StageGraphs, stage: Stage, records: dd.DataFrame) -> pd.DataFrame:
        """All records of a stage, after as many rounds as its batches take."""
        if self._batches is None:
            return self._collect(records)

        def collect(round_: int) -> pd.DataFrame:
            graphs.round = round_
            return self._collect(graphs.records(stage))

        return self._batches.work(stage.index, collect)

    def _collect(self, records: dd.DataFrame) -> pd.DataFrame:
        """All records of a stage. The first task that stops stops the others, in every process."""
        batches: list[pd.DataFrame] = []
        reason: BaseException | None = None
        for batch in self.executor.execute(records):
            batches.append(batch)
            stopped = batch["stopped"].dropna()
            stopped = stopped[stopped != DEFERRED]
            if len(stopped) and reason is None:
                reason = read_stop(stopped.iloc[0])
                self.executor.stop(self.id, str(reason))
        if self._alarm is not None or reason is not None:
            raise self._alarm or reason  # type: ignore[misc]
        return pd.concat(batches, ignore_index=True)

    def _check_rate(self, stage: Stage) -> None:
        """A stage that ended above the limit does not pass, however few its rows."""
        if self._rate is not None and stage.calls_model:
            self._rate.check(self._committed(stage).values())
