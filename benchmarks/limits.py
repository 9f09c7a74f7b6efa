"""How well many processes use one limit: ``python benchmarks/limits.py [--workers 4 8] [--minutes 2]``.

A scripted server on loopback allows 600 requests a minute, announced in its headers. For each number of worker
processes a run keeps it busy; the server's own log tells how much of the limit was used and how many calls were
refused. Then the limit halves and doubles in the middle of a run, and the log tells how soon the rate followed.

Bars: at least 95 % of the limit used, at most 1 % of the calls refused, no growth of refusals with the number of
workers, also with `--learned`, where nothing is announced (learning costs about ten refusals: give it three minutes);
after a change the rate is within 10 % of the new limit in less than 60 seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import pandas as pd
from distributed import Client, LocalCluster

import apwa_dask as apwa
from apwa_dask.testing import Call, Script, ScriptedServer

KEY = "APWA_BENCH_KEY"
WARM_UP_S = 5.0
"""The burst that a full bucket allows, and the probe, are over by then."""
STEP_S = 5.0
SETTLED = 0.10


@dataclass(frozen=True)
class Use:
    """How a limit was used.

    Parameters
    ----------
    workers : int
    rpm : float
        What the server allowed.
    calls, refused : int
    used : float
        Answers over what the limit allows, after the warm-up.
    announced : bool
        Whether the server's headers tell the limit; else it is learned from refusals.
    """

    workers: int
    rpm: float
    calls: int
    refused: int
    used: float
    announced: bool = True

    @property
    def good(self) -> bool:
        return self.used >= 0.95 and self.refused <= 0.01 * self.calls


@dataclass(frozen=True)
class Change:
    """A limit that changed, and seconds until the rate was within `SETTLED` of the new one and stayed there."""

    before_rpm: float
    after_rpm: float
    settled_s: float | None

    @property
    def good(self) -> bool:
        return self.settled_s is not None and self.settled_s <= 60.0


def main(arguments: list[str] | None = None) -> int:
    """Measure, write one JSON line for each figure, and return 1 where a bar is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--rpm", type=float, default=600.0)
    parser.add_argument("--minutes", type=float, default=2.0, help="length of each run")
    parser.add_argument("--learned", action="store_true", help="the server announces nothing; no changes")
    chosen = parser.parse_args(arguments)
    os.environ[KEY] = "sk-only-for-loopback"
    script = Script(rpm=chosen.rpm, latency_s=0.5, keep_bodies=False)
    if chosen.learned:
        script = script.but(limit_headers="none", retry_after="none")
    uses = [use_of(workers, script, 60 * chosen.minutes) for workers in chosen.workers]
    changes = [] if chosen.learned else changes_of(max(chosen.workers), chosen.rpm)
    for figure in (*uses, *changes):
        sys.stdout.write(json.dumps({**asdict(figure), "good": figure.good}) + "\n")
    return 0 if all(figure.good for figure in (*uses, *changes)) else 1


def use_of(workers: int, script: Script, seconds: float) -> Use:
    """Keep a limit busy for so many seconds, from so many processes."""
    rpm = script.rpm or 0.0
    rows = int(rpm / 60 * seconds)
    with (
        ScriptedServer(script) as server,
        cluster_of(workers) as client,
    ):
        run = started(server, rows, workers, client)
        run.wait()
        calls = list(server.log())
    answered = [call.t_start for call in calls if call.status == 200]
    begin = answered[0] + WARM_UP_S
    steady = [at for at in answered if at >= begin]
    used = (len(steady) - 1) / (steady[-1] - steady[0]) / (rpm / 60)
    refused = sum(call.status == 429 for call in calls)
    return Use(workers, rpm, len(calls), refused, round(used, 4), script.limit_headers != "none")


def changes_of(workers: int, rpm: float) -> list[Change]:
    """Halve the limit in the middle of a run, then double it again."""
    script = Script(rpm=rpm, latency_s=0.5, keep_bodies=False)
    phases = [(30.0, rpm), (75.0, rpm / 2), (75.0, rpm)]
    rows = int(1.2 * sum(seconds * limit / 60 for seconds, limit in phases))  # never short of rows
    marks: list[float] = []
    with ScriptedServer(script) as server, cluster_of(workers) as client:
        run = started(server, rows, workers, client)
        server.wait_until(lambda stats: stats.calls > 0, timeout_s=60)
        for seconds, limit in phases:
            if limit != server.script.rpm:
                server.set(script.but(rpm=limit))
            marks.append(time.monotonic())
            time.sleep(seconds)
        calls = list(server.log())
        run.stop()
    return [
        Change(before, after, settled_s(calls, at, at + seconds, after / 60))
        for (_, before), (seconds, after), at in zip(phases, phases[1:], marks[1:], strict=False)
    ]


def settled_s(calls: list[Call], begin: float, end: float, per_s: float) -> float | None:
    """Seconds from `begin` until all later windows of `STEP_S` keep to the rate; None: never."""
    settled: float | None = None
    at = begin
    while at + STEP_S <= end:
        seen = sum(call.status == 200 and at <= call.t_start < at + STEP_S for call in calls) / STEP_S
        within = abs(seen - per_s) <= SETTLED * per_s + 1 / STEP_S
        settled = (at - begin if settled is None else settled) if within else None
        at += STEP_S
    return None if settled is None else round(settled, 1)


def started(server: ScriptedServer, rows: int, workers: int, client: Client) -> apwa.Run:
    """A run that asks for more than the limit."""
    frame = pd.DataFrame({"text": [f"row {k}" for k in range(rows)]})
    model = apwa.Model("bench", base_url=server.base_url, api_key_env=KEY, max_concurrency=64)
    table = apwa.from_pandas(frame, npartitions=4 * workers).map("say", inputs="text", output={"a": int})
    return table.run(
        model=model, store=tempfile.mkdtemp(prefix="apwa-limits-"), client=client, progress=False
    )


@contextmanager
def cluster_of(workers: int) -> Iterator[Client]:
    """So many worker processes on this machine."""
    with (
        LocalCluster(
            n_workers=workers, threads_per_worker=4, processes=True, dashboard_address=":0"
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        client.wait_for_workers(workers)
        yield client


if __name__ == "__main__":
    raise SystemExit(main())
