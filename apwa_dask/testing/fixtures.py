"""Fixtures for pytest: ``pytest_plugins = ["apwa_dask.testing.fixtures"]`` in the top ``conftest.py``."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Protocol

import pytest

from apwa_dask.testing.script import Script
from apwa_dask.testing.scripted_server import ScriptedServer

__all__ = ["CANARY_VARIABLES", "StartServer", "canary_key", "scripted_server"]

CANARY_VARIABLES = ("APWA_TEST_KEY", "OPENAI_API_KEY")


class StartServer(Protocol):
    """Starts a server for the test; ``start(rpm=60)`` is short for ``start(Script(rpm=60))``."""

    def __call__(
        self, script: Script | None = None, *, in_process: bool = False, **fields: Any
    ) -> ScriptedServer: ...


_known: set[str] = set()
"""Addresses of servers in this process, past ones too."""


@pytest.fixture
def scripted_server() -> Iterator[StartServer]:
    """A factory of scripted servers, all stopped when the test ends."""
    with ExitStack() as stack:

        def start(script: Script | None = None, *, in_process: bool = False, **fields: Any) -> ScriptedServer:
            whole = (script or Script()).but(**fields)
            server = stack.enter_context(ScriptedServer(whole, in_process=in_process))
            while server.base_url in _known:
                # A process remembers endpoints by address: at one that was answered before, no call is the first.
                # The server that has it keeps it, so that the next gets another.
                server = stack.enter_context(ScriptedServer(whole, in_process=in_process))
            _known.add(server.base_url)
            return server

        yield start


@pytest.fixture
def canary_key(monkeypatch: pytest.MonkeyPatch) -> str:
    """A key that exists only in this test, set in the environment; `grep_canary` says where it leaked."""
    key = f"sk-CANARY-{secrets.token_hex(16)}"
    for name in CANARY_VARIABLES:
        monkeypatch.setenv(name, key)
    return key
