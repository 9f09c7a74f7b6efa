"""One runtime per process, the same under ``sync``, ``threads`` and distributed.

It holds what is shared by all partition tasks of the process: the loop, one journal per store and namespace,
one client and gate per endpoint, and for each run its control, wallet and meters. Nothing of it is ever
pickled.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import pyarrow as pa

from apwa_dask.agents.agent import Agent
from apwa_dask.agents.embedding import EmbedAgent, RowAgent
from apwa_dask.agents.reduce import ReduceAgent
from apwa_dask.errors import ConfigError
from apwa_dask.execution import loop as private
from apwa_dask.execution.asked_again import AskedAgain
from apwa_dask.execution.batch_room import BatchRoom
from apwa_dask.execution.caller import Control, InFlight, JournaledCaller
from apwa_dask.execution.clients import client_for
from apwa_dask.execution.compile import Stage, compile_plan, physical_schema
from apwa_dask.execution.crew import Crews
from apwa_dask.execution.events import Event, PartitionDone, State
from apwa_dask.execution.isolation import Isolation
from apwa_dask.execution.lent import lent_tables
from apwa_dask.execution.meter import Flights, Meter
from apwa_dask.execution.neighbours import LEAVING, Neighbours
from apwa_dask.execution.packing import PackingCaller
from apwa_dask.execution.pulse import LeaseMeter, Pulses
from apwa_dask.execution.secrets import Secrets
from apwa_dask.execution.sharing import Sharing, SharingCaller
from apwa_dask.execution.spec import LAZY_PREFIX, RunSpec, StageRef
from apwa_dask.execution.together import Together
from apwa_dask.execution.watch import StageWatch
from apwa_dask.execution.watched_desk import WatchedDesk
from apwa_dask.execution.ways import Ways
from apwa_dask.models.endpoints import Endpoints
from apwa_dask.models.leases import Notice
from apwa_dask.plans.infer import infer
from apwa_dask.plans.lowering import Embed, lowered
from apwa_dask.plans.steps import LLMStep, Reduce
from apwa_dask.store.commit import CommitRecord
from apwa_dask.store.journal import Journal
from apwa_dask.store.runs import RunFolder, RunStore
from apwa_dask.tables.manifest import Manifest

__all__ = ["RunContext", "Runtime", "StageContext", "context_of", "runtime"]

EXIT_DRAIN_S = 10.0
"""How long the end of the process waits for calls in flight."""

REPORT_S = 0.5
"""Seconds between two progress reports of a process."""


class Runtime(Secrets, Ways):
    """What partition tasks of this process share. Made on first use; forgotten after a fork."""

    def __init__(self) -> None:
        Secrets.__init__(self)
        Ways.__init__(self, f"{os.uname().nodename}-{os.getpid()}")
        self._lock = threading.RLock()
        self._journals: dict[tuple[str, str], Journal] = {}
        self._in_flight: dict[tuple[str, str], InFlight] = {}
        self._runs: dict[tuple[str, str], RunContext] = {}
        self._sinks: dict[str, Callable[[Event], None]] = {}
        self.worker_name = f"{os.uname().nodename}-{os.getpid()}"
        self.publish: Callable[[Event], None] | None = None
        """Set on Dask workers: carries events to the client."""
        self.unfit: ConfigError | None = None
        """Why this process may not work, such as another version of this package."""
        self.isolation = Isolation()
        self.neighbours = Neighbours()
        self._endpoints: Endpoints | None = None
        self.leases = LeaseMeter()

    @property
    def endpoints(self) -> Endpoints:
        """Sessions and gates of this process."""
        with self._lock:
            if self._endpoints is None:
                self._endpoints = Endpoints(self.leases.watching(self.ask_for_capacity))
            return self._endpoints

    # -- runs

    def run(self, store: str, run_id: str) -> RunContext:
        """The context of a run, opened once."""
        if self.unfit is not None:
            raise self.unfit
        with self._lock:
            context = self._runs.get((store, run_id))
            if context is None:
                folder = RunStore(store, self.options_of(store)).open(run_id)
                context = self._runs[(store, run_id)] = RunContext(self, store, folder)
            return context

    def forget(self, run_id: str) -> None:
        """Drop what this process knows of a run: it has ended, or begins anew."""
        with self._lock:
            gone = [key for key in self._runs if key[1] == run_id]
            contexts = [self._runs.pop(key) for key in gone]
            self._sinks.pop(run_id, None)
            self.own.discard(run_id)
        for context in contexts:
            context.report()

    def forget_context(self, context: RunContext) -> None:
        """Drop this context of a run, and no other that has come in its place."""
        with self._lock:
            gone = [key for key, known in self._runs.items() if known is context]
            for key in gone:
                del self._runs[key]
        if gone:
            context.report()

    def settle(self, run_id: str) -> None:
        """After a stop: wait for the calls in flight here, so that what is paid for is kept."""
        for context in self.known_runs(run_id):
            while context.tasks:
                time.sleep(0.02)
            context.journal.flush()

    def known_runs(self, run_id: str) -> list[RunContext]:
        """Contexts of this run in this process."""
        with self._lock:
            return [context for (_, known), context in self._runs.items() if known == run_id]

    def stop(self, run_id: str, why: str) -> None:
        """Start no further call of this run in this process."""
        for context in self.known_runs(run_id):
            context.stop(why)
            if run_id.startswith(LAZY_PREFIX):
                context.tasks_of_frame.drop_if_idle()

    def notice(self, notice: Notice) -> None:
        """Pass what the coordinator sent unasked to its gate. From any thread."""
        private.loop().call_soon_threadsafe(self.endpoints.notice, notice)

    def journal(self, store: str, namespace: str, *, store_prompts: bool) -> Journal:
        """The one journal writer of this process for a store and namespace."""
        options = self.options_of(store)
        with self._lock:
            key = (store, namespace)
            if key not in self._journals:
                self._journals[key] = Journal(
                    store,
                    namespace=namespace,
                    storage_options=options,
                    store_prompts=store_prompts,
                    hmac_key=self.journal_key(),
                )
            elif options is not None:
                self._journals[key].use_options(options)  # credentials expire, and are given anew
            if store_prompts:
                self._journals[key].keep_prompts()  # of those runs that hand them over, and of no others
            return self._journals[key]

    def in_flight(self, store: str, namespace: str) -> InFlight:
        """Requests of this process that are on their way to answers in this journal, of all its runs."""
        with self._lock:
            return self._in_flight.setdefault((store, namespace), {})

    # -- events

    def subscribe(self, run_id: str, sink: Callable[[Event], None]) -> None:
        """Deliver this run's events of this process to `sink`."""
        self._sinks[run_id] = sink

    def emit(self, event: Event) -> None:
        """Hand an event to whoever listens: the run's own process, or the client over Dask."""
        sink = self._sinks.get(event.run_id) or self.publish
        if sink is not None:
            sink(event)

    def drain(self, timeout_s: float, *, keeps_own: bool = False) -> None:
        """Stop all runs here, wait for calls in flight, flush (when a worker or the process ends).

        Partitions at work are waited for too: each notes that it was left, for whoever takes it over. With `keeps_own`
        the process lives on, and runs without a cluster with it.
        """
        with self._lock:
            stays = self.own if keeps_own else ()
            contexts = [context for (_, run_id), context in self._runs.items() if run_id not in stays]
            alone = len(contexts) == len(self._runs)
        for context in contexts:
            self.stop(context.folder.run_id, LEAVING)
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            if not (alone and self.neighbours.busy) and not any(context.tasks for context in contexts):
                break
            time.sleep(0.05)
        self.close() if alone else self.flush()

    def abandon(self, run_id: str) -> None:
        """Give up the calls in flight of this run: they may be billed, and nobody hears their answers."""
        for context in self.known_runs(run_id):
            context.abandon()

    def flush(self) -> None:
        """Make what was answered durable, in every journal."""
        with self._lock:
            journals = list(self._journals.values())
        for journal in journals:
            journal.flush()

    def close(self) -> None:
        """Flush every journal (at exit and when a worker closes)."""
        with self._lock:
            journals, self._journals = list(self._journals.values()), {}
        for journal in journals:
            journal.close()


