"""What every room's tests share: the scripted server, a store, a clock of their own, our one background loop.

The loop's thread is started before any test, so that a check for leaked threads (``distributed.utils_test``)
does not take it for a leak.
"""

from __future__ import annotations

import asyncio
import heapq
import importlib.util
import os
import secrets
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings

from apwa_dask.execution import loop
from apwa_dask.testing import Fault, On

pytest_plugins = ["apwa_dask.testing.fixtures"]

settings.register_profile(
    "suite",
    deadline=None,  # how long an example takes is the machine's affair
    suppress_health_check=[HealthCheck.too_slow],
    # the suite looks at the same examples each time; a larger search at new ones
    derandomize=not {"APWA_EXAMPLES", "APWA_TEST_EXAMPLES"} & os.environ.keys(),
)
settings.load_profile("suite")

T = TypeVar("T")


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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first: at the end of a run on two cores nobody waits for the last of them."""
    slow = {item.path for item in items if item.get_closest_marker("slow") is not None}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session", autouse=True)
def _private_loop() -> None:
    loop.loop()


@pytest.fixture
def store(tmp_path: Path) -> str:
    """A store for journal and runs that only this test knows."""
    return str(tmp_path / "store")


@pytest.fixture(scope="session")
def slow_from() -> Callable[..., Fault]:
    """A fault: calls from this number on take seconds, so that a run cannot end before its test does something to it.

    ``server.set(server.script.but(faults=()))`` ends it, for calls that come later.
    """

    def slow(number: int, delay_s: float = 2.0) -> Fault:
        return Fault("slow", on=On(calls=tuple(range(number, number + 2000))), delay_s=delay_s)

    return slow


@pytest.fixture(scope="session")
def virtual_time() -> Callable[[Coroutine[Any, Any, T]], T]:
    """Runs a coroutine to its end on a clock that only waiting moves."""
    return in_virtual_time


def _started_s3() -> tuple[subprocess.Popen[bytes], str]:
    """A server that answers, and its endpoint. Where another process takes the free port first, the next is tried."""
    ticker = threading.Event()
    for _ in range(5):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        server = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "AWS_EC2_METADATA_DISABLED": "true"},
        )
        endpoint = f"http://127.0.0.1:{port}"
        for _ in range(1200):
            if server.poll() is not None:
                break
            try:
                urllib.request.urlopen(f"{endpoint}/moto-api/", timeout=30).close()
                return server, endpoint
            except OSError:
                ticker.wait(0.1)
        server.kill()
        server.wait(timeout=30)
    raise AssertionError("the S3 server did not start")


@pytest.fixture(scope="session")
def s3_options() -> Iterator[dict[str, Any]]:
    """Storage options for an S3 server (moto) in a process of its own; the credentials are canaries."""
    missing = [name for name in ("moto", "s3fs", "flask") if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    server, endpoint = _started_s3()
    try:
        yield {
            "key": f"AKIACANARY{secrets.token_hex(8)}",
            "secret": f"secret-CANARY-{secrets.token_hex(16)}",
            "endpoint_url": endpoint,
            "client_kwargs": {"region_name": "eu-west-1"},
        }
    finally:
        server.terminate()
        server.wait(timeout=30)


@pytest.fixture
def bucket(s3_options: dict[str, Any]) -> str:
    """A fresh bucket's URL."""
    import s3fs

    name = f"bucket-{secrets.token_hex(4)}"
    s3fs.S3FileSystem(**s3_options).mkdir(name)
    return f"s3://{name}"
