"""A worker's loop that has ended is asked nothing, and leaves no coroutine behind that nobody awaits."""

from __future__ import annotations

import asyncio
import gc
import threading
import warnings
from concurrent.futures import CancelledError
from types import SimpleNamespace

import pytest

from apwa_dask.execution.plugin import RuntimePlugin
from apwa_dask.execution.worker_loop import answered_on, asked_on


class Scheduler:
    """The operations of a scheduler that never gets to answer."""

    async def apwa_claim(self, **fields: object) -> bytes:
        raise AssertionError("nobody asks a scheduler over a loop that has ended")


@pytest.fixture
def running():
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    loop.close()


def plugin_on(loop: asyncio.AbstractEventLoop) -> RuntimePlugin:
    plugin = RuntimePlugin("1")
    plugin.worker = SimpleNamespace(
        address="tcp://here",
        scheduler=Scheduler(),
        loop=SimpleNamespace(asyncio_loop=loop),
        connection_args={},
    )
    return plugin


def test_a_closed_loop_is_a_lost_connection():
    loop = asyncio.new_event_loop()
    loop.close()
    plugin = plugin_on(loop)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ConnectionError, match="has ended"):
            asyncio.run(plugin.claim("room", b"", b"", b""))
        assert plugin.ask("tcp://there", "token") is False
        gc.collect()


def test_a_loop_that_ends_before_it_has_begun_the_question_leaves_nothing_unawaited(monkeypatch):
    from apwa_dask.execution import worker_loop

    monkeypatch.setattr(worker_loop, "RPC_TIMEOUT_S", 0.05)
    loop = asyncio.new_event_loop()  # never runs again
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with pytest.raises(TimeoutError):
            asyncio.run(plugin_on(loop).claim("room", b"", b"", b""))
        loop.close()
        del loop
        gc.collect()
    assert [str(one.message) for one in told if "never awaited" in str(one.message)] == []


def test_answers_and_errors_come_back(running):
    async def answer():
        return 7

    async def fail():
        raise KeyError("no")

    assert asked_on(running, answer).result(10) == 7
    with pytest.raises(KeyError):
        asked_on(running, fail).result(10)


def test_a_question_nobody_waits_for_is_cancelled(running):
    begun, ended = threading.Event(), threading.Event()

    async def endless():
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    answer = asked_on(running, endless)
    assert begun.wait(60)
    answer.cancel()
    assert ended.wait(60)
    with pytest.raises(CancelledError):
        answer.result(0)


def test_a_question_that_ends_with_its_loop_is_a_lost_connection_and_cancels_nobody_who_asked(running):
    """As when a cluster that lives in this process is closed: its loop cancels what it still has."""
    begun = threading.Event()

    async def endless():
        begun.set()
        await asyncio.Event().wait()

    async def ended_in_the_middle():
        waiting = asyncio.create_task(answered_on(running, endless))
        await asyncio.to_thread(begun.wait, 60)
        running.call_soon_threadsafe(lambda: [task.cancel() for task in asyncio.all_tasks(running)])
        await waiting

    with pytest.raises(ConnectionError, match="has ended"):
        asyncio.run(ended_in_the_middle())
