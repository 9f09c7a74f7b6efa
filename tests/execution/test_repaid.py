"""What changes in the input and what it costs: new rows, and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import apwa_dask as apwa

ROWS = pd.DataFrame({"text": [f"review {k}" for k in range(120)], "k": range(120)})


@pytest.fixture
def paid(scripted_server, model_at, store, tmp_path):
    """``paid(table)``: the texts that the model was asked about by a run over it, and the run's result."""
    server = scripted_server()

    def run(source: apwa.Table, **options) -> tuple[list[str], pd.DataFrame]:
        before = server.calls
        table = source.map("severity", inputs="text", output={"severity": int})
        given = {"model": model_at(server), "store": store, "scheduler": "threads", "progress": False}
        result = table.run(**{**given, **options}).result()
        return sorted(server.log().texts[before:]), result

    return run


def files(folder: Path, frame: pd.DataFrame, names: list[str]) -> apwa.Table:
    """`frame` in files of these names, in the order of the names given."""
    folder.mkdir()
    for name, part in zip(names, np.array_split(np.arange(len(frame)), len(names)), strict=True):
        frame.iloc[part].to_parquet(folder / f"{name}.parquet", index=False)
    return apwa.read(str(folder))


def test_inserting_a_row_on_top_repays_only_that_row(paid):
    first, before = paid(apwa.from_pandas(ROWS, npartitions=4))
    grown = pd.concat([pd.DataFrame({"text": ["brand new"], "k": [-1]}), ROWS], ignore_index=True)

    new, after = paid(apwa.from_pandas(grown, npartitions=4))

    assert len(first) == 120
    assert new == ["brand new"]
    assert after["severity"].tolist()[1:] == before["severity"].tolist()


def test_inserting_rows_in_the_middle_of_a_file_repays_only_those_rows(paid, tmp_path):
    _, before = paid(files(tmp_path / "one", ROWS, ["a", "b", "c"]))
    added = pd.DataFrame({"text": ["new 1", "new 2"], "k": [-1, -2]})
    grown = pd.concat([ROWS.iloc[:50], added, ROWS.iloc[50:]], ignore_index=True)

    new, after = paid(files(tmp_path / "two", grown, ["a", "b", "c"]))

    assert new == ["new 1", "new 2"]
    assert after[after["k"] >= 0]["severity"].tolist() == before["severity"].tolist()


@pytest.mark.parametrize("npartitions", [1, 3, 17, 120])
def test_repartitioning_repays_nothing(paid, npartitions):
    _, before = paid(apwa.from_pandas(ROWS, npartitions=4))

    new, after = paid(apwa.from_pandas(ROWS, npartitions=npartitions))

    assert new == []
    pd.testing.assert_frame_equal(after, before)


def test_reordering_and_renaming_files_repays_nothing(paid, tmp_path):
    _, before = paid(files(tmp_path / "one", ROWS, ["a", "b", "c", "d"]))

    new, after = paid(files(tmp_path / "two", ROWS, ["z", "m", "a", "k"]))

    assert new == []
    assert after["k"].tolist() != before["k"].tolist(), "the files are read in the order of their names"
    by_row = after.sort_values("k", ignore_index=True)
    pd.testing.assert_frame_equal(by_row, before.sort_values("k", ignore_index=True))


def test_shuffling_rows_over_all_files_repays_nothing(paid, tmp_path):
    _, before = paid(files(tmp_path / "one", ROWS, ["a", "b"]))

    shuffled = ROWS.sample(frac=1, random_state=0, ignore_index=True)
    new, after = paid(files(tmp_path / "two", shuffled, ["a", "b", "c", "d", "e"]))

    assert new == []
    pd.testing.assert_frame_equal(after.sort_values("k", ignore_index=True), before)


def test_removing_rows_and_a_column_that_no_prompt_reads_repays_nothing(paid):
    paid(apwa.from_pandas(ROWS, npartitions=4))

    new, after = paid(apwa.from_pandas(ROWS[["text"]].iloc[::2], npartitions=2))

    assert (new, len(after)) == ([], 60)


def test_an_edited_cell_repays_its_row(paid):
    paid(apwa.from_pandas(ROWS, npartitions=4))
    edited = ROWS.copy()
    edited.loc[7, "text"] = "review seven"

    new, _ = paid(apwa.from_pandas(edited, npartitions=4))

    assert new == ["review seven"]


def test_another_namespace_shares_nothing_and_the_first_is_still_there(paid):
    paid(apwa.from_pandas(ROWS), namespace="one")

    other, _ = paid(apwa.from_pandas(ROWS), namespace="two")
    again, _ = paid(apwa.from_pandas(ROWS), namespace="one")

    assert (len(other), again) == (120, [])
