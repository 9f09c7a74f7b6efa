"""Named places where a test can make the process die, as kill -9 would.

``APWA_KILL_AT=journal.before_rename`` kills at the first arrival, ``journal.before_rename:3`` at the third;
several are separated by commas. Without the variable `reach` does nothing.

Points of this room: ``journal.before_write``; ``<file>.half_written``, ``.before_rename``, ``.after_rename``
for each file that is replaced (``journal``, ``compaction``, ``part``, ``failures``, ``doc``, ``lease``);
``.half_written``, ``.before_link`` and ``.after_link`` for each that is put if absent (``run``, ``history``,
``attempt``, ``commit``, ``manifest``, ``lease``); ``commit.before``, ``commit.after`` and
``compaction.before_delete``. On an object store there is no ``.half_written``.

Points of the engine: ``call.before`` and ``call.answered`` around each call, ``partition.before_write``,
``partition.before_commit`` and ``partition.after_commit``. With ``journal.after_rename`` they are the five
places where what is lost, paid again or published differs: before a call, after its response, after the
journal has it, before the commit, and after it.
"""

from __future__ import annotations

import os
import signal
from collections import Counter

__all__ = ["KILL_AT_VARIABLE", "reach"]

KILL_AT_VARIABLE = "APWA_KILL_AT"


def _armed(text: str) -> dict[str, int]:
    points: dict[str, int] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, _, arrival = item.partition(":")
        points[name] = int(arrival or 1)
    return points


_ARMED = _armed(os.environ.get(KILL_AT_VARIABLE, ""))
_ARRIVALS: Counter[str] = Counter()


def reach(point: str) -> None:
    """Die here, at once and without any clean-up, if `point` is armed and this is the arrival asked for."""
    if not _ARMED or point not in _ARMED:
        return
    _ARRIVALS[point] += 1
    if _ARRIVALS[point] < _ARMED[point]:
        return
    # SIGKILL cannot be caught, so no `finally`, atexit hook or buffered write runs: a true crash.
    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
