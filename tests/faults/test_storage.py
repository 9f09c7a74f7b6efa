"""Faults 49 to 56 of the matrix (storage and commit), each through a real run against the scripted server's log."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import apwa_dask as apwa
from apwa_dask.errors import ConfigError, StoreError
from apwa_dask.execution.runtime import runtime
from apwa_dask.store import local_folder, trouble
from apwa_dask.store.killpoints import KILL_AT_VARIABLE
from apwa_dask.store.runs import RunStore
from apwa_dask.store.segment_format import format_of

FRAME = pd.DataFrame({"text": [f"row {k}" for k in range(60)], "k": range(60)})
PARTS, IN_FLIGHT = 6, 4
CHILD = """
import sys
import pandas as pd
import apwa_dask as apwa
url, store = sys.argv[1:]
frame = pd.DataFrame({"text": [f"row {k}" for k in range(60)], "k": range(60)})
model = apwa.Model("test-model", base_url=url, api_key_env="APWA_TEST_KEY", max_concurrency=4)
table = apwa.from_pandas(frame, npartitions=6).map("say", inputs="text", output={"a": str})
run = table.run(model=model, store=store, scheduler="threads", progress=False)
print(run.id, flush=True)
run.wait()
"""


def table(npartitions: int = PARTS) -> apwa.Table:
    return apwa.from_pandas(FRAME, npartitions=npartitions).map("say", inputs="text", output={"a": str})


def died_at(point: str, url: str, store: str) -> str:
    """Run the child until `point` kills it with -9; the id of its run."""
    root = str(Path(apwa.__file__).parent.parent)
    child = subprocess.run(
        [sys.executable, "-c", CHILD, url, store],
        env={**os.environ, "PYTHONPATH": root, KILL_AT_VARIABLE: point},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert child.returncode == -9, f"{point} was never reached: {child.stderr[-500:]}"
    return child.stdout.split()[0]


def data_files(store: str, run_id: str) -> set[str]:
    folder = Path(store) / "runs" / run_id
    return {path.relative_to(folder).as_posix() for path in folder.glob("data/*/*/*.parquet")}


def named_files(run: apwa.Run) -> set[str]:
    records = [record for stage in run.stages for record in run.folder.committed(stage.index).values()]
    return {file.name for record in records for file in record.files}


@pytest.fixture
def whole(scripted_server, model_at, tmp_path) -> pd.DataFrame:
    """What comes out when nothing goes wrong."""
    run = table().run(model=model_at(scripted_server()), store=str(tmp_path / "whole"), progress=False)
    return run.result(status=True)


@pytest.mark.parametrize(
    "point", ["part.after_rename:3", "partition.before_commit:3", "commit.before_link:3"]
)
def test_fault_49_a_crash_between_data_and_commit_leaves_an_orphan_that_nobody_reads(
    scripted_server, model_at, canary_key, invariants, store, whole, point
):
    server = scripted_server()
    run_id = died_at(point, server.base_url, store)
    server.wait_until(lambda stats: stats.in_flight == 0)
    orphans = data_files(store, run_id) - named_files(apwa.attach(run_id, store, progress=False))
    assert orphans, "the crash left data that no record names"
    crashed_at = server.calls

    run = apwa.attach(run_id, store, progress=False).resume()
    # answers of other partitions may have been on their way to the journal
    invariants.hold(
        run, server, FRAME, paid_again=crashed_at, interrupted=True, canary=canary_key, uninterrupted=whole
    )

    assert orphans.isdisjoint(named_files(run))
    for stage in run.stages:
        run.folder.sweep(stage.index)
    assert data_files(store, run_id) == named_files(run), "orphans are collected, and nothing else"
    pd.testing.assert_frame_equal(run.result(status=True), whole)


@pytest.mark.parametrize("point", ["part.half_written:2", "commit.half_written:2", "journal.half_written:1"])
def test_fault_50_a_crash_in_the_middle_of_a_write_is_never_visible(
    scripted_server, model_at, canary_key, invariants, store, whole, point
):
    server = scripted_server()
    run_id = died_at(point, server.base_url, store)
    server.wait_until(lambda stats: stats.in_flight == 0)
    crashed_at = server.calls
    run = apwa.attach(run_id, store, progress=False)
    for stage in run.stages:  # what can be read now is whole
        for record in run.folder.committed(stage.index).values():
            assert run.folder.read_part(record).num_rows == record.rows_out == 10

    run.resume()

    invariants.hold(
        run, server, FRAME, paid_again=crashed_at, interrupted=True, canary=canary_key, uninterrupted=whole
    )
    assert runtime().journal(store, "default", store_prompts=False).stats().ignored == {}


def test_fault_51_of_two_resumes_at_once_one_works_and_the_other_is_refused(
    scripted_server, model_at, canary_key, invariants, store, whole, slow_from
):
    server = scripted_server(faults=(slow_from(11),))
    first = table().run(model=model_at(server, max_concurrency=IN_FLIGHT), store=store, progress=False)
    server.wait_until(lambda stats: stats.calls >= 10)
    first.stop().wait()
    stopped_at = server.calls
    server.set(server.script.but(faults=(), latency_s=0.05))
    rivals = [apwa.attach(first.id, store, progress=False) for _ in range(2)]
    refused: list[StoreError] = []
    start = threading.Barrier(2)

    def resume(run: apwa.Run) -> None:
        start.wait()
        try:
            run.resume().wait()
        except StoreError as error:
            refused.append(error)

    threads = [threading.Thread(target=resume, args=[run]) for run in rivals]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=100)

    assert [error.code for error in refused] in ([], ["STORE-CLAIMED"]), (
        "[]: one had ended before the other began"
    )
    assert stopped_at < 60
    invariants.hold(
        apwa.attach(first.id, store, progress=False), server, FRAME, canary=canary_key, uninterrupted=whole
    )
    assert server.calls == 60


def test_fault_51_a_resume_that_is_refused_does_not_disturb_the_one_at_work(
    scripted_server, model_at, canary_key, invariants, store, whole, slow_from
):
    server = scripted_server(faults=(slow_from(11),))
    run = table().run(model=model_at(server, max_concurrency=IN_FLIGHT), store=store, progress=False)
    server.wait_until(lambda stats: stats.calls >= 10)

    with pytest.raises(StoreError) as refused:
        apwa.attach(run.id, store, progress=False).resume().wait()
    worked_on_at = server.calls
    server.set(server.script.but(faults=()))

    assert refused.value.code == "STORE-CLAIMED"
    assert worked_on_at < 60, "it was refused while the other worked"
    invariants.hold(run, server, FRAME, canary=canary_key, uninterrupted=whole)
    assert {"failed", "stopped"}.isdisjoint(event["event"] for event in run.folder.history())


def test_fault_52_what_is_done_is_never_decided_from_a_cached_listing(
    scripted_server, model_at, canary_key, invariants, whole, slow_from
):
    """One handle on a store whose filesystem caches listings, the work done through another."""
    import fsspec

    server = scripted_server(faults=(slow_from(11),))
    place = f"memory://fault-52-{os.getpid()}"
    cached = fsspec.filesystem("memory")
    run = table().run(model=model_at(server, max_concurrency=IN_FLIGHT), store=place, progress=False)
    server.wait_until(lambda stats: stats.calls >= 10)
    run.stop().wait()
    server.set(server.script.but(faults=()))
    watcher = RunStore(place, {"use_listings_cache": True}).open(run.id)
    before = {stage.index: len(watcher.committed(stage.index)) for stage in run.stages}

    run.resume().wait()

    after = {stage.index: len(watcher.committed(stage.index)) for stage in run.stages}
    assert sum(before.values()) < sum(after.values()) == PARTS
    invariants.hold(run, server, FRAME, canary=canary_key, uninterrupted=whole)
    assert server.calls == 60
    cached.rm(place, recursive=True)


class Disk:
    """The disk's write call, which fails on demand."""

    def __init__(self, patches: pytest.MonkeyPatch) -> None:
        self.number, self.failures, self.every = 0, 0, 0
        self._write, self._lock = os.write, threading.Lock()
        self._of_thread = (
            threading.local()
        )  # so that no thread meets all the failures, whatever the others do
        patches.setattr(local_folder.os, "write", self.write)
        patches.setattr(trouble, "BASE_S", 0.0)

    def fail(self, number: int, every: int = 1) -> None:
        """Fail each `every`-th write with this error number."""
        self.number, self.every = number, every

    def write(self, descriptor: int, data: Any) -> int:
        count = self._of_thread.count = getattr(self._of_thread, "count", 0) + 1
        with self._lock:
            if self.number and count % self.every == 0:
                self.failures += 1
                raise OSError(self.number, os.strerror(self.number))
        return self._write(descriptor, data)


