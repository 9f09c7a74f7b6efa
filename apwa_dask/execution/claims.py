"""One process works on a run: its claim is renewed in the background and released at the end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from apwa_dask.errors import StoreError
from apwa_dask.store.runs import RunFolder

__all__ = ["held"]

TTL_S = 30.0


@contextmanager
def held(folder: RunFolder, owner: str) -> Iterator[None]:
    """Hold the run's claim while the body runs.

    Raises
    ------
    StoreError
        Another living process works on the run.
    """
    lease = folder.claim(owner, TTL_S)
    ended = threading.Event()
    lost: list[StoreError] = []

    def renew() -> None:
        while not ended.wait(TTL_S / 3):
            try:
                lease.heartbeat()
            except StoreError as taken:
                lost.append(taken)
                return

    keeper = threading.Thread(target=renew, name="apwa-claim", daemon=True)
    keeper.start()
    try:
        yield
        if lost:
            raise lost[0]
    finally:
        ended.set()
        keeper.join(timeout=TTL_S)
        lease.release()
