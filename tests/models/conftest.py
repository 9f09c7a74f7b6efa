"""A client against a scripted server."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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

_doors = importlib.util.spec_from_file_location("tests_models_doors", Path(__file__).with_name("doors.py"))
assert _doors is not None
assert _doors.loader is not None
sys.modules["tests_models_doors"] = importlib.util.module_from_spec(_doors)  # tests are imported one by one
_doors.loader.exec_module(sys.modules["tests_models_doors"])

FAST = RetryPolicy(base_s=0.01, cap_s=0.02)
"""The real number of attempts, without the real waits."""


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
        given: dict[str, Any] = {"base_url": self.server.base_url, "timeout_s": 60.0, **self.settings}
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