class RunContext:
    """A run as one process sees it."""

    def __init__(self, owner: Runtime, store: str, folder: RunFolder) -> None:
        self.runtime, self.store, self.folder = owner, store, folder
        self.spec = RunSpec.of(folder)
        self.stages = compile_plan(self.spec.plan, self.spec.catalog, self.spec.indexes)
        self.control = Control()
        self.journal = owner.journal(store, self.spec.namespace, store_prompts=self.spec.store_prompts)
        self.journal.refresh()
        self.journal.require_key()
        self._flights = Flights()
        """Of all stages: the first one here reports them."""
        self.client = client_for(owner, folder.run_id, self.spec)
        self.pulses = Pulses(owner.endpoints.gates, owner.leases)
        self.steps = self.pulses.steps
        self.sharing = (
            None if owner.claim is None else Sharing(owner.ask_who_sends, self.journal.url, self.journal)
        )
        self.caller = self._new_caller()
        self.client.on_loss = self.caller.lost
        self.tasks: set[asyncio.Task[None]] = set()
        most = max((model.max_concurrency for model in self.spec.models.values()), default=1)
        self.crews = Crews(most, self.tasks)
        self._stages: dict[int, StageContext] = {}
        self._manifests: dict[str, Manifest] = {}
        self._batches: BatchRoom | None = None
        self._lock = threading.RLock()
        self._ticker: asyncio.TimerHandle | None = None
        self._paused = ""
        self.tasks_of_frame = Together(
            lambda: bool(self.control.stopping), lambda: owner.forget_context(self)
        )
        """Tasks of a lazy frame, which nobody opens and closes."""

    def _new_caller(self) -> JournaledCaller:
        namespace = self.spec.namespace
        in_flight = self.runtime.in_flight(self.store, namespace)
        client = PackingCaller(self.client)
        given = (client, self.journal, self.control, namespace, self._flights, in_flight)
        options: dict[str, Any] = {
            "store_prompts": self.spec.store_prompts,
            "asked_again": AskedAgain.of(self.folder),
            "on_answer": self.steps.answered,
        }
        if self.sharing is None:
            return JournaledCaller(*given, **options)
        return SharingCaller(*given, sharing=self.sharing, **options)

    def stage(self, index: int) -> StageContext:
        """The context of one stage, made once."""
        with self._lock:
            if index not in self._stages:
                flights = Flights() if self._stages else self._flights
                self._stages[index] = StageContext(self, self.stages[index], flights)
            return self._stages[index]

    def manifest(self, alias: str) -> Manifest:
        """The manifest of a source, read once."""
        with self._lock:
            if alias not in self._manifests:
                self._manifests[alias] = Manifest.load(
                    self.folder.source_manifest_url(alias), self.runtime.options_of(self.store)
                )
            return self._manifests[alias]

    @cached_property
    def schemas(self) -> dict[str, pa.Schema]:
        """Visible columns after each step."""
        return infer(lowered(self.spec.plan, self.spec.catalog), self.spec.catalog)

    @property
    def batches(self) -> BatchRoom:
        """What a run in batches keeps in its folder."""
        with self._lock:
            if self._batches is None:
                self._batches = BatchRoom(self.folder, self.runtime.options_of(self.store))
            return self._batches

    def stop(self, why: str, error: BaseException | None = None) -> None:
        """Start no further call here. From any thread; calls in flight finish and are journaled."""
        self.control.stop(why, error)
        private.loop().call_soon_threadsafe(self.client.stop, why)
        if self.sharing is not None:
            private.loop().call_soon_threadsafe(self.sharing.give_up)

    def abandon(self) -> None:
        """Stop, and hang up on the calls in flight. From any thread."""
        self.stop("abandoned")
        private.loop().call_soon_threadsafe(lambda: [task.cancel() for task in list(self.tasks)])

    def start_reporting(self) -> None:
        """On the loop: report progress until there is nothing left to report."""
        if self._ticker is None:
            self._ticker = asyncio.get_running_loop().call_later(REPORT_S, self._tick)

    def _tick(self) -> None:
        self._ticker = None
        self.report()
        if self.tasks:
            self.start_reporting()

    def report(self) -> None:
        """Emit what has happened since the last report."""
        for stage in list(self._stages.values()):
            progress = stage.meter.take(self.runtime.worker_name)
            if progress is not None:
                self.runtime.emit(progress)
        for pulse in self.pulses.take(self.folder.run_id, self.runtime.worker_name, last=not self.tasks):
            self.runtime.emit(pulse)
        self._tell_pause()

    def _tell_pause(self) -> None:
        """Say once when an endpoint makes calls wait, and once when they go on."""
        words = next((gate.pause_words for gate in self.client.gates() if gate.pause_words), "")
        with self._lock:
            before, self._paused = self._paused, words
        if words != before:
            self.runtime.emit(State(self.folder.run_id, time.time(), words=words or "running"))


