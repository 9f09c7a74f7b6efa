"""Where tasks run: one small interface, one engine a class."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import dask.dataframe as dd
import pandas as pd
from dask.base import named_schedulers

from apwa_dask.execution.events import Event
from apwa_dask.execution.frame_purse import ClusterPurses, PursePlace
from apwa_dask.execution.runtime import runtime
from apwa_dask.models.budget import Budget
from apwa_dask.models.leases import Money

__all__ = ["ClusterExecutor", "Executor", "LocalExecutor", "executor_for", "executors_of_lazy"]

MAX_PARTITIONS_IN_FLIGHT = 8
"""Partition threads of a process without a cluster: enough to keep the window full across tails."""


class Executor(Protocol):
    """Computes a frame of commit records, one small task result for each partition."""

    def execute(self, records: dd.DataFrame) -> Iterator[pd.DataFrame]:
        """The records as they come in; raises what a task raised."""

    def open(self, run_id: str, budget: Budget, spent: Money, sink: Callable[[Event], None]) -> None:
        """A run begins: its purse, and where its events go."""

    def listen(self, run_id: str, sink: Callable[[Event], None]) -> None:
        """The part of `open` that is not about money."""

    @property
    def purses(self) -> PursePlace:
        """Where the money of its runs is kept."""

    def lend(self, options: Mapping[str, Mapping[str, Any]]) -> None:
        """Let the processes that work use these storage options, by place; in memory only."""

    def stop(self, run_id: str, why: str) -> None:
        """Let no process start another call of this run."""

    def abandon(self, run_id: str) -> None:
        """Hang up on the calls in flight of this run, in every process."""

    def tell(self, event: Event) -> None:
        """Let the place where the run works know what only its client knows, for its dashboard."""

    def admit(self, tools: Sequence[str], frames: Mapping[str, dd.DataFrame]) -> None:
        """Make sure, before anything is spent, that every process can have these tools and frames."""


class LocalExecutor:
    """Threads of this process, or this thread alone."""

    def __init__(self, scheduler: str = "threads") -> None:
        self.scheduler = scheduler

    def execute(self, records: dd.DataFrame) -> Iterator[pd.DataFrame]:
        threads = min(MAX_PARTITIONS_IN_FLIGHT, max(records.npartitions, 1))
        # by its function: a scheduler's name makes Dask import distributed, a quarter of a second
        yield records.compute(scheduler=named_schedulers[self.scheduler], num_workers=threads)

    def open(self, run_id: str, budget: Budget, spent: Money, sink: Callable[[Event], None]) -> None:
        self.listen(run_id, sink)
        runtime().own.add(run_id)
        self.purses.open(run_id, budget, spent)

    def listen(self, run_id: str, sink: Callable[[Event], None]) -> None:
        runtime().forget(run_id)
        runtime().subscribe(run_id, sink)

    @property
    def purses(self) -> PursePlace:
        return runtime().purses

    def lend(self, options: Mapping[str, Mapping[str, Any]]) -> None:
        """They are in this process already."""

    def stop(self, run_id: str, why: str) -> None:
        runtime().stop(run_id, why)

    def abandon(self, run_id: str) -> None:
        runtime().abandon(run_id)

    def tell(self, event: Event) -> None:
        """The dashboard of a run in this process hears the run itself."""

    def admit(self, tools: Sequence[str], frames: Mapping[str, dd.DataFrame]) -> None:
        """Whatever this process has, its threads have."""


class ClusterExecutor:
    """A `distributed.Client`: the caller's own, or the one of a local cluster."""

    def __init__(self, client: Any) -> None:
        from apwa_dask.execution.plugin import prepare_cluster

        self.client = client
        self._run_id = ""
        prepare_cluster(client)

    def open(self, run_id: str, budget: Budget, spent: Money, sink: Callable[[Event], None]) -> None:
        self.listen(run_id, sink)
        self.purses.open(run_id, budget, spent)

    def listen(self, run_id: str, sink: Callable[[Event], None]) -> None:
        from apwa_dask.execution.plugin import TOPIC, event_of

        self._run_id = run_id
        _SINKS[run_id] = sink
        self._everywhere(_forget_here, run_id)
        self.client.subscribe_topic(TOPIC, lambda message: _deliver(event_of(message[1])))

    @property
    def purses(self) -> PursePlace:
        return ClusterPurses(self.client)

    def execute(self, records: dd.DataFrame) -> Iterator[pd.DataFrame]:
        from distributed import futures_of

        from apwa_dask.execution.gathering import gathered

        # retries are for lost connections to the store; a model's trouble never leaves the task
        persisted = self.client.persist(records, retries=1)
        futures = futures_of(persisted, client=self.client)
        try:
            yield from gathered(self.client, futures, self._run_id)
        except BaseException:
            if self._is_connected:
                self.client.cancel(futures)
            raise

    @property
    def _is_connected(self) -> bool:
        """Without its scheduler a cluster is no more: its workers end by themselves, and drain."""
        return bool(self.client.status == "running")

    def lend(self, options: Mapping[str, Mapping[str, Any]]) -> None:
        from apwa_dask.execution.hand_over import lend

        lend(self.client, options)

    def stop(self, run_id: str, why: str) -> None:
        if self.client.asynchronous:  # called by an event's handler, on the client's own loop
            self.client.loop.add_callback(self.client.run, _stop_here, run_id, why)
        elif self._is_connected:
            self._everywhere(_stop_here, run_id, why)

    def abandon(self, run_id: str) -> None:
        if self._is_connected:
            self._everywhere(_abandon_here, run_id)

    def tell(self, event: Event) -> None:
        from apwa_dask.execution.plugin import RUN_TOPIC, message_of

        if self._is_connected:
            self.client.loop.add_callback(self.client.log_event, RUN_TOPIC, message_of(event))

    def _everywhere(self, function: Callable[..., Any], *args: Any) -> None:
        from apwa_dask.execution.broadcast import everywhere

        everywhere(self.client, function, *args)

    def admit(self, tools: Sequence[str], frames: Mapping[str, dd.DataFrame]) -> None:
        from apwa_dask.execution.shipping import check_frame, ship_tools

        for alias, frame in frames.items():
            check_frame(alias, frame)
        ship_tools(self.client, tools)


