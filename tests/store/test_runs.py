"""Runs: found again by id, committed once, finished last."""

from __future__ import annotations

import threading
from dataclasses import replace

import pyarrow as pa
import pytest

from apwa_dask.errors import RunError, StoreError
from apwa_dask.store.commit import CommitRecord, LedgerLine
from apwa_dask.store.runs import RunFolder, RunStatus, RunStore

TABLE = pa.table({"id": [1, 2, 3], "severity": [5, None, 2]})


def make_run(url: str, run_id: str = "run-1") -> RunFolder:
    return RunStore(url).create(run_id, {"name": "complaints", "plan": {"steps": 2}})


def attempt(run: RunFolder, number: int = 1, table: pa.Table = TABLE, **fields: object) -> CommitRecord:
    part = run.write_part("0", 7, number, table)
    ledger = (LedgerLine("s1", "m", "ok", 3, 300, 0, 60, 0.01),)
    return CommitRecord("0", 7, number, part, rows_in=3, rows_out=3, ledger=ledger, **fields)  # type: ignore[arg-type]


def test_a_run_is_found_again_by_its_id(url: str) -> None:
    make_run(url)
    found = RunStore(url).open("run-1")
    assert found.spec["plan"] == {"steps": 2}
    assert found.status is RunStatus.CREATED


def test_creating_a_run_again_opens_it_and_another_spec_is_refused(url: str) -> None:
    created = make_run(url).spec["created_s"]
    assert make_run(url).spec["created_s"] == created
    with pytest.raises(StoreError, match="another plan") as refused:
        RunStore(url).create("run-1", {"name": "other"})
    assert refused.value.code == "STORE-RUN-EXISTS"


def test_an_unknown_run_is_refused_with_the_ids_there_are(url: str) -> None:
    make_run(url)
    with pytest.raises(RunError, match="run-1"):
        RunStore(url).open("run-2")


@pytest.mark.parametrize(
    "run_id", ["../x", "a/b", "/etc", "", ".", "a..b", "a%2fb/", "nul", "a\0b", "x::y", "~"]
)
def test_no_run_id_leaves_its_folder(url: str, run_id: str) -> None:
    with pytest.raises(StoreError) as refused:
        RunStore(url).create(run_id, {})
    assert refused.value.code == "STORE-NAME"


def test_what_was_committed_is_read_back_and_nothing_else(url: str) -> None:
    run = make_run(url)
    assert run.committed("0") == {}
    run.write_part("0", 8, 1, TABLE)  # a crash before its commit
    record = run.commit("0", 7, attempt(run))
    assert run.committed("0") == {7: record}
    assert run.commit_of("0", 7) == record
    assert run.commit_of("0", 8) is None
    assert run.read_part(record).equals(TABLE)
    assert run.read_part(record, columns=["id"]).column_names == ["id"]


def test_an_attempt_that_comes_second_loses_and_its_data_is_deleted(url: str) -> None:
    run = make_run(url)
    first, second = attempt(run, 1), attempt(run, 2)
    assert run.commit("0", 7, second) == second
    assert run.commit("0", 7, first) == second
    assert run.read_part(second).equals(TABLE)
    with pytest.raises(StoreError, match="missing"):
        run.read_part(first)


def test_two_attempts_of_one_number_never_share_a_file(url: str) -> None:
    run = make_run(url)
    first, second = attempt(run, 1), attempt(run, 1)
    run.commit("0", 7, first)
    assert run.commit("0", 7, second) == first
    assert run.read_part(first).equals(TABLE)


def test_committing_the_same_record_twice_is_no_loss(url: str) -> None:
    run = make_run(url)
    record = attempt(run)
    assert run.commit("0", 7, record) == run.commit("0", 7, record) == record
    assert run.read_part(record).equals(TABLE)


def test_committing_a_file_again_under_another_record_does_not_delete_it(url: str) -> None:
    run = make_run(url)
    record = run.commit("0", 7, attempt(run))
    assert run.commit("0", 7, replace(record, ended_s=1.0)) == record
    assert run.read_part(record).equals(TABLE)


