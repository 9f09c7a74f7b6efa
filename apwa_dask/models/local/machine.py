"""Whether this machine can run the embedded model at all, said before anything is fetched."""

from __future__ import annotations

import importlib.util
import platform
from pathlib import Path

from apwa_dask.errors import LocalModelError

__all__ = ["check_machine", "missing_instructions"]

_NEEDED_ON_X86 = frozenset({"avx2", "fma", "f16c", "bmi2"})
_OTHER_ENDPOINT = "use another endpoint: set OPENAI_BASE_URL and OPENAI_API_KEY"


def check_machine() -> None:
    """Check the processor and the runtime.

    Raises
    ------
    LocalModelError
        No AVX2, or the runtime is not installed.
    """
    missing = missing_instructions(_cpuinfo()) if platform.machine().lower() in ("x86_64", "amd64") else []
    if missing:
        raise LocalModelError(
            "this processor cannot run the embedded model",
            why=f"the prebuilt runtime needs instructions it lacks: {', '.join(missing)}",
            fix=_OTHER_ENDPOINT,
            code="LOCAL-CPU",
        )
    if importlib.util.find_spec("xllamacpp") is None:
        raise LocalModelError(
            "the runtime of the embedded model is not installed",
            fix=f"pip install 'apwa-dask[local]', or {_OTHER_ENDPOINT}",
            code="LOCAL-RUNTIME-MISSING",
        )


def missing_instructions(cpuinfo: str) -> list[str]:
    """Return the needed x86 instructions that ``/proc/cpuinfo`` does not list; none if it says nothing."""
    for line in cpuinfo.splitlines():
        name, _, flags = line.partition(":")
        if name.strip() == "flags":
            return sorted(_NEEDED_ON_X86 - set(flags.split()))
    return []


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""  # macOS: no such file; a processor too old shows itself as SIGILL at the start
