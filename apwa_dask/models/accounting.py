"""How an endpoint counts the tokens of a call against its limit. Pure.

Some take the prompt and the *most* that may be answered when the call comes in, others only what is made. Taking the
second kind for the first wastes most of its limit; taking the first for the second is refused. So the most is
reserved until answers show that less was counted, and again after a refusal.
"""

from __future__ import annotations

from dataclasses import dataclass

from apwa_dask.models.headers import Window
from apwa_dask.models.types import Usage

__all__ = ["Accounting", "counted_less"]

WORTH_TELLING = 1.25
"""Where the two ways of counting are closer than this, nothing is gained by telling them apart."""

DOUBT = 8
"""After each refusal of tokens it takes so many times more signs to believe that less is counted."""


@dataclass(slots=True)
class Accounting:
    """What all holders of a gate have seen together.

    Attributes
    ----------
    counts_most : bool
        The endpoint may count the most that may be answered; reserve it.
    """

    counts_most: bool = True
    _signs: int = 0
    _needed: int = 1

    def learn(self, signs: int, refused: int) -> bool:
        """Take in answers that showed that less was counted, and refusals of tokens; True after a turn."""
        if refused and not self.counts_most:
            self.counts_most, self._signs = True, 0
            self._needed *= DOUBT
            return True
        self._signs += signs
        if not self.counts_most or self._signs < self._needed:
            return False
        self.counts_most = False
        return True


def counted_less(tokens: Window, usage: Usage, ceiling: int) -> bool:
    """Whether an answer's headers show that it was not counted at its most.

    What is missing from a bucket right after a call is at least what the call was counted for.

    Parameters
    ----------
    tokens : Window
        As the headers of this answer announce it.
    usage : Usage
        Tokens of this answer.
    ceiling : int
        The most tokens that it might have had.
    """
    made, most = usage.input + usage.output, usage.input + ceiling
    return most > WORTH_TELLING * made and tokens.missing < (made + most) / 2
