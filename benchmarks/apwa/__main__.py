"""The three APWA workloads: the engine beside what people write without one, over one scripted model, in one run.

python -m benchmarks.apwa                                       # all three, small: two minutes
python -m benchmarks.apwa --workload redaction --scale full --json redaction.json
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.apwa.client import CLIENTS, ENGINES
from benchmarks.apwa.jobs import WINDOW_TOKENS, Job
from benchmarks.apwa.measures import Measured, keep, kept, measure
from benchmarks.apwa.scripted import ModelServer
from benchmarks.apwa.tables import report
from benchmarks.apwa.workloads import SCALES, WORKLOADS


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.apwa",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--workload", action="append", choices=list(WORKLOADS), help="default: all three")
    parser.add_argument("--scale", choices=("small", "full"), default="small")
    parser.add_argument(
        "--size", type=int, action="append", help="in place of the scale's; with one --workload"
    )
    parser.add_argument(
        "--engine", choices=("threads", "dask", "both"), default="threads", help="where the engine runs"
    )
    parser.add_argument("--clients", default="", help=f"comma separated, of: {', '.join(CLIENTS)}")
    parser.add_argument("--window", type=int, default=WINDOW_TOKENS, help="of the scripted model, tokens")
    parser.add_argument("--call-limit", type=int, default=1_000, help="of the chat that forgets")
    parser.add_argument("--concurrency", type=int, default=64, help="calls in flight")
    parser.add_argument("--timeout", type=float, default=3_600.0, help="of one client, seconds")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument(
        "--report", type=Path, nargs="+", help="measure nothing: print the tables of such files"
    )
    given = parser.parse_args(words)
    if given.size and len(given.workload or ()) != 1:
        parser.error("--size needs one --workload")
    unknown = {name for name in given.clients.split(",") if name} - set(CLIENTS)
    if unknown:
        parser.error(f"no client is called {', '.join(sorted(unknown))}; known: {', '.join(CLIENTS)}")
    return given


def clients_of(given: argparse.Namespace) -> list[str]:
    """Those that are named, or all, with the engine where it was asked for."""
    if given.clients:
        return [name for name in given.clients.split(",") if name]
    engines = {"threads": ENGINES[:1], "dask": ENGINES[1:], "both": ENGINES}[given.engine]
    return [*engines, *(name for name in CLIENTS if name not in ENGINES)]


def run(given: argparse.Namespace) -> list[Measured]:
    """All measurements, kept in ``--json`` after each."""
    found: list[Measured] = []
    for name in given.workload or WORKLOADS:
        workload = WORKLOADS[name]
        with tempfile.TemporaryDirectory() as place, ModelServer(name, given.window) as server:
            for size in given.size or getattr(SCALES[name], given.scale):
                folder = Path(place) / str(size)
                folder.mkdir()
                workload.write(folder, size)
                job = Job(name, size, str(folder), server.base_url, given.concurrency, given.call_limit)
                for client in clients_of(given):
                    made = measure(workload, job, client, server, folder, given.timeout)
                    found.append(made)
                    _tell(made)
                    if given.json:
                        keep(given.json, found)
    return found


def _tell(made: Measured) -> None:
    words = made.ending or "finished"
    print(
        f"{made.workload} {made.size:,}: {made.client}: {made.verdict.right:,} of {made.verdict.wanted:,} right, "
        f"{made.calls:,} calls, {made.wall_s:.1f} s, {made.peak_mib:.0f} MiB; {words}; load {os.getloadavg()[0]:.1f}",
        file=sys.stderr,
        flush=True,
    )


def main(words: Sequence[str] | None = None) -> int:
    given = arguments(words)
    if given.report:
        print(report([each for path in given.report for each in kept(path)]))
        return 0
    load = os.getloadavg()[0]
    found = run(given)
    print(
        f"Python {platform.python_version()}, {os.cpu_count()} cores, load {load:.1f} before, "
        f"{os.getloadavg()[0]:.1f} after\n\n{report(found)}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
