"""The only asynchronous code of this room: carry a conversation's requests to a caller, and replies back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from apwa_dask.agents.capabilities import ToolResult
from apwa_dask.agents.conversation import Conversation
from apwa_dask.agents.unit import Unit
from apwa_dask.models.types import Caller, OutcomeClass, Purpose, ToolCall

__all__ = ["RunTool", "converse"]

RunTool = Callable[[ToolCall, Unit], Awaitable[ToolResult]]


def converse(
    conversation: Conversation, caller: Caller, purpose: Purpose, run_tool: RunTool | None = None
) -> Coroutine[Any, Any, None]:
    """Drive `conversation` until every row has its outcome.

    Branches of a pack are driven at the same time. The contract's ``limits.seconds`` is a wall-clock deadline
    over all calls and tools of the unit.

    Parameters
    ----------
    conversation : Conversation
    caller : Caller
        The client, or the client behind gate and journal.
    purpose : Purpose
        The ledger's labels.
    run_tool : callable, optional
        Runs a checked call of a declared tool; without it a tool call ends the row as ``tool_error``.

    Raises
    ------
    ProviderError, BudgetError
        From the caller: the run must stop, the conversation stays unfinished.
    asyncio.CancelledError
    """
    seconds = conversation.limits.seconds
    if seconds is None:
        return _drive(conversation, caller, purpose, run_tool)
    return _drive_in_time(conversation, caller, purpose, run_tool, seconds)


async def _drive_in_time(
    conversation: Conversation, caller: Caller, purpose: Purpose, run_tool: RunTool | None, seconds: float
) -> None:
    try:
        async with asyncio.timeout(seconds) as deadline:
            await _drive(conversation, caller, purpose, run_tool)
    except TimeoutError:
        if not deadline.expired():
            raise
        conversation.give_up(OutcomeClass.DEADLINE, "the contract's time for one unit is over")


async def _drive(
    conversation: Conversation, caller: Caller, purpose: Purpose, run_tool: RunTool | None
) -> None:
    while not conversation.finished:
        if len(branches := conversation.branches) > 1:
            await _drive_branches(branches, caller, purpose, run_tool)
        elif (request := conversation.request) is not None:
            conversation.feed(await caller.call(request, purpose))
        elif conversation.pending_tools:
            await _run_tools(conversation, run_tool)
        else:
            raise RuntimeError("the conversation neither asks nor is finished")


async def _drive_branches(
    branches: Sequence[Conversation], caller: Caller, purpose: Purpose, run_tool: RunTool | None
) -> None:
    try:
        async with asyncio.TaskGroup() as group:
            for branch in branches:
                group.create_task(_drive(branch, caller, purpose, run_tool))
    except BaseExceptionGroup as raised:
        raise raised.exceptions[0] from None  # what stops the run is one error, whichever branch met it first


async def _run_tools(conversation: Conversation, run_tool: RunTool | None) -> None:
    if run_tool is None:
        conversation.give_up(
            OutcomeClass.TOOL_ERROR, "the model called a tool, and this run cannot run tools"
        )
        return
    conversation.feed_tools([await run_tool(call, conversation.unit) for call in conversation.pending_tools])
