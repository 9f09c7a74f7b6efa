"""Execute the notebooks of this folder in a real kernel, outputs kept: ``python notebooks/execute.py``."""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent
TIMEOUT_S = 300


def executed(path: Path) -> nbformat.NotebookNode:
    """The notebook with its outputs; an error in a cell is raised.

    What tells a reader nothing and differs from run to run (times, ids of the kernel) is left out.
    """
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=TIMEOUT_S,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(path.parent)}},
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
