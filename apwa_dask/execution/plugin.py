"""The coordinator on a cluster: a scheduler plugin that leases capacity and money, and its worker side.

One RPC a block, never one a call. The scheduler's plugin sees workers die, so their shares return at once; it sees
clients leave, so the spending of their runs stops. `idempotent`: a second notebook finds the plugin that is there,
and both share one limit.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from distributed import Client, Reschedule, Scheduler, SchedulerPlugin, Worker, WorkerPlugin
from distributed.core import Status, rpc
from distributed.scheduler import WorkerState
from pydantic import TypeAdapter
from tornado.ioloop import PeriodicCallback

from apwa_dask.errors import ConfigError
from apwa_dask.execution import loop as private
from apwa_dask.execution.broadcast import everywhere, register_everywhere
from apwa_dask.execution.clients import return_money
from apwa_dask.execution.events import (
    EndpointPulse,
    Event,
    Forecast,
    PartitionDone,
    Progress,
    RunFinished,
    RunStarted,
    StageFinished,
    StageStarted,
    State,
    StepPulse,
)
from apwa_dask.execution.runtime import runtime
from apwa_dask.execution.worker_loop import answered_on, asked_on
from apwa_dask.models.budget import Budget
from apwa_dask.models.claimed import ClaimBook
from apwa_dask.models.coordinator import Coordinator
from apwa_dask.models.leases import Funds, Grant, Money, MoneyReport, Notice, Report, Want

__all__ = [
    "RUN_TOPIC",
    "TOPIC",
    "CoordinatorPlugin",
    "RuntimePlugin",
    "event_of",
    "message_of",
    "prepare_cluster",
]

TOPIC = "apwa"
"""What workers tell: the scheduler passes it on to clients."""
RUN_TOPIC = "apwa-run"
"""What only the client knows of its runs: told to the scheduler, for its dashboard."""
DRAIN_S = 20.0
RETURN_S = 2.0
"""For giving back money when a worker ends."""
ASK_TIMEOUT_S = 2.0
"""How long another worker may take to say whether it still works on something; then it does not."""
CLIENT_SILENT_S = 25.0
"""A client whose heartbeat (every 5 s) stands still for so long is gone, though its connection may be open."""
LOOK_S = 2.0
CONNECTION_ENDED = "handle-worker-cleanup"
"""Start of the scheduler's reason to remove a worker whose connection has ended: it died, or has drained before."""
WAITING = "waiting for workers"
"""State of a run whose cluster has none: all were lost, or adaptive scaling has not started any yet."""
ROWS_PREFIX = "apwa-rows"
"""Start of the names of the tasks that make calls (`apwa_dask.execution.stages`)."""
_EVENTS: dict[str, type[Event]] = {
    kind.__name__: kind
    for kind in (
        Progress,
        PartitionDone,
        State,
        Forecast,
        StepPulse,
        EndpointPulse,
        RunStarted,
        StageStarted,
        StageFinished,
        RunFinished,
    )
}

_PREPARED: WeakKeyDictionary[Client, frozenset[str]] = WeakKeyDictionary()
"""Clients whose cluster has the plugins, with the workers whose versions were seen."""

T = TypeVar("T")


_ADAPTERS: dict[type[Any], TypeAdapter[Any]] = {}
"""Made when first needed: all of them would make whoever imports this module wait."""


def _read(kind: type[T], data: Mapping[str, Any]) -> T:
    adapter = _ADAPTERS.get(kind) or _ADAPTERS.setdefault(kind, TypeAdapter(kind))
    value: T = adapter.validate_python(dict(data))
    return value


