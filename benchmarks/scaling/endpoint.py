"""The endpoint: lognormal answers, the scripted server's own limiter, and refusals at a given moment."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field

from apwa_dask.testing.limits import Limiter, retry_hint
from apwa_dask.testing.script import Script

__all__ = ["Answer", "SimEndpoint"]

REFUSAL_S = 0.05
QUANTILE_99 = 2.3263


@dataclass(frozen=True, slots=True)
class Answer:
    """One exchange: when its response is there, whether it is a 429, and its headers."""

    latency_s: float
    retry_after_s: float | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


class SimEndpoint:
    """Counts what it admits and refuses.

    Parameters
    ----------
    rpm : float, optional
        Requests a minute, announced in headers; a bucket of one second.
    """

    def __init__(self, p50_s: float, p99_s: float, rpm: float | None, seed: int, now_s: float) -> None:
        self._rng = random.Random(seed)
        self._mu, self._sigma = math.log(p50_s), math.log(p99_s / p50_s) / QUANTILE_99
        self._limiter = Limiter(Script(rpm=rpm), now_s)
        self._limited = rpm is not None
        self._refused_until_s: dict[str, float] = {}
        self.admitted = self.refused = 0
        self.first_s: dict[str, float] = {}
        """When each worker's first call was admitted."""

    def refuse(self, worker: str, until_s: float) -> None:
        """429 with a ``Retry-After`` until then, for this worker alone: the others can only be told."""
        self._refused_until_s[worker] = until_s

    def call(self, worker: str, now_s: float) -> Answer:
        """One request that arrives now. Headers are of its arrival, as providers write them."""
        until_s = self._refused_until_s.get(worker) if self._refused_until_s else None
        if until_s is not None and now_s < until_s:
            self.refused += 1
            return Answer(REFUSAL_S, until_s - now_s)
        if not self._limited:
            self.admitted += 1
            return Answer(self._latency_s())
        verdict = self._limiter.admit(0, now_s)
        headers = dict(verdict.headers)
        if verdict.wait_s:
            self.refused += 1
            hint = dict(retry_hint("seconds", verdict.wait_s, now_s))
            return Answer(REFUSAL_S, float(hint["retry-after"]), headers)
        self.admitted += 1
        self.first_s.setdefault(worker, now_s)
        return Answer(self._latency_s(), None, headers)

    def _latency_s(self) -> float:
        return math.exp(self._rng.gauss(self._mu, self._sigma))
