"""What a server of the embedded model is started with, and where it answers."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from pathlib import Path

from apwa_dask.errors import LocalModelError

__all__ = ["LocalEndpoint", "ServerSettings", "usable_cores"]

_MIN_N_CTX = 256


@dataclasses.dataclass(frozen=True, slots=True)
class ServerSettings:
    """What a server is started with. Processes that want the same model, slots and context share one.

    Parameters
    ----------
    model_path : str
        Absolute path of a GGUF file.
    model_name : str
        What the server calls itself.
    label : str
        What results and reports say the answers came from.
    slots : int
        Requests worked on at a time. Keep the calls in flight, over all processes, at or below it: requests
        beyond the slots starve. On a CPU more slots give fairness and overlap, hardly more throughput.
    n_ctx : int
        Tokens of prompt and answer together, per slot.
    threads : int
        Compute threads.
    grace_s : float
        How long the server stays after its last user has left or died.
    cache_ram_mib : int
        Memory for prompts kept beyond the slots.
    """

    model_path: str
    model_name: str
    label: str
    slots: int = 4
    n_ctx: int = 4096
    threads: int = 0
    grace_s: float = 30.0
    cache_ram_mib: int = 256

    def __post_init__(self) -> None:
        if self.slots < 1 or self.n_ctx < _MIN_N_CTX or self.threads < 0 or self.grace_s < 0:
            raise LocalModelError(
                f"bad settings: slots={self.slots}, n_ctx={self.n_ctx}, threads={self.threads}, "
                f"grace_s={self.grace_s}",
                why=f"needed: slots >= 1, n_ctx >= {_MIN_N_CTX} tokens per slot, threads >= 0, grace_s >= 0",
                code="LOCAL-SETTINGS",
            )
        if not self.threads:
            object.__setattr__(self, "threads", usable_cores())

    @property
    def key(self) -> str:
        """Name of the server's folder: what users must agree on to share it.

        Threads and grace change no answer, so whoever starts the server decides on them. A model file that
        was replaced by another is another model.
        """
        found = Path(self.model_path).stat()
        identity = {
            "model": (self.model_path, self.model_name, found.st_size, found.st_mtime_ns),
            "slots": self.slots,
            "n_ctx": self.n_ctx,
        }
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]

    def to_json(self) -> str:
        """Write the settings for the server process; they hold no secret."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> ServerSettings:
        """Read what `to_json` wrote."""
        return cls(**json.loads(text))


@dataclasses.dataclass(frozen=True, slots=True)
class LocalEndpoint:
    """A running server of the embedded model, as an OpenAI-compatible endpoint on loopback.

    Parameters
    ----------
    base_url : str
        Ends in ``/v1``.
    api_key : str
        Random, known only to this user's processes; not in the repr.
    slots : int
        Calls in flight that the server works on at a time.
    model_name : str
        The ``model`` of a request.
    label : str
        What results and reports say the answers came from.
    n_ctx : int
        Tokens per slot, prompt and answer together.
    pid : int
    server : str
        Name of the server's folder. It stays when a server that died is started anew, at another address.
    """

    base_url: str
    api_key: str = dataclasses.field(repr=False)
    slots: int
    model_name: str
    label: str
    n_ctx: int
    pid: int
    server: str

    def to_json(self) -> str:
        """Write the endpoint for the 0600 file that this user's other processes read."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> LocalEndpoint:
        """Read what `to_json` wrote."""
        return cls(**json.loads(text))


def usable_cores(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Cores this process may use: ``taskset`` and the CPU quota of a container give fewer than there are."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = (cgroup / "cpu.max").read_text(encoding="utf-8").split()
        return max(1, min(allowed, round(int(quota) / int(period))))
    except (OSError, ValueError):  # no cgroup v2 here, or the quota is "max"
        return allowed
