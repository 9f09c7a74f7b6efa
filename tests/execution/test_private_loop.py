"""The loop on which calls are made: uvloop's where that is installed, else asyncio's own."""

from __future__ import annotations

import asyncio
import sys

import pytest

from apwa_dask.execution import loop as private


def test_calls_are_made_on_uvloop_where_that_is_installed() -> None:
    uvloop = pytest.importorskip("uvloop")
    assert isinstance(private.loop(), uvloop.Loop)


def test_without_uvloop_they_are_made_on_asyncio_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    made = private._new_loop()
    try:
        assert isinstance(made, asyncio.SelectorEventLoop)
    finally:
        made.close()


def test_there_is_one_loop_a_process() -> None:
    assert private.loop() is private.loop()
