"""A client against a scripted server, and an event loop whose clock is ours."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest

from apwa_dask.models.budget import Wallet
from apwa_dask.models.client import Client
from apwa_dask.models.coordinator import Coordinator, LocalLease
from apwa_dask.models.endpoints import Endpoints
from apwa_dask.models.model import Model
from apwa_dask.models.retry import RetryPolicy
from apwa_dask.models.types import Message, Purpose, Reply, Request, Template
from apwa_dask.testing import ScriptedServer
from apwa_dask.testing.fixtures import StartServer, canary_key, scripted_server

__all__ = ["canary_key", "scripted_server"]

T = TypeVar("T")

FAST = RetryPolicy(base_s=0.01, cap_s=0.02)
"""The real number of attempts, without the real waits."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """Waiting takes no time on this event loop: when nothing is ready, the clock jumps to the next timer."""

    def __init__(self) -> None:
        super().__init__()
        self._now_s = 0.0

    def time(self) -> float:
        return self._now_s

    def _run_once(self) -> None:
        scheduled = self._scheduled  # type: ignore[attr-defined]
        while scheduled and scheduled[0]._cancelled:
            heapq.heappop(scheduled)._scheduled = False
        if not self._ready:  # type: ignore[attr-defined]
            if not scheduled:
                raise RuntimeError("everything waits and no timer is set: a deadlock")
            self._now_s = max(self._now_s, scheduled[0]._when)
        super()._run_once()  # type: ignore[misc]


def in_virtual_time(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end on a fresh virtual clock that starts at 0."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(coroutine)


@dataclass
class Ask:
    """Sends texts through a fresh client to one server; what it leaves behind is kept for assertions."""

    server: ScriptedServer
    policy: RetryPolicy = FAST
    wallet: Wallet | None = None
    max_output_tokens: int | None = None
    schema: dict[str, Any] | None = None
    purpose: Purpose = field(default_factory=lambda: Purpose("run", "step"))
    settings: dict[str, Any] = field(default_factory=dict)
    client: Client | None = None

    def model(self) -> Model:
        given: dict[str, Any] = {"base_url": self.server.base_url, "timeout_s": 5.0, **self.settings}
        return Model(given.pop("name", "test-model"), **given)

    def template(self) -> Template:
        system = (Message("system", "Answer."),)
        return Template(self.model(), system, self.schema, max_output_tokens=self.max_output_tokens)

    def __call__(self, *texts: str) -> list[Reply]:
        replies = self.outcomes(*texts)
        for reply in replies:
            if isinstance(reply, BaseException):
                raise reply
        return [reply for reply in replies if isinstance(reply, Reply)]

    def outcomes(self, *texts: str) -> list[Reply | BaseException]:
        return asyncio.run(self._all(texts))

    async def _all(self, texts: tuple[str, ...]) -> list[Reply | BaseException]:
        endpoints = Endpoints(LocalLease(Coordinator()).lease)
        self.client = Client(endpoints, self.wallet, policy=self.policy)
        template = self.template()
        calls = [self.client.call(Request(template, (Message("user", t),)), self.purpose) for t in texts]
        try:
            return await asyncio.gather(*calls, return_exceptions=True)
        finally:
            await endpoints.close()


@pytest.fixture(scope="session")
def virtual_time() -> Callable[[Coroutine[Any, Any, T]], T]:
    """Runs a coroutine to its end on a clock that only waiting moves."""
    return in_virtual_time


@pytest.fixture
def serve(scripted_server: StartServer) -> Callable[..., ScriptedServer]:
    """Starts a scripted server in a thread of this process: ``serve(rpm=60)``."""

    def start(**fields: Any) -> ScriptedServer:
        return scripted_server(in_process=True, **fields)

    return start


@pytest.fixture
def ask(canary_key: str) -> type[Ask]:
    """``ask(server, ...)(*texts)``: replies of a fresh client; the key in use is the canary."""
    return Ask