_SINKS: dict[str, Callable[[Event], None]] = {}
"""By run: a client has one handler for a topic, so it serves all runs of this process."""


def _deliver(event: Event | None) -> None:
    sink = None if event is None else _SINKS.get(event.run_id)
    if sink is not None and event is not None:
        sink(event)


def _forget_here(run_id: str) -> None:
    """Runs on each worker: a run that is resumed begins with a fresh context."""
    runtime().forget(run_id)


def _abandon_here(run_id: str) -> None:
    """Runs on each worker."""
    runtime().abandon(run_id)


def _stop_here(run_id: str, why: str) -> int:
    """Runs on each worker."""
    runtime().stop(run_id, why)
    return os.getpid()


def executor_for(client: Any = None, scheduler: str | None = None) -> Executor:
    """The engine for these arguments: a client wins, then a scheduler's name, then a current client, then threads."""
    if client is not None:
        return ClusterExecutor(client)
    if scheduler is not None:
        return LocalExecutor(scheduler)
    current = _current_client()
    return LocalExecutor("threads") if current is None else ClusterExecutor(current)


def executors_of_lazy(client: Any = None) -> list[Executor]:
    """Where a lazy frame may be computed: this process, and the client given or current."""
    client = client if client is not None else _current_client()
    here: list[Executor] = [LocalExecutor("threads")]
    return here if client is None else [*here, ClusterExecutor(client)]


def _current_client() -> Any:
    """The `distributed.Client` that Dask itself would use now, without importing distributed for it."""
    distributed = sys.modules.get("distributed")
    if distributed is None:
        return None
    try:
        return distributed.Client.current(allow_global=True)
    except ValueError:
        return None
