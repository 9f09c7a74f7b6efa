"""Who began to work on a partition, on which of its rows, and whether the work came to an end.

A marker is written before the work and another when it ends without a commit. What has begun, was neither
committed nor ended, and is no longer at work, took its process with it: that is how rows that kill are found
(`apwa_dask.execution.bisect`).
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from typing import Any

import orjson

from apwa_dask.store.folder import Folder
from apwa_dask.store.lease import Process, this_process

__all__ = ["Attempt", "AttemptLog"]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One beginning.

    Parameters
    ----------
    number : int
        From 1, in order of beginning.
    token : str
        Names this attempt and no other.
    worker, address : str
        Who works; where it can be asked, empty where it cannot.
    process : Process
    span : (int, int), optional
        Rows worked alone in their process, from and to; None for the whole partition, beside others.
    ended : bool
        The process lived to say that it stopped.
    """

    number: int
    token: str
    worker: str
    address: str
    process: Process
    span: tuple[int, int] | None = None
    ended: bool = False


class AttemptLog:
    """The attempts of one partition, for all processes and for ever.

    Parameters
    ----------
    folder : Folder
        Holds ``<number>.json`` for each attempt begun and ``<number>.ended`` for each that ended.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    def begin(
        self, worker: str, address: str = "", span: tuple[int, int] | None = None, *, after: int = 0
    ) -> Attempt:
        """Write down that work begins; the attempt, its number the first free one above `after`."""
        attempt = Attempt(after, secrets.token_hex(8), worker, address, this_process(), span)
        while True:
            attempt = replace(attempt, number=attempt.number + 1)
            data = _encode(attempt)
            if self._folder.put_if_absent(f"{attempt.number:04d}.json", data, point="attempt") == data:
                return attempt

    def begin_first(self, worker: str, address: str = "") -> Attempt | None:
        """`begin` for a partition nobody has begun: one write and no listing; None where somebody has."""
        attempt = Attempt(1, secrets.token_hex(8), worker, address, this_process())
        data = _encode(attempt)
        return attempt if self._folder.put_if_absent("0001.json", data, point="attempt") == data else None

    def end(self, attempt: Attempt) -> None:
        """Write down that this attempt is over and killed nobody."""
        self._folder.write(f"{attempt.number:04d}.ended", b"", point="attempt")

    def all(self) -> list[Attempt]:
        """All attempts, oldest first, from a fresh listing. A damaged marker still counts as a beginning."""
        names = [entry.name for entry in self._folder.entries() if entry.name[:4].isdigit()]
        ended = {name[:4] for name in names if name.endswith(".ended")}
        begun = self._folder.read_many(name for name in names if name.endswith(".json"))
        return [
            replace(_decode(int(name[:4]), data), ended=name[:4] in ended)
            for name, data in sorted(begun.items())
        ]


def _encode(attempt: Attempt) -> bytes:
    process = attempt.process
    return orjson.dumps(
        {
            "token": attempt.token,
            "worker": attempt.worker,
            "address": attempt.address,
            "process": [process.machine, process.pid, process.started],
            "span": attempt.span,
        }
    )


def _decode(number: int, data: bytes) -> Attempt:
    try:
        found: dict[str, Any] = orjson.loads(data)
        machine, pid, started = found.get("process") or ("", 0, "")
        span = found.get("span")
        return Attempt(
            number,
            str(found.get("token", "")),
            str(found.get("worker", "")),
            str(found.get("address", "")),
            Process(str(machine), int(pid), str(started)),
            None if span is None else (int(span[0]), int(span[1])),
        )
    except (orjson.JSONDecodeError, AttributeError, TypeError, ValueError):
        return Attempt(number, "", "", "", Process("", 0, ""))
