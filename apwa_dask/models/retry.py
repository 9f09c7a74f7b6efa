"""The one layer of retries: how often, how long to wait, and when to give up. Pure but for the jitter."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from apwa_dask.models.outcomes import Retry, Verdict

__all__ = ["RetryPolicy", "Tries"]


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Bounds of the attempts of one call.

    Parameters
    ----------
    attempts : int
        Requests for one call at most; waits on a rate limit and step-downs are not counted.
    deadline_attempts, reasks : int
        Of those, after an attempt that ran into its deadline; after an answer that said nothing.
    unreachable_attempts : int
        While the endpoint never answered at all: then the run stops, its address is probably wrong.
    base_s, cap_s : float
        Full jitter: the n-th wait is uniform in [0, min(cap, base * 2^n)] (Brooker, "Exponential Backoff And
        Jitter", 2015), or the endpoint's own word if that is longer.
    outage_s : float
        So long the failures of an endpoint that worked before, and answers nobody now, consume no attempts.
    call_deadline_s : float
        Wall clock from the first attempt to the last, waits included.
    """

    attempts: int = 6
    deadline_attempts: int = 3
    reasks: int = 2
    unreachable_attempts: int = 3
    base_s: float = 1.0
    cap_s: float = 60.0
    outage_s: float = 1200.0
    call_deadline_s: float = 3600.0


@dataclass(slots=True)
class Tries:
    """The attempts of one call so far. Made at the first failure, so that a good call pays nothing for it."""

    policy: RetryPolicy
    started_s: float
    rng: random.Random
    failures: int = 0
    deadlines: int = 0
    silences: int = 0
    step_downs: int = 0
    waited: list[float] = field(default_factory=list)

    def wait_s(self, verdict: Verdict, now_s: float, *, outage: bool = False) -> float | None:
        """Seconds to wait before the next attempt; None to give up.

        A throttled call waits at its gate, which knows the pause of all: here its wait is zero.
        """
        if now_s - self.started_s >= self.policy.call_deadline_s:
            return None
        if verdict.retry is Retry.THROTTLED:
            return 0.0
        if verdict.retry is Retry.STEP_DOWN:
            self.step_downs += 1
            return 0.0 if self.step_downs <= 4 else None
        waits_for_all = outage and now_s - self.started_s < self.policy.outage_s
        if not waits_for_all and not self._may_try(verdict.retry):
            return None
        wait = self._jittered_s(verdict.wait_s)
        left_s = self.policy.call_deadline_s - (now_s - self.started_s)
        if wait >= left_s:
            return None
        self.waited.append(wait)
        return wait

    def _may_try(self, retry: Retry) -> bool:
        if retry is Retry.NONE:
            return False
        self.failures += 1
        if retry is Retry.DEADLINE:
            self.deadlines += 1
        if retry is Retry.REASK:
            self.silences += 1
        return (
            self.failures < self.policy.attempts
            and self.deadlines < self.policy.deadline_attempts
            and self.silences <= self.policy.reasks
        )

    def _jittered_s(self, stated_s: float | None) -> float:
        ceiling = min(self.policy.cap_s, self.policy.base_s * 2.0 ** min(self.failures - 1, 30))
        jitter = self.rng.uniform(0.0, ceiling)
        return (
            jitter if stated_s is None else max(jitter, stated_s + self.rng.uniform(0.0, min(ceiling, 1.0)))
        )
