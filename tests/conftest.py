"""What every room's tests share: the scripted server, a store of their own, and our one background loop.

The loop's thread is started before any test, so that a check for leaked threads (``distributed.utils_test``)
does not take it for a leak.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from apwa_dask.execution import loop

pytest_plugins = ["apwa_dask.testing.fixtures"]


@pytest.fixture(scope="session", autouse=True)
def _private_loop() -> None:
    loop.loop()


@pytest.fixture
def store(tmp_path: Path) -> str:
    """A store for journal and runs that only this test knows."""
    return str(tmp_path / "store")
