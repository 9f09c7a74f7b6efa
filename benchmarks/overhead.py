"""What the engine costs beside the loops that people write by hand and beside its peers: one server, one run, ratios.

Each measurement is a fresh process; the rounds are interleaved, so that a busy machine is busy for all of them.
Read ratios, and CPU rather than wall.

    python benchmarks/overhead.py --cases A,B,C,D,E,G --peers --python semlib=/tmp/semlib/bin/python ...
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from apwa_dask.testing import ScriptedServer  # noqa: E402
from benchmarks.cases import CASES, Case, chosen  # noqa: E402
from benchmarks.contestants import CLIENTS, PYTHONS_VARIABLE, Contestant, named, pythons  # noqa: E402
from benchmarks.measuring import Measurement, Rows, measure  # noqa: E402
from benchmarks.summary import bars, bars_table, summarise, table  # noqa: E402
from benchmarks.workload import Workload, prepare  # noqa: E402

STEADY_TIMES = 3
"""The second size of a round: CPU of this many times the rows less CPU of the rows is steady work."""


def run_case(case: Case, clients: Sequence[Contestant], given: argparse.Namespace) -> list[Measurement]:
    """All rounds of a case, the clients in turn within each; peers take part in the first `given.peer_rounds`."""
    found: list[Measurement] = []
    absent: set[str] = set()
    with tempfile.TemporaryDirectory() as place, ScriptedServer(case.script) as server:
        folder = Path(place)
        jobs: dict[int, Workload] = {}
        for number in range(given.rounds):
            for rows, client in _turns(case, clients, given.steady):
                if client.name in absent or (client.slow and number >= given.peer_rounds):
                    continue
                if rows not in jobs:
                    distinct = max(1, round(rows * case.distinct_share))
                    where = folder / f"{rows}"
                    jobs[rows] = prepare(where, server.base_url, rows, case.concurrency, distinct)
                made = measure(case, client, jobs[rows], folder, server, given.pythons, given.timeout)
                found.append(made)
                if made.trouble.startswith("not installed"):
                    absent.add(client.name)
                _tell(number, made)
    _same_prompts(found)
    return found


def _turns(case: Case, clients: Sequence[Contestant], steady: bool) -> list[tuple[int, Contestant]]:
    turns = []
    for client in clients:
        if client.slow and case.only_quick:
            continue
        rows = case.slow_rows if client.slow else case.rows
        turns.append((rows, client))
        if steady and not client.slow:
            turns.append((STEADY_TIMES * rows, client))
    return turns


def _tell(number: int, made: Measurement) -> None:
    words = made.trouble or f"wall {made.wall_s:.2f} s, CPU {made.cpu_s:.2f} s, {made.calls} requests"
    print(
        f"{made.case}, round {number + 1}: {made.client}, {made.wanted_rows} rows: {words}; "
        f"load {os.getloadavg()[0]:.1f}",
        file=sys.stderr,
        flush=True,
    )


def _same_prompts(found: Sequence[Measurement]) -> None:
    """Clients that say that they send the engine's bytes did so.

    Raises
    ------
    RuntimeError
        Where as many calls came to other sums of prompt tokens, no call having failed.
    """
    sums: dict[tuple[int, int], set[int]] = {}
    for m in found:
        faultless = m.rows.right == m.calls == m.wanted_rows == m.distinct
        if CLIENTS[m.client].same_prompt and faultless:
            sums.setdefault((m.wanted_rows, m.calls), set()).add(m.prompt_tokens)
    different = {key: tokens for key, tokens in sums.items() if len(tokens) > 1}
    if different:
        raise RuntimeError(f"the clients did not send the same prompts: {different}")


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", default="A", help=f"letters of {', '.join(CASES)}; comma separated")
    parser.add_argument("--rows", nargs="+", default=[], metavar="CASE=N", help="another number of rows")
    parser.add_argument("--rounds", type=int, default=3, help="of the quick clients")
    parser.add_argument("--peer-rounds", type=int, default=1, help="of the slow clients")
    parser.add_argument("--clients", default="", help="names, comma separated; default: all but the peers")
    parser.add_argument("--peers", action="store_true", help="also the libraries that are compared")
    parser.add_argument(
        "--python",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=PATH",
        help=f"interpreter of a library's environment; also by {PYTHONS_VARIABLE}=NAME=PATH,...",
    )
    parser.add_argument(
        "--steady", action="store_true", help=f"quick clients also at {STEADY_TIMES} times the rows"
    )
    parser.add_argument(
        "--busy",
        type=int,
        default=0,
        help="processes that compute meanwhile, as on a machine that others use",
    )
    parser.add_argument("--timeout", type=float, default=900.0, help="of one process, seconds")
    parser.add_argument("--json", type=Path, help="write measurements, summaries and bars here")
    parser.add_argument("--report", type=Path, help="measure nothing: print the tables of such a file")
    given = parser.parse_args(words)
    try:
        sizes = {name: int(count) for name, _, count in (word.partition("=") for word in given.rows)}
        given.cases = chosen([name.strip() for name in given.cases.split(",")], sizes)
        given.clients = named(
            [name.strip() for name in given.clients.split(",") if name.strip()], given.peers
        )
        given.pythons = pythons(given.python)
    except KeyError as why:
        parser.error(f"no case is called {why}; known: {', '.join(CASES)}")
    except ValueError as why:
        parser.error(str(why))
    return given


def keep(path: Path, found: Sequence[Measurement], cases: Sequence[Case]) -> None:
    """Write what was measured, and what it comes to."""
    summaries = summarise(found, cases)
    parts = {"measurements": found, "summaries": summaries, "bars": bars(summaries)}
    path.write_text(
        json.dumps({name: [asdict(each) for each in made] for name, made in parts.items()}, indent=1)
    )


def kept(path: Path) -> list[Measurement]:
    """The measurements that `--json` wrote."""
    document = json.loads(path.read_text())
    return [Measurement(**{**made, "rows": Rows(**made["rows"])}) for made in document["measurements"]]


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """So many processes that compute without end, for as long as the block lasts."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def main(words: Sequence[str] | None = None) -> int:
    given = arguments(words)
    load = os.getloadavg()[0]
    if given.report:
        found = kept(given.report)
        given.cases = [case for case in given.cases if any(m.case == case.name for m in found)]
    else:
        found = []
        with busy(given.busy):
            for case in given.cases:
                found += run_case(case, given.clients, given)
                if given.json:  # after each case: an hour's work is not lost with the last one
                    keep(given.json, found, given.cases)
        print(
            f"{given.rounds} rounds ({given.peer_rounds} of slow clients); Python {platform.python_version()}, "
            f"{os.cpu_count()} cores, load {load:.1f} before, {os.getloadavg()[0]:.1f} after"
        )
    summaries = summarise(found, given.cases)
    for case in given.cases:
        print(f"\n## Case {case.name}: {case.title}\n\n{table(summaries, case)}")
    print(f"\n## Bars\n\n{bars_table(bars(summaries))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
