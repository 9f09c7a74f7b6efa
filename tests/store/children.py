"""What the tests run in processes of their own: ``python children.py <scenario> <store> [...]``.

Each prints one line for every promise it was given, so that the test can hold the store to it after a crash.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import pyarrow as pa
from conftest import make_record  # this file is run as a script from its own folder

from apwa_dask.store.commit import CommitRecord
from apwa_dask.store.journal import Journal
from apwa_dask.store.runs import RunStore


def promise(text: str) -> None:
    print(text, flush=True)


def journal(url: str) -> None:
    """Five batches of ten, each promised once it is flushed."""
    opened = Journal(url, flush_s=3600)
    for batch in range(5):
        for n in range(10):
            opened.put(make_record(10 * batch + n))
        opened.flush()
        promise(str(batch))
    opened.close()


def compaction(url: str) -> None:
    """Merge what is there."""
    opened = Journal(url)
    opened.compact()
    opened.close()
    promise("compacted")


def write_many(url: str, start: str) -> None:
    """200 records in small segments, compacting all the while."""
    opened = Journal(url, flush_records=5, flush_s=0.01, compact_above=8)
    for n in range(int(start), int(start) + 200):
        opened.put(make_record(n))
        if n % 10 == 0:
            opened.flush()
            opened.compact()
    opened.close()


def commit(url: str, attempt: str = "1") -> None:
    """Commit three partitions of an existing run."""
    run = RunStore(url).open("run-1")
    for partition in range(3):
        table = pa.table({"attempt": [int(attempt)] * 4})
        part = run.write_part("s", partition, int(attempt), table)
        winner = run.commit("s", partition, CommitRecord("s", partition, int(attempt), part, rows_out=4))
        promise(f"{partition} {winner.attempt}")
    run.finish({"attempt": int(attempt)})
    promise("finished")


def hold(url: str) -> None:
    """Claim a run, and hold it until killed."""
    RunStore(url).open("run-1").claim("the first owner", ttl_s=3600)
    promise("claimed")
    sys.stdin.readline()


def exit_without_close(url: str) -> None:
    """End as a script does that forgot to close."""
    opened = Journal(url, flush_s=3600)
    opened.put(make_record(1))
    promise("put")


SCENARIOS: dict[str, Callable[..., None]] = {
    scenario.__name__: scenario
    for scenario in (journal, compaction, write_many, commit, hold, exit_without_close)
}

if __name__ == "__main__":
    SCENARIOS[sys.argv[1]](*sys.argv[2:])
