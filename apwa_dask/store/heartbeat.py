"""Keeps a lease alive from a thread of its own."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from apwa_dask.errors import StoreError
from apwa_dask.store.lease import Lease

__all__ = ["Heartbeat"]

logger = logging.getLogger(__name__)


class Heartbeat:
    """Renews `lease` three times in its time to live, until stopped or lost. A context manager.

    Parameters
    ----------
    lease : Lease
    on_lost : callable
        Called once, from the heartbeat's thread, where another owner took over, or where the store could not
        be reached for the whole time to live: stop writing, and stop paying.
    """

    def __init__(self, lease: Lease, on_lost: Callable[[StoreError], None]) -> None:
        self._lease, self._on_lost = lease, on_lost
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="apwa-heartbeat", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the heartbeat; the lease itself is neither renewed nor released any more."""
        self._stopped.set()
        if self._thread is not threading.current_thread():
            self._thread.join(timeout=5.0)

    def __enter__(self) -> Heartbeat:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def _run(self) -> None:
        ttl_s = self._lease.claim.ttl_s
        renewed_s = time.monotonic()
        while not self._stopped.wait(ttl_s / 3):
            try:
                self._lease.heartbeat()
                renewed_s = time.monotonic()
            except StoreError as error:
                if error.code == "STORE-FENCED" or time.monotonic() - renewed_s > ttl_s:
                    self._on_lost(error)
                    return
                logger.warning("a heartbeat was not written: %s", error)
