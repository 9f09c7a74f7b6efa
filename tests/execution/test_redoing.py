"""What changed under a run is redone: through later stages and barriers, under the same ceiling, again and again."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

import apwa_dask as apwa
from apwa_dask.errors import BudgetError, ConfigError, SourceError
from apwa_dask.testing import Fault, Script


def write(folder: Path, name: str, rows: list[str]) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.csv").write_text(
        "shop,text\n" + "".join(f"s{k % 2},{row}\n" for k, row in enumerate(rows))
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in "abcd":
        write(tmp_path / "in", name, [f"row {name}{k}" for k in range(6)])
    return tmp_path / "in"


def read(folder: Path) -> apwa.Table:
    return apwa.read(str(folder), partition_rows=6)


def two_maps(folder: Path) -> apwa.Table:
    first = read(folder).map("one", inputs="text", output={"a": int}, id="one")
    return first.where("a >= 0").map("two", inputs=["text", "a"], output={"b": str}, id="two")


def over_a_barrier(folder: Path) -> apwa.Table:
    sorted_rows = read(folder).map("one", inputs="text", output={"a": int}).sort("a", "text")
    return sorted_rows.map("two", inputs="text", output={"b": str})


def reduced(folder: Path) -> apwa.Table:
    rows = read(folder).map("one", inputs="text", output={"a": int})
    return rows.reduce("sum up", inputs="text", by="shop", output={"b": str})


def branched(folder: Path) -> apwa.Table:
    rows = read(folder).map("one", inputs="text", output={"a": int})
    counts = rows.aggregate(by="shop", n="count")
    return rows.merge(counts, on="shop").map("two", inputs="text", output={"b": str})


@pytest.mark.parametrize("plan", [two_maps, over_a_barrier, reduced, branched])
def test_a_redone_run_is_that_of_a_fresh_one_and_only_changed_rows_are_paid(
    scripted_server, model_at, store, tmp_path, folder, plan
):
    server = scripted_server()
    model = model_at(server)
    run = plan(folder).run(model=model, store=store, progress=False).wait()
    write(folder, "b", ["row b0", "row b1 new", "row b2", "row b3", "row b4", "row b5", "row b6 more"])
    (folder / "d.csv").unlink()
    first = server.calls

    redone = run.resume(on_change="redo")
    result = redone.result()

    paid = server.calls - first
    fresh = plan(folder).run(model=model, store=str(tmp_path / "fresh"), progress=False).result()
    pd.testing.assert_frame_equal(result, fresh, check_like=False)
    billed = [call.body for call in server.log()[:first]]
    assert not [call for call in server.log()[first : first + paid] if call.body in billed]
    assert paid <= 2 * 2 + 2  # two new rows in each map, and the groups of the reduce


def test_only_the_partitions_of_changed_files_are_worked_on(scripted_server, model_at, store, folder):
    server = scripted_server(Script(faults=(Fault("refusal", on="row c3"),)))
    run = two_maps(folder).run(model=model_at(server), store=store, progress=False).wait()
    write(folder, "b", ["row b0", "row new"])

    redone = run.resume(on_change="redo").wait()

    old, new = run.folder.committed(0), redone.folder.committed(0)
    taken_over = [k for k in new if new[k].part.sha256 == old[k].part.sha256]
    assert taken_over == [0, 2, 3]
    assert len(redone.failures) == 1  # of a file that did not change: kept as it is, not asked again
    assert len(server.log().matching("row c3")) == 1


def test_one_of_two_sources_changes(scripted_server, model_at, store, folder, tmp_path):
    server = scripted_server()
    write(tmp_path / "other", "x", ["left", "right"])
    other = apwa.read(str(tmp_path / "other"))
    labelled = other.map("label", inputs="text", output={"label": str}, id="label")
    table = read(folder).map("one", inputs="text", output={"a": int}).merge(labelled, on="shop")
    run = table.run(model=model_at(server), store=store, progress=False).wait()
    before = server.calls
    write(folder, "a", ["row new"])

    redone = run.resume(on_change="redo")

    assert len(redone.result()) == 6 * 3 + 1
    assert server.calls == before + 1


def test_files_may_change_again_and_again(scripted_server, model_at, store, folder):
    server = scripted_server()
    run = two_maps(folder).run(model=model_at(server), store=store, progress=False).wait()
    for round_ in range(3):
        write(folder, "c", [f"row c{round_}"])
        run = run.resume(on_change="redo")
        assert run.result()["text"].str.contains(f"row c{round_}").sum() == 1
    assert len(run.result()) == 19


def test_a_ceiling_holds_over_a_run_and_its_redoing(scripted_server, model_at, store, folder):
    server = scripted_server()
    table = read(folder).map("one", inputs="text", output={"a": int})
    run = table.run(model=model_at(server), store=store, progress=False, budget=apwa.Budget(calls=26)).wait()
    write(folder, "a", [f"row new {k}" for k in range(6)])

    redone = run.resume(on_change="redo")
    with pytest.raises(BudgetError):
        redone.wait()

    assert server.calls == 26
    assert len(redone.resume(budget=apwa.Budget(calls=100)).result()) == 24


def test_an_unknown_way_is_refused_with_the_ways_there_are(scripted_server, model_at, store, folder):
    server = scripted_server()
    run = read(folder).map("one", inputs="text", output={"a": int})
    run = run.run(model=model_at(server), store=store, progress=False).wait()

    with pytest.raises(ConfigError, match="redo"):
        run.resume(on_change="ignore")
    with pytest.raises(ConfigError, match="redo"):
        run.retry_failed(on_change="ignore")


def test_a_source_that_cannot_be_listed_is_not_taken_for_unchanged(
    scripted_server, model_at, store, folder, monkeypatch
):
    import apwa_dask.tables.changes as changes

    server = scripted_server(Script(faults=(Fault("refusal", on="row a1"),)))
    table = read(folder).map("one", inputs="text", output={"a": int})
    run = table.run(model=model_at(server), store=store, progress=False).wait()

    def forbidden(*args: object) -> None:
        raise PermissionError("403")

    monkeypatch.setattr(changes, "list_files", forbidden)
    with pytest.raises(SourceError, match="cannot be listed"):
        run.retry_failed()
