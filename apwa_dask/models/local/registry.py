"""The files by which a server and its users find each other: one private folder per running server."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from apwa_dask.models.local.locks import FileLock, private_folder, runtime_folder
from apwa_dask.models.local.settings import LocalEndpoint, ServerSettings

__all__ = ["ServerFolder"]

_DYING_S = 10.0


def _runs(pid: int) -> bool:
    """Whether a process is there and not just waiting to be collected by its parent."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@dataclasses.dataclass(frozen=True, slots=True)
class ServerFolder:
    """Paths of one server.

    Three locks carry the whole protocol, and all three die with their holder:

    - ``start``: held alone by whoever looks for or starts the server, so that only one is started;
    - ``users``: held together by every process that uses the server. The server tries to take it alone; when
      it can, nobody is left;
    - ``alive``: held alone by the server as long as it runs.
    """

    path: Path

    @classmethod
    def of(cls, settings: ServerSettings) -> ServerFolder:
        """Return the folder for these settings on this machine, made if absent."""
        return cls(private_folder(runtime_folder() / settings.key))

    def start_lock(self) -> FileLock:
        """Open the lock of whoever looks for or starts the server."""
        return FileLock(self.path / "start.lock")

    def users_lock(self) -> FileLock:
        """Open the lock that users share."""
        return FileLock(self.path / "users.lock")

    def alive_lock(self) -> FileLock:
        """Open the lock that the server holds as long as it runs."""
        return FileLock(self.path / "alive.lock")

    @property
    def log(self) -> Path:
        """What the server and its libraries wrote since it was last started."""
        return self.path / "server.log"

    @property
    def settings(self) -> Path:
        """The settings, for the server to read."""
        return self.path / "settings.json"

    @property
    def endpoint(self) -> Path:
        """The address and the key, for users to read; there only while the server is ready."""
        return self.path / "endpoint.json"

    def is_alive(self) -> bool:
        """Whether a server process runs, ready or still loading.

        One that was killed holds its lock a moment longer, until all its threads have ended: that is waited for.
        """
        with self.alive_lock() as lock:
            if lock.try_shared():
                return False
            endpoint = self.read_endpoint()
            if endpoint is None or _runs(endpoint.pid):
                return True
            return not lock.wait_shared(time.monotonic() + _DYING_S)

    def read_endpoint(self) -> LocalEndpoint | None:
        """Return where the server answers, or None while it is not ready."""
        try:
            return LocalEndpoint.from_json(self.endpoint.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None

    def log_tail(self, lines: int = 8) -> str:
        """Return the last lines of the log, for an error message."""
        try:
            text = self.log.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""
        return "\n".join(text.splitlines()[-lines:])
