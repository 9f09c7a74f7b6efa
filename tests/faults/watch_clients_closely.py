"""Preloaded by a scheduler of the tests: a client that is silent for a few seconds is gone."""

from __future__ import annotations

from typing import Any

from apwa_dask.execution import plugin


async def dask_setup(server: Any) -> None:
    # a client beats every 5 s
    plugin.CLIENT_SILENT_S, plugin.LOOK_S = 8.0, 0.5
