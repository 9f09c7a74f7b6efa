"""One server of the embedded model per machine: started on demand, shared, gone with its last user.

A user is a process that holds a shared lock on the server's ``users`` file. The kernel drops that lock when
the process ends in whatever way, so nothing has to be cleaned up after kill -9.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from apwa_dask.errors import LocalModelError
from apwa_dask.models.local.catalogue import DEFAULT_MODEL
from apwa_dask.models.local.locks import FileLock
from apwa_dask.models.local.machine import check_machine
from apwa_dask.models.local.progress import Report
from apwa_dask.models.local.registry import ServerFolder
from apwa_dask.models.local.settings import LocalEndpoint, ServerSettings
from apwa_dask.models.local.weights import ensure_weights

__all__ = ["acquire", "local_server", "release"]

_START_TIMEOUT_S = 300.0
_POLL_S = 0.05
_OPENMP = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "2000"}
"""Spinning barriers of OpenMP starve on cores shared with Dask workers: no answer within 70 s beside two busy
processes was measured, 5.3 tokens/s with these."""

_NOT_INHERITED = re.compile(r"^(OMP|GOMP|KMP)_")
"""Dask sets ``OMP_NUM_THREADS=1`` in its workers; the server has its own number of threads."""

_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)


@dataclasses.dataclass(slots=True)
class _Lease:
    users: FileLock
    endpoint: LocalEndpoint
    count: int


_leases: dict[str, _Lease] = {}
_guard = threading.Lock()


def acquire(
    model: str = DEFAULT_MODEL,
    *,
    path: str | os.PathLike[str] | None = None,
    slots: int = 4,
    n_ctx: int = 4096,
    threads: int = 0,
    grace_s: float = 30.0,
    report: Report | None = None,
) -> LocalEndpoint:
    """Return the endpoint of the embedded model, after fetching weights and starting a server where needed.

    Blocks (a cold start takes seconds, a first fetch minutes): call it from a thread, not on an event loop.
    The process then counts as a user of the server until as many `release` calls, or its end. Calling it
    again is cheap, and starts a new server if the old one has died in between.

    Parameters
    ----------
    model : str
        A name in the catalogue, or the path of a GGUF file.
    path : path, optional
        A GGUF file of your own instead; its hash is not checked.
    slots : int
        Requests worked on at a time, over all processes.
    n_ctx : int
        Tokens of prompt and answer together, per slot.
    threads : int
        Compute threads; 0 means all cores this process may use.
    grace_s : float
        How long the server stays after its last user.
    report : callable, optional
        Told about the progress of a fetch.

    Raises
    ------
    LocalModelError
        The weights cannot be had, the machine cannot run them, or the server did not start.
    """
    check_machine()
    file = ensure_weights(model, path=path, report=report)
    settings = ServerSettings(
        model_path=str(file.path),
        model_name=file.name,
        label=file.label,
        slots=slots,
        n_ctx=n_ctx,
        threads=threads,
        grace_s=grace_s,
    )
    with _guard:
        return _acquire(ServerFolder.of(settings), settings)


def release(endpoint: LocalEndpoint) -> None:
    """Say that one `acquire` of this process needs the server no more. Unknown endpoints are left alone."""
    with _guard:
        lease = _leases.get(endpoint.server)
        if lease is None:
            return
        lease.count -= 1
        if lease.count <= 0:
            lease.users.close()
            del _leases[endpoint.server]


@contextlib.contextmanager
def local_server(
    model: str = DEFAULT_MODEL,
    *,
    path: str | os.PathLike[str] | None = None,
    slots: int = 4,
    n_ctx: int = 4096,
    threads: int = 0,
    grace_s: float = 30.0,
    report: Report | None = None,
) -> Iterator[LocalEndpoint]:
    """Use the embedded model inside a ``with`` block; see `acquire` for the parameters."""
    endpoint = acquire(
        model, path=path, slots=slots, n_ctx=n_ctx, threads=threads, grace_s=grace_s, report=report
    )
    try:
        yield endpoint
    finally:
        release(endpoint)


def _acquire(folder: ServerFolder, settings: ServerSettings) -> LocalEndpoint:
    key = folder.path.name
    lease = _leases.get(key)
    if lease is not None and folder.is_alive():
        lease.count += 1
        return lease.endpoint
    deadline_s = time.monotonic() + _START_TIMEOUT_S
    users = lease.users if lease is not None else folder.users_lock()
    try:
        # First the lease, then the look: once we are a user, a running server does not leave any more.
        endpoint = _joined(folder, settings, users, deadline_s)
    except BaseException:
        users.close()
        _leases.pop(key, None)
        raise
    _leases[key] = _Lease(users, endpoint, lease.count + 1 if lease is not None else 1)
    return endpoint


def _joined(
    folder: ServerFolder, settings: ServerSettings, users: FileLock, deadline_s: float
) -> LocalEndpoint:
    with folder.start_lock() as start:
        if not (users.wait_shared(deadline_s) and start.wait_exclusive(deadline_s)):
            raise _did_not_start(folder, f"another process has been starting it for {_START_TIMEOUT_S:.0f} s")
        return _wait_ready(folder, settings, deadline_s)


def _spawn(folder: ServerFolder, settings: ServerSettings) -> subprocess.Popen[bytes]:
    folder.endpoint.unlink(missing_ok=True)  # left by a server that was killed
    folder.settings.write_text(settings.to_json(), encoding="utf-8")
    with folder.log.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "apwa_dask.models.local.server_main", str(folder.path)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=folder.path,
            env=_server_environment(os.environ),
            start_new_session=True,  # Ctrl-C in the user's terminal must not reach it while rows drain
        )
    # The server outlives this call and often this process; the thread only keeps it from staying a zombie.
    threading.Thread(target=process.wait, name="apwa-local-server-wait", daemon=True).start()
    return process


def _server_environment(ours: Mapping[str, str]) -> dict[str, str]:
    """Our environment without secrets, tuned for shared cores, and with this package importable."""
    left_out = (_SECRET, _NOT_INHERITED)
    kept = {name: value for name, value in ours.items() if not any(p.search(name) for p in left_out)}
    kept.update(_OPENMP)
    root = str(Path(__file__).resolve().parents[3])
    kept["PYTHONPATH"] = os.pathsep.join(filter(None, [root, ours.get("PYTHONPATH")]))
    return kept


def _wait_ready(folder: ServerFolder, settings: ServerSettings, deadline_s: float) -> LocalEndpoint:
    """Return the endpoint of the running server; start one if there is none, or if it ends while we wait."""
    process: subprocess.Popen[bytes] | None = None
    while time.monotonic() < deadline_s:
        starting = process is not None and process.poll() is None
        if not starting and not folder.is_alive():
            if process is not None:
                raise _did_not_start(folder, _how_it_ended(process.returncode))
            process = _spawn(folder, settings)
        endpoint = folder.read_endpoint()
        if endpoint is not None:
            return endpoint
        time.sleep(_POLL_S)
    if process is not None:
        process.kill()
    raise _did_not_start(folder, f"it was not ready after {_START_TIMEOUT_S:.0f} s")


def _how_it_ended(code: int) -> str:
    if code == -signal.SIGILL:
        return "this processor lacks instructions that the prebuilt runtime needs (AVX2, FMA, F16C)"
    if code == -signal.SIGKILL:
        return "its process was killed, most likely for lack of memory"
    if code < 0:
        return f"its process ended by signal {signal.Signals(-code).name}"
    return f"its process ended with exit code {code}"


def _did_not_start(folder: ServerFolder, why: str) -> LocalModelError:
    tail = folder.log_tail()
    return LocalModelError(
        "the server of the embedded model did not start",
        where=str(folder.log),
        why=f"{why}; last words:\n{tail}" if tail else why,
        fix="use another endpoint: set OPENAI_BASE_URL and OPENAI_API_KEY, or fewer slots or a smaller n_ctx",
        code="LOCAL-START",
    )


def _forget_in_child() -> None:
    """A forked child is no user until it asks itself; its copies of the locks are closed by `locks`."""
    global _guard
    _guard = threading.Lock()  # the parent's may have been held by a thread that does not exist here
    _leases.clear()


os.register_at_fork(after_in_child=_forget_in_child)
