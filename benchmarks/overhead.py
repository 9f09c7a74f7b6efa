"""What the engine costs beside the loops that people write by hand: one server, one run, ratios.

Each client is a fresh process; all send the same body bytes to the same scripted server, and the rounds are
interleaved, so that a busy machine is busy for all of them. Read ratios, and CPU rather than wall.

    python benchmarks/overhead.py [--rows 2000 --latency 0.2 --concurrency 64 --rounds 3 --json out.json]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import pandas as pd  # noqa: E402

from apwa_dask.testing import Script, ScriptedServer  # noqa: E402
from benchmarks.workload import Workload, prepare  # noqa: E402

CLIENTS = {
    "raw aiohttp": ("raw_aiohttp.py",),
    "raw aiohttp, uvloop": ("raw_aiohttp.py", "uvloop"),
    "engine": ("engine.py",),
    "AsyncOpenAI loop": ("openai_loop.py",),
}
FLOOR = "raw aiohttp"
LONGER = 3
"""The second size of a round: CPU of this many times the rows less CPU of the rows is steady work."""


@dataclass(frozen=True)
class Measurement:
    """One process.

    Parameters
    ----------
    wall_s, cpu_s, system_s : float
        From after its imports to its last file written; CPU of all its threads.
    process_cpu_s : float
        Of the whole process, imports and exit included, by the operating system's account.
    calls, max_in_flight, prompt_tokens : int
        As the server counted.
    """

    client: str
    rows: int
    wall_s: float
    cpu_s: float
    system_s: float
    switches: int
    process_cpu_s: float
    calls: int
    max_in_flight: int
    prompt_tokens: int


@dataclass(frozen=True)
class Summary:
    """Medians over the rounds, and ratios to `FLOOR`."""

    client: str
    wall_s: float
    efficiency: float
    points_behind_floor: float
    cpu_ms_per_call: float
    steady_cpu_ms_per_call: float
    fixed_cpu_s: float
    cpu_ratio: float
    steady_cpu_ratio: float
    process_cpu_s: float
    calls: int
    max_in_flight: int


def measure(name: str, job: Workload, folder: Path, server: ScriptedServer, timeout_s: float) -> Measurement:
    """Run one client on one job in a process of its own.

    Raises
    ------
    RuntimeError
        It failed; its last words are in the message.
    """
    server.reset()
    script, *options = CLIENTS[name]
    job_file = job.save(folder / "job.json")
    out = Path(tempfile.mkdtemp(dir=folder)) / "out"
    command = [
        sys.executable,
        str(ROOT / "benchmarks" / "clients" / script),
        str(job_file),
        str(out),
        *options,
    ]
    # No terminal, no proxies: the same for everyone.
    environment = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    before = os.times()
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, env=environment)
    after = os.times()
    if done.returncode != 0:
        raise RuntimeError(f"{name} failed: {done.stderr[-2000:]}")
    figures = json.loads(done.stdout.splitlines()[-1])
    stats = server.stats()
    process_cpu_s = (
        after.children_user + after.children_system - before.children_user - before.children_system
    )
    rows = check(name, job, out)
    return Measurement(
        client=name,
        rows=rows,
        wall_s=figures["wall_s"],
        cpu_s=figures["cpu_s"],
        system_s=figures["system_s"],
        switches=figures["switches"],
        process_cpu_s=process_cpu_s,
        calls=stats.calls,
        max_in_flight=stats.max_in_flight,
        prompt_tokens=stats.billed_prompt_tokens,
    )


def check(name: str, job: Workload, out: Path) -> int:
    """The number of rows, all of which must be there, in order and answered.

    Raises
    ------
    RuntimeError
        They are not.
    """
    result = pd.read_parquet(out / "result.parquet")
    wanted = pd.read_parquet(Path(job.folder) / "prompts.parquet", columns=["id"])
    if list(result["id"]) != list(wanted["id"]) or result[["topic", "severity"]].isna().any(axis=None):
        raise RuntimeError(f"{name} lost rows or answers")
    return len(result)


def summarise(found: Sequence[Measurement], rows: int, latency_s: float, concurrency: int) -> list[Summary]:
    """Medians by client. Steady CPU is the slope between the two sizes, the fixed part its intercept."""
    floor = _figures(found, FLOOR, rows, latency_s, concurrency)
    summaries = []
    for client in dict.fromkeys(m.client for m in found):
        own = _figures(found, client, rows, latency_s, concurrency)
        at = [m for m in found if m.client == client and m.rows == rows]
        summaries.append(
            Summary(
                client=client,
                wall_s=median(m.wall_s for m in at),
                efficiency=own["efficiency"],
                points_behind_floor=100 * (floor["efficiency"] - own["efficiency"]),
                cpu_ms_per_call=own["cpu"],
                steady_cpu_ms_per_call=own["steady"],
                fixed_cpu_s=(own["cpu"] - own["steady"]) * rows / 1000,
                cpu_ratio=own["cpu"] / floor["cpu"],
                steady_cpu_ratio=own["steady"] / floor["steady"],
                process_cpu_s=median(m.process_cpu_s for m in at),
                calls=max(m.calls for m in at),
                max_in_flight=max(m.max_in_flight for m in at),
            )
        )
    return summaries


def _figures(
    found: Sequence[Measurement], client: str, rows: int, latency_s: float, concurrency: int
) -> dict[str, float]:
    small = [m for m in found if m.client == client and m.rows == rows]
    large = [m for m in found if m.client == client and m.rows != rows]
    cpu_s, ideal_s = median(m.cpu_s for m in small), rows * latency_s / concurrency
    figures = {"efficiency": ideal_s / median(m.wall_s for m in small), "cpu": 1000 * cpu_s / rows}
    figures["steady"] = figures["cpu"]
    if large:
        more = large[0].rows - rows
        figures["steady"] = 1000 * (median(m.cpu_s for m in large) - cpu_s) / more
    return figures


def table(summaries: Sequence[Summary]) -> str:
    """Markdown."""
    head = (
        "| client | wall s | efficiency | points behind floor | CPU s / 1,000 calls | ratio "
        "| steady CPU s / 1,000 | ratio | fixed CPU s | whole process CPU s | requests | max in flight |"
    )
    lines = [head, "|---|" + "--:|" * 11]
    for s in summaries:
        lines.append(
            f"| {s.client} | {s.wall_s:.2f} | {s.efficiency:.1%} | {s.points_behind_floor:.1f} "
            f"| {s.cpu_ms_per_call:.3f} | {s.cpu_ratio:.2f} | {s.steady_cpu_ms_per_call:.3f} "
            f"| {s.steady_cpu_ratio:.2f} | {s.fixed_cpu_s:.2f} | {s.process_cpu_s:.2f} "
            f"| {s.calls} | {s.max_in_flight} |"
        )
    return "\n".join(lines)


def run(given: argparse.Namespace) -> list[Measurement]:
    """All rounds, the clients in turn within each."""
    found: list[Measurement] = []
    script = Script(latency_s=given.latency, keep_bodies=False, keep_calls=1000)
    with tempfile.TemporaryDirectory() as place, ScriptedServer(script) as server:
        folder = Path(place)
        sizes = [given.rows] if given.no_steady else [given.rows, LONGER * given.rows]
        jobs = [prepare(folder / f"{n}", server.base_url, n, given.concurrency) for n in sizes]
        for number in range(given.rounds):
            for job in jobs:
                for client in given.clients:
                    made = measure(client, job, folder, server, given.timeout)
                    found.append(made)
                    print(
                        f"round {number + 1}: {client}, {made.rows} rows: wall {made.wall_s:.2f} s, "
                        f"CPU {made.cpu_s:.2f} s, {made.calls} requests",
                        file=sys.stderr,
                    )
    same = {(m.rows, m.prompt_tokens) for m in found}
    if len(same) != len(sizes):
        raise RuntimeError(f"the clients did not send the same prompts: {sorted(same)}")
    return found


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--latency", type=float, default=0.2, help="of the server, seconds")
    parser.add_argument("--concurrency", type=int, default=64, help="calls in flight")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", nargs="+", choices=list(CLIENTS), default=list(CLIENTS))
    parser.add_argument(
        "--no-steady", action="store_true", help=f"leave out the runs of {LONGER} times the rows"
    )
    parser.add_argument("--timeout", type=float, default=600.0, help="of one process, seconds")
    parser.add_argument("--json", type=Path, help="write measurements and summaries here")
    given = parser.parse_args(words)
    if FLOOR not in given.clients:
        given.clients.insert(0, FLOOR)
    return given


def main(words: Sequence[str] | None = None) -> int:
    given = arguments(words)
    found = run(given)
    summaries = summarise(found, given.rows, given.latency, given.concurrency)
    print(
        f"{given.rows} rows, {given.latency * 1000:.0f} ms, {given.concurrency} in flight, "
        f"{given.rounds} rounds; Python {platform.python_version()}, {os.cpu_count()} cores, "
        f"load {os.getloadavg()[0]:.1f}\n"
    )
    print(table(summaries))
    if given.json:
        document = {"measurements": [asdict(m) for m in found], "summaries": [asdict(s) for s in summaries]}
        given.json.write_text(json.dumps(document, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
