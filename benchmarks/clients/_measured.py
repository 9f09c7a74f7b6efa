"""The clock of a client process: starts after its imports, stops when its last file is written."""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any


class Measured:
    """Wall and CPU seconds of the ``with`` block, printed as one JSON line.

    CPU is of the whole process, all threads. What the block imports on the way is counted, and named.
    """

    def __init__(self) -> None:
        self.job: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
        self.folder = Path(self.job["folder"])
        self.out = Path(sys.argv[2])

    def __enter__(self) -> Measured:
        self._modules = set(sys.modules)
        self._before = resource.getrusage(resource.RUSAGE_SELF)
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        wall_s, cpu_s = time.perf_counter() - self._wall, time.process_time() - self._cpu
        if error is None:
            late = sorted({name.partition(".")[0] for name in set(sys.modules) - self._modules})
            after = resource.getrusage(resource.RUSAGE_SELF)
            system_s = after.ru_stime - self._before.ru_stime
            switches = after.ru_nvcsw - self._before.ru_nvcsw
            figures = {"wall_s": wall_s, "cpu_s": cpu_s, "system_s": system_s, "switches": switches}
            print(json.dumps({**figures, "imported_late": late}))
