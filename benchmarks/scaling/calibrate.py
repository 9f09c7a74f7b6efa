"""What questions cost a scheduler's CPU: the handlers by the number of holders, and an RPC to a real scheduler."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from apwa_dask.execution.plugin import CoordinatorPlugin
from apwa_dask.models.budget import BLOCK_CALLS, Budget
from apwa_dask.models.coordinator import Coordinator
from apwa_dask.models.leases import Money, MoneyReport, Report, Want
from benchmarks.scaling.scheduler import Cost

__all__ = ["Measured", "measure", "table"]

HOLDERS = (10, 100, 300, 1000, 3000)
ROUNDS = 3
SETTLED = 12
RPCS, CONNECTIONS, START_S = 4000, 16, 30
GATE = "https://endpoint.example/v1|0123456789abcdef|model"


@dataclass(frozen=True)
class Measured:
    """CPU microseconds of `CoordinatorPlugin.lease` by holders, of one RPC with `rpc_holders` holders, and of
    `CoordinatorPlugin.fund` by holders.
    """

    handler_us: dict[int, float]
    rpc_us: float
    rpc_holders: int
    fund_us: dict[int, float]

    @property
    def cost(self) -> Cost:
        """A straight line through the ends, and what an RPC costs above its handler."""
        low, high = min(self.handler_us), max(self.handler_us)
        slope_us = max(0.0, (self.handler_us[high] - self.handler_us[low]) / (high - low))
        fixed_us = self.handler_us[low] - slope_us * low
        wire_us = self.rpc_us - self.handler_us[self.rpc_holders]
        return Cost(
            wire_us * 1e-6,
            max(0.0, fixed_us) * 1e-6,
            slope_us * 1e-6,
            fund_s=max(self.fund_us.values()) * 1e-6,
        )


def measure(holders: Sequence[int] = HOLDERS, rpcs: int = RPCS) -> Measured:
    """Take all on this machine, in CPU seconds, so that other work disturbs them little."""
    handler_us = {count: asyncio.run(_handler_us(count)) for count in holders}
    middle = sorted(holders)[len(holders) // 2]
    fund_us = {count: asyncio.run(_fund_us(count)) for count in holders}
    return Measured(handler_us, _rpc_us(middle, rpcs), middle, fund_us)


def table(measured: Measured) -> str:
    """Markdown."""
    lines = [
        "| holders | handler, CPU us | leases/s at the renewal time | scheduler core | handler of money, CPU us |",
        "|--:|--:|--:|--:|--:|",
    ]
    cost = measured.cost
    for count, handler_us in measured.handler_us.items():
        per_s = count / _renew_s(count)
        share = per_s * (handler_us * 1e-6 + cost.rpc_s)
        lines.append(
            f"| {count} | {handler_us:.0f} | {per_s:.0f} | {share:.1%} | {measured.fund_us[count]:.0f} |"
        )
    words = f"an RPC with {measured.rpc_holders} holders: {measured.rpc_us:.0f} us of the scheduler's CPU"
    return "\n".join([*lines, "", f"{words}, {cost.rpc_s * 1e6:.0f} us of it beside the handler"])


def _words(count: int) -> dict[str, Any]:
    want = Want(concurrency=550, requests=50, max_concurrency=500 * count)
    return {"want": asdict(want), "report": asdict(Report(admitted=25))}


def _plugin() -> CoordinatorPlugin:
    plugin = CoordinatorPlugin()
    plugin.coordinator = Coordinator(expires_s=1e9)
    return plugin


async def _handler_us(count: int) -> float:
    """Mean CPU of the handler as the scheduler calls it, once all holders are known; the best of some rounds."""
    plugin, words = _plugin(), _words(count)
    names = _names(count)
    for name in names:
        await plugin.lease(name, GATE, **words)
    turns = max(1, 300 // count)
    best = float("inf")
    for _ in range(ROUNDS):
        before = time.thread_time()
        for _ in range(turns):
            for name in names[:300]:
                await plugin.lease(name, GATE, **words)
        best = min(best, (time.thread_time() - before) / (turns * min(count, 300)))
    return best * 1e6


async def _fund_us(count: int) -> float:
    """Mean CPU of the handler of money, each question about one more block."""
    plugin, block = _plugin(), Money(0.064, 38_400, BLOCK_CALLS)
    plugin.coordinator.open_account("run", Budget(usd=1e9), Money())
    names = _names(count)
    granted = dict.fromkeys(names, Money())

    async def ask(name: str, number: int) -> None:
        report = MoneyReport(granted[name].times(0.9), Money(), granted[name], 7, number)
        funds = await plugin.fund(name, "run", asdict(Money(calls=1)), asdict(block), asdict(report))
        granted[name] = Money(**funds["granted"])

    for name in names:
        await ask(name, 1)
    best = float("inf")
    for turn in range(ROUNDS):
        before = time.thread_time()
        for name in names[:300]:
            await ask(name, turn + 2)
        best = min(best, (time.thread_time() - before) / min(count, 300))
    return best * 1e6


def _names(count: int) -> list[str]:
    return [f"tcp://10.0.{k // 250}.{k % 250}:40000" for k in range(count)]


def _renew_s(count: int) -> float:
    """Of a worker that has been there for a while: its first leases are shorter."""
    coordinator = Coordinator()
    for k in range(count):
        coordinator.lease(f"{k}", GATE, Want(1), Report(admitted=1))
    return max(coordinator.lease("0", GATE, Want(1), Report()).renew_s for _ in range(SETTLED))


def _rpc_us(count: int, rpcs: int) -> float:
    """CPU of a scheduler process for one lease, some connections busy at once, so many holders at the gate."""
    from distributed import Client

    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0"]
    with tempfile.TemporaryDirectory() as place:
        told = Path(place) / "scheduler.json"
        process = subprocess.Popen(
            [*command, "--no-dashboard", "--scheduler-file", str(told)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            with Client(scheduler_file=str(told), timeout=START_S) as client:
                client.register_plugin(CoordinatorPlugin())
                return client.sync(_asked, client.scheduler.address, process.pid, count, rpcs)
        finally:
            process.terminate()
            process.wait()


async def _asked(address: str, pid: int, count: int, rpcs: int) -> float:
    """Microseconds a lease of the process `pid`, once all holders are known to it."""
    from distributed.core import rpc

    words = _words(count)
    scheduler = rpc(address)
    slots = asyncio.Semaphore(CONNECTIONS)

    async def ask(k: int) -> None:
        async with slots:
            await scheduler.apwa_lease(
                holder=f"tcp://10.0.{k // 250}.{k % 250}:40000", gate_key=GATE, **words
            )

    try:
        await asyncio.gather(*(ask(k) for k in range(count)))
        before = _cpu_s(pid)
        await asyncio.gather(*(ask(k % count) for k in range(rpcs)))
        return (_cpu_s(pid) - before) / rpcs * 1e6
    finally:
        await scheduler.close_rpc()


def _cpu_s(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system
