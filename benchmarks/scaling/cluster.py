"""Scheduler, endpoint and workers on one virtual clock, and what is read off them between two moments."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from apwa_dask.models.budget import Budget
from benchmarks.scaling.endpoint import SimEndpoint
from benchmarks.scaling.scheduler import Cost, SimScheduler
from benchmarks.scaling.worker import ACCOUNT, SimWorker

__all__ = ["Cluster", "Figures", "Mark", "Scale"]

SAMPLE_S = 0.1
FULL = 0.95
PLENTY_USD = 1e9


@dataclass(frozen=True)
class Scale:
    """What is simulated.

    Parameters
    ----------
    in_flight : int
        Calls that a worker may have in flight; the ceiling of all is `workers` times it.
    backlog : float
        Rows that wait at a worker, per slot.
    p50_s, p99_s : float
        Lognormal latency: 500 calls in flight a process are long answers.
    start_s : float
        Workers come up over so long.
    """

    workers: int = 1000
    in_flight: int = 500
    backlog: float = 0.1
    p50_s: float = 20.0
    p99_s: float = 60.0
    start_s: float = 2.0
    seed: int = 0
    cost: Cost = field(default_factory=Cost)

    @property
    def most(self) -> int:
        """The user's ceiling over all processes."""
        return self.workers * self.in_flight

    @property
    def rows(self) -> int:
        """Rows that a worker holds."""
        return int(self.in_flight * (1 + self.backlog))


@dataclass(frozen=True)
class Mark:
    """The counters at a moment."""

    at_s: float
    real_s: float
    leases: int
    funds: int
    busy_s: float
    coordinator_cpu_s: float
    admitted: int
    refused: int
    timeouts: int
    wasted: int


@dataclass(frozen=True)
class Figures:
    """A span of one scenario.

    Parameters
    ----------
    leases_per_s, funds_per_s : float
        Questions about calls, and about money.
    scheduler_share : float
        Of one core, modelled: service times over the span.
    coordinator_share : float
        Of one core, measured here: CPU of the `Coordinator` alone.
    used : float
        Of the announced limit, or of the ceiling of calls in flight where nothing is announced.
    refused : float
        429s among all calls.
    most_in_flight : float
        Highest sum over all workers, per ceiling.
    """

    scenario: str
    span_s: float
    leases_per_s: float
    funds_per_s: float
    bytes_per_s: float
    scheduler_share: float
    coordinator_share: float
    calls_per_s: float
    used: float
    refused: float
    most_in_flight: float
    longest_wait_s: float
    timeouts: int
    wasted: int
    facts: tuple[str, ...] = ()


class Cluster:
    """A running simulation. Make it on a `VirtualLoop`. Its run has a budget, which all workers lease from."""

    def __init__(self, scale: Scale, *, rpm: float | None = None, budget_usd: float = PLENTY_USD) -> None:
        self.scale, self.rpm, self.budget = scale, rpm, Budget(usd=budget_usd)
        self._loop = asyncio.get_running_loop()
        self._rng = random.Random(scale.seed)
        self.scheduler = SimScheduler(scale.cost)
        self.scheduler.coordinator.open_account(ACCOUNT, self.budget)
        self.endpoint = SimEndpoint(scale.p50_s, scale.p99_s, rpm, scale.seed, self._loop.time())
        self.workers: list[SimWorker] = []
        self._born = 0
        self._samples: list[tuple[float, int]] = []
        self._sampler = self._loop.create_task(self._sample())

    async def join(self, count: int) -> None:
        """So many workers come up, over `Scale.start_s`."""
        for delay_s in sorted(self._rng.uniform(0.0, self.scale.start_s) for _ in range(count)):
            self._loop.call_later(delay_s, self.bear)
        await asyncio.sleep(self.scale.start_s)

    async def leave(self, count: int) -> None:
        """So many workers end at once."""
        gone, self.workers = self.workers[:count], self.workers[count:]
        for worker in gone:
            await worker.leave()

    @property
    def in_flight(self) -> int:
        """Calls of all workers."""
        return sum(worker.gate.in_flight for worker in self.workers)

    async def until(self, condition: Callable[[], bool], most_s: float) -> float:
        """Seconds until it holds, looked at every tenth; infinite if it does not in time."""
        began_s = self._loop.time()
        while not condition():
            if self._loop.time() - began_s >= most_s:
                return float("inf")
            await asyncio.sleep(SAMPLE_S)
        return self._loop.time() - began_s

    async def until_full(self, most_s: float) -> float:
        """Seconds until 95 % of what can be in flight is."""
        possible = min(self.scale.most, len(self.workers) * self.scale.rows)
        return await self.until(lambda: self.in_flight >= FULL * possible, most_s)

    def mark(self) -> Mark:
        """Begin a span."""
        scheduler, endpoint = self.scheduler, self.endpoint
        self._samples.clear()
        scheduler.longest_wait_s = 0.0
        return Mark(
            self._loop.time(),
            time.perf_counter(),
            scheduler.leases,
            scheduler.funds,
            scheduler.busy_s,
            scheduler.coordinator_cpu_s,
            endpoint.admitted,
            endpoint.refused,
            scheduler.timeouts,
            scheduler.wasted,
        )

    def figures(self, scenario: str, since: Mark, *facts: str) -> Figures:
        """End it."""
        scheduler, endpoint = self.scheduler, self.endpoint
        span_s = self._loop.time() - since.at_s
        admitted, refused = endpoint.admitted - since.admitted, endpoint.refused - since.refused
        leases, funds = scheduler.leases - since.leases, scheduler.funds - since.funds
        levels = [level for _, level in self._samples] or [self.in_flight]
        used = sum(levels) / len(levels) / self.scale.most
        if self.rpm is not None:
            used = admitted / (self.rpm / 60 * span_s)
        return Figures(
            scenario=scenario,
            span_s=span_s,
            leases_per_s=leases / span_s,
            funds_per_s=funds / span_s,
            bytes_per_s=(leases + funds) / span_s * scheduler.message_bytes,
            scheduler_share=(scheduler.busy_s - since.busy_s) / span_s,
            coordinator_share=(scheduler.coordinator_cpu_s - since.coordinator_cpu_s) / span_s,
            calls_per_s=admitted / span_s,
            used=used,
            refused=refused / max(1, admitted + refused),
            most_in_flight=max(levels) / self.scale.most,
            longest_wait_s=scheduler.longest_wait_s,
            timeouts=scheduler.timeouts - since.timeouts,
            wasted=scheduler.wasted - since.wasted,
            facts=facts,
        )

    def bear(self) -> None:
        """One more worker, at once."""
        scale, number = self.scale, self._born
        self._born += 1
        self.workers.append(
            SimWorker(
                f"tcp://10.0.{number // 250}.{number % 250}:40000",
                self.scheduler,
                self.endpoint,
                most=scale.most,
                rows=scale.rows,
                budget=self.budget,
                seed=scale.seed * 1_000_003 + number,
            )
        )

    async def _sample(self) -> None:
        while True:
            await asyncio.sleep(SAMPLE_S)
            self._samples.append((self._loop.time(), self.in_flight))
