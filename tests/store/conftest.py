"""Folders on a local disk and in fsspec's memory filesystem: what every store must do, on both."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(params=["local", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A fresh store, of each kind in turn."""
    if request.param == "local":
        yield str(tmp_path / "store")
        return
    import fsspec

    place = f"memory://store-{secrets.token_hex(4)}"
    yield place
    filesystem = fsspec.filesystem("memory")
    if filesystem.exists(place):
        filesystem.rm(place, recursive=True)