def test_of_eight_threads_one_commit_wins(url: str) -> None:
    run = make_run(url)
    records = [attempt(run, n) for n in range(8)]
    start = threading.Barrier(8)
    winners: list[CommitRecord] = []

    def race(record: CommitRecord) -> None:
        start.wait()
        winners.append(run.commit("0", 7, record))

    threads = [threading.Thread(target=race, args=[record]) for record in records]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(winners)) == 1
    assert len(winners) == 8
    assert run.committed("0") == {7: winners[0]}
    assert run.read_part(winners[0]).equals(TABLE)


def test_a_retry_commits_the_next_generation_and_that_one_counts(url: str) -> None:
    run = make_run(url)
    first = run.commit("0", 7, attempt(run, 1))
    retried = run.commit("0", 7, attempt(run, 2, generation=1))
    assert run.committed("0") == {7: retried}
    assert run.commit_of("0", 7) == retried
    zombie = attempt(run, 3)
    assert run.commit("0", 7, zombie) == retried
    assert first != retried


def test_attempts_are_counted_across_handles_and_bounded(url: str) -> None:
    run = make_run(url)
    assert [run.begin_attempt("0", 7), RunStore(url).open("run-1").begin_attempt("0", 7)] == [1, 2]
    assert run.attempts_of("0", 7) == 2
    assert run.begin_attempt("0", 8) == 1
    with pytest.raises(StoreError) as refused:
        run.begin_attempt("0", 7, limit=2)
    assert refused.value.code == "STORE-ATTEMPTS"


def test_the_first_manifest_stands_unless_it_is_replaced(url: str) -> None:
    run = make_run(url)
    assert run.manifest is None
    assert run.finish({"rows": 3}) == {"rows": 3}
    assert run.finish({"rows": 4}) == {"rows": 3}
    assert run.status is RunStatus.DONE
    assert run.finish({"rows": 4, "status": "failed"}, replacing=True)["rows"] == 4
    assert run.status is RunStatus.FAILED


def test_status_follows_history_and_claim(url: str) -> None:
    run = make_run(url)
    lease = run.claim("me")
    run.append_history("started")
    assert run.status is RunStatus.RUNNING
    lease.release()
    assert run.status is RunStatus.STOPPED
    with run.claim("me"):
        run.append_history("resumed")
        assert run.status is RunStatus.RUNNING
        run.append_history("failed", why="quota")
    assert run.status is RunStatus.FAILED
    assert [event["event"] for event in run.history()] == ["started", "resumed", "failed"]


def test_runs_are_listed_newest_first(url: str) -> None:
    store = RunStore(url)
    for run_id in ("b", "a", "c"):
        store.create(run_id, {"name": run_id})
    assert [run.name for run in store.list()] == ["c", "a", "b"]
    assert [run.status for run in store.list(limit=1)] == [RunStatus.CREATED]


def test_documents_are_kept_by_name(url: str) -> None:
    run = make_run(url)
    run.put_text("plan.yaml", "steps: []")
    run.put_text("plan.yaml", "steps: [1]")
    assert run.get_text("plan.yaml") == "steps: [1]"
    with pytest.raises(StoreError, match=r"plan\.yaml"):
        run.get_text("report.html")


def test_purging_a_run_leaves_nothing_of_it(url: str) -> None:
    import fsspec

    run = make_run(url)
    run.commit("0", 7, attempt(run))
    run.put_text("plan.yaml", "x")
    run.append_history("started")
    run.begin_attempt("0", 7)
    RunStore(url).create("other", {})
    RunStore(url).purge("run-1")
    filesystem, path = fsspec.core.url_to_fs(url)
    assert not [name for name in filesystem.find(path) if "run-1" in name]
    assert [summary.run_id for summary in RunStore(url).list()] == ["other"]


def test_a_run_at_work_is_not_purged(url: str) -> None:
    run = make_run(url)
    with run.claim("me"), pytest.raises(StoreError, match="at work"):
        RunStore(url).purge("run-1")
    RunStore(url).purge("run-1")


