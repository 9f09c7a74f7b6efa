"""A join by a model of two large tables: each pair of a block is asked about once, and memory stays bounded.

Both tables are Parquet files of many parts. The right rows meet the left ones by a key, about one for each row; a
scripted model judges each pair. The client is a process of its own, so that its peak memory is the join's alone.

    python benchmarks/joining.py                     # 100,000 rows joined with 100,000
    python benchmarks/joining.py --rows 5000 --json out.json
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import pandas as pd  # noqa: E402

import apwa_dask as apwa  # noqa: E402
from apwa_dask.testing import ChatRequest, Script, ScriptedServer  # noqa: E402

PART_ROWS = 2_500
BODY = "what no prompt shows, but every joined row carries. " * 8
MIB = 1024


@dataclass(frozen=True, slots=True)
class Joined:
    """What one join came to.

    Attributes
    ----------
    pairs, calls : int
        Candidates by the key, and requests that the server saw.
    matched, kept : int
        Rows with a right side, and left rows that stay without one.
    wrong : int
        Rows whose sides do not belong together, or that have none though they should.
    start_mib, peak_mib : float
        Resident memory of the client before it reads anything, and at its most.
    """

    rows: int
    pairs: int
    calls: int
    matched: int
    kept: int
    wrong: int
    start_mib: float
    peak_mib: float
    wall_s: float

    @property
    def expected(self) -> tuple[int, int]:
        """Matched and kept rows, by how the tables are made."""
        matched = sum(belongs(row) for row in range(self.rows))
        with_match = len({key_of(row) for row in range(self.rows) if belongs(row)})
        return matched, self.rows - with_match

    @property
    def trouble(self) -> str:
        """Empty, or what is not as it must be."""
        found = {"calls": self.calls - self.pairs, "pairs": self.pairs - self.rows, "wrong": self.wrong}
        found |= {"matched": self.matched - self.expected[0], "kept": self.kept - self.expected[1]}
        return ", ".join(f"{name}: {by:+}" for name, by in found.items() if by)


def key_of(row: int) -> int:
    """The left row that a right row meets: its own number, but every tenth meets the one before."""
    return row - 1 if row % 10 == 0 and row else row


def belongs(row: int) -> bool:
    """Whether the model will say so of a right row; two of three."""
    return row % 3 != 0


def write_tables(folder: Path, rows: int) -> None:
    """``left`` and ``right`` as Parquet, the right rows in another order."""
    for side in ("left", "right"):
        (folder / side).mkdir(parents=True)
        for number, start in enumerate(range(0, rows, PART_ROWS)):
            numbers = range(start, min(start + PART_ROWS, rows))
            if side == "right":
                numbers = range(rows - 1 - numbers.start, rows - 1 - numbers.stop, -1)
            frame = pd.DataFrame([_row(side, n) for n in numbers])
            frame.to_parquet(folder / side / f"part-{number:04}.parquet", index=False)


def _row(side: str, number: int) -> dict[str, object]:
    if side == "left":
        return {"key": number, "name": f"item {number}", "body": BODY}
    same = f"item {key_of(number)}" if belongs(number) else "something else"
    return {"key": key_of(number), "number": number, "name": f"{same} (offer {number})", "body": BODY}


def judge(request: ChatRequest) -> str:
    """Both names begin with the same item."""
    cells = dict(line.split(": ", 1) for line in request.text.splitlines() if ": " in line)
    return json.dumps({"match": cells["name_right"].startswith(f"{cells['name']} (")})


def child(url: str, folder: Path) -> None:
    """The join, in this process; one line of JSON on standard output."""
    os.environ.setdefault("OPENAI_API_KEY", "none")
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    model = apwa.Model("judge", base_url=url, max_concurrency=64)
    left, right = (apwa.read(str(folder / side / "*.parquet")) for side in ("left", "right"))
    table = left.join(
        right, "Is the offer one of this item?", inputs=["name", "name_right"], how="left", on="key"
    )
    run = table.run(model=model, store=str(folder / "store"), scheduler="threads", progress=False).wait()
    matched = kept = wrong = 0
    for part in run.frame.to_delayed():  # one part at a time: the result is not the client's to hold
        frame = part.compute(scheduler="sync")
        there = frame["number"].notna()
        numbers = frame.loc[there, "number"].astype(int)
        wrong += int((numbers.map(key_of) != frame.loc[there, "key"]).sum() + (~numbers.map(belongs)).sum())
        matched, kept = matched + int(there.sum()), kept + int((~there).sum())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    failed = len(run.failures)
    found = {"matched": matched, "kept": kept, "wrong": wrong + failed, "start": start, "peak": peak}
    sys.stdout.write(json.dumps(found) + "\n")


def measured(rows: int, folder: Path, timeout_s: float = 3_000) -> Joined:
    """One join of `rows` with `rows` in a fresh process.

    Raises
    ------
    subprocess.SubprocessError
        The client died, or took longer than `timeout_s`.
    """
    write_tables(folder, rows)
    with ScriptedServer(Script(respond=judge), in_process=True) as server:
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, __file__, "--child", server.base_url, str(folder)],
            stdout=subprocess.PIPE,
            timeout=timeout_s,
            check=True,
        )
        wall_s, calls = time.monotonic() - began, server.calls
    told = json.loads(done.stdout.splitlines()[-1])
    return Joined(
        rows=rows,
        pairs=rows,
        calls=calls,
        matched=told["matched"],
        kept=told["kept"],
        wrong=told["wrong"],
        start_mib=told["start"] / MIB,
        peak_mib=told["peak"] / MIB,
        wall_s=wall_s,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one line; 1 where a row, a call or a pair is too many or missing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=100_000, help="of each table")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--child", nargs=2, metavar=("URL", "FOLDER"), help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.child:
        child(given.child[0], Path(given.child[1]))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        found = measured(given.rows, Path(folder))
    sys.stdout.write(
        f"{found.rows:,} x {found.rows:,}: {found.pairs:,} pairs, {found.calls:,} calls, "
        f"{found.matched:,} matched + {found.kept:,} left alone, {found.wrong} wrong; "
        f"{found.start_mib:.0f} MiB at the start, {found.peak_mib:.0f} MiB at most, {found.wall_s:.0f} s\n"
    )
    if given.json:
        given.json.write_text(json.dumps(asdict(found), indent=1))
    if found.trouble:
        sys.stdout.write(f"not as it must be: {found.trouble}\n")
    return int(bool(found.trouble))


if __name__ == "__main__":
    sys.exit(main())