class CoordinatorPlugin(SchedulerPlugin):
    """One `Coordinator` for all workers of the cluster."""

    name = "apwa-coordinator"
    idempotent = True

    async def start(self, scheduler: Scheduler) -> None:
        """Register the handlers that workers and clients call."""
        self.coordinator = Coordinator(tell=self._tell_holders)
        self.claims = ClaimBook()
        self.stopped: dict[str, str] = {}
        self.owners: dict[str, str] = {}
        self.waiting: set[str] = set()
        self.scheduler = scheduler
        self._board: Callable[[Event], None] | None = None
        self._seen: dict[str, tuple[float, float]] = {}
        self._looked_s = time.monotonic()
        self._watch = PeriodicCallback(self._stop_runs_of_the_silent, LOOK_S * 1000)
        self._watch.start()
        self._board = _board_on(scheduler)
        scheduler.handlers["apwa_lease"] = self.lease
        scheduler.handlers["apwa_fund"] = self.fund
        scheduler.handlers["apwa_claim"] = self.claim
        scheduler.handlers["apwa_open"] = self.open_run
        scheduler.handlers["apwa_close"] = self.close_run
        scheduler.handlers["apwa_charge"] = self.charge_run

    async def lease(
        self, holder: str, gate_key: str, want: dict[str, Any], report: dict[str, Any]
    ) -> dict[str, Any]:
        """See `Coordinator.lease`."""
        return asdict(self.coordinator.lease(holder, gate_key, _read(Want, want), _read(Report, report)))

    def _tell_holders(self, notice: Notice, holders: list[str]) -> None:
        """A pause does not wait for renewals: it goes by the streams that carry tasks."""
        message = {"op": "apwa_notice", **asdict(notice)}
        self.scheduler.send_all({}, {address: [message] for address in holders})

    async def fund(
        self, holder: str, account: str, least: dict[str, Any], wanted: dict[str, Any], report: dict[str, Any]
    ) -> dict[str, Any]:
        """See `Coordinator.fund`."""
        funds = self.coordinator.fund(
            holder, account, _read(Money, least), _read(Money, wanted), _read(MoneyReport, report)
        )
        return asdict(funds)

    async def claim(self, holder: str, room: str, asked: bytes, answered: bytes, dropped: bytes) -> bytes:
        """See `ClaimBook.exchange`."""
        return self.claims.exchange(holder, room, asked, answered, dropped)

    async def open_run(self, run_id: str, client: str, budget: dict[str, Any], spent: dict[str, Any]) -> None:
        """A client begins a run: its purse is filled once, and its spending ends with the client."""
        self.coordinator.open_account(run_id, Budget.from_dict(budget), _read(Money, spent))
        self.owners[run_id] = client
        if not self.scheduler.workers:
            self._say(WAITING, [run_id])

    async def close_run(self, run_id: str) -> dict[str, Any]:
        """A lazy frame's purse moves elsewhere: what was spent here, and may have been."""
        return asdict(self.coordinator.close_account(run_id))

    async def charge_run(self, run_id: str, used: dict[str, Any], force: bool) -> dict[str, Any]:
        """See `Coordinator.charge`."""
        return asdict(self.coordinator.charge(run_id, _read(Money, used), force=force))

    def log_event(self, topic: str, msg: Any) -> None:
        """What travels through the topics anyway is shown on the dashboard too."""
        if topic not in (TOPIC, RUN_TOPIC):
            return
        event = event_of(msg)
        if isinstance(event, RunFinished):  # it waits for no workers, and its client may go
            self.owners.pop(event.run_id, None)
            self.waiting.discard(event.run_id)
        if self._board is not None and event is not None:
            self._board(event)

    def remove_worker(
        self, scheduler: Scheduler, worker: str, *, stimulus_id: str = "", **kwargs: Any
    ) -> None:
        """A dead worker's share returns; money it held and did not account for is booked as spent.

        Any other end than a broken connection is one that the scheduler asked for: that worker still drains.
        """
        self.coordinator.release_holder(worker, is_leaving=not stimulus_id.startswith(CONNECTION_ENDED))
        self.claims.release_holder(worker)
        if not scheduler.workers:
            self._say(WAITING, self.owners)

    def add_worker(self, scheduler: Scheduler, worker: str) -> None:
        """Runs that waited for workers go on."""
        self._say("running", list(self.waiting))

    def _say(self, words: str, runs: Iterable[str]) -> None:
        """Tell the clients of these runs how they stand: while no worker is there, nobody else does."""
        for run_id in list(runs):
            if words == WAITING:
                self.waiting.add(run_id)
            else:
                self.waiting.discard(run_id)
            self.scheduler.log_event(TOPIC, message_of(State(run_id, time.time(), words=words)))

    def remove_client(self, scheduler: Scheduler, client: str) -> None:
        """Nobody waits for the runs of a client that is gone: their spending stops."""
        self._seen.pop(client, None)
        if client not in scheduler.clients:  # one that is only silent may wake, and ask for money again
            self.coordinator.forget_holder(client)
        for run_id in [run for run, owner in self.owners.items() if owner == client]:
            del self.owners[run_id]
            self.waiting.discard(run_id)
            message = {"op": "apwa_stop", "run_id": run_id, "why": "its client is gone"}
            scheduler.send_all({}, {address: [message] for address in scheduler.workers})

    def _stop_runs_of_the_silent(self) -> None:
        """A client that is frozen, or behind a dead network, keeps its connection: its heartbeat tells."""
        now_s = time.monotonic()
        late, self._looked_s = now_s - self._looked_s > 3 * LOOK_S, now_s
        for client in set(self.owners.values()):
            state = self.scheduler.clients.get(client)
            if state is None:
                continue
            beat, since_s = self._seen.get(client, (None, now_s))
            if beat != state.last_seen or late:  # when this process slept, nobody could be heard
                self._seen[client] = (state.last_seen, now_s)
            elif now_s - since_s > CLIENT_SILENT_S:
                self.remove_client(self.scheduler, client)

    def valid_workers_downscaling(
        self, scheduler: Scheduler, workers: list[WorkerState]
    ) -> list[WorkerState]:
        """Adaptive scaling takes workers that are waiting for no answers, if there are any."""
        return [worker for worker in workers if not _makes_calls(worker)]

    async def close(self) -> None:
        """The scheduler ends."""
        self._watch.stop()


