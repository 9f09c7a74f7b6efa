"""What the deployment pages print, as commands for real processes on loopback."""

from __future__ import annotations

import importlib.util
import shlex
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest

import apwa_dask as apwa

TESTS = Path(__file__).parents[1]
PAGES = TESTS.parent / "docs" / "deployment"
HOST, SCHEDULER_PORT, DASHBOARD_PORT = "scheduler.example", "8786", "8787"
REVIEWS = 24


def _module(name: str, path: Path) -> ModuleType:
    """A module of the tests, which are no package."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


_BLOCKS = _module("tests_docs_blocks", TESTS / "docs" / "blocks.py")
_PROCESSES = _module("tests_faults_processes", TESTS / "faults" / "processes.py")


@dataclass(frozen=True, slots=True)
class Page:
    """One page; the names it gives to hosts and ports stand for loopback and a free port."""

    path: Path
    port: int

    @property
    def address(self) -> str:
        return f"tls://127.0.0.1:{self.port}"

    def here(self, text: str) -> str:
        """A text of the page, with names and ports of this machine."""
        ports = text.replace(f":{SCHEDULER_PORT}", f":{self.port}").replace(
            f"--port {SCHEDULER_PORT}", f"--port {self.port}"
        )
        return ports.replace(f":{DASHBOARD_PORT}", ":0").replace(HOST, "127.0.0.1")

    def blocks(self, language: str) -> list[str]:
        found = [block.code for block in _BLOCKS.blocks_of(self.path) if block.language == language]
        assert found, f"{self.path} has no {language}"
        return found

    def commands(self, start: str) -> list[list[str]]:
        """The arguments of each command of the page that starts so, as printed."""
        lines = "\n".join(self.blocks("bash")).replace("\\\n", " ").splitlines()
        found = [shlex.split(self.here(line)) for line in lines if line.startswith(start)]
        assert found, f"{self.path} has no {start!r}"
        return found


@pytest.fixture(scope="session")
def processes() -> ModuleType:
    """`tests/faults/processes.py`: children that end with their test."""
    return _PROCESSES


@pytest.fixture(scope="session")
def blocks() -> ModuleType:
    """`tests/docs/blocks.py`: the code blocks of a page."""
    return _BLOCKS


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def page() -> Any:
    """Opens a page by its name."""

    def opened(name: str) -> Page:
        return Page(PAGES / name, free_port())

    return opened


def write_reviews(folder: Path) -> None:
    """The files that the pages read."""
    (folder / "reviews").mkdir()
    frame = pd.DataFrame({"text": [f"review {k}: the battery died" for k in range(REVIEWS)]})
    frame.iloc[:12].to_parquet(folder / "reviews" / "2026-01.parquet")
    frame.iloc[12:].to_parquet(folder / "reviews" / "2026-02.parquet")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with the reviews of the pages."""
    made = tmp_path_factory.mktemp("deployment")
    write_reviews(made)
    return made


@pytest.fixture
def mapped() -> Any:
    """A table of so many rows, one call each."""

    def table(rows: int, npartitions: int) -> apwa.Table:
        made: apwa.Table = _PROCESSES.mapped(rows, npartitions)
        return made

    return table
