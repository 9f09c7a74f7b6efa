"""`ScriptedServer`: start, watch, change and stop a server from a test, a benchmark or a notebook."""

from __future__ import annotations

import asyncio
import http.client
import os
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol
from urllib.parse import urlsplit

import orjson

import apwa_dask
from apwa_dask.errors import RunError
from apwa_dask.testing.listener import Listener, new_loop
from apwa_dask.testing.log import ServerLog, Stats
from apwa_dask.testing.script import Script
from apwa_dask.testing.service import Service

__all__ = ["ScriptedServer"]

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 30.0
WAIT_TIMEOUT_S = 120.0
"""Of a machine that does ten other things at once; what is awaited comes within a second elsewhere."""
POLL_S = 0.005


class ScriptedServer:
    """An OpenAI-compatible endpoint on loopback that does what its script says and logs every call.

    Parameters
    ----------
    script : Script, optional
        What to do; without one every call is answered at once.
    in_process : bool
        False: a process of its own, whose CPU is not the client's and which dies with this process. True: a
        thread, which also takes a script with a callable.
    port : int
        0 lets the system choose.

    Examples
    --------
    >>> with ScriptedServer(Script(rpm=600)) as server:  # doctest: +SKIP
    ...     client = AsyncOpenAI(base_url=server.base_url, api_key="any")
    ...     ...
    ...     assert server.calls == 100
    """

    def __init__(self, script: Script | None = None, *, in_process: bool = False, port: int = 0) -> None:
        self.script = script if script is not None else Script()
        self._in_process, self._port = in_process, port
        self._host: _Host | None = None

    def start(self) -> ScriptedServer:
        """Start serving; returns when calls can come.

        Raises
        ------
        ConfigError
            If the script cannot travel to another process.
        RunError
            If the server does not come up.
        """
        if self._host is None:
            host = _Thread if self._in_process else _Process
            self._host = host(self.script, self._port)
        return self

    def close(self) -> None:
        """Stop at once, also with calls in flight. Closing twice is fine."""
        host, self._host = self._host, None
        if host is not None:
            host.close()

    def __enter__(self) -> ScriptedServer:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def base_url(self) -> str:
        """``http://127.0.0.1:PORT/v1``, as OpenAI clients want it."""
        return self._running().base_url

    @property
    def pid(self) -> int:
        """Process that serves: to measure its CPU, or to kill it."""
        return self._running().pid

    def log(self) -> ServerLog:
        """Every call so far, in order of arrival, those in flight included."""
        return ServerLog.from_jsonl(self._control("GET", "log"))

    def batches(self) -> list[dict[str, Any]]:
        """Every batch so far, as its owner would see it, in order of creation; ``bytes`` is its input's size."""
        found: list[dict[str, Any]] = orjson.loads(self._control("GET", "batches"))
        return found

    def stats(self) -> Stats:
        """Exact counters, cheap to ask for."""
        return Stats(**orjson.loads(self._control("GET", "stats")))

    @property
    def calls(self) -> int:
        """POSTs so far, refused ones included."""
        return self.stats().calls

    @property
    def in_flight(self) -> int:
        """Calls that came and are not answered yet."""
        return self.stats().in_flight

    @property
    def max_in_flight(self) -> int:
        """Most calls in flight at once so far."""
        return self.stats().max_in_flight

    def set(self, script: Script) -> None:
        """Follow another script from now on, log and counters kept; see `Script.but`."""
        self._running().set(script)
        self.script = script

    def reset(self) -> None:
        """Empty the log, the counters, the attempts of faults, and fill the limits."""
        self._control("POST", "reset")

    def wait_until(self, condition: Callable[[Stats], bool], *, timeout_s: float = WAIT_TIMEOUT_S) -> Stats:
        """Wait until the counters fulfil a condition, and return them.

        Raises
        ------
        TimeoutError
            If they do not in time; the last counters are in the message.
        """
        deadline = time.monotonic() + timeout_s
        while not condition(stats := self.stats()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"not so after {timeout_s} s: {stats}")
            time.sleep(POLL_S)
        return stats

    def _running(self) -> _Host:
        if self._host is None:
            raise RunError(
                "the scripted server is not running", fix="use it inside `with ScriptedServer(...)`"
            )
        return self._host

    def _control(self, method: str, name: str) -> bytes:
        return control(self._running().base_url, method, name)


