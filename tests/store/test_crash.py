"""kill -9 at every named point: what was promised before is there after, and nothing half-done is seen."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from apwa_dask.errors import StoreError
from apwa_dask.store.commit import CommitRecord
from apwa_dask.store.journal import Journal, Record
from apwa_dask.store.killpoints import KILL_AT_VARIABLE
from apwa_dask.store.runs import RunStatus, RunStore

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")

CHILDREN = Path(__file__).with_name("children.py")
MakeRecord = Callable[..., Record]
Segments = Callable[[Path], list[Path]]


def start(scenario: str, *arguments: str, kill_at: str = "") -> subprocess.Popen[str]:
    root = str(CHILDREN.parents[2])
    environment = {**os.environ, KILL_AT_VARIABLE: kill_at, "PYTHONPATH": root}
    return subprocess.Popen(
        [sys.executable, str(CHILDREN), scenario, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )


def run_killed(scenario: str, *arguments: str, kill_at: str) -> list[str]:
    """The promises that the child made before it was killed at `kill_at`."""
    child = start(scenario, *arguments, kill_at=kill_at)
    output, _ = child.communicate(timeout=60)
    assert child.returncode == -signal.SIGKILL, f"{kill_at} was never reached"
    return output.split("\n")[:-1]


def run_through(scenario: str, *arguments: str) -> list[str]:
    child = start(scenario, *arguments)
    output, _ = child.communicate(timeout=120)
    assert child.returncode == 0
    return output.split("\n")[:-1]


@pytest.mark.parametrize(
    ("point", "batches"),
    [
        ("journal.before_write", 2),
        ("journal.half_written", 2),
        ("journal.before_rename", 2),
        ("journal.after_rename", 3),  # durable, though nobody was told
    ],
)
def test_a_journal_killed_anywhere_serves_every_flushed_record(
    tmp_path: Path, record: MakeRecord, point: str, batches: int
) -> None:
    promised = run_killed("journal", str(tmp_path), kill_at=f"{point}:3")
    assert promised == ["0", "1"]
    with Journal(str(tmp_path)) as journal:
        found = journal.get_many([record(n).key for n in range(50)])
        assert found == {record(n).key: record(n) for n in range(10 * batches)}
        assert journal.stats().ignored == {}


@pytest.mark.parametrize("point", ["half_written", "before_rename", "after_rename", "before_delete"])
def test_a_compaction_killed_anywhere_loses_nothing_and_is_finished_by_the_next(
    tmp_path: Path, record: MakeRecord, segments: Segments, point: str
) -> None:
    with Journal(str(tmp_path)) as journal:
        for n in range(50):
            journal.put(record(n))
            if n % 10 == 9:
                journal.flush()
    run_killed("compaction", str(tmp_path), kill_at=f"compaction.{point}")
    keys = [record(n).key for n in range(50)]
    with Journal(str(tmp_path)) as journal:
        assert len(journal.get_many(keys)) == 50
    with Journal(str(tmp_path)) as journal:
        journal.compact()  # the dead process's lease does not hold it up
        assert journal.stats().records == 50
    assert len(segments(tmp_path)) == 1
    with Journal(str(tmp_path)) as journal:
        assert len(journal.get_many(keys)) == 50


@pytest.mark.parametrize(
    ("point", "committed"),
    [
        ("part.half_written:2", 1),
        ("part.before_rename:2", 1),
        ("part.after_rename:2", 1),  # fault 49: data without a commit record is an orphan
        ("commit.before:2", 1),
        ("commit.half_written:2", 1),
        ("commit.before_link:2", 1),
        ("commit.after_link:2", 2),
        ("commit.after:2", 2),
        ("manifest.before_link", 3),
    ],
)
def test_faults_49_and_50_a_commit_killed_anywhere_shows_whole_partitions_only(
    tmp_path: Path, point: str, committed: int
) -> None:
    run = RunStore(str(tmp_path)).create("run-1", {})
    run_killed("commit", str(tmp_path), "1", kill_at=point)
    found = run.committed("s")
    assert list(found) == list(range(committed))
    assert all(run.read_part(record).num_rows == 4 for record in found.values())
    assert run.manifest is None
    assert run.status is not RunStatus.DONE

    for partition in range(3):  # a resume
        part = run.write_part("s", partition, 2, pa.table({"attempt": [2] * 4}))
        winner = run.commit("s", partition, CommitRecord("s", partition, 2, part, rows_out=4))
        assert winner.attempt == (1 if partition < committed else 2)
    run.finish({})
    assert run.status is RunStatus.DONE
    run.sweep("s")
    data_files = list(tmp_path.glob("runs/run-1/data/s/*/*.parquet"))
    assert len(data_files) == 3


def test_two_processes_that_commit_the_same_partitions_agree_on_the_winners(tmp_path: Path) -> None:
    run = RunStore(str(tmp_path)).create("run-1", {})
    children = [start("commit", str(tmp_path), str(attempt)) for attempt in (1, 2)]
    outputs = [child.communicate(timeout=120)[0] for child in children]
    assert outputs[0] == outputs[1]
    assert len(run.committed("s")) == 3
    for record in run.committed("s").values():
        assert run.read_part(record).column("attempt").to_pylist() == [record.attempt] * 4


def test_two_processes_write_and_compact_one_journal_without_losing_a_record(
    tmp_path: Path, record: MakeRecord
) -> None:
    children = [start("write_many", str(tmp_path), str(begin)) for begin in (0, 1000)]
    for child in children:
        child.communicate(timeout=120)
        assert child.returncode == 0
    numbers = [*range(200), *range(1000, 1200)]
    with Journal(str(tmp_path)) as journal:
        found = journal.get_many([record(n).key for n in numbers])
        assert found == {record(n).key: record(n) for n in numbers}
        assert journal.stats().ignored == {}


def test_fault_51_a_second_owner_is_refused_until_the_first_is_dead(tmp_path: Path) -> None:
    run = RunStore(str(tmp_path)).create("run-1", {})
    owner = start("hold", str(tmp_path))
    assert owner.stdout is not None
    assert owner.stdout.readline() == "claimed\n"
    assert run.status is RunStatus.RUNNING
    with pytest.raises(StoreError, match="in use") as refused:
        run.claim("the second owner")
    assert refused.value.code == "STORE-CLAIMED"
    assert "the first owner" in refused.value.why
    owner.kill()
    owner.communicate(timeout=120)
    lease = run.claim("the second owner")  # at once, though the dead one's hour is not over
    assert lease.fence == 2


def test_a_script_that_forgets_to_close_loses_nothing(tmp_path: Path, record: MakeRecord) -> None:
    assert run_through("exit_without_close", str(tmp_path)) == ["put"]
    with Journal(str(tmp_path)) as journal:
        assert journal.get_many([record(1).key])
