"""A process asks the coordinator that there is: a worker may come into it, and go, while it lives."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import apwa_dask as apwa
from apwa_dask.execution.runtime import Runtime
from apwa_dask.models.coordinator import Coordinator, LocalLease
from apwa_dask.models.leases import Grant, Report, Want

Virtual = Callable[..., Any]
MODEL = apwa.Model("m", base_url="http://127.0.0.1:9/v1", api_key_env="")


def test_calls_go_on_when_the_cluster_that_lived_in_this_process_is_gone(virtual_time: Virtual) -> None:
    async def gone(gate_key: str, want: Want, report: Report) -> Grant:
        raise ConnectionError("the worker's event loop has ended")

    async def story() -> None:
        here = Runtime()
        here.lease = gone
        lane = await here.endpoints.lane(MODEL)
        waiting = asyncio.create_task(lane.gate.acquire())
        await asyncio.sleep(60.0)
        assert not waiting.done()
        here.lease = None  # as the worker does when it ends
        await asyncio.wait_for(waiting, 5.0)
        lane.gate.release()
        await here.endpoints.close()

    virtual_time(story())


def test_a_process_that_has_worked_alone_asks_the_cluster_that_it_joins(virtual_time: Virtual) -> None:
    async def story() -> None:
        here, asked = Runtime(), list[str]()
        lane = await here.endpoints.lane(MODEL)
        await lane.gate.acquire()
        cluster = LocalLease(Coordinator(asyncio.get_running_loop().time), "worker")

        async def of_the_cluster(gate_key: str, want: Want, report: Report) -> Grant:
            asked.append(gate_key)
            return await cluster.lease(gate_key, want, report)

        here.lease = of_the_cluster
        await asyncio.sleep(6.0)
        assert asked[0] == lane.gate.key
        lane.gate.release()
        await here.endpoints.close()

    virtual_time(story())