def control(base_url: str, method: str, name: str, body: bytes | None = None) -> bytes:
    """Call a control endpoint of a server.

    Raises
    ------
    RunError
        If the server refuses.
    """
    address = urlsplit(base_url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)
    try:
        connection.request(method, f"/__control/{name}", body=body)
        response = connection.getresponse()
        answer = response.read()
    finally:
        connection.close()
    if response.status != 200:
        raise RunError(f"the scripted server refused {name!r}", why=answer.decode())
    return answer


class _Host(Protocol):
    base_url: str
    pid: int

    def __init__(self, script: Script, port: int) -> None: ...
    def set(self, script: Script) -> None: ...
    def close(self) -> None: ...


class _Process:
    """A server in a process of its own, which ends when its stdin does: when this process closes or dies."""

    def __init__(self, script: Script, port: int) -> None:
        line = orjson.dumps(orjson.loads(script.to_json())) + b"\n"
        root = str(Path(apwa_dask.__file__).parent.parent)
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        # A file, not a pipe: nobody reads it while the server runs, and a full pipe would block the server.
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        command = [sys.executable, "-m", "apwa_dask.testing.server", "--script", "-"]
        self._process = subprocess.Popen(
            [*command, "--port", str(port), "--parent", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            # Ctrl-C in a terminal goes to the whole group; the server must outlive its client's interrupt.
            start_new_session=True,
        )
        self.pid = self._process.pid
        ready = self._first_words(line)
        if not ready.startswith("READY "):
            self._kill()
            with self._complaints:
                raise RunError("the scripted server did not start", why=self._complained())
        self.base_url = ready.split()[1]

    def _first_words(self, line: bytes) -> str:
        to_server, from_server = self._process.stdin, self._process.stdout
        if to_server is None or from_server is None:
            raise RunError("the scripted server has no pipes")
        # A pipe has no deadline: a server that hangs at its start is killed by the timer, and the read ends.
        guard = threading.Timer(START_TIMEOUT_S, self._process.kill)
        guard.start()
        try:
            to_server.write(line)
            to_server.flush()
            return from_server.readline().decode()
        except BrokenPipeError:
            return ""
        finally:
            guard.cancel()

    def set(self, script: Script) -> None:
        control(self.base_url, "POST", "script", script.to_json())

    def close(self) -> None:
        self._process.terminate()
        try:
            self._process.communicate(timeout=STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._kill()
        complaints = self._complained()
        self._complaints.close()
        if complaints:
            warnings.warn(f"the scripted server complained: {complaints}", RuntimeWarning, stacklevel=3)

    def _kill(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _complained(self) -> str:
        self._complaints.seek(0)
        return self._complaints.read().decode(errors="replace")[-2000:]


class _Thread:
    """A server in a thread of this process, with a loop of its own."""

    def __init__(self, script: Script, port: int) -> None:
        self.pid = os.getpid()
        self._loop = new_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="scripted-server", daemon=True)
        self._thread.start()
        self._service = Service(script)
        self._listener = Listener(self._service)
        try:
            chosen = asyncio.run_coroutine_threadsafe(self._listener.open(port), self._loop).result(
                START_TIMEOUT_S
            )
        except OSError as why:
            self._stop_loop()
            raise RunError("the scripted server did not start", why=str(why)) from why
        self.base_url = f"http://127.0.0.1:{chosen}/v1"

    def set(self, script: Script) -> None:
        async def use() -> None:
            self._service.desk.use(script)

        asyncio.run_coroutine_threadsafe(use(), self._loop).result(STOP_TIMEOUT_S)

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._listener.close(), self._loop).result(STOP_TIMEOUT_S)
        self._stop_loop()

    def _stop_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(STOP_TIMEOUT_S)
        self._loop.close()
