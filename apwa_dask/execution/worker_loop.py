"""Questions from other threads to a worker's own event loop, which may have ended by then."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

__all__ = ["RPC_TIMEOUT_S", "answered_on", "asked_on"]

RPC_TIMEOUT_S = 10.0

T = TypeVar("T")


def asked_on(loop: asyncio.AbstractEventLoop, question: Callable[[], Coroutine[Any, Any, T]]) -> Future[T]:
    """Run ``question()`` on `loop`, from another thread.

    The coroutine is made on the loop: where that has ended there is none, which nobody would ever await
    (`asyncio.run_coroutine_threadsafe` is given one that exists already).

    Parameters
    ----------
    loop : asyncio.AbstractEventLoop
    question : callable
        Makes the coroutine.

    Returns
    -------
    concurrent.futures.Future
        Never done where the loop ends first: wait with a timeout. To cancel it cancels the question.

    Raises
    ------
    ConnectionError
        The loop has ended.
    """
    answer: Future[T] = Future()
    try:
        loop.call_soon_threadsafe(_begin, loop, question, answer)
    except RuntimeError as closed:
        raise ConnectionError("the worker's event loop has ended") from closed
    return answer


async def answered_on(loop: asyncio.AbstractEventLoop, question: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run ``question()`` on `loop`, from another loop, and wait for the answer.

    Raises
    ------
    OSError
        The loop has ended, the connection broke, or nothing was heard for `RPC_TIMEOUT_S`.
    """
    return await asyncio.wait_for(asyncio.wrap_future(asked_on(loop, question)), RPC_TIMEOUT_S)


def _begin(
    loop: asyncio.AbstractEventLoop, question: Callable[[], Coroutine[Any, Any, T]], answer: Future[T]
) -> None:
    if answer.cancelled():
        return
    task = loop.create_task(question())
    answer.add_done_callback(partial(_give_up, loop, task))  # keeps the task alive too
    task.add_done_callback(partial(_tell, answer))


def _give_up(loop: asyncio.AbstractEventLoop, task: asyncio.Task[T], answer: Future[T]) -> None:
    if answer.cancelled() and not loop.is_closed():
        loop.call_soon_threadsafe(task.cancel)


def _tell(answer: Future[T], task: asyncio.Task[T]) -> None:
    if not answer.set_running_or_notify_cancel():
        _ = task.cancelled() or task.exception()  # nobody waits for it any more
    elif task.cancelled():
        # by its loop, which ends: to cancel who asked too would end a task of another loop
        answer.set_exception(ConnectionError("the worker's event loop has ended"))
    elif (error := task.exception()) is not None:
        answer.set_exception(error)
    else:
        answer.set_result(task.result())
