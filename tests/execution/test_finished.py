"""Finished rows: the same table in the same order however they come, and not as objects."""

from __future__ import annotations

import gc
import random

import pyarrow as pa
import pytest

from apwa_dask.execution.compile import ERROR, ROW_ID, STATUS
from apwa_dask.execution.finished import PACKED_ROWS, FinishedRows
from apwa_dask.execution.fragments import Row, children, rows_of

ROWS = 3 * PACKED_ROWS + 100
MADE = {"severity": pa.int64()}
BOOKS = [(ROW_ID, pa.string()), (STATUS, pa.string()), (ERROR, pa.string())]
SCHEMA = pa.schema([("text", pa.string()), *BOOKS, ("severity", pa.int64())])


def rows(count: int = ROWS) -> list[Row]:
    """In fragments of 100 rows, as a partition is fed; each with an answer, but each seventh."""
    numbers = range(count)
    table = pa.table(
        {
            "text": [f"text {n}" for n in numbers],
            ROW_ID: [f"0:{n}" for n in numbers],
            STATUS: pa.nulls(count, pa.string()),
            ERROR: pa.nulls(count, pa.string()),
        }
    )
    found: list[Row] = []
    for first in range(0, count, 100):
        found += rows_of(table.slice(first, 100), numbers[first : first + 100])
    for n, row in enumerate(found):
        row.reused = n % 3 == 0
        if n % 7:
            row.made["severity"] = n
        else:
            row.status, row.error = "refused", "no"
    return found


def finished(found: list[Row], batch: int) -> FinishedRows:
    result = FinishedRows(SCHEMA, MADE)
    for first in range(0, len(found), batch):
        result.add(found[first : first + batch])
    return result


@pytest.mark.parametrize("batch", [1, 17, ROWS])
def test_rows_stand_in_their_places_in_whatever_order_they_come(batch: int) -> None:
    shuffled = rows()
    random.Random(1).shuffle(shuffled)

    result = finished(shuffled, batch)

    table = result.table()
    assert table.schema.equals(SCHEMA)
    assert table.column(ROW_ID).to_pylist() == [f"0:{n}" for n in range(ROWS)]
    assert table.column("text").to_pylist() == [f"text {n}" for n in range(ROWS)]
    assert table.column("severity").to_pylist() == [n if n % 7 else None for n in range(ROWS)]
    assert result.failed == table.column(ERROR).to_pylist().count("no") == len(range(0, ROWS, 7))
    assert result.cached == len(range(0, ROWS, 3))


def test_children_stand_where_their_parent_stood_each_in_its_own_place() -> None:
    parents = rows(1000)
    families = [
        children(row, [{"severity": k} for k in range(n % 4)]) if n % 2 else [row]
        for n, row in enumerate(parents)
    ]
    wanted = [row.row_id for family in families for row in family]
    members = [row for family in families for row in family]
    random.Random(2).shuffle(members)

    assert finished(members, 50).table().column(ROW_ID).to_pylist() == wanted


def test_no_row_at_all_is_an_empty_table_with_all_columns() -> None:
    assert FinishedRows(SCHEMA, MADE).table().equals(SCHEMA.empty_table())


def test_of_many_finished_rows_few_are_objects() -> None:
    before = row_objects()

    result = finished(rows(), 100)

    assert row_objects() - before < PACKED_ROWS + 100
    assert result.table().num_rows == ROWS


def row_objects() -> int:
    gc.collect()
    return sum(isinstance(thing, Row) for thing in gc.get_objects())
