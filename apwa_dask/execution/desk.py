"""Where partition threads and the private loop meet: conversations go out in bulk and come back in bulk.

A thread wakes once for all that ended within some milliseconds, not once for each row: under one
interpreter lock every wake-up takes the loop away from the calls in flight.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from apwa_dask.agents.agent import Conversation
from apwa_dask.agents.capabilities import ToolResult
from apwa_dask.agents.driver import RunTool, converse
from apwa_dask.agents.embedding import RowAgent
from apwa_dask.agents.outcome import Outcome
from apwa_dask.agents.unit import Unit
from apwa_dask.errors import ApwaError
from apwa_dask.execution import loop as private
from apwa_dask.execution.crew import resting
from apwa_dask.models.types import OutcomeClass, Purpose, ToolCall

if TYPE_CHECKING:
    from apwa_dask.execution.runtime import StageContext

__all__ = ["StageDesk"]

LANDING_S, LANDING_ALARMED_S, LANDING_BUSY_S = 0.025, 0.1, 0.25
"""A conversation that has ended waits at most so long for its partition thread, unless it is the last; longer where
its step has others to begin, so that nothing is idle for want of it; less long where too many failed rows end the run,
and not at all when it has failed and the first failed row does."""


class StageDesk:
    """Holds the conversations of one partition task on the private loop."""

    pays = True
    """Whether working here can cost something, so that it is marked."""

    def __init__(self, context: StageContext) -> None:
        self.context = context
        self.note = context.meter.note
        self._busy_s = LANDING_BUSY_S if context.spec.max_failure_rate is None else LANDING_ALARMED_S
        self._first_ends = context.spec.on_error == "raise"
        self._flying = 0
        self._ended: dict[str, int] = {}
        """Conversations by step whose end nobody was told of."""
        self._bell: asyncio.TimerHandle | None = None

    def reuse(self, conversations: Sequence[Conversation]) -> None:
        """Feed stored answers until each conversation ends or needs a call."""
        caller = self.context.run.caller
        asking = list(conversations)
        while asking:
            pairs = [(held, held.request) for held in asking]
            open_ = [(held, request) for held, request in pairs if request is not None]
            replies = caller.reuse([request for _, request in open_])
            asking = []
            for (held, _), reply in zip(open_, replies, strict=True):
                if reply is not None:
                    held.feed(reply)
                    asking.append(held)

    def submit(
        self,
        conversations: Sequence[Conversation],
        step_id: str,
        done: Callable[[int], None],
        wake: Callable[[], None],
    ) -> None:
        """Start conversations on the loop with one hop for all of them."""
        # made here, where what it raises has somewhere to go: nobody waits for what a loop's callback raises
        agent = self.context.agents.get(step_id)
        run_tool = None if agent is None else partial(_run_tool, agent)
        private.loop().call_soon_threadsafe(self._start, conversations, step_id, run_tool, done, wake)

    def _start(
        self,
        conversations: Sequence[Conversation],
        step_id: str,
        run_tool: RunTool | None,
        done: Callable[[int], None],
        wake: Callable[[], None],
    ) -> None:
        run = self.context.run
        if run.sharing is None:
            self._launch(conversations, step_id, run_tool, done, wake)
            return
        claiming = asyncio.get_running_loop().create_task(self._claim(conversations))
        run.tasks.add(claiming)

        def claimed(task: asyncio.Task[None]) -> None:
            self._launch(conversations, step_id, run_tool, done, wake)
            run.tasks.discard(task)

        claiming.add_done_callback(claimed)

    async def _claim(self, conversations: Sequence[Conversation]) -> None:
        """Ask once for the whole window what other processes of the cluster are sending already."""
        run = self.context.run
        assert run.sharing is not None
        requests = [held.request for held in conversations]
        keys = [request.fingerprint(run.spec.namespace) for request in requests if request is not None]
        try:
            await run.sharing.announce(keys)
        except ApwaError as fatal:  # the journal cannot be read or written
            run.stop(fatal.what, fatal)

    def _launch(
        self,
        conversations: Sequence[Conversation],
        step_id: str,
        run_tool: RunTool | None,
        done: Callable[[int], None],
        wake: Callable[[], None],
    ) -> None:
        run = self.context.run
        run.steps.begun(step_id, len(conversations))
        purpose = Purpose(run.folder.run_id, step_id)
        self._flying += len(conversations)
        jobs = []
        for position, conversation in enumerate(conversations):
            landed = partial(self._landed, step_id, position, done, wake)
            jobs.append(partial(self._hold, conversation, purpose, run_tool, landed))
        run.crews.of(step_id).take_on(jobs)
        run.start_reporting()

    async def _hold(
        self,
        conversation: Conversation,
        purpose: Purpose,
        run_tool: RunTool | None,
        landed: Callable[[bool], None],
    ) -> None:
        try:
            await converse(conversation, self.context.run.caller, purpose, run_tool)
        except ApwaError as fatal:
            self.context.run.stop(fatal.what, fatal)
            conversation.give_up(OutcomeClass.FATAL, fatal.what)
        except asyncio.CancelledError:
            self.context.run.stop("cancelled")
            conversation.give_up(OutcomeClass.STOPPED, "cancelled")
        except Exception as bug:
            where = traceback.extract_tb(bug.__traceback__)[-1]  # names the line, never a value
            place = f"{Path(where.filename).name}:{where.lineno}"
            conversation.give_up(OutcomeClass.INTERNAL, f"internal error: {type(bug).__name__} at {place}")
        finally:
            landed(self._first_ends and any(map(_has_failed, conversation.outcomes.values())))

    def _landed(
        self, step_id: str, position: int, done: Callable[[int], None], wake: Callable[[], None], urgent: bool
    ) -> None:
        self._ended[step_id] = self._ended.get(step_id, 0) + 1
        done(position)
        self._flying -= 1
        if urgent or not self._flying:
            self._ring(wake)
        elif self._bell is None:
            wait_s = self._busy_s if self.context.run.crews.of(step_id) else LANDING_S
            self._bell = asyncio.get_running_loop().call_later(wait_s, self._ring, wake)

    def _ring(self, wake: Callable[[], None]) -> None:
        if self._bell is not None:
            self._bell.cancel()
            self._bell = None
        for step_id, units in self._ended.items():
            self.context.run.steps.begun(step_id, -units)
        self._ended.clear()
        wake()


def _has_failed(outcome: Outcome) -> bool:
    return not outcome.ok and not outcome.outcome.is_pending


async def _run_tool(agent: RowAgent, call: ToolCall, unit: Unit) -> ToolResult:
    """A tool may block or compute: it runs in a thread, never on the loop."""
    with resting():
        return await asyncio.to_thread(agent.run_tool, call, unit)
