"""Runs: found again by id, committed once, finished last."""

from __future__ import annotations

import threading

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
