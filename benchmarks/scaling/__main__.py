"""The coordinator on large clusters, simulated: ``python -m benchmarks.scaling --workers 1000 --in-flight 500``."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks.scaling import calibrate, virtual
from benchmarks.scaling.cluster import Scale
from benchmarks.scaling.report import table
from benchmarks.scaling.scenarios import below_one, limited, open_ended

BELOW_ONE = ((10, 600.0), (50, 600.0), (50, 300.0), (8, 60.0))
"""Workers and requests a minute of ``--below-one`` without more words."""


def _workers_and_rpm(word: str) -> tuple[int, float]:
    workers, rpm = word.split("x")
    return int(workers), float(rpm)


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--in-flight", type=int, default=500, help="calls in flight a worker")
    parser.add_argument("--p50", type=float, default=60.0, help="median latency, seconds")
    parser.add_argument("--p99", type=float, default=180.0)
    parser.add_argument(
        "--rpm", nargs="*", type=float, default=[600_000, 60_000, 6_000], help="announced limits"
    )
    parser.add_argument(
        "--stalls", nargs="*", type=float, default=[5, 30, 120], help="of the scheduler, seconds"
    )
    parser.add_argument("--only-limits", action="store_true", help="only the announced limits")
    parser.add_argument(
        "--below-one",
        nargs="*",
        type=_workers_and_rpm,
        metavar="WORKERSxRPM",
        help="only limits below one request a second and worker, at the other settings",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--calibrate", action="store_true", help="measure the costs of a lease here, and simulate with them"
    )
    parser.add_argument("--json", type=Path)
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    given = arguments(words)
    scale = Scale(given.workers, given.in_flight, p50_s=given.p50, p99_s=given.p99, seed=given.seed)
    if given.calibrate:
        measured = calibrate.measure()
        print(calibrate.table(measured) + "\n")
        scale = Scale(**{**vars(scale), "cost": measured.cost})
    began_s = time.perf_counter()
    if given.below_one is not None:
        pairs = given.below_one or BELOW_ONE
        found = [virtual.run(below_one(replace(scale, workers=few), rpm)) for few, rpm in pairs]
    else:
        found = [] if given.only_limits else virtual.run(open_ended(scale, given.stalls))
        for rpm in given.rpm:
            found += virtual.run(limited(scale, rpm, given.stalls[:1]))
    workers = "few" if given.below_one is not None else given.workers
    print(
        f"{workers} workers x {given.in_flight} in flight, latency p50 {given.p50:g} s, p99 {given.p99:g} s, "
        f"seed {given.seed}; simulated in {time.perf_counter() - began_s:.0f} s\n"
    )
    print(table(found))
    if given.json:
        given.json.write_text(json.dumps([asdict(each) for each in found], indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
