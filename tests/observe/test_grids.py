"""Tables for notebooks and terminals: bounded, escaped, never computing."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from apwa_dask.observe.grids import (
    cell_text,
    facts_html,
    facts_text,
    grid_html,
    grid_text,
    rows_of,
    section_html,
)

EVIL = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "</style></table>",
    "<a href='javascript:alert(1)'>",
)


@pytest.mark.parametrize("evil", EVIL)
def test_hostile_text_is_escaped_wherever_it_stands(evil):
    html = grid_html([evil], [[evil]], caption=evil) + facts_html(evil, {evil: evil}) + section_html(evil, "")
    for tag in ("<script", "<img", "<svg", "<a ", "</style"):
        assert tag not in html


@given(st.lists(st.text(max_size=30), min_size=1, max_size=5))
def test_cells_never_add_a_tag(cells):
    html = grid_html(["c"] * len(cells), [cells])
    plain = grid_html(["c"] * len(cells), [["x"] * len(cells)])
    assert html.count("<") == plain.count("<")


def test_only_the_rows_that_are_shown_are_taken_from_an_endless_iterable():
    taken = []

    def rows():
        for i in range(10**9):
            taken.append(i)
            yield [i]

    html = grid_html(["n"], rows(), total_rows=10**9)
    assert len(taken) <= 21
    assert "20 of 1,000,000,000 rows" in html


def test_a_table_of_huge_cells_and_many_columns_stays_small():
    columns = [f"c{i}" for i in range(1000)]
    html = grid_html(columns, [["x" * 1_000_000] * 1000 for _ in range(3)])
    assert len(html) < 200_000
    assert "30 of 1,000 columns" in html


def test_missing_values_bytes_and_numbers_read_as_people_write_them():
    values = [None, float("nan"), pd.NA, pd.NaT, b"12345", 1.5, 3, True, [1, 2], np.float64("nan")]
    assert [cell_text(value) for value in values] == [
        "",
        "",
        "",
        "",
        "<5 bytes>",
        "1.5",
        "3",
        "True",
        "[1, 2]",
        "",
    ]


def test_a_lazy_frame_is_refused_and_not_computed():
    dd = pytest.importorskip("dask.dataframe")

    def compute(frame):
        raise AssertionError("computed")

    lazy = dd.from_pandas(pd.DataFrame({"a": [1]}), npartitions=1).map_partitions(compute, meta={"a": int})
    with pytest.raises(TypeError, match="lazy"):
        rows_of(lazy)


def test_rows_of_a_frame_with_equal_column_names_keep_every_cell():
    frame = pd.DataFrame([[1, 2]], columns=["a", "a"])
    assert rows_of(frame) == [[1, 2]]


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_text_table_fits_its_width_and_holds_no_escape(width):
    text = grid_text(["text", "名前"], [["\x1b[31mlong " * 40, "東京" * 30]], width=width)
    assert max(cell_len(line) for line in text.splitlines()) <= width
    assert "\x1b" not in text


def test_markup_of_the_table_library_is_only_text():
    assert "[red]no[/red]" in grid_text(["[bold]c[/bold]"], [["[red]no[/red]"]])


def test_rows_may_be_mappings_with_missing_names():
    assert "<td" in grid_html(["a", "b"], [{"a": 1}])


def test_facts_are_aligned_as_text():
    assert facts_text("run calm", {"rows": 10, "cost": "$1"}) == "run calm\n  rows  10\n  cost  $1"


def test_nothing_has_a_script_or_loads_anything():
    html = grid_html(["a"], [[1]]) + facts_html("t", {"a": 1}) + section_html("s", "b", is_open=True)
    assert "<script" not in html
    assert "http" not in html
    assert "url(" not in html
