"""The clock of a client process: starts after its imports, stops when its last file is written.

Standard library only: clients of other libraries run it with interpreters of their own.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

NOT_INSTALLED = 77
"""Exit status of a client whose library is absent."""


class Measured:
    """Wall and CPU seconds of the ``with`` block, printed as one JSON line.

    CPU is of this process and of all processes below it (on Linux), all threads. What the block imports on the
    way is counted, and named. `say` adds fields to the line.
    """

    def __init__(self) -> None:
        self.job: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
        self.folder = Path(self.job["folder"])
        self.out = Path(sys.argv[2])
        self.said: dict[str, Any] = {}

    def __enter__(self) -> Measured:
        self._modules = set(sys.modules)
        self._before = resource.getrusage(resource.RUSAGE_SELF)
        self._wall, self._cpu = time.perf_counter(), _cpu_s()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        wall_s, cpu_s = time.perf_counter() - self._wall, _cpu_s() - self._cpu
        if error is None:
            late = sorted({name.partition(".")[0] for name in set(sys.modules) - self._modules})
            after = resource.getrusage(resource.RUSAGE_SELF)
            system_s = after.ru_stime - self._before.ru_stime
            switches = after.ru_nvcsw - self._before.ru_nvcsw
            self.said |= {"wall_s": wall_s, "cpu_s": cpu_s, "system_s": system_s, "switches": switches}
            self.said["imported_late"] = late

    def report(self) -> None:
        """Print the line; call it when nothing else will be said."""
        print("\n" + json.dumps(self.said), flush=True)

    def texts(self) -> tuple[list[int], list[str]]:
        """Ids and texts of the rows, for clients that write their own prompt."""
        return self._read("rows", "text")

    def prompts(self) -> tuple[list[int], list[str]]:
        """Ids and user messages, as the engine sends them."""
        return self._read("prompts", "prompt")

    def write(self, ids: Sequence[int], answers: Sequence[dict[str, Any] | None]) -> None:
        """The result: a row each, with nulls where there is no answer."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = {
            name: [None if answer is None else answer[name] for answer in answers]
            for name in ("topic", "severity")
        }
        self.out.mkdir(parents=True, exist_ok=True)
        types = pa.schema([("id", pa.int64()), ("topic", pa.string()), ("severity", pa.int64())])
        pq.write_table(pa.table({"id": list(ids), **columns}, schema=types), self.out / "result.parquet")

    def _read(self, name: str, column: str) -> tuple[list[int], list[str]]:
        import pyarrow.parquet as pq

        table = pq.read_table(self.folder / f"{name}.parquet")
        return table.column("id").to_pylist(), table.column(column).to_pylist()


def not_installed(requirement: str, why: ImportError) -> NoReturn:
    """End with the status that says that a library is absent, and name it."""
    print(f"not installed: {requirement} ({why})", file=sys.stderr)
    raise SystemExit(NOT_INSTALLED)


def _cpu_s() -> float:
    """CPU of this process, of its live descendants, and of those of theirs that ended and were waited for."""
    ended = os.times()
    total = time.process_time() + ended.children_user + ended.children_system
    ticks_a_second = os.sysconf("SC_CLK_TCK")
    for pid in _descendants(os.getpid()):
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:  # it ended meanwhile: its parent's account has it
            continue
        total += sum(map(int, fields[11:15])) / ticks_a_second
    return total


def _descendants(pid: int) -> list[int]:
    """Live processes below one, by the kernel's lists; none where there is no such list."""
    found: list[int] = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            below = [int(child) for child in children.read_text().split()]
        except OSError:
            continue
        for child in below:
            found += [child, *_descendants(child)]
    return found
