"""Preloaded by workers of a test: reading one answer ends the process, as a broken parser would."""

from __future__ import annotations

import os
from pathlib import Path

from apwa_dask.agents.conversation import RowConversation
from apwa_dask.execution.runtime import runtime


def _die_of(reply):
    if "deadly" not in (reply.text or ""):
        return
    # what has come until now is durable: the bill is then the same on any machine
    for journal in list(runtime()._journals.values()):
        journal.flush()
    with Path(os.environ["APWA_TEST_DEATHS"]).open("a") as file:
        file.write(f"{os.getpid()}\n")
    os._exit(77)


def _reading(feed):
    def read(self, reply):
        _die_of(reply)
        feed(self, reply)

    return read


if RowConversation.feed.__name__ != "read":  # a worker may load this twice
    RowConversation.feed = _reading(RowConversation.feed)
