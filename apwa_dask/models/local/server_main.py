"""The server process of the embedded model: ``python -m apwa_dask.models.local.server_main FOLDER``.

llama.cpp's own OpenAI-compatible server runs in threads of this process; the main thread only watches whether
anybody still uses it. Started by `lifecycle`, detached, one per machine and settings.
"""

from __future__ import annotations

import os
import secrets
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn

from apwa_dask.models.local.registry import ServerFolder
from apwa_dask.models.local.settings import LocalEndpoint, ServerSettings

__all__ = ["main"]

_LONGEST_POLL_S = 1.0
_ALIVE_WAIT_S = 3.0
"""A user that looks whether we are alive holds the lock for an instant."""


def main(argv: list[str]) -> int:
    """Serve until the last user has left; returns only if there is such a server already."""
    folder = ServerFolder(Path(argv[1]))
    alive = folder.alive_lock()
    if not alive.wait_exclusive(time.monotonic() + _ALIVE_WAIT_S):
        return 0  # another server for the same settings runs already: its starter died, it did not
    settings = ServerSettings.from_json(folder.settings.read_text(encoding="utf-8"))
    signal.signal(signal.SIGTERM, lambda *_: _exit(folder))
    server, endpoint = _start(folder, settings)
    _publish(folder, endpoint)
    _exit_when_unused(folder, settings.grace_s, keep=server)


def _start(folder: ServerFolder, settings: ServerSettings) -> tuple[object, LocalEndpoint]:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = settings.model_path
    params.model_alias = [settings.model_name]
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    api_key = secrets.token_urlsafe(32)
    params.api_keys = [api_key]
    params.cors_origins = "http://127.0.0.1"
    params.endpoint_slots = False
    params.n_parallel = settings.slots
    params.n_ctx = settings.n_ctx * settings.slots  # the server divides it among the slots
    params.cache_ram_mib = settings.cache_ram_mib
    params.cpuparams.n_threads = settings.threads
    params.cpuparams_batch.n_threads = settings.threads
    params.fit_params = False
    params.ui = False
    params.offline = True
    params.verbosity = 1  # errors only: never prompts
    try:
        server = xllamacpp.Server(params)
    except RuntimeError as error:
        sys.exit(str(error))  # the library has written its reasons above; its frames would hide them
    endpoint = LocalEndpoint(
        base_url=f"{server.listening_address}/v1",
        api_key=api_key,
        slots=settings.slots,
        model_name=settings.model_name,
        label=settings.label,
        n_ctx=settings.n_ctx,
        pid=os.getpid(),
        server=folder.path.name,
    )
    return server, endpoint


def _publish(folder: ServerFolder, endpoint: LocalEndpoint) -> None:
    fresh = folder.endpoint.with_name("endpoint.new")
    fresh.unlink(missing_ok=True)
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(endpoint.to_json())
    fresh.replace(folder.endpoint)


def _exit_when_unused(folder: ServerFolder, grace_s: float, *, keep: object) -> NoReturn:
    """Leave when nobody has used the server for `grace_s` seconds; `keep` is the server, alive till then."""
    users = folder.users_lock()
    poll_s = min(_LONGEST_POLL_S, max(grace_s / 4, 0.05))
    unused_since_s: float | None = None
    while True:
        time.sleep(poll_s)
        if not users.try_exclusive():
            unused_since_s = None
            continue
        now_s = time.monotonic()
        unused_since_s = now_s if unused_since_s is None else unused_since_s
        if now_s - unused_since_s >= grace_s:
            _exit(folder)  # with the users' lock held: a newcomer waits, then finds the server gone
        users.unlock()


def _exit(folder: ServerFolder) -> NoReturn:
    """Leave at once: the library's destructor waits for clients to hang up (minutes were measured)."""
    folder.endpoint.unlink(missing_ok=True)
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
