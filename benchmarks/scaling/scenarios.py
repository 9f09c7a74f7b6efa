"""What is tried: start, steady work, announced limits, a penalty, stalls of the scheduler, workers that come and go."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from benchmarks.scaling.cluster import Cluster, Figures, Scale

__all__ = ["below_one", "limited", "open_ended"]

PAUSE_S = 12.0
STEADY_S = 30.0
PATIENCE_S = 180.0
WORK_S, SETTLED_S = 300.0, 60.0
AFTER_S = 10.0
"""Looked on after an event is over."""


async def open_ended(scale: Scale, stalls_s: Sequence[float]) -> list[Figures]:
    """No announced limit, one cluster, one thing after the other."""
    cluster = Cluster(scale)
    mark = cluster.mark()
    await cluster.join(scale.workers)
    full_s = scale.start_s + await cluster.until_full(PATIENCE_S)
    found = [cluster.figures("start", mark, f"95 % of the slots in use after {full_s:.1f} s")]
    mark = cluster.mark()
    await asyncio.sleep(STEADY_S)
    found.append(cluster.figures("steady", mark))
    for seconds in stalls_s:
        found.append(await _stall(cluster, seconds))
    found += await _churn(cluster)
    # Last: a refusal without an announced limit teaches the coordinator a rate, and that changes all that follows.
    found.append(await _penalty(cluster))
    return found


async def limited(scale: Scale, rpm: float, stalls_s: Sequence[float] = ()) -> list[Figures]:
    """An announced limit of requests: steady work, and stalls of the scheduler."""
    cluster = Cluster(scale, rpm=rpm)
    await cluster.join(scale.workers)
    await asyncio.sleep(max(STEADY_S, 2 * scale.p50_s))
    mark = cluster.mark()
    await asyncio.sleep(2 * STEADY_S)
    name = f"announced {rpm:,.0f} a minute"
    found = [cluster.figures(name, mark)]
    for seconds in stalls_s:
        mark, admitted = cluster.mark(), cluster.endpoint.admitted
        cluster.scheduler.stall(seconds)
        await asyncio.sleep(seconds)
        share = (cluster.endpoint.admitted - admitted) / (rpm / 60 * seconds)
        await asyncio.sleep(AFTER_S)
        fact = f"meanwhile {share:.0%} of the limit used"
        found.append(cluster.figures(f"{name}, stall of {seconds:.0f} s", mark, fact))
    return found


async def below_one(scale: Scale, rpm: float) -> Figures:
    """An announced limit of less than a request a second and worker: five minutes of work, then a newcomer."""
    cluster = Cluster(scale, rpm=rpm)
    await cluster.join(scale.workers)
    await asyncio.sleep(SETTLED_S)
    mark, ahead_s = cluster.mark(), []
    for _ in range(int(WORK_S - SETTLED_S)):
        await asyncio.sleep(1.0)
        ahead_s.append(max(worker.booked_ahead_s for worker in cluster.workers))
    cluster.bear()
    newcomer, born_s = cluster.workers[-1].name, asyncio.get_running_loop().time()
    await cluster.until(lambda: newcomer in cluster.endpoint.first_s, PATIENCE_S)
    first_s = cluster.endpoint.first_s.get(newcomer, float("inf")) - born_s
    return cluster.figures(
        f"{scale.workers} workers, {rpm:,.0f} a minute",
        mark,
        f"a newcomer's first call after {first_s:.1f} s",
        f"permits are booked {max(ahead_s):.1f} s ahead at most",
    )


async def _penalty(cluster: Cluster) -> Figures:
    """One worker is told to wait; the others learn of it from the coordinator alone."""
    loop, workers = asyncio.get_running_loop(), cluster.workers
    mark, now_s = cluster.mark(), loop.time()
    for worker in workers:
        worker.forget_pauses()
    cluster.endpoint.refuse(workers[0].name, now_s + PAUSE_S)

    def all_paused() -> bool:
        seen = [worker.look_for_pause() for worker in workers]  # every one looks, also behind one that is not
        return all(seen)

    await cluster.until(all_paused, PAUSE_S)
    first_s = min(worker.paused_at_s for worker in workers)
    after = sorted(worker.paused_at_s - first_s for worker in workers)
    words = [f"{share:.0%} after {after[int(share * (len(after) - 1))]:.1f} s" for share in (0.5, 0.95, 1.0)]
    facts = f"a pause of {PAUSE_S:.0f} s heard by one worker reached " + ", ".join(words)
    return cluster.figures("penalty", mark, facts)


async def _stall(cluster: Cluster, seconds: float) -> Figures:
    """The scheduler does nothing for so long."""
    mark, admitted = cluster.mark(), cluster.endpoint.admitted
    cluster.scheduler.stall(seconds)
    await asyncio.sleep(seconds)
    per_s = (cluster.endpoint.admitted - admitted) / seconds
    level = cluster.in_flight / cluster.scale.most
    full_s = await cluster.until_full(PATIENCE_S)
    await asyncio.sleep(AFTER_S)
    return cluster.figures(
        f"stall of {seconds:.0f} s",
        mark,
        f"meanwhile {per_s:,.0f} calls/s; {level:.0%} of the slots in use at its end",
        f"95 % again {full_s:.1f} s after it",
    )


async def _churn(cluster: Cluster) -> list[Figures]:
    """A tenth of the workers dies; as many come."""
    count = max(1, cluster.scale.workers // 10)
    mark = cluster.mark()
    await cluster.leave(count)
    left = cluster.in_flight / cluster.scale.most
    full_s = await cluster.until_full(PATIENCE_S)
    await asyncio.sleep(AFTER_S)
    gone = cluster.figures(
        f"{count} workers die",
        mark,
        f"{left:.0%} of the slots in use, 95 % of what is possible {full_s:.1f} s later",
    )
    mark = cluster.mark()
    await cluster.join(count)
    newcomers = cluster.workers[-count:]
    wanted = 0.9 * cluster.scale.in_flight
    shared_s = cluster.scale.start_s + await cluster.until(
        lambda: all(worker.gate.in_flight >= wanted for worker in newcomers), PATIENCE_S
    )
    await asyncio.sleep(AFTER_S)
    words = f"each newcomer has 90 % of its slots in use {shared_s:.1f} s after the first came"
    return [gone, cluster.figures(f"{count} workers join", mark, words)]