def _board_on(scheduler: Scheduler) -> Callable[[Event], None] | None:
    """The page on the scheduler's dashboard; None where it has no dashboard, or Bokeh is not installed."""
    from apwa_dask.observe.cluster_page import add_page

    return add_page(scheduler)


def _makes_calls(worker: WorkerState) -> bool:
    return any(
        task.prefix is not None and task.prefix.name.startswith(ROWS_PREFIX) for task in worker.processing
    )


RUNNING = (Status.running, Status.paused)

_WORKERS: list[RuntimePlugin] = []
"""Of this process: one, or several where a cluster lives in its client's process. The last one speaks for all."""


class RuntimePlugin(WorkerPlugin):
    """Connects a worker's runtime to the scheduler's coordinator, and flushes it when the worker closes."""

    name = "apwa-runtime"
    idempotent = True

    def __init__(self, version: str) -> None:
        self.version = version

    def setup(self, worker: Worker) -> None:
        """Leases, money and events go by the worker's own connection to the scheduler."""
        self.worker = worker
        self._speak()
        # workers that join later are asked by nobody else
        found, here = _version_here(), runtime()
        here.unfit = (
            None if found == self.version else _another_version(here.worker_name, found, self.version)
        )
        worker.stream_handlers["apwa_stop"] = self.stop_run
        worker.stream_handlers["apwa_notice"] = self.notice
        worker.handlers["apwa_works_on"] = self.works_on
        _WORKERS.append(self)

    def _speak(self) -> None:
        worker, here = self.worker, runtime()
        here.worker_name = str(worker.address)
        here.lease, here.fund, here.publish = self.lease, self.fund, self.publish
        here.claim = self.claim
        neighbours = here.neighbours
        neighbours.address = str(worker.address)
        neighbours.ask, neighbours.hand_over = self.ask, Reschedule

    def works_on(self, token: str) -> bool:
        """Answers another worker: is this attempt still at work here?"""
        return runtime().neighbours.works_on(token)

    def ask(self, address: str, token: str) -> bool:
        """Ask another worker whether it is still at work on an attempt, from a partition's thread.

        A worker that cannot be reached, or is frozen, is not at work.
        """

        async def ask() -> bool:
            other = rpc(address, timeout=ASK_TIMEOUT_S, connection_args=self.worker.connection_args)
            try:
                return bool(await other.apwa_works_on(token=token))
            finally:
                await other.close_rpc()

        try:
            answer = asked_on(self.worker.loop.asyncio_loop, ask)
        except ConnectionError:
            return False
        try:
            return answer.result(ASK_TIMEOUT_S)
        except (OSError, TimeoutError):
            answer.cancel()
            return False

    async def lease(self, gate_key: str, want: Want, report: Report) -> Grant:
        """Ask the scheduler for a block, from the private loop."""
        grant = await self._ask(
            "apwa_lease",
            holder=str(self.worker.address),
            gate_key=gate_key,
            want=asdict(want),
            report=asdict(report),
        )
        return _read(Grant, grant)

    async def fund(self, account: str, least: Money, wanted: Money, report: MoneyReport) -> Funds:
        """Ask the scheduler for money, from the private loop."""
        funds = await self._ask(
            "apwa_fund",
            holder=str(self.worker.address),
            account=account,
            least=asdict(least),
            wanted=asdict(wanted),
            report=asdict(report),
        )
        return _read(Funds, funds)

    async def claim(self, room: str, asked: bytes, answered: bytes, dropped: bytes) -> bytes:
        """Tell the scheduler which requests are sent here, from the private loop."""
        states: bytes = await self._ask(
            "apwa_claim",
            holder=str(self.worker.address),
            room=room,
            asked=asked,
            answered=answered,
            dropped=dropped,
        )
        return states

    async def _ask(self, operation: str, **fields: Any) -> Any:
        """One RPC on the worker's loop; this runs on the private one."""

        async def ask() -> Any:
            if self.worker.status == Status.closed:
                raise ConnectionError(
                    "the worker has closed"
                )  # its pool of connections would say RuntimeError
            return await getattr(self.worker.scheduler, operation)(**fields)

        return await answered_on(self.worker.loop.asyncio_loop, ask)

    def publish(self, event: Event) -> None:
        """Send an event to the client through the scheduler's topic."""
        self.worker.loop.add_callback(self.worker.log_event, TOPIC, message_of(event))

    def stop_run(self, run_id: str, why: str) -> None:
        """The scheduler says that a run may spend no more."""
        runtime().stop(run_id, why)

    def notice(self, **fields: Any) -> None:
        """The scheduler says that another worker was refused."""
        runtime().notice(_read(Notice, fields))

    async def teardown(self, worker: Worker) -> None:
        """Take no more rows, and wait for calls in flight, so that what was paid for is journaled.

        Meanwhile this worker still answers others, who wait for the partitions it is leaving. Where others live in
        this process its rows go on, for the one that is given its tasks.
        """
        here = runtime()
        _WORKERS[:] = [plugin for plugin in _WORKERS if plugin.worker.status in RUNNING]
        if _WORKERS:
            _WORKERS[-1]._speak()
            return
        await asyncio.to_thread(here.drain, DRAIN_S, keeps_own=True)
        await self._return_money()
        if here.neighbours.address == str(worker.address):  # of a worker that lived in its client's process
            here.neighbours.address, here.neighbours.ask, here.neighbours.hand_over = "", None, None
            here.lease = here.fund = here.claim = here.publish = None

    async def _return_money(self) -> None:
        """What a worker holds when it is gone counts as spent."""
        answer = asyncio.run_coroutine_threadsafe(return_money(), private.loop())
        with suppress(TimeoutError):  # the scheduler is gone, and its purses with it
            await asyncio.wait_for(asyncio.wrap_future(answer), RETURN_S)


