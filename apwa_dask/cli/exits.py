"""Exit codes: what a script may rely on. One table for errors, one for the way a run ended."""

from __future__ import annotations

import enum

from apwa_dask.errors import ApwaError, BudgetError, ProviderError

__all__ = ["Exit", "exit_of_error", "exit_of_run"]


class Exit(enum.IntEnum):
    """Exit codes of every command."""

    OK = 0
    USAGE = 1
    """Wrong usage, a plan that is not valid, or anything else that can be put right here."""
    FAILED_ROWS = 2
    """The run finished, and more rows failed than ``--max-failed`` allows."""
    BUDGET = 3
    PROVIDER = 4
    """The endpoint refused in a way that no retry mends: key, model, quota."""
    INTERRUPTED = 130


_OF_ERROR: tuple[tuple[type[ApwaError], Exit], ...] = (
    (BudgetError, Exit.BUDGET),
    (ProviderError, Exit.PROVIDER),
    (ApwaError, Exit.USAGE),
)
_OF_STATUS = {
    "done": Exit.OK,
    "budget": Exit.BUDGET,
    "failed": Exit.PROVIDER,
    "stopped": Exit.INTERRUPTED,
}


def exit_of_error(error: ApwaError) -> Exit:
    """The exit code of an error; the first class that fits decides."""
    return next(code for kind, code in _OF_ERROR if isinstance(error, kind))


def exit_of_run(status: str, rows_failed: int, rows_done: int, max_failed_fraction: float) -> Exit:
    """The exit code of a run that ended; a run that goes on elsewhere is no failure of the command."""
    code = _OF_STATUS.get(status, Exit.OK)
    if code is Exit.OK and rows_failed > max_failed_fraction * rows_done:
        return Exit.FAILED_ROWS
    return code
