"""The alarms of one stage in one process: what its desks and its meter tell, and stopping the run."""

from __future__ import annotations

import threading
from functools import cached_property, partial
from typing import TYPE_CHECKING

from apwa_dask.execution.alarms import LEAST_ROWS, FailureRate, Probation, alike_error
from apwa_dask.execution.spec import LAZY_PREFIX
from apwa_dask.models.types import OutcomeClass

if TYPE_CHECKING:
    from apwa_dask.execution.runtime import StageContext

__all__ = ["StageWatch"]


class StageWatch:
    """Shared by all partition tasks of a stage in this process. Any thread may call."""

    def __init__(self, context: StageContext) -> None:
        self._context = context
        self._lock = threading.Lock()
        self._probations: dict[str, Probation] = {}

    def probation(self, step_id: str) -> Probation:
        """Whether more than a sample of a step's units may start in this process."""
        with self._lock:
            if step_id not in self._probations:
                passed = not self._context.spec.early_stop or step_id in self._succeeded_before
                self._probations[step_id] = Probation(partial(self._alike, step_id), passed=passed)
            return self._probations[step_id]

    @cached_property
    def _succeeded_before(self) -> frozenset[str]:
        """Steps that have come out well in partitions that are committed already."""
        records = self._context.folder.committed(self._context.stage.index).values()
        good = OutcomeClass.OK.value
        return frozenset(line.step for record in records for line in record.ledger if line.outcome == good)

    def _alike(self, step_id: str, message: str) -> None:
        error = alike_error(step_id, message)
        self._context.run.stop(error.what, error)

    def rows_failed(self) -> None:
        """Where too many have failed in this process, tell whoever counts all processes at once.

        Nobody counts for a lazy frame, so there each process stops at its own share.
        """
        limit = self._context.spec.max_failure_rate
        passed = None if limit is None else self._context.meter.passes(limit, LEAST_ROWS)
        if limit is None or passed is None:
            return
        self._context.run.report()
        if self._context.ref.run_id.startswith(LAZY_PREFIX):
            error = FailureRate(limit).judge(*passed)
            if error is not None:
                self._context.run.stop(error.what, error)
