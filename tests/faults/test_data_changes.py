"""Fault 30 of the matrix: files of the source change between a run and its resume. Never a stale row."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
import pytest

import apwa_dask as apwa
from apwa_dask.errors import SourceError
from apwa_dask.testing import Fault, On, Script, ScriptedServer


class Folder:
    """Three files of ten rows, a partition each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        self.done, self.half = ["a", "b"], "c"
        for name in "abc":
            self.write(name, self.rows(name))

    @staticmethod
    def rows(name: str) -> list[str]:
        return [f"row {name}{k}" for k in range(10)]

    def write(self, name: str, rows: list[str]) -> None:
        (self.path / f"{name}.csv").write_text("text\n" + "".join(f"{row}\n" for row in rows))

    @property
    def frame(self) -> pd.DataFrame:
        texts = [line for file in sorted(self.path.iterdir()) for line in file.read_text().splitlines()[1:]]
        return pd.DataFrame({"text": texts})

    def table(self) -> apwa.Table:
        table = apwa.read(str(self.path), partition_rows=10)
        return table.map("say", inputs="text", output={"a": str})


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "in")


@pytest.fixture
def interrupted(scripted_server, model_at, store, folder) -> tuple[ScriptedServer, apwa.Run]:
    """Two files are committed; five rows of the third are paid and journaled, and the account is empty."""
    server = scripted_server(
        Script(faults=(Fault("insufficient_quota", on=On(calls=tuple(range(26, 100)))),))
    )
    run = folder.table().run(
        model=model_at(server, max_concurrency=1), store=store, progress=False, scheduler="sync"
    )
    with pytest.raises(apwa.ApwaError):
        run.wait()
    committed = ["abc"[k] for k in run.folder.committed(0)]
    assert len(committed) == 2
    assert len(server.log().billed) == 25
    folder.done, (folder.half,) = committed, set("abc") - set(committed)
    server.set(Script())
    return server, run


def edited(folder: Folder) -> str:
    name = folder.done[0]
    rows = folder.rows(name)
    folder.write(name, [rows[0], "row changed", *rows[2:]])
    return name


def shortened(folder: Folder) -> str:
    folder.write(folder.done[1], [f"row {folder.done[1]}3"])
    return folder.done[1]


def not_yet_read(folder: Folder) -> str:
    folder.write(folder.half, [*folder.rows(folder.half), "row more"])
    return folder.half


def removed(folder: Folder) -> str:
    (folder.path / f"{folder.done[0]}.csv").unlink()
    return folder.done[0]


def added(folder: Folder) -> str:
    folder.write("aa", ["row new 0", "row new 1"])
    return "aa"


def with_size_and_time_kept(folder: Folder) -> str:
    file = folder.path / f"{folder.done[0]}.csv"
    before = file.stat()
    file.write_text(file.read_text().replace(f"row {folder.done[0]}4", "row Z4"))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    return folder.done[0]


NEW_ROWS = {edited: 1, shortened: 0, not_yet_read: 1, removed: 0, added: 2, with_size_and_time_kept: 1}


@pytest.mark.parametrize("change", NEW_ROWS, ids=lambda change: change.__name__)
@pytest.mark.parametrize("process", ["the same", "another"])
def test_fault_30_a_resume_over_changed_files_is_refused_by_name_before_any_call(
    interrupted, folder, store, change, process
):
    server, run = interrupted
    before = server.calls
    name = change(folder)
    if process == "another":
        run = apwa.attach(run.id, store, progress=False)

    with pytest.raises(SourceError) as caught:
        run.resume().wait()

    assert caught.value.code == "SOURCE-CHANGED"
    assert f"{name}.csv" in caught.value.where
    assert "on_change='redo'" in caught.value.fix
    assert server.calls == before


@pytest.mark.parametrize("change", NEW_ROWS, ids=lambda change: change.__name__)
def test_fault_30_what_changed_is_redone_where_asked_and_only_that(
    interrupted, folder, store, canary_key, invariants, change
):
    server, run = interrupted
    change(folder)
    before = server.calls

    redone = apwa.attach(run.id, store, progress=False).resume(on_change="redo")
    result = redone.result(status=True)

    invariants.i1_every_row_has_one_status(redone, len(folder.frame))
    invariants.i2_order_and_index_are_the_inputs(result, folder.frame)
    invariants.i4_little_is_paid_again(server, 0)
    invariants.i6_the_key_is_nowhere(canary_key, [Path(store)])
    assert result["_apwa_status"].eq("ok").all()
    assert server.calls - before == NEW_ROWS[change] + 5  # five rows of the third file were still to be asked
    assert redone.id != run.id


def test_fault_30_a_redone_run_ends_like_one_that_never_saw_the_old_files(
    interrupted, folder, store, model_at, invariants, tmp_path
):
    server, run = interrupted
    edited(folder)
    added(folder)

    redone = run.resume(on_change="redo")

    fresh = folder.table().run(
        model=model_at(server), store=str(tmp_path / "fresh"), progress=False, scheduler="sync"
    )
    invariants.i7_the_result_is_as_if_nothing_had_happened(
        redone.result(status=True), fresh.result(status=True)
    )


