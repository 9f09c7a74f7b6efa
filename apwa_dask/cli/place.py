"""Where a run is carried out: this process, a local cluster made for it, or a cluster that exists."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from apwa_dask.cli.options import Place
from apwa_dask.cli.output import note
from apwa_dask.errors import ConfigError

__all__ = ["connected", "place_of"]

_CONNECT_TIMEOUT_S = 10
_THREADS_PER_WORKER = 2
_LOST_WORKER_TIMEOUT = "10 minutes"
"""A nanny starts a worker that died anew. Dask gives it 15 s, and then takes the nanny down too: on a busy machine a
run would lose its workers one by one, and wait for ever."""


@contextmanager
def place_of(place: Place) -> Iterator[dict[str, Any]]:
    """The options of ``run`` and ``attach`` that say where; what was started or connected is closed after."""
    if place.client is not None:
        with connected(place.client) as client:
            yield {"client": client}
    elif place.workers is not None:
        import dask.config
        from distributed import Client, LocalCluster

        # Port 0: a fixed dashboard port would collide with the next cluster on this machine.
        with (
            dask.config.set({"distributed.deploy.lost-worker-timeout": _LOST_WORKER_TIMEOUT}),
            LocalCluster(
                n_workers=place.workers,
                threads_per_worker=_THREADS_PER_WORKER,
                dashboard_address="127.0.0.1:0",
            ) as cluster,
            Client(cluster) as client,
        ):
            note(f"local cluster of {place.workers} processes, dashboard {cluster.dashboard_link}")
            yield {"client": client}
    else:
        yield {} if place.scheduler is None else {"scheduler": place.scheduler}


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """A client of the cluster at `address`, or one clear sentence."""
    from distributed import Client

    try:
        client = Client(address, timeout=_CONNECT_TIMEOUT_S)
    except (OSError, ValueError) as error:
        raise ConfigError(
            "no Dask scheduler answers",
            where=address,
            why=f"{type(error).__name__} within {_CONNECT_TIMEOUT_S} s",
            fix="start one with `dask scheduler` and give its address, or use --workers N",
            code="CONFIG-CLUSTER",
        ) from error
    with client:
        yield client
