"""The one private event loop of a process, in its own daemon thread.

The pattern of ``fsspec.asyn`` and ``zarr.core.sync``: made on first use under a lock, forgotten after a fork,
closed at exit, refusing to be entered from itself. Partition tasks are ordinary threads; they hand coroutines
to this loop and wait. One ``asyncio.run`` per partition costs 34 times the CPU at 1,000 threads, and
coroutine tasks on a Dask worker's own loop stall its heartbeats for seconds (both measured).
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["loop", "on_loop_thread", "run_sync"]

T = TypeVar("T")

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_thread: threading.Thread | None = None


def loop() -> asyncio.AbstractEventLoop:
    """The running loop of this process."""
    global _loop, _thread
    if _loop is not None:
        return _loop
    with _lock:
        if _loop is None:
            made = _new_loop()
            _thread = threading.Thread(target=made.run_forever, name="apwa-loop", daemon=True)
            _thread.start()
            _loop = made
    return _loop


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


def on_loop_thread() -> bool:
    """Whether the caller runs on the private loop, where blocking would never end."""
    return threading.current_thread() is _thread


def run_sync(coroutine: Coroutine[Any, Any, T], timeout_s: float | None = None) -> T:
    """Run a coroutine on the private loop and wait for it from another thread.

    Works inside a running loop of the caller (Jupyter), because the caller's thread only waits. The wait is
    cut into short pieces so that Ctrl-C reaches the main thread.

    Raises
    ------
    RuntimeError
        When called from the private loop itself.
    TimeoutError
        After `timeout_s` seconds; the coroutine is cancelled.
    """
    if on_loop_thread():
        coroutine.close()
        raise RuntimeError("run_sync called from the private loop: await the coroutine there")
    future = asyncio.run_coroutine_threadsafe(coroutine, loop())
    waited = 0.0
    while True:
        try:
            return future.result(timeout=0.5)
        except TimeoutError:
            if future.done():
                raise
            waited += 0.5
            if timeout_s is not None and waited >= timeout_s:
                future.cancel()
                raise
        except BaseException:
            future.cancel()
            raise


def _forget() -> None:
    """After a fork the child has no loop thread: start anew on first use."""
    global _loop, _thread, _lock
    _lock = threading.Lock()
    _loop = _thread = None


def _close() -> None:
    global _loop, _thread
    running, thread = _loop, _thread
    _loop = _thread = None
    if running is None or thread is None:
        return
    running.call_soon_threadsafe(running.stop)
    thread.join(timeout=2)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
atexit.register(_close)