def test_fault_30_the_ledgers_of_a_run_and_of_its_redoing_are_the_bill_together(
    interrupted, folder, invariants
):
    server, run = interrupted
    edited(folder)

    redone = run.resume(on_change="redo").wait()

    invariants.i3_the_ledger_is_the_bill([run, redone], server)


def test_fault_30_files_that_are_as_they_were_resume_as_ever(interrupted, folder, invariants):
    server, run = interrupted

    resumed = run.resume(on_change="redo")

    assert resumed is run
    invariants.i2_order_and_index_are_the_inputs(run.result(), folder.frame)
    invariants.i4_little_is_paid_again(server, 0)


def test_fault_30_a_file_that_changes_while_the_run_reads_is_never_read_half_old_half_new(
    scripted_server, model_at, store, folder, invariants
):
    server = scripted_server(latency_s=0.1)
    run = folder.table().run(
        model=model_at(server, max_concurrency=2), store=store, progress=False, scheduler="sync"
    )
    server.wait_until(lambda stats: stats.calls >= 2)
    begun = {call.text[4] for call in server.log().calls}
    folder.done = sorted(set("abc") - begun)
    edited(folder)  # after it was listed, before it is read

    with pytest.raises(SourceError) as caught:
        run.wait()
    assert caught.value.code == "SOURCE-CHANGED"

    redone = run.resume(on_change="redo")
    invariants.i2_order_and_index_are_the_inputs(redone.result(), folder.frame)


@pytest.mark.parametrize("change", [edited, removed], ids=lambda change: change.__name__)
def test_fault_30_a_table_whose_files_have_changed_since_is_refused_before_any_call(
    scripted_server, model_at, store, folder, change
):
    server = scripted_server()
    table = folder.table()
    name = change(folder)

    with pytest.raises(SourceError, match="when the table was read") as caught:
        table.run(model=model_at(server), store=store, progress=False)

    assert caught.value.code == "SOURCE-CHANGED"
    assert f"{name}.csv" in caught.value.where
    assert "apwa.read" in caught.value.fix
    assert server.calls == 0
    assert len(folder.table().run(model=model_at(server), store=store, progress=False).result()) == len(
        folder.frame
    )


def test_fault_30_files_that_came_after_the_table_was_read_are_left_out_and_named(
    scripted_server, model_at, store, folder, invariants, caplog
):
    server = scripted_server()
    table, rows = folder.table(), folder.frame
    added(folder)

    with caplog.at_level("WARNING", logger="apwa_dask"):
        run = table.run(model=model_at(server), store=store, progress=False).wait()

    told = [record.getMessage() for record in caplog.records if "aa.csv" in record.getMessage()]
    assert len(told) == 1
    assert "leaves them out" in told[0]
    invariants.i2_order_and_index_are_the_inputs(run.result(), rows)
    assert server.calls == 30
    assert len(folder.table().run(model=model_at(server), store=store, progress=False).result()) == 32
    assert server.calls == 32


def test_fault_30_a_retry_is_refused_or_redoes_what_changed(
    scripted_server, model_at, store, folder, invariants
):
    server = scripted_server(Script(faults=(Fault("refusal", on="row b7"),)))
    run = folder.table().run(model=model_at(server), store=store, progress=False).wait()
    server.set(Script())
    edited(folder)

    with pytest.raises(SourceError, match="not as they were"):
        run.retry_failed()
    assert server.calls == 30

    again = run.retry_failed(on_change="redo")
    invariants.i2_order_and_index_are_the_inputs(again.result(), folder.frame)
    assert len(again.failures) == 0
    assert server.calls == 30 + 2


def test_fault_30_a_lazy_frame_never_gives_rows_of_files_that_are_no_more(
    scripted_server, model_at, store, folder, invariants
):
    server = scripted_server()
    table, model = folder.table(), model_at(server)
    lazy = table.to_dask(model=model, store=store)
    lazy.compute(scheduler="threads")
    edited(folder)

    with pytest.raises(SourceError, match=r"a\.csv changed"):
        lazy.compute(scheduler="threads")
    with pytest.raises(SourceError, match="not as they were"):
        table.to_dask(model=model, store=store)

    anew = folder.table().to_dask(model=model, store=store).compute(scheduler="threads")
    assert anew["text"].tolist() == folder.frame["text"].tolist()
    assert server.calls == 31


def test_fault_30_a_finished_run_keeps_what_it_read_until_it_is_asked_to_redo(
    scripted_server, model_at, store, folder, invariants
):
    server = scripted_server()
    run = folder.table().run(model=model_at(server), store=store, progress=False).wait()
    old = folder.frame
    shortened(folder)

    assert run.resume() is run
    invariants.i2_order_and_index_are_the_inputs(run.result(), old)
    invariants.i2_order_and_index_are_the_inputs(run.resume(on_change="redo").result(), folder.frame)
    assert server.calls == 30
