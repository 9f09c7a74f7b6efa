"""How well many processes use one limit: ``python benchmarks/limits.py [--workers 4 8] [--minutes 2]``.

A scripted server on loopback allows 600 requests a minute, announced in its headers. For each number of worker
processes a run keeps it busy; the server's own log tells how much of the limit was used and how many calls were
refused. Then the limit halves and doubles in the middle of a run, and the log tells how soon the rate followed.

With `--tpm` the limits are of tokens, prompts and answers are of many lengths, and the ceiling of calls in flight is
high: reservations alone keep the limit. `--counts` says what the server takes from it, see `Script.counts_tokens`.

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
from itertools import product
from typing import Literal

import pandas as pd
from distributed import Client, LocalCluster

import apwa_dask as apwa
from apwa_dask.testing import Call, Lognormal, Rule, Script, ScriptedServer

KEY = "APWA_BENCH_KEY"
WARM_UP_S = 5.0
"""The burst that a full bucket allows, and the probe, are over by then."""
STEP_S = 5.0
SETTLED = 0.10

ANSWER_TOKENS = (5, 8, 12, 20, 30, 45, 60, 90, 140, 200)
"""Of the answer to a row, by the last digit of its number."""
PROMPT_WORDS = (0, 10, 20, 40, 80, 160, 320)
"""Words added to a row, in turn."""
MOST_OUTPUT_TOKENS = 256
LEAST_TOKENS = 100
"""Of a call: so many rows are not used up before their time."""
MANY_IN_FLIGHT = 256


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
class TokenUse:
    """How a limit of tokens was used.

    Parameters
    ----------
    workers : int
    tpm : float
        What the server allowed.
    counts : str
        What a call took of it, see `Script.counts_tokens`.
    calls, refused : int
    calls_per_minute : float
        Answered, after the warm-up.
    used : float
        Tokens that were counted over what the limit allows, after the warm-up.
    """

    workers: int
    tpm: float
    counts: str
    calls: int
    refused: int
    calls_per_minute: float
    used: float

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
    parser.add_argument("--learned", action="store_true", help="the server announces nothing")
    parser.add_argument("--only-changes", action="store_true", help="halve and double the limit, no more")
    parser.add_argument("--tpm", type=float, nargs="+", help="limits of tokens a minute, instead of requests")
    parser.add_argument("--counts", choices=["made", "most"], nargs="+", default=["made", "most"])
    chosen = parser.parse_args(arguments)
    os.environ[KEY] = "sk-only-for-loopback"
    good = True
    for figure in figures(chosen):
        sys.stdout.write(json.dumps({**asdict(figure), "good": figure.good}) + "\n")
        sys.stdout.flush()
        good = good and figure.good
    return 0 if good else 1


def figures(chosen: argparse.Namespace) -> Iterator[Use | TokenUse | Change]:
    """All that was asked for, one after the other."""
    seconds = 60 * chosen.minutes
    if chosen.tpm:
        for tpm, counts, workers in product(chosen.tpm, chosen.counts, chosen.workers):
            yield token_use_of(workers, tpm, counts, seconds)
        return
    script = Script(rpm=chosen.rpm, latency_s=0.5, keep_bodies=False)
    if chosen.learned:
        script = script.but(limit_headers="none", retry_after="none")
    for workers in () if chosen.only_changes else chosen.workers:
        yield use_of(workers, script, seconds)
    if chosen.only_changes or not chosen.learned:
        yield from changes_of(max(chosen.workers), script)


def use_of(workers: int, script: Script, seconds: float) -> Use:
    """Keep a limit busy for so many seconds, from so many processes."""
    rpm = script.rpm or 0.0
    rows = int(rpm / 60 * seconds)
    with (
        ScriptedServer(script) as server,
        cluster_of(workers) as client,
    ):
        run = started(rows_of(rows), model_of(server), workers, client)
        run.wait()
        calls = list(server.log())
    answered = [call.t_start for call in calls if call.status == 200]
    begin = answered[0] + WARM_UP_S
    steady = [at for at in answered if at >= begin]
    used = (len(steady) - 1) / (steady[-1] - steady[0]) / (rpm / 60)
    refused = sum(call.status == 429 for call in calls)
    return Use(workers, rpm, len(calls), refused, round(used, 4), script.limit_headers != "none")


def token_use_of(workers: int, tpm: float, counts: Literal["made", "most"], seconds: float) -> TokenUse:
    """Keep a limit of tokens busy for so many seconds after the warm-up, from so many processes."""
    rules = tuple(
        Rule(rf"row \d*{digit}\b", {"a": "word" * (tokens - 3)}) for digit, tokens in enumerate(ANSWER_TOKENS)
    )
    latency_s = Lognormal(p50_s=0.5, p99_s=2.0, seed=1)
    script = Script(tpm=tpm, counts_tokens=counts, rules=rules, latency_s=latency_s, keep_bodies=False)
    texts = [
        f"row {k}" + " word" * PROMPT_WORDS[k % len(PROMPT_WORDS)]
        for k in range(int(tpm / 60 * (WARM_UP_S + seconds) / LEAST_TOKENS))
    ]
    with ScriptedServer(script) as server, cluster_of(workers) as client:
        frame = pd.DataFrame({"text": texts})
        model = model_of(server, max_concurrency=MANY_IN_FLIGHT, max_output_tokens=MOST_OUTPUT_TOKENS)
        run = started(frame, model, workers, client, {"a": str})
        server.wait_until(lambda stats: stats.calls > 0, timeout_s=60)
        time.sleep(WARM_UP_S + seconds)
        calls = list(server.log())
        run.stop()
    begin = next(call.t_start for call in calls if call.status == 200) + WARM_UP_S
    steady = [call for call in calls if call.billed and begin <= call.t_start < begin + seconds - 1.0]
    span_s = steady[-1].t_start - steady[0].t_start
    counted = sum(
        call.prompt_tokens + (MOST_OUTPUT_TOKENS if counts == "most" else call.completion_tokens)
        for call in steady[1:]
    )
    refused = sum(call.status == 429 for call in calls)
    used = counted / (tpm / 60 * span_s)
    return TokenUse(
        workers, tpm, counts, len(calls), refused, round(len(steady) / span_s * 60, 1), round(used, 4)
    )


def changes_of(workers: int, script: Script) -> list[Change]:
    """Halve the limit in the middle of a run, then double it again."""
    rpm = script.rpm or 0.0
    phases = [(30.0, rpm), (75.0, rpm / 2), (75.0, rpm)]
    rows = int(1.2 * sum(seconds * limit / 60 for seconds, limit in phases))  # never short of rows
    marks: list[float] = []
    with ScriptedServer(script) as server, cluster_of(workers) as client:
        run = started(rows_of(rows), model_of(server), workers, client)
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


def rows_of(count: int) -> pd.DataFrame:
    """So many short ones."""
    return pd.DataFrame({"text": [f"row {k}" for k in range(count)]})


def model_of(
    server: ScriptedServer, max_concurrency: int = 64, max_output_tokens: int | None = None
) -> apwa.Model:
    """The one that the server answers for."""
    return apwa.Model(
        "bench",
        base_url=server.base_url,
        api_key_env=KEY,
        max_concurrency=max_concurrency,
        max_output_tokens=max_output_tokens,
    )


def started(
    frame: pd.DataFrame,
    model: apwa.Model,
    workers: int,
    client: Client,
    output: dict[str, type] | None = None,
) -> apwa.Run:
    """A run that asks for more than the limit."""
    table = apwa.from_pandas(frame, npartitions=4 * workers)
    said = table.map("say", inputs="text", output=output or {"a": int})
    store = tempfile.mkdtemp(prefix="apwa-limits-")
    return said.run(model=model, store=store, client=client, progress=False)


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