@pytest.fixture
def disk() -> Iterator[Disk]:
    with pytest.MonkeyPatch.context() as patches:
        yield Disk(patches)


def test_fault_53_a_store_that_stumbles_costs_no_row_and_no_call(
    scripted_server, model_at, canary_key, invariants, store, whole, disk
):
    server = scripted_server()
    disk.fail(errno.EIO, every=4)

    run = table().run(model=model_at(server), store=store, progress=False)
    invariants.hold(run, server, FRAME, canary=canary_key, uninterrupted=whole)

    assert disk.failures >= 10
    assert server.calls == 60


def test_fault_53_lost_credentials_stop_the_run_in_words_and_a_resume_pays_for_the_rest(
    scripted_server, model_at, canary_key, invariants, store, whole, disk, slow_from
):
    server = scripted_server(faults=(slow_from(13),))
    run = table().run(model=model_at(server, max_concurrency=IN_FLIGHT), store=store, progress=False)
    server.wait_until(lambda stats: stats.calls >= 12)
    disk.fail(errno.EACCES)

    with pytest.raises(StoreError) as caught:
        run.wait(timeout=100)
    said = caught.value
    stopped_at = server.calls
    disk.fail(0)
    server.set(server.script.but(faults=()))

    assert said.code == "STORE-DENIED"
    assert said.fix
    assert said.saved
    assert stopped_at < 60, "it stopped paying"
    again = apwa.attach(run.id, store, progress=False).resume()
    invariants.hold(again, server, FRAME, canary=canary_key, uninterrupted=whole)
    assert server.calls == server.log().distinct_texts == 60


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_fault_54_a_run_again_with_other_partitions_into_one_output_never_mixes(
    scripted_server, model_at, store, tmp_path, suffix
):
    server = scripted_server()
    target = str(tmp_path / f"out.{suffix}")
    read = {"parquet": pd.read_parquet, "csv": pd.read_csv}[suffix]
    first = table(4).run(model=model_at(server), store=store, progress=False)
    first.export(target)

    second = apwa.from_pandas(FRAME.iloc[:24], npartitions=2).map("say", inputs="text", output={"a": str})
    run = second.run(model=model_at(server), store=store, progress=False)
    with pytest.raises(ConfigError) as refused:
        run.export(target)
    assert refused.value.code == "CONFIG-EXPORT-EXISTS"
    assert len(read(target)) == 60, "what was there is untouched"
    run.export(target, overwrite=True)

    assert len(read(target)) == 24, "replaced whole"
    assert [path.name for path in tmp_path.glob("*out*")] == [f"out.{suffix}"], (
        "nothing half-written beside it"
    )
    assert server.calls == 60


