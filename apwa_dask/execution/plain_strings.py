"""Frames of ours keep the types that they declare, whatever Dask is set to make of text.

The setting belongs to the process. Two threads that change it for a moment and put back what they found would leave
it changed for good, so one of ours does so at a time, and only while it builds a graph.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import dask

__all__ = ["plain_strings"]

_turn = threading.RLock()


@contextmanager
def plain_strings() -> Iterator[None]:
    """While frames are built here, Dask turns no column into its own type of strings."""
    with _turn, dask.config.set({"dataframe.convert-string": False}):
        yield
