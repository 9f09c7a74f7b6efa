"""Real kernels: one that a test drives cell by cell, and whole notebooks executed as they are printed."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = ROOT / "notebooks"
ANSWER_S = 120.0


@dataclass(frozen=True)
class Executed:
    """The code cells of a notebook after it ran here."""

    cells: list[Any]

    def shown(self, code: str) -> str:
        """What a reader sees below the one cell that contains `code`, as text."""
        (cell,) = [cell for cell in self.cells if code in cell.source]
        parts = (
            output.get("text") or output.get("data", {}).get("text/plain", "") for output in cell.outputs
        )
        return "\n".join(parts)

    @property
    def outputs(self) -> list[Any]:
        return [output for cell in self.cells for output in cell.outputs]


@cache
def _executor() -> ModuleType:
    spec = importlib.util.spec_from_file_location("execute", NOTEBOOKS / "execute.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def execute() -> Callable[[str], Executed]:
    """Runs a notebook of the repository in a real kernel, once, however many tests look at it."""
    pytest.importorskip("nbclient", reason="needs the extra `notebook`")
    pytest.importorskip("ipykernel", reason="needs the extra `notebook`")

    @cache
    def executed(name: str) -> Executed:
        notebook = _executor().executed(NOTEBOOKS / name)
        return Executed([cell for cell in notebook.cells if cell.cell_type == "code"])

    return executed


class Kernel:
    """A kernel of this environment, and its only client."""

    def __init__(self) -> None:
        from jupyter_client.manager import start_new_kernel

        self.manager, self.client = start_new_kernel(kernel_name="python3", startup_timeout=ANSWER_S)

    def run(self, code: str) -> str:
        """Execute a cell to its end, and return what it has shown as text."""
        shown: list[str] = []

        def collect(message: dict[str, Any]) -> None:
            content = message["content"]
            data = content.get("data", {}).get("text/plain", "")
            shown.append(content.get("text") or data or "\n".join(content.get("traceback", ())))

        done = self.client.execute_interactive(code, timeout=ANSWER_S, output_hook=collect)
        assert done["content"]["status"] == "ok", "".join(shown)
        return "".join(shown)

    def begin(self, code: str) -> str:
        """Send a cell and return its id, without waiting for it."""
        return str(self.client.execute(code))

    def ended(self, cell: str) -> str:
        """How a cell ended: the name of its error, or "ok"."""
        deadline_s = time.monotonic() + ANSWER_S
        while time.monotonic() < deadline_s:
            reply = self.client.get_shell_msg(timeout=ANSWER_S)
            if reply["parent_header"]["msg_id"] == cell:
                return str(reply["content"].get("ename", "ok"))
        raise TimeoutError("the cell did not end")

    def interrupt(self) -> None:
        self.manager.interrupt_kernel()

    def kill(self) -> None:
        """SIGKILL, as when the machine runs out of memory."""
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


@pytest.fixture
def new_kernel() -> Iterator[Callable[[], Kernel]]:
    """Starts kernels; those that are left are killed at the end."""
    pytest.importorskip("ipykernel", reason="needs the extra `notebook`")
    started: list[Kernel] = []

    def start() -> Kernel:
        started.append(Kernel())
        return started[-1]

    yield start
    for kernel in started:
        kernel.kill()
