"""Tell an endpoint that is down from rows that it always fails on, when nobody else is left to ask.

While fresh rows wait, they find out. At the end of a run only rows are left that have failed: then one tiny
question that any model answers decides, and the rows need not wait out the patience meant for an outage.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from apwa_dask.models.types import Message, Request, Template

__all__ = ["Checkup", "question"]

EVERY_S = 30.0
ANSWER_TOKENS = 16


@dataclass(slots=True)
class Checkup:
    """When a lane may be asked how it is."""

    next_s: float = float("-inf")

    def due(self, now_s: float) -> bool:
        """Once every `EVERY_S` seconds; whoever is told yes asks."""
        if now_s < self.next_s:
            return False
        self.next_s = now_s + EVERY_S
        return True


def question(template: Template) -> Request:
    """The least request that the template's model can be sent: no row, no schema, no tools."""
    bare = replace(
        template, messages=(), schema=None, tools=(), schema_name="answer", max_output_tokens=ANSWER_TOKENS
    )
    return Request(bare, (Message("user", "Answer with the word yes."),))
