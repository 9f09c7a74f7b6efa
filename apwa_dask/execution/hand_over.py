"""Storage options on a cluster: from the caller to the workers that need them, and to nowhere else.

The client lends them to the scheduler, which keeps them sealed in its memory without ever opening them, hands them to
workers that ask, and forgets them when the client goes. They are in no graph, task, plan, manifest, event or log; on
the wire they are as safe as the cluster's own connections (TLS: ``distributed.Security``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distributed import Client, Scheduler, SchedulerPlugin, Worker, WorkerPlugin
from distributed.protocol import Serialize, serialize, to_serialize

from apwa_dask.errors import ConfigError
from apwa_dask.execution.broadcast import register_everywhere
from apwa_dask.execution.runtime import runtime
from apwa_dask.execution.worker_loop import asked_on

__all__ = ["Asker", "Lender", "lend"]

RPC_TIMEOUT_S = 10.0

Options = Mapping[str, Any]


class Lender(SchedulerPlugin):
    """Holds what clients lend, by the place it is for: a store's URL, or a run's source."""

    name = "apwa-lender"
    idempotent = True

    async def start(self, scheduler: Scheduler) -> None:
        """Register the handlers that clients and workers call."""
        self._sealed: dict[str, tuple[str, Any]] = {}
        scheduler.handlers["apwa_lend"] = self.lend
        scheduler.handlers["apwa_borrow"] = self.borrow

    def __repr__(self) -> str:
        return "Lender()"  # dumps of a scheduler's state show its plugins by their repr

    async def lend(self, client: str, place: str, options: Any) -> None:
        """Keep `options` (sealed) for `place`, until `client` goes."""
        self._sealed[place] = (client, options)

    async def borrow(self, place: str) -> Any:
        """What was lent for `place`, still sealed; None where nothing was."""
        _, options = self._sealed.get(place, ("", None))
        return options

    def remove_client(self, scheduler: Scheduler, client: str) -> None:
        """What a client lent goes with it."""
        self._sealed = {place: kept for place, kept in self._sealed.items() if kept[0] != client}


_ASKERS: list[Asker] = []
"""Of this process: one, or several where a cluster lives in its client's process."""


class Asker(WorkerPlugin):
    """Lets a worker's runtime ask for what it was not given. Workers that join later have it too."""

    name = "apwa-asker"
    idempotent = True

    def setup(self, worker: Worker) -> None:
        self.worker = worker
        _ASKERS.append(self)
        runtime().ask_options = self.ask

    def teardown(self, worker: Worker) -> None:
        """Later runs of a process whose cluster is gone have what they are given, and ask nobody."""
        _ASKERS[:] = [asker for asker in _ASKERS if asker is not self]
        runtime().ask_options = _ASKERS[-1].ask if _ASKERS else None

    def ask(self, place: str) -> Options | None:
        """Options for `place`. For task threads: waits for one RPC."""

        async def borrow() -> Any:
            return await self.worker.scheduler.apwa_borrow(place=place)

        answer = asked_on(self.worker.loop.asyncio_loop, borrow).result(RPC_TIMEOUT_S)
        # between threads of one process nothing is serialised, so the seal is still on
        options: Options | None = answer.data if isinstance(answer, Serialize) else answer
        return options


def lend(client: Client, options: Mapping[str, Options]) -> None:
    """Let the workers of `client` use `options`, given by place, for as long as the client lives.

    Raises
    ------
    ConfigError
        Options that cannot travel; nothing has been spent.
    """
    if not options:
        return
    for place, given in options.items():
        _check(place, given)
    client.register_plugin(Lender())
    register_everywhere(client, Asker())
    for place, given in options.items():
        sealed = to_serialize(dict(given))
        client.sync(client.scheduler.apwa_lend, client=client.id, place=place, options=sealed)


def _check(place: str, options: Options) -> None:
    try:
        serialize(dict(options), on_error="raise")
    except Exception as error:  # whatever an object's own pickling raises; its text may quote a secret
        raise ConfigError(
            f"the storage options {', '.join(sorted(options))} cannot be sent to the workers",
            where=place,
            why=f"one of them holds an object that belongs to this process ({type(error).__name__})",
            fix="give plain values (text, numbers, dictionaries), or configure fsspec on the workers",
            saved="nothing was called",
            code="CONFIG-OPTIONS",
        ) from None
