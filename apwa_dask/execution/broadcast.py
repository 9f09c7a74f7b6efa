"""Something done on every worker of a cluster, while workers may die.

Dask's own broadcasts fail as a whole when one worker goes in the middle of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distributed import Client, Worker, WorkerPlugin

__all__ = ["everywhere", "register_everywhere"]

ROUNDS = 20
"""Times to look for workers that a broken registration left out, while others die."""


def everywhere(client: Client, function: Callable[..., Any], *args: Any) -> dict[str, Any]:
    """What `function` returns on each worker, by address, without workers that are lost meanwhile.

    Raises
    ------
    Exception
        What `function` raised on a worker.
    """
    found: dict[str, Any] = {}
    for address, answer in client.run(function, *args, on_error="return").items():
        if isinstance(answer, OSError):
            continue  # the worker is gone
        if isinstance(answer, Exception):
            raise answer
        found[address] = answer
    return found


def register_everywhere(client: Client, plugin: WorkerPlugin) -> None:
    """Register a worker plugin, on workers of now and of later.

    Raises
    ------
    OSError
        The cluster cannot be reached, or its workers die faster than they can be asked.
    """
    try:
        client.register_plugin(plugin)
        return
    except OSError:  # workers that join later will have it; the others are looked after here
        if client.status != "running":
            raise
    for _ in range(ROUNDS):
        having = everywhere(client, _has, plugin.name)
        lacking = [address for address, has in having.items() if not has]
        if not lacking:
            return
        client.run(_add, plugin, workers=lacking, on_error="ignore")
    raise OSError(f"the workers die faster than they can be given {plugin.name!r}")


def _has(name: str, dask_worker: Worker) -> bool:
    """Runs on each worker."""
    return name in dask_worker.plugins


async def _add(plugin: WorkerPlugin, dask_worker: Worker) -> None:
    """Runs on a worker that was left out."""
    await dask_worker.plugin_add(plugin=plugin, name=plugin.name, catch_errors=False)
