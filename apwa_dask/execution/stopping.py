"""Why a run stopped, on its way from a worker's task to the user: as text, so that nothing else can travel
with it.
"""

from __future__ import annotations

import orjson

from apwa_dask import errors
from apwa_dask.errors import ApwaError

__all__ = ["DEFERRED", "Deferred", "Interrupted", "read_stop", "write_stop"]

DEFERRED = "deferred"
"""In the ``stopped`` column of a record: the partition waits for a batch, and nothing is wrong."""


class Interrupted(Exception):
    """The run is stopping: rows without an outcome stay pending, and the partition is not committed."""


class Deferred(Exception):
    """Rows wait for the answers of a batch: the partition is not committed, its task will run again."""


def write_stop(reason: BaseException) -> str:
    """A reason as text: the fields of our own errors, the words of an interruption."""
    if isinstance(reason, ApwaError):
        fields = [reason.what, reason.where, reason.why, reason.fix, reason.saved, reason.code]
        return orjson.dumps([type(reason).__name__, *fields]).decode()
    return orjson.dumps(["", str(reason)]).decode()


def read_stop(text: str) -> BaseException:
    """Inverse of `write_stop`."""
    kind, what, *rest = orjson.loads(text)
    if not kind:
        return Interrupted(what)
    where, why, fix, saved, code = rest
    cls: type[ApwaError] = getattr(errors, kind, ApwaError)
    return cls(what, where=where, why=why, fix=fix, saved=saved, code=code)
