"""Exit codes: what a script may rely on. One table for errors, one rule for failed rows."""

from __future__ import annotations

import enum

from apwa_dask.errors import ApwaError, BudgetError, ProviderError

__all__ = ["Exit", "exit_of_error", "exit_of_rows"]


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


def exit_of_error(error: ApwaError) -> Exit:
    """The exit code of an error; the first class that fits decides."""
    return next(code for kind, code in _OF_ERROR if isinstance(error, kind))


def exit_of_rows(rows_failed: int, rows_out: int, max_failed_fraction: float) -> Exit:
    """The exit code of a run that finished. Failed rows are part of the result, unless they were dropped."""
    if rows_failed > max_failed_fraction * max(rows_out, rows_failed):
        return Exit.FAILED_ROWS
    return Exit.OK
