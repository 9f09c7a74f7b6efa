"""S16: a CSV runs no formula in a spreadsheet; the cells that were changed are counted; raw is raw."""

from __future__ import annotations

import csv
import logging
from itertools import product

import pandas as pd
import pytest

import apwa_dask as apwa
from apwa_dask.testing import Rule, Script

SIGNS = ("=", "+", "-", "@", "＝", "＋", "－", "＠", "\t", "\r", "\n")
"""OWASP, CSV injection: what a spreadsheet takes for a formula, full-width forms and what it skips before one."""
BLANKS = ("", " ", "  ", "\u00a0", "\u200b", "\ufeff", " \u00a0")
BODIES = ('HYPERLINK("http://127.0.0.1/"&A1)', "cmd|' /C calc'!A0", "1+1")
RISKY = [f"{blank}{sign}{body}" for blank, sign, body in product(BLANKS, SIGNS, BODIES)]
HARMLESS = [
    "a=b",
    "1-2",
    "mail@host",
    "'=quoted",
    "",
    "plain, with a comma",
    'and "quotes"',
    "two\nlines",
    "one\r=1+1",
    "one\r\n=1+1",
]
"""The last ones: a line break in a cell ends no row, or what is behind it would begin one."""
STARTS = ("=", "+", "-", "@", "＝", "＋", "－", "＠", "\t", "\r", "\n", *(blank for blank in BLANKS if blank))


def cells(path: str) -> list[dict[str, str]]:
    """As a spreadsheet reads the file: text, unquoted; by the names of the first line."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def run(store):
    frame = pd.DataFrame({"=header": [*RISKY, *HARMLESS], "n": range(-1, len(RISKY) + len(HARMLESS) - 1)})
    return apwa.from_pandas(frame, npartitions=3).run(store=store, progress=False)


def test_s16_no_cell_of_a_csv_begins_like_a_formula(run, tmp_path):
    rows = cells(run.export(str(tmp_path / "safe.csv")))

    guarded = [row["'=header"] for row in rows]
    assert guarded == [f"'{text}" for text in RISKY] + HARMLESS
    assert not any(cell.startswith(STARTS) for cell in guarded)
    assert rows[0]["n"] == "-1", "numbers stay numbers"


def test_s16_raw_mode_changes_nothing(run, tmp_path):
    rows = cells(run.export(str(tmp_path / "raw.csv"), safe_csv=False))

    assert [row["=header"] for row in rows] == [*RISKY, *HARMLESS]


def test_s16_what_was_changed_is_counted_and_told(run, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="apwa_dask"):
        run.export(str(tmp_path / "safe.csv"))
    (record,) = caplog.records
    assert f"{len(RISKY)} cells and 1 column name" in record.getMessage()
    assert "safe_csv=False" in record.getMessage()
    assert "HYPERLINK" not in record.getMessage()

    caplog.clear()
    run.export(str(tmp_path / "raw.csv"), safe_csv=False)
    run.export(str(tmp_path / "out.parquet"))
    assert caplog.records == []


def test_s16_answers_of_a_model_are_guarded_like_the_data(scripted_server, model_at, store, tmp_path):
    server = scripted_server(Script(rules=(Rule(match="", answer={"label": "=cmd|' /C calc'!A0"}),)))
    table = apwa.from_pandas(pd.DataFrame({"text": ["a", "b"]})).map(
        "x", inputs="text", output={"label": str}
    )
    run = table.run(model=model_at(server), store=store, progress=False)

    rows = cells(run.export(str(tmp_path / "out.csv")))

    assert [row["label"] for row in rows] == ["'=cmd|' /C calc'!A0"] * 2
