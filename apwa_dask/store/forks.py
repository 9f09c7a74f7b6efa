"""Which process this is, without asking the system for each record."""

from __future__ import annotations

import os

__all__ = ["PROCESS"]


class _Process:
    """Knows its pid; a fork renews it in the child."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        self.pid = os.getpid()


PROCESS = _Process()