def corrupt(url: str, name: str) -> None:
    import fsspec

    filesystem, path = fsspec.core.url_to_fs(url)
    place = f"{path}/runs/run-1/{name}"
    data = bytearray(filesystem.cat_file(place))
    data[len(data) // 2] ^= 1
    filesystem.pipe_file(place, bytes(data))


def test_a_damaged_commit_record_counts_for_nothing_and_is_superseded(url: str) -> None:
    run = make_run(url)
    lost = run.commit("0", 7, attempt(run, 1))
    corrupt(url, "commit/0/000007.0000.json")
    assert RunStore(url).open("run-1").committed("0") == {}
    again = RunStore(url).open("run-1").commit("0", 7, attempt(run, 2))
    assert again.generation == lost.generation + 1
    fresh = RunStore(url).open("run-1")
    assert fresh.committed("0") == {7: again}
    assert fresh.commit_of("0", 7) == again
    assert fresh.commit("0", 7, attempt(run, 3)) == again


def test_where_the_newest_generation_is_damaged_the_one_before_counts(url: str) -> None:
    run = make_run(url)
    first = run.commit("0", 7, attempt(run, 1))
    run.commit("0", 7, attempt(run, 2, generation=1))
    corrupt(url, "commit/0/000007.0001.json")
    fresh = RunStore(url).open("run-1")
    assert fresh.committed("0") == {7: first}
    assert fresh.commit_of("0", 7) == first


def test_fault_50_a_damaged_part_is_an_error_and_never_data(url: str) -> None:
    run = make_run(url)
    record = run.commit("0", 7, attempt(run))
    corrupt(url, record.part.name)
    with pytest.raises(StoreError) as damaged:
        run.read_part(record)
    assert damaged.value.code == "STORE-DAMAGED"
    assert record.part.name in damaged.value.where


def test_commits_of_other_processes_are_seen_at_once_and_none_is_read_twice(url: str) -> None:
    run, other = make_run(url), make_run(url)
    assert run.committed_count("0") == 0
    record = other.commit("0", 7, attempt(other))
    assert run.committed("0") == {7: record}
    reads: list[str] = []
    folder = run._folder
    child = folder.child("commit").child("0")
    original = type(child).read_many

    def counted(self: object, names: object) -> object:
        wanted = list(names)  # type: ignore[call-overload]
        reads.extend(wanted)
        return original(self, wanted)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(child), "read_many", counted)
        assert run.committed("0") == {7: record}
    assert reads == []
    assert run.committed_count("0") == 1


def test_failed_rows_are_kept_beside_the_part(url: str) -> None:
    run = make_run(url)
    failed = pa.table({"row_id": ["r1"], "outcome": ["refused"]})
    part = run.write_part("0", 7, 1, TABLE)
    failures = run.write_failures("0", 7, 1, failed)
    run.commit("0", 7, CommitRecord("0", 7, 1, part, failures, failed=1))
    found = run.commit_of("0", 7)
    assert found is not None
    assert found.failures is not None
    assert run.read_part(found.failures).equals(failed)


def test_a_loser_takes_its_failures_file_with_it(url: str) -> None:
    import fsspec

    run = make_run(url)
    run.commit("0", 7, attempt(run, 1))
    part = run.write_part("0", 7, 2, TABLE)
    failures = run.write_failures("0", 7, 2, TABLE)
    run.commit("0", 7, CommitRecord("0", 7, 2, part, failures))
    filesystem, path = fsspec.core.url_to_fs(url)
    assert len(filesystem.find(f"{path}/runs/run-1/data")) == 1


def test_history_of_many_threads_loses_no_event(url: str) -> None:
    run = make_run(url)
    threads = [threading.Thread(target=run.append_history, args=[f"event-{n}"]) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {event["event"] for event in run.history()} == {f"event-{n}" for n in range(8)}
    assert [event["seq"] for event in run.history()] == list(range(8))


def test_an_empty_partition_keeps_its_schema(url: str) -> None:
    run = make_run(url)
    record = run.commit("0", 7, attempt(run, 1, TABLE.slice(0, 0)))
    assert run.read_part(record).schema.equals(TABLE.schema)


def test_a_record_of_another_partition_is_refused(url: str) -> None:
    run = make_run(url)
    with pytest.raises(ValueError, match="not of"):
        run.commit("0", 8, attempt(run))


def test_run_ids_sort_by_time(url: str) -> None:
    from apwa_dask.store.names import new_run_id

    ids = [new_run_id(1_700_000_000.0 + 86_400 * n) for n in range(5)]
    assert ids == sorted(ids)
    assert len({RunStore(url).new_run_id() for _ in range(50)}) == 50
