"""What a process tells others about the attempts it works on, and asks of them about theirs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from apwa_dask.execution.stopping import Interrupted
from apwa_dask.store.attempts import Attempt
from apwa_dask.store.lease import this_process

__all__ = ["LEAVING", "Neighbours", "was_fatal"]

LEAVING = "its process is ending"
"""Why a run stops in a process that is retired: its work goes on in another, so it is not the run's end."""


class Neighbours:
    """The attempts at work in this process; a way to ask other processes about theirs.

    Attributes
    ----------
    address : str
        Where this process can be asked; empty without a cluster.
    ask : callable, optional
        ``ask(address, token)``: whether the process at `address` says that it works on the attempt `token`.
    hand_over : callable, optional
        Makes what a task raises so that the cluster gives it to another worker.
    """

    def __init__(self) -> None:
        self.address = ""
        self.ask: Callable[[str, str], bool] | None = None
        self.hand_over: Callable[[], BaseException] | None = None
        self._tokens: set[str] = set()

    @contextmanager
    def working_on(self, attempt: Attempt) -> Iterator[None]:
        """Say yes, while the body runs, to whoever asks."""
        self._tokens.add(attempt.token)
        try:
            yield
        finally:
            self._tokens.discard(attempt.token)

    def works_on(self, token: str) -> bool:
        """Whether this process is at work on the attempt of this token."""
        return token in self._tokens

    @property
    def busy(self) -> bool:
        """Whether any attempt is at work here."""
        return bool(self._tokens)

    def at_work(self, attempt: Attempt) -> bool:
        """Whether this or another process is at work on `attempt`, as far as can be known."""
        if self.works_on(attempt.token):
            return True
        if attempt.process.is_dead or attempt.address in ("", self.address) or self.ask is None:
            return False
        return self.ask(attempt.address, attempt.token)

    def interruption(self, why: str) -> BaseException:
        """What a task raises when its run stops here: the run's end, or a move to another worker."""
        if why == LEAVING and self.hand_over is not None:
            return self.hand_over()
        return Interrupted(why)


def was_fatal(attempt: Attempt) -> bool:
    """Whether the process of an attempt that never ended is gone, or cannot be known to live."""
    here = attempt.process.machine == this_process().machine
    return attempt.process.is_dead or not here
