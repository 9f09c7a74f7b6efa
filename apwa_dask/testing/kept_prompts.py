"""What a server keeps of the prompts it has read: a prompt that begins like one of them costs less."""

from __future__ import annotations

from collections import deque

from apwa_dask.testing.answers import CHARACTERS_PER_TOKEN

__all__ = ["STEP_TOKENS", "KeptPrompts"]

STEP_TOKENS = 128
"""Beginnings are kept in pieces of so many tokens, as by OpenAI."""


class KeptPrompts:
    """The latest prompts of one server.

    Parameters
    ----------
    most : int
        Prompts that are kept; 0 keeps none.
    """

    def __init__(self, most: int) -> None:
        self._prompts: deque[str] = deque(maxlen=most)

    def cached_tokens(self, prompt: str) -> int:
        """Tokens at the beginning of a prompt that were read with an earlier one; it is kept in turn."""
        steps = max((_shared_steps(prompt, kept) for kept in self._prompts), default=0)
        self._prompts.append(prompt)
        return steps * STEP_TOKENS


def _shared_steps(prompt: str, kept: str) -> int:
    size = STEP_TOKENS * CHARACTERS_PER_TOKEN
    ends = range(size, min(len(prompt), len(kept)) + 1, size)
    return next(
        (k for k, end in enumerate(ends) if prompt[end - size : end] != kept[end - size : end]), len(ends)
    )