def message_of(event: Event) -> dict[str, Any]:
    """An event as it travels in a topic."""
    return {"kind": type(event).__name__, **asdict(event)}


def event_of(message: Mapping[str, Any]) -> Event | None:
    """The event in a topic's message; None for a kind of another version."""
    fields = dict(message)
    kind = _EVENTS.get(fields.pop("kind", ""))
    fields.pop("worker_address", None)
    if kind is None:
        return None
    known = {name: fields[name] for name in kind.__dataclass_fields__ if name in fields}
    return kind(**known)


def prepare_cluster(client: Client) -> None:
    """Register both plugins, and refuse a cluster whose versions do not fit.

    Raises
    ------
    ConfigError
        A worker or the scheduler lacks this package, or has another version. Nothing has been spent.
    """
    import apwa_dask

    workers = frozenset(client.scheduler_info(n_workers=-1)["workers"])
    if workers and _PREPARED.get(client) == workers:
        return
    ours = apwa_dask.__version__
    found = _versions(client)
    wrong = {where: version for where, version in found.items() if version != ours}
    if wrong:
        where, version = next(iter(wrong.items()))
        raise _another_version(where, version, ours)
    client.register_plugin(CoordinatorPlugin())
    register_everywhere(client, RuntimePlugin(ours))
    _PREPARED[client] = workers


def _another_version(where: str, found: str, ours: str) -> ConfigError:
    return ConfigError(
        f"{where} has apwa_dask {found or 'not installed'}, the client has {ours}",
        why="the graph names functions of this package, so all processes need the same version",
        fix=f"install apwa-dask=={ours} on the scheduler and on every worker",
        saved="nothing was called",
        code="CONFIG-VERSIONS",
    )


def _versions(client: Client) -> dict[str, str]:
    versions = {"the scheduler": client.run_on_scheduler(_version_here)}
    for address, version in everywhere(client, _version_here).items():
        versions[f"worker {address}"] = version
    return versions


def _version_here() -> str:
    import importlib

    try:
        return str(importlib.import_module("apwa_dask").__version__)
    except ImportError:
        return ""
