"""One client process against one server: what it took, and what became of each row."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd
import psutil

from apwa_dask.testing import ScriptedServer
from apwa_dask.testing.log import Call
from benchmarks.cases import Case, expected
from benchmarks.contestants import Contestant, command
from benchmarks.workload import Workload

__all__ = [
    "Measurement",
    "Rows",
    "busy_share",
    "growth",
    "judged",
    "measure",
    "trouble_of",
    "watched",
]

NOT_INSTALLED = 77
SAMPLE_S = 0.1
MEGABYTE = 1024 * 1024


@dataclass(frozen=True)
class Rows:
    """What became of the rows: answered right or wrong, there without an answer, not there."""

    right: int
    wrong: int
    failed: int
    lost: int


@dataclass(frozen=True)
class Measurement:
    """One process.

    Parameters
    ----------
    wall_s, cpu_s, system_s : float
        From after its imports to its last file written; CPU of all its threads and of all processes below it.
    process_cpu_s : float
        Of the whole process, imports and exit included, by the operating system's account.
    calls, max_in_flight, prompt_tokens, throttled : int
        As the server counted.
    peak_mb : float
        Resident memory of the process and all below it, sampled.
    growth : float
        Memory at the end of the work over memory in its middle, less one; NaN for a run too short to say.
    busy : float
        See `busy_share`; NaN where the case keeps no log.
    classes : mapping
        The engine's own word for the rows' outcomes.
    trouble : str
        Empty, or why there is no result: ``not installed: ...``, ``died: ...``, ``too slow: ...``.
    """

    case: str
    client: str
    wanted_rows: int
    distinct: int
    rows: Rows
    wall_s: float = float("nan")
    cpu_s: float = float("nan")
    system_s: float = float("nan")
    switches: int = 0
    process_cpu_s: float = float("nan")
    calls: int = 0
    max_in_flight: int = 0
    prompt_tokens: int = 0
    throttled: int = 0
    peak_mb: float = float("nan")
    growth: float = float("nan")
    busy: float = float("nan")
    classes: Mapping[str, int] = field(default_factory=dict)
    trouble: str = ""


def measure(
    case: Case,
    client: Contestant,
    job: Workload,
    folder: Path,
    server: ScriptedServer,
    interpreters: Mapping[str, str],
    timeout_s: float,
) -> Measurement:
    """Run one client on one job in a process of its own.

    A client that fails is a result too; one that is not installed says so in `Measurement.trouble`.
    """
    server.reset()
    place = Path(tempfile.mkdtemp(dir=folder))
    out = place / "out"
    words = command(client, interpreters, job.save(place / "job.json"), out)
    before = os.times()
    status, said, complaints, sizes = watched(words, place, timeout_s)
    after = os.times()
    numbers = _numbers(job)
    trouble = trouble_of(status, complaints, timeout_s)
    rows = Rows(0, 0, 0, len(numbers)) if trouble else judged(out / "result.parquet", numbers)
    figures: dict[str, Any] = {}
    if not trouble:
        figures = json.loads(said.splitlines()[-1])
        figures.pop("imported_late")
        figures["growth"] = growth(sizes, figures["wall_s"])
    stats = server.stats()
    return Measurement(
        case=case.name,
        client=client.name,
        wanted_rows=len(numbers),
        distinct=len(set(numbers)),
        rows=rows,
        process_cpu_s=after.children_user
        + after.children_system
        - before.children_user
        - before.children_system,
        calls=stats.calls,
        max_in_flight=stats.max_in_flight,
        prompt_tokens=stats.billed_prompt_tokens,
        throttled=stats.by_status.get("429", 0),
        peak_mb=max((size for _, size in sizes), default=float("nan")),
        busy=busy_share(server.log().calls, job.concurrency) if case.log_calls else float("nan"),
        trouble=trouble,
        **figures,
    )


def watched(
    words: Sequence[str], place: Path, timeout_s: float
) -> tuple[int | None, str, str, list[tuple[float, float]]]:
    """Run to the end, or to the deadline (status None), sampling memory: exit status, both outputs, samples."""
    # No terminal, no proxies, one allocator: the same for everyone. Arrow's own takes 2 to 40 ms at random for the
    # first memory of a process where the machine is virtual, more than all else at the ends of a short run.
    environment = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    environment["ARROW_DEFAULT_MEMORY_POOL"] = "system"
    said, complaints = place / "said", place / "complaints"
    sizes: list[tuple[float, float]] = []
    with said.open("w") as out, complaints.open("w") as err:
        process = subprocess.Popen(
            words, stdout=out, stderr=err, stdin=subprocess.DEVNULL, env=environment, cwd=place
        )
        deadline = time.monotonic() + timeout_s
        try:
            while process.poll() is None and time.monotonic() < deadline:
                sizes.append((time.monotonic(), _resident_mb(process.pid)))
                time.sleep(SAMPLE_S)
            status = process.poll()
        finally:  # also when this process is interrupted: no client outlives its measurement
            if process.poll() is None:
                _kill(process)
    return status, said.read_text(errors="replace"), complaints.read_text(errors="replace"), sizes


def _kill(process: subprocess.Popen[Any]) -> None:
    try:
        below = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        below = []
    process.kill()
    process.wait()
    for child in below:
        try:
            child.kill()
        except psutil.NoSuchProcess:
            continue


def _resident_mb(pid: int) -> float:
    total = 0
    try:
        root = psutil.Process(pid)
        everyone = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0.0
    for process in everyone:
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total / MEGABYTE


def trouble_of(status: int | None, complaints: str, timeout_s: float) -> str:
    """Why a process gave no result, in a line; empty if it did."""
    last = next((line.strip() for line in reversed(complaints.splitlines()) if line.strip()), "no word")
    if status is None:
        return f"too slow: not done after {timeout_s:.0f} s"
    if status == NOT_INSTALLED:
        return last
    return "" if status == 0 else f"died: {last[:200]}"


def _numbers(job: Workload) -> list[int]:
    """The ticket that each row holds."""
    texts = pd.read_parquet(Path(job.folder) / "rows.parquet", columns=["text"])["text"]
    return [int(number) for number in texts.str.extract(r"^Ticket (\d+):", expand=False)]


def judged(result: Path, numbers: Sequence[int]) -> Rows:
    """Compare each row of a result with what the server says for its ticket.

    Raises
    ------
    ValueError
        A row is there twice, or was never asked for: that is no result.
    """
    found = pd.read_parquet(result)
    ids = [int(key) for key in found["id"]]
    if len(set(ids)) != len(ids) or not set(ids) <= set(range(len(numbers))):
        raise ValueError(f"{result} has rows twice, or rows that were not asked for")
    right = wrong = failed = 0
    for key, topic, severity in zip(ids, found["topic"], found["severity"], strict=True):
        if pd.isna(topic) or pd.isna(severity):
            failed += 1
        elif (topic, int(severity)) == expected(numbers[key]):
            right += 1
        else:
            wrong += 1
    return Rows(right, wrong, failed, len(numbers) - len(ids))


def busy_share(calls: Sequence[Call], concurrency: int) -> float:
    """Mean share of the slots in use between the first moment all are full and the last row's start.

    In that span a row waits for every idle slot, so one is the best there is. NaN if they are never all full.
    """
    starts = sorted(call.t_start for call in calls)
    moments = sorted(
        [(at, 1) for at in starts] + [(call.t_end, -1) for call in calls if call.t_end is not None]
    )
    level, since, used = 0, float("nan"), 0.0
    previous = 0.0
    for at, step in moments:
        if since == since:
            used += level * (at - previous)
        level, previous = level + step, at
        if level >= concurrency and since != since:
            since = at
        if since == since and starts and at >= starts[-1] > since:
            return used / ((at - since) * concurrency)
    return float("nan")


def growth(sizes: Sequence[tuple[float, float]], wall_s: float) -> float:
    """Median memory in the last fifth of the work over that in the fifth around its middle, less one."""
    if not sizes or wall_s < 50 * SAMPLE_S:
        return float("nan")
    end = sizes[-1][0]
    late = [size for at, size in sizes if end - 0.22 * wall_s <= at <= end - 0.02 * wall_s]
    middle = [size for at, size in sizes if end - 0.6 * wall_s <= at <= end - 0.4 * wall_s]
    return median(late) / median(middle) - 1 if late and middle else float("nan")