def test_fault_54_a_result_is_of_its_own_run_though_an_earlier_one_had_more_partitions(
    scripted_server, model_at, store, whole
):
    server = scripted_server()
    many = table(12).run(model=model_at(server), store=store, progress=False).wait()
    few = table(2).run(model=model_at(server), store=store, progress=False)

    result = few.result(status=True)

    assert len(many.result()) == len(result) == 60
    pd.testing.assert_frame_equal(result, whole)
    assert server.calls == 60


def newest_segment(store: str) -> Path:
    return max(Path(store).glob("journal/*/seg-*"), key=lambda path: path.stat().st_mtime_ns)


def records_in(segment: Path) -> pd.DataFrame:
    return format_of(segment.suffix).decode(segment.read_bytes()).to_pandas()


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0x40]) + data[middle + 1 :]


@pytest.mark.parametrize("harm", [flipped, lambda data: data[:-40]], ids=["a flipped byte", "a lost tail"])
def test_fault_55_a_damaged_segment_is_dropped_by_name_and_only_its_answers_are_paid_again(
    scripted_server, model_at, invariants, store, whole, harm
):
    server = scripted_server()
    table().run(model=model_at(server), store=store, progress=False).wait()
    victim = newest_segment(store)
    lost = len(records_in(victim))
    victim.chmod(0o600)
    victim.write_bytes(harm(victim.read_bytes()))
    forget_the_journal(store)

    run = table().run(model=model_at(server), store=store, progress=False)

    pd.testing.assert_frame_equal(run.result(status=True), whole)
    assert 0 < lost <= 60
    assert server.calls == 60 + lost
    assert invariants.paid_again(server.log()) == lost
    assert set(runtime().journal(store, "default", store_prompts=False).stats().ignored) == {victim.name}


