"""A desk that watches what comes back, and stops the run where the alarms say so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from apwa_dask.agents.agent import Conversation
from apwa_dask.agents.outcome import Outcome
from apwa_dask.execution.alarms import row_error
from apwa_dask.execution.desk import StageDesk

if TYPE_CHECKING:
    from apwa_dask.execution.pipeline import Failure
    from apwa_dask.execution.runtime import StageContext

__all__ = ["WatchedDesk"]


class WatchedDesk(StageDesk):
    """Holds the conversations of one partition task, under the alarms of its run."""

    def __init__(self, context: StageContext) -> None:
        super().__init__(context)
        if context.spec.max_failure_rate is not None:
            self.note = self._note

    def reuse(self, conversations: Sequence[Conversation]) -> None:
        """Feed stored answers; a reduce, whose outcomes nobody settles here, has shown that it can succeed."""
        super().reuse(conversations)
        if self.context.stage.kind == "reduce" and any(held.finished for held in conversations):
            self.context.watch.probation(self.context.stage.steps[0].id).succeed()

    def submit(
        self,
        conversations: Sequence[Conversation],
        step_id: str,
        done: Callable[[int], None],
        wake: Callable[[], None],
    ) -> None:
        """Start conversations; of a step of which nothing has come out well yet, only a few."""
        probation = self.context.watch.probation(step_id)
        if probation.passed:
            super().submit(conversations, step_id, done, wake)
            return

        def submit(part: Sequence[Conversation], part_done: Callable[[int], None]) -> None:
            StageDesk.submit(self, part, step_id, part_done, wake)

        probation.start(conversations, submit, done)

    def settled(self, step_id: str, outcome: Outcome) -> None:
        """Count the outcome of one unit, kept answers too."""
        self.note(outcome=outcome, step=step_id)
        self.context.run.steps.settled(step_id, str(outcome.outcome), reused=outcome.source != "live")
        if outcome.ok:
            self.context.watch.probation(step_id).succeed()

    def lasted(self, step_id: str, row_id: str, calls_s: float, waited_s: float) -> None:
        """A unit has come back."""
        self.context.run.steps.lasted(step_id, row_id, calls_s, waited_s)

    def failed(self, failure: Failure) -> None:
        """A row has failed.

        Raises
        ------
        RunError
            Where the run is to end with its first failed row.
        """
        if self.context.spec.on_error == "raise":
            error = row_error(failure)
            self.context.run.stop("a row failed", error)
            raise error

    def _note(
        self,
        *,
        rows: int = 0,
        failed: int = 0,
        cached: int = 0,
        outcome: Outcome | None = None,
        step: str = "",
    ) -> None:
        self.context.meter.note(rows=rows, failed=failed, cached=cached, outcome=outcome, step=step)
        if failed:
            self.context.watch.rows_failed()
