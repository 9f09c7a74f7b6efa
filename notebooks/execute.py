"""Execute the notebooks of this folder in a real kernel, outputs kept: ``python notebooks/execute.py [NAME ...]``.

A notebook works in a temporary folder, so that what it writes is left nowhere. Before a cell with the tag
``restart-kernel`` the kernel is killed and a new one started, as when it runs out of memory.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.util import ensure_async

HERE = Path(__file__).parent
TIMEOUT_S = 300
RESTART = "restart-kernel"


class Executor(NotebookClient):
    """A client that knows the tag ``restart-kernel``."""

    async def async_execute_cell(self, cell: nbformat.NotebookNode, *args: Any, **more: Any) -> Any:
        if RESTART in cell.metadata.get("tags", ()):
            await self._restart_kernel()
            self.code_cells_executed, more["execution_count"] = 0, 1
        return await super().async_execute_cell(cell, *args, **more)

    async def _restart_kernel(self) -> None:
        self.kc.stop_channels()
        await ensure_async(self.km.restart_kernel(now=True))
        await self.async_start_new_kernel_client()


def executed(path: Path) -> nbformat.NotebookNode:
    """The notebook with its outputs; an error in a cell is raised.

    What tells a reader nothing and differs from run to run (times, ids of the kernel) is left out.
    """
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory(prefix="apwa-notebook-", ignore_cleanup_errors=True) as folder:
        client = Executor(
            notebook,
            timeout=TIMEOUT_S,
            kernel_name="python3",
            record_timing=False,
            coalesce_streams=True,  # a line that reached us in two pieces is one line
            resources={"metadata": {"path": folder}},
        )
        client.execute()
    notebook.metadata = {
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
        "language_info": {"name": "python"},
    }
    return notebook


def main() -> None:
    paths = [Path(name) for name in sys.argv[1:]] or sorted(HERE.glob("*.ipynb"))
    for path in paths:
        nbformat.write(executed(path), path)
        print(f"executed {path.name}")


if __name__ == "__main__":
    main()