def test_fault_55_a_damaged_part_is_named_and_its_rows_come_back_without_a_call(
    scripted_server, model_at, store, whole
):
    server = scripted_server()
    run = table().run(model=model_at(server), store=store, progress=False).wait()
    part = next(iter(run.folder.committed(0).values())).part
    path = Path(store) / "runs" / run.id / part.name
    path.write_bytes(flipped(path.read_bytes()))

    with pytest.raises(StoreError) as damaged:
        apwa.attach(run.id, store, progress=False).result()

    assert damaged.value.code == "STORE-DAMAGED"
    assert part.name in str(damaged.value)
    again = table().run(model=model_at(server), store=store, progress=False)
    pd.testing.assert_frame_equal(again.result(status=True), whole)
    assert server.calls == 60


def test_fault_56_foreign_and_forged_files_in_the_journal_are_ignored_and_counted(
    scripted_server, model_at, store, whole
):
    server = scripted_server()
    table().run(model=model_at(server), store=store, progress=False).wait()
    real = newest_segment(store)
    forged = records_in(real).assign(text='{"a": "forged"}')
    other = real.with_name(real.name.replace("seg-", "seg-x", 1)).with_suffix(".parquet")
    forged.to_parquet(other, index=False)
    (real.parent / "notes.txt").write_text("not a segment")
    forget_the_journal(store)

    run = table().run(model=model_at(server), store=store, progress=False)

    pd.testing.assert_frame_equal(run.result(status=True), whole)
    assert server.calls == 60
    ignored = runtime().journal(store, "default", store_prompts=False).stats().ignored
    assert set(ignored) == {other.name, "notes.txt"}


def test_fault_56_an_answer_of_another_schema_is_not_served(scripted_server, model_at, store):
    server = scripted_server()
    model = model_at(server)
    table().run(model=model, store=store, progress=False).wait()
    numbers = apwa.from_pandas(FRAME, npartitions=2).map("say", inputs="text", output={"a": int})

    result = numbers.run(model=model, store=store, progress=False).result()

    assert server.calls == 120
    said = {call.text: json.loads(call.answer)["a"] for call in server.log().calls[60:]}
    assert result["a"].tolist() == [said[text] for text in FRAME["text"]]


def forget_the_journal(store: str) -> None:
    """As a new process: what this one has in memory would hide what is on the disk."""
    here = runtime()
    with here._lock:
        for key in [key for key in here._journals if key[0] == store]:
            here._journals.pop(key).close()
