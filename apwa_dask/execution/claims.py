"""One process works on a run: its claim is renewed in the background and released at the end."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from apwa_dask.errors import StoreError
from apwa_dask.store.heartbeat import Heartbeat
from apwa_dask.store.lease import Lease
from apwa_dask.store.runs import RunFolder

__all__ = ["held"]

logger = logging.getLogger(__name__)

TTL_S = 30.0


@contextmanager
def held(folder: RunFolder, owner: str, on_lost: Callable[[str], object]) -> Iterator[None]:
    """Hold the run's claim while the body runs.

    Parameters
    ----------
    folder : RunFolder
    owner : str
        Shown to others who want the run.
    on_lost : callable
        Called with the reason when another process has taken over: stop spending.

    Raises
    ------
    StoreError
        Another living process works on the run, or took it over meanwhile.
    """
    lost: list[StoreError] = []

    def give_way(error: StoreError) -> None:
        lost.append(error)
        on_lost(error.what)

    lease = folder.claim(owner, TTL_S)
    try:
        with Heartbeat(lease, give_way):
            yield
    finally:
        if not lost:
            _let_go(lease)
    if lost:
        raise lost[0]


def _let_go(lease: Lease) -> None:
    """What ended the body is what the user must hear, not that its end could not be noted."""
    try:
        lease.release()
    except StoreError as unreachable:
        logger.warning("other processes can take the run over in %g s only: %s", TTL_S, unreachable)
