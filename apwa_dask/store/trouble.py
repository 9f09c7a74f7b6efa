"""What an error of the underlying storage means: try again, make room, or tell the user."""

from __future__ import annotations

import errno
import random
import time
from collections.abc import Callable
from typing import TypeVar

from apwa_dask.errors import StoreError
from apwa_dask.store.names import redact

__all__ = ["is_transient", "store_error", "with_retries"]

T = TypeVar("T")

ATTEMPTS = 5
BASE_S = 0.1
CAP_S = 5.0
"""Of one request to the store: how often it is made, and how long apart (full jitter, doubled each time)."""

_TRANSIENT_ERRNOS = frozenset(
    getattr(errno, name)
    for name in (
        "EAGAIN", "EBUSY", "ECONNABORTED", "ECONNREFUSED", "ECONNRESET", "EHOSTUNREACH", "EINTR", "EIO",
        "ENETDOWN", "ENETRESET", "ENETUNREACH", "EPIPE", "EREMOTEIO", "ESTALE", "ETIMEDOUT",
    )
    if hasattr(errno, name)
)  # fmt: skip
_FULL_ERRNOS = frozenset(getattr(errno, name) for name in ("ENOSPC", "EDQUOT") if hasattr(errno, name))
# botocore, aiohttp and the cloud SDKs have their own families; these parts of a class name are stable there.
_TRANSIENT_NAME_PARTS = (
    "timeout",
    "connection",
    "disconnect",
    "slowdown",
    "serviceunavailable",
    "incompleteread",
    "httpclienterror",
    "clientpayload",
    "responseparser",
)
_DENIED_NAME_PARTS = ("credential", "token", "unauthorized", "forbidden", "accessdenied")


def is_transient(error: BaseException) -> bool:
    """Whether trying again soon may help: timeouts, lost connections, 5xx and slow-down answers."""
    if isinstance(error, FileNotFoundError | FileExistsError | PermissionError | IsADirectoryError):
        return False
    if isinstance(error, TimeoutError | ConnectionError):
        return True
    if isinstance(error, OSError) and error.errno in _TRANSIENT_ERRNOS:
        return True
    name = type(error).__name__.lower()
    return any(part in name for part in _TRANSIENT_NAME_PARTS)


def store_error(error: BaseException, what: str, where: str) -> StoreError:
    """`error` in words for the user. Carries text only: no request, no header, no secret of a URL."""
    if isinstance(error, StoreError):
        return error
    why = redact(f"{type(error).__name__}: {str(error)[:200]}")
    name = type(error).__name__.lower()
    if isinstance(error, OSError) and error.errno in _FULL_ERRNOS:
        return StoreError(
            what, where=where, why=why, code="STORE-FULL",
            fix="make room there, then resume the run",
            saved="what was written before is intact; what is in memory is written once there is room",
        )  # fmt: skip
    if isinstance(error, PermissionError) or any(part in name for part in _DENIED_NAME_PARTS):
        return StoreError(
            what, where=where, why=why, code="STORE-DENIED",
            fix="check the store's credentials or permissions (storage_options=), then resume the run",
            saved="everything written before is intact",
        )  # fmt: skip
    return StoreError(
        what, where=where, why=why,
        fix="check that the store can be reached and written, then resume the run",
        saved="everything written before is intact",
    )  # fmt: skip


def with_retries(operation: Callable[[], T]) -> T:
    """The result of `operation`, tried again on transient errors with full-jitter back-off."""
    for attempt in range(1, ATTEMPTS):
        try:
            return operation()
        except Exception as error:
            if not is_transient(error):
                raise
            time.sleep(random.uniform(0, min(CAP_S, BASE_S * 2**attempt)))
    return operation()
