"""Very many tiny partitions, one giant one, and the same rows in a few: what the layout costs.

The rows are the same, and so are the server and its latency; only the partitions differ. Each layout is worked on by
a client process of its own, with threads and on two Dask worker processes. The overhead of a layout is the wall that
it takes beyond the same rows in 16 partitions.

    python benchmarks/layout.py                      # 10,000 rows in 10,000 partitions, 100 ms, 64 in flight
    python benchmarks/layout.py --rows 1000 --on threads --json out.json
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import pandas as pd  # noqa: E402

import apwa_dask as apwa  # noqa: E402
from apwa_dask.testing import Script, ScriptedServer  # noqa: E402

LATENCY_S = 0.1
IN_FLIGHT = 64
FEW = 16
WORKERS = 2
BAR = 0.05
PLACES = ("threads", "cluster")


@dataclass(frozen=True, slots=True)
class Layout:
    """One client process.

    Attributes
    ----------
    wall_s, cpu_s : float
        From before the table is made to the last committed row; CPU of the client process, without workers.
    """

    place: str
    partitions: int
    rows: int
    calls: int
    right: int
    wall_s: float
    cpu_s: float


def child(url: str, folder: str, rows: int, partitions: int, place: str) -> None:
    """The run, in this process; one line of JSON on standard output."""
    os.environ.setdefault("OPENAI_API_KEY", "none")
    model = apwa.Model("scripted", base_url=url, max_concurrency=IN_FLIGHT)
    options: dict[str, Any] = {"model": model, "store": folder, "progress": False}
    if place == "threads":
        found = timed(rows, partitions, {**options, "scheduler": "threads"})
    else:
        from distributed import Client, LocalCluster

        with (
            LocalCluster(n_workers=WORKERS, threads_per_worker=4, dashboard_address=":0") as cluster,
            Client(cluster) as client,
        ):
            found = timed(rows, partitions, {**options, "client": client})
    sys.stdout.write(json.dumps(found) + "\n")


def timed(rows: int, partitions: int, options: dict[str, Any]) -> dict[str, float]:
    """The wall and the client's CPU of one run, and how many rows came back with an answer, in their places."""
    frame = pd.DataFrame({"text": [f"note {k}" for k in range(rows)], "k": range(rows)})
    began, cpu = time.perf_counter(), time.process_time()
    table = apwa.from_pandas(frame, npartitions=partitions)
    run = table.map("How severe?", inputs="text", output={"severity": int}).run(**options).wait()
    wall_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu
    out = run.result()
    right = int((out["severity"].notna() & (out["k"] == frame["k"])).sum()) if len(out) == rows else 0
    return {"right": right, "wall_s": wall_s, "cpu_s": cpu_s}


def measured(place: str, rows: int, partitions: int) -> Layout:
    """One layout in a fresh process, against a fresh server."""
    script = Script(latency_s=LATENCY_S)
    with tempfile.TemporaryDirectory() as folder, ScriptedServer(script) as server:
        command = [sys.executable, __file__, "--child", server.base_url, folder, str(partitions), place]
        done = subprocess.run(
            [*command, "--rows", str(rows)], stdout=subprocess.PIPE, timeout=1_800, check=True
        )
        calls = server.calls
    return Layout(place, partitions, rows, calls, **json.loads(done.stdout.splitlines()[-1]))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for each layout; 1 where a row is not right, is paid twice, or the overhead is above the bar."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--on", choices=PLACES, nargs="+", default=list(PLACES))
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--child", nargs=4, metavar=("URL", "FOLDER", "N", "PLACE"), help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.child:
        url, folder, partitions, place = given.child
        child(url, folder, given.rows, int(partitions), place)
        return 0
    found: list[Layout] = []
    missed = False
    sys.stdout.write(
        f"{given.rows:,} rows, {LATENCY_S * 1000:.0f} ms, {IN_FLIGHT} in flight: at best "
        f"{given.rows * LATENCY_S / IN_FLIGHT:.2f} s\n"
    )
    for place in given.on:
        few, giant, tiny = (measured(place, given.rows, count) for count in (FEW, 1, given.rows))
        found += [few, giant, tiny]
        for one in (few, giant, tiny):
            over = one.wall_s / few.wall_s - 1
            sound = one.right == one.calls == one.rows
            missed |= over > BAR or not sound
            sys.stdout.write(
                f"{place:8} {one.partitions:>7,} partitions: {one.wall_s:6.2f} s, {over:+6.1%}, "
                f"{one.cpu_s:.2f} s of CPU, {one.calls:,} calls, {one.right:,} rows right\n"
            )
    if given.json:
        given.json.write_text(json.dumps([asdict(one) for one in found], indent=1))
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