class StageContext:
    """A stage as one process sees it: agents built once, a desk for its conversations."""

    def __init__(self, run: RunContext, stage: Stage, flights: Flights) -> None:
        self.run, self.stage = run, stage
        self.ref = StageRef(run.store, run.folder.run_id, stage.index)
        self.meter = Meter(run.folder.run_id, stage.index, flights)
        self.watch = StageWatch(self)

    @property
    def spec(self) -> RunSpec:
        return self.run.spec

    @property
    def folder(self) -> RunFolder:
        return self.run.folder

    @property
    def journal(self) -> Journal:
        return self.run.journal

    @property
    def control(self) -> Control:
        return self.run.control

    @property
    def worker_name(self) -> str:
        return self.run.runtime.worker_name

    @cached_property
    def agents(self) -> dict[str, RowAgent]:
        """One agent for each row-local step that calls a model (a reduce has an agent of its own)."""
        return {
            step.id: self._agent(step)
            for step in self.stage.steps
            if isinstance(step, LLMStep) and not isinstance(step, Reduce)
        }

    def _agent(self, step: LLMStep) -> RowAgent:
        model = self.spec.model_for(step.contract.model)
        if isinstance(step, Embed):
            return EmbedAgent(step, model)
        return Agent(step, model, self.run.schemas[step.input], self.spec.grants, lent_tables(self, step))

    @cached_property
    def reduce_agent(self) -> ReduceAgent:
        """The agent of a reduce stage."""
        (step,) = self.stage.steps
        assert isinstance(step, Reduce)
        return ReduceAgent(step, self.spec.model_for(step.contract.model), self.run.schemas[step.input])

    @cached_property
    def input_schema(self) -> pa.Schema:
        """Physical columns of the (single) input of this stage."""
        (source,) = self.stage.inputs
        if isinstance(source, str):
            spec = self.spec.sources[source]
            return physical_schema(spec.schema, spec.index)
        return self.run.stages[source].schema

    def sibling(self, index: int) -> StageContext:
        """Another stage of the same run."""
        return self.run.stage(index)

    def manifest(self, alias: str) -> Manifest:
        return self.run.manifest(alias)

    def storage_options(self, alias: str) -> Mapping[str, Any] | None:
        """Options of a source; a frame that was written into the run's folder is read like the folder."""
        own = self.run.runtime.options_of(f"{self.ref.run_id}/{alias}")
        files = self.manifest(alias).files
        if own is None and files and files[0].url.startswith(f"{self.folder.url}/"):
            return self.run.runtime.options_of(self.run.store)
        return own

    def read(self, record: CommitRecord, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of a committed part, with the declared schema (a file may name a list's items
        otherwise).
        """
        declared = self.stage.schema
        if columns is not None:
            declared = pa.schema([declared.field(name) for name in columns])
        return self.folder.read_part(record, columns).cast(declared)

    def desk(self) -> WatchedDesk:
        return WatchedDesk(self)

    def reused(self, record: CommitRecord) -> None:
        """Count a partition that an earlier attempt had committed; one of an earlier round has been counted."""
        if self.run.spec.batch is not None and self.run.batches.round:
            return
        if self.stage.calls_model:
            self.meter.note(rows=record.rows_in, failed=record.failed, cached=record.rows_in)
        self._done(record, reused=True)

    def committed(self, record: CommitRecord) -> None:
        """Announce a partition that was committed now."""
        self._done(record, reused=False)

    def _done(self, record: CommitRecord, *, reused: bool) -> None:
        self.run.report()
        self.run.runtime.emit(
            PartitionDone(
                self.ref.run_id,
                record.ended_s,
                stage=int(record.stage),
                partition=record.partition,
                rows_in=record.rows_in,
                rows_out=record.rows_out,
                reused=reused,
            )
        )


_runtime: Runtime | None = None
_runtime_lock = threading.Lock()


def runtime() -> Runtime:
    """The runtime of this process."""
    global _runtime
    if _runtime is None:
        with _runtime_lock:
            if _runtime is None:
                _runtime = Runtime()
    return _runtime


def context_of(ref: StageRef) -> StageContext:
    """The context behind a reference from a graph."""
    run = runtime().run(ref.store, ref.run_id)
    if run.spec.batch is not None:
        run.batches.enter(ref.round)
    return run.stage(ref.stage)


def _forget() -> None:
    global _runtime, _runtime_lock
    _runtime_lock = threading.Lock()
    _runtime = None


def _close() -> None:
    if _runtime is not None:
        _runtime.drain(EXIT_DRAIN_S)


# before the interpreter joins worker threads, which may wait for calls that only a stop ends
getattr(threading, "_register_atexit", atexit.register)(_close)

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
