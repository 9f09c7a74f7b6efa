"""Deaths of a process that this process survives: what they leave behind, and nothing of what they had in memory.

A kill raises at a kill point of the store and at every later one, so that nothing is written after it. A freeze holds
the thread that comes to the point until it is thawed, as STOP and CONT do, while others take its run over.
"""

from __future__ import annotations

import os
import sys
import threading

import pytest

from apwa_dask.execution.isolation import Isolation
from apwa_dask.execution.runtime import runtime
from apwa_dask.store import killpoints, lease

PATIENCE_S = 60.0


class Killed(BaseException):
    """This process is dead, as far as the store can tell."""


class Mortality:
    """Stands in for `killpoints.reach` in every module: dies or freezes at one point, until `reborn`."""

    def __init__(self) -> None:
        self.patches = pytest.MonkeyPatch()
        self.life = 0
        self.point, self.arrival, self.arrivals = "", 0, 0
        self.is_dead = self._freezes = False
        self.frozen, self.thawed = threading.Event(), threading.Event()
        alive = killpoints.reach
        for module in list(sys.modules.values()):
            if getattr(module, "reach", None) is alive and module is not killpoints:
                self.patches.setattr(module, "reach", self.reach)
        self.patches.setattr(os, "fsync", lambda descriptor: None)  # no death here is the disk's
        started = lease._start_time
        # a claim of an earlier life is a dead process's, though the process number is ours
        self.patches.setattr(
            lease, "_start_time", lambda pid: f"{started(pid)}/{self.life if pid == os.getpid() else ''}"
        )

    def arm(self, point: str, arrival: int, *, freezing: bool = False) -> None:
        """Die, or freeze, when `point` is reached for the `arrival`-th time."""
        self.point, self.arrival, self.arrivals = point, arrival, 0
        self._freezes = freezing
        if freezing:
            self.frozen, self.thawed = threading.Event(), threading.Event()

    def disarm(self) -> None:
        """Live on."""
        self.arm("", 0)

    def reach(self, point: str) -> None:
        if self.is_dead:
            raise Killed(point)
        if point != self.point:
            return
        self.arrivals += 1
        if self.arrivals != self.arrival:
            return
        if not self._freezes:
            self.is_dead = True
            raise Killed(point)
        thawed = self.thawed
        self.frozen.set()
        assert thawed.wait(PATIENCE_S), f"nobody thawed what froze at {point}"

    def reborn(self, store: str) -> None:
        """A new process: it knows nothing of what the old one had in memory."""
        here = runtime()
        with here._lock:
            for key in [key for key in here._journals if key[0] == store]:
                journal = here._journals.pop(key)
                journal._closer.detach()
                with journal._behind._lock:
                    journal._behind._buffer.clear()
                journal._behind._stopped.set()
                journal._behind._something.set()
                journal._behind._enough.set()
            for key in [key for key in here._runs if key[0] == store]:
                del here._runs[key]
        here.neighbours._tokens.clear()  # what is frozen works for nobody here
        here.isolation = Isolation()
        self.disarm()
        self.is_dead = False
        self.life += 1

    def end(self, store: str) -> None:
        """Nobody stays frozen, and `reach` is what it was."""
        self.reborn(store)
        self.thawed.set()
        self.patches.undo()
