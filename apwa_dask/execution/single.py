"""Calls outside a run (the manager's), behind the same gate and journal as a run's."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from apwa_dask.execution.caller import Control, JournaledCaller
from apwa_dask.execution.runtime import runtime
from apwa_dask.models.client import Client
from apwa_dask.models.types import Purpose, Reply, Request

__all__ = ["PlanningCaller"]


class PlanningCaller:
    """A `Caller` for a few calls of one process; asks the journal for each.

    Parameters
    ----------
    store : str
        Where the journal is.
    namespace : str
    storage_options : mapping, optional
    """

    def __init__(
        self, store: str, namespace: str = "default", storage_options: Mapping[str, Any] | None = None
    ) -> None:
        here = runtime()
        here.remember_options(store, storage_options)
        self._journal = here.journal(store, namespace, store_prompts=False)
        self._caller = JournaledCaller(Client(here.endpoints), self._journal, Control(), namespace)
        self.paid_calls = 0

    async def call(self, request: Request, purpose: Purpose) -> Reply:
        """From the journal, else from the endpoint."""
        (known,) = await asyncio.to_thread(self._caller.reuse, [request])
        reply = known if known is not None else await self._caller.call(request, purpose)
        if reply.source == "live":
            self.paid_calls += reply.attempts
        return reply

    def flush(self) -> None:
        """Wait until what was paid for is durable."""
        self._journal.flush()
