"""A limit of tokens a minute, many processes, calls of many lengths: the test server's limiter on a virtual clock."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable
from itertools import count
from typing import Any, Literal

import pytest

from apwa_dask.models.accounting import counted_less
from apwa_dask.models.coordinator import Coordinator
from apwa_dask.models.gate import Gate
from apwa_dask.models.headers import announced
from apwa_dask.models.leases import Grant, LeaseFn, Notice, Report, Want
from apwa_dask.models.tokens import OutputEstimate
from apwa_dask.models.types import Usage
from apwa_dask.testing.limits import Limiter
from apwa_dask.testing.script import Script

Virtual = Callable[..., Any]
ANSWERS = (5, 8, 12, 20, 30, 45, 60, 90, 140, 200)
PROMPTS = (60, 72, 85, 110, 160, 260, 460)
MOST = 256
HOP_S = 0.002


class Endpoint:
    """It limits tokens, announces them, and counts what was made, or the most that an answer may have."""

    def __init__(self, tpm: float, counts: Literal["made", "most"], seed: int) -> None:
        self.counts, self.tpm = counts, tpm
        self.loop, self.rng = asyncio.get_running_loop(), random.Random(seed)
        self.limiter = Limiter(Script(tpm=tpm, counts_tokens=counts), self.loop.time())
        self.coordinator = Coordinator(clock=self.loop.time, tell=self._tell)
        self.gates: dict[str, Gate] = {}
        self.admitted: list[tuple[float, int]] = []
        self.refused = 0
        self._numbers = count()

    def _tell(self, notice: Notice, holders: list[str]) -> None:
        for name in holders:
            self.loop.call_later(HOP_S, self.gates[name].noticed, notice)

    def _way(self, name: str) -> LeaseFn:
        async def lease(gate_key: str, want: Want, report: Report) -> Grant:
            await asyncio.sleep(self.rng.uniform(0.5, 2.0) * HOP_S)
            grant = self.coordinator.lease(name, gate_key, want, report)
            await asyncio.sleep(self.rng.uniform(0.5, 2.0) * HOP_S)
            return grant

        return lease

    async def work(self, workers: int, seconds: float) -> None:
        """So many processes ask for more than the limit."""
        rows = []
        for number in range(workers):
            seed = random.Random(number)
            gate = Gate("gate", max_concurrency=MOST, lease=self._way(f"w{number}"), rng=seed)
            self.gates[f"w{number}"] = gate
            output = OutputEstimate(MOST, MOST)
            rows += [self.loop.create_task(self._row(gate, output)) for _ in range(128)]
            await asyncio.sleep(0.05)
        await asyncio.sleep(seconds)
        for row in rows:
            row.cancel()
        await asyncio.gather(*rows, return_exceptions=True)
        for gate in self.gates.values():
            await gate.close()

    async def _row(self, gate: Gate, output: OutputEstimate) -> None:
        while True:
            place = next(self._numbers)
            prompt, answer = PROMPTS[place % len(PROMPTS)], ANSWERS[place % len(ANSWERS)]
            while not await self._is_answered(gate, output, prompt, answer):
                pass

    async def _is_answered(self, gate: Gate, output: OutputEstimate, prompt: int, answer: int) -> bool:
        number = 0 if gate.limits_tokens else gate.try_acquire()
        number = number or await gate.acquire(prompt, output)
        used: Usage | None = None
        try:
            most = prompt + MOST if self.counts == "most" else prompt
            verdict = self.limiter.admit(most, self.loop.time())
            limits = announced(dict(verdict.headers))
            assert limits.tokens is not None
            if verdict.wait_s:
                self.refused += 1
                await asyncio.sleep(HOP_S)
                gate.heard(limits)
                left = limits.tokens.remaining
                gate.throttled(number, math.ceil(verdict.wait_s), lacks_tokens=True, left=left)
                return False
            self.limiter.charge(answer if self.counts == "made" else 0)
            self.admitted.append((self.loop.time(), most if self.counts == "most" else prompt + answer))
            await asyncio.sleep(math.exp(self.rng.gauss(math.log(0.5), 0.6)))
            used = Usage(prompt, answer)
            output.observe(answer)
            is_less = limits.counts_made or counted_less(limits.tokens, used, MOST)
            gate.heard(limits, counted_less=is_less)
            gate.succeeded()
            return True
        finally:
            gate.settle(number, output, used)
            gate.release()

    @property
    def used(self) -> float:
        """Of the limit, after the first five seconds."""
        steady = [(at, tokens) for at, tokens in self.admitted if at >= self.admitted[0][0] + 5.0]
        span_s = steady[-1][0] - steady[0][0]
        return sum(tokens for _, tokens in steady[1:]) / (self.tpm / 60 * span_s)


@pytest.mark.parametrize("workers", [1, 4, 8])
@pytest.mark.parametrize("counts", ["made", "most"])
@pytest.mark.parametrize("tpm", [120_000, 1_200_000])
def test_a_limit_of_tokens_is_used_and_hardly_ever_refused_however_many_processes(
    virtual_time: Virtual, tpm: float, counts: Literal["made", "most"], workers: int
) -> None:
    async def story() -> None:
        endpoint = Endpoint(tpm, counts, seed=workers)
        await endpoint.work(workers, 60.0)
        assert endpoint.used >= 0.95
        assert endpoint.refused <= 0.01 * (len(endpoint.admitted) + endpoint.refused)

    virtual_time(story())
