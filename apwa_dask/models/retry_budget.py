"""How many retries an endpoint is sent, however many calls fail: a share of what it answers, and a floor.

Each call bounds its own attempts (`retry`), but when every call fails that bound still multiplies the load of
an endpoint that is in trouble ("retry budget": Beyer et al., "Site Reliability Engineering", 2016, ch. 21).
A retry that is over the budget waits; it is not given up. Shares add up over processes; the floor is divided.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

__all__ = ["RetryBudget"]

BUCKET_S = 10.0


@dataclass(slots=True)
class _Bucket:
    begun_s: float
    answers: float = 0.0
    retries: int = 0


class RetryBudget:
    """Admits retries of one gate. Touched only when a call has failed: a good call pays nothing for it.

    Parameters
    ----------
    share : float
        Retries for each answer of the last `window_s` seconds.
    window_s : float
    floor : int
        Retries that are admitted at once whatever the share says, so that short runs need not wait.
    floor_per_s : float
        How fast the floor is filled again.

    Attributes
    ----------
    holders : int
        Processes that send to this endpoint: each has so small a part of the floor.
    refused : int
        Times that a retry was told to wait.
    """

    def __init__(
        self, share: float = 0.1, window_s: float = 300.0, floor: int = 64, floor_per_s: float = 4.0
    ) -> None:
        self.share, self.window_s, self.floor, self.floor_per_s = share, window_s, floor, floor_per_s
        self.holders = 1
        self.refused = 0
        self._left = float(floor)
        self._filled_s = 0.0
        self._seen_s = 0.0
        self._seen_answers = 0
        self._buckets: deque[_Bucket] = deque()

    def take(self, now_s: float, answers: int) -> bool:
        """Admit one retry, or say that it must wait.

        Parameters
        ----------
        now_s : float
            Monotonic.
        answers : int
            All answers of the gate so far.
        """
        bucket = self._observe(now_s, answers)
        allowed = self.share * sum(b.answers for b in self._buckets)
        if sum(b.retries for b in self._buckets) < int(allowed):
            bucket.retries += 1
            return True
        if self._left >= 1.0:
            self._left -= 1.0
            return True
        self.refused += 1
        return False

    def _observe(self, now_s: float, answers: int) -> _Bucket:
        """Enter what was answered since the last failure, as if evenly spread, and refill the floor."""
        rate = self.floor_per_s / self.holders
        most = max(1.0, self.floor / self.holders)
        self._left = min(most, self._left + rate * (now_s - self._filled_s))
        self._filled_s = now_s
        elapsed = now_s - self._seen_s
        recent = min(1.0, self.window_s / elapsed) if elapsed > 0 else 1.0
        fresh = (answers - self._seen_answers) * recent
        self._seen_s, self._seen_answers = now_s, answers
        while self._buckets and self._buckets[0].begun_s <= now_s - self.window_s:
            self._buckets.popleft()
        if not self._buckets or self._buckets[-1].begun_s + BUCKET_S <= now_s:
            self._buckets.append(_Bucket(now_s))
        self._buckets[-1].answers += fresh
        return self._buckets[-1]
