"""Rows under way, apart from their neighbours: which table they came from, what was made of them, back to a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from apwa_dask.execution.compile import ERROR, ROW_ID, STATUS

__all__ = ["Fragment", "Row", "children", "conform", "materialise", "rows_of", "values_of"]


class Fragment:
    """Some rows as one Arrow table; a column becomes Python values once, when it is first asked for."""

    __slots__ = ("_cells", "row_bytes", "table")

    def __init__(self, table: pa.Table) -> None:
        self.table = table
        self.row_bytes = table.nbytes // max(table.num_rows, 1)
        self._cells: dict[str, list[Any]] = {}

    def cells(self, column: str) -> list[Any] | None:
        """Values of a column, None where the fragment lacks it."""
        if column not in self._cells:
            if column not in self.table.column_names:
                return None
            self._cells[column] = self.table.column(column).to_pylist()
        return self._cells[column]


@dataclass(slots=True)
class Row:
    """One row on its way: where it is in its fragment and in the order, and the step it stands before (``at``)."""

    fragment: Fragment
    position: int
    order: tuple[int, ...]
    row_id: str
    at: int = 0
    made: dict[str, Any] = field(default_factory=dict)
    status: str | None = None
    error: str | None = None
    reused: bool = True


def rows_of(table: pa.Table, places: Sequence[int]) -> list[Row]:
    """The rows of a table that has the bookkeeping columns; `places` is their order in the partition."""
    fragment = Fragment(table)
    ids = table.column(ROW_ID).to_pylist()
    statuses = table.column(STATUS).to_pylist()
    errors = table.column(ERROR).to_pylist()
    return [
        Row(fragment, k, (places[k],), ids[k], status=statuses[k], error=errors[k])
        for k in range(table.num_rows)
    ]


def values_of(rows: Sequence[Row], columns: Sequence[str]) -> list[dict[str, Any]]:
    """The contract's input columns of each row as Python values; None for what a failed step did not make."""
    values = []
    for row in rows:
        value = {}
        for column in columns:
            if column in row.made:
                value[column] = row.made[column]
            else:
                cells = row.fragment.cells(column)
                value[column] = None if cells is None else cells[row.position]
        values.append(value)
    return values


def children(row: Row, answers: Sequence[Mapping[str, Any]]) -> list[Row]:
    """One row for each answer of a flat_map, in the order of the answers."""
    return [
        Row(
            row.fragment,
            row.position,
            (*row.order, k),
            f"{row.row_id}.{k}",
            row.at,
            {**row.made, **answer},
            reused=row.reused,
        )
        for k, answer in enumerate(answers)
    ]


def materialise(rows: Sequence[Row], made: Mapping[str, pa.DataType]) -> pa.Table:
    """Rows of any fragments as one table, in the order given, with the columns made so far."""
    places: dict[int, list[int]] = {}
    for k, row in enumerate(rows):
        places.setdefault(id(row.fragment), []).append(k)
    pieces = [
        rows[of[0]].fragment.table.take(pa.array([rows[k].position for k in of], pa.int64()))
        for of in places.values()
    ]
    table = pa.concat_tables(pieces) if len(pieces) > 1 else pieces[0]
    written = [k for of in places.values() for k in of]
    if len(pieces) > 1:
        back = sorted(range(len(written)), key=written.__getitem__)
        table = table.take(pa.array(back, pa.int64()))
    table = _replace(table, ROW_ID, pa.array([row.row_id for row in rows], pa.string()))
    table = _replace(table, STATUS, pa.array([row.status for row in rows], pa.string()))
    table = _replace(table, ERROR, pa.array([row.error for row in rows], pa.string()))
    for name, kind in made.items():
        if name not in table.column_names or any(name in row.made for row in rows):
            table = _replace(table, name, pa.array([row.made.get(name) for row in rows], kind))
    return table


def _replace(table: pa.Table, name: str, column: pa.Array) -> pa.Table:
    place = table.column_names.index(name) if name in table.column_names else -1
    return table.set_column(place, name, column) if place >= 0 else table.append_column(name, column)


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The declared schema exactly: order and types as declared."""
    columns = [table.column(wanted.name) for wanted in schema]
    typed = [c if c.type == f.type else c.cast(f.type) for c, f in zip(columns, schema, strict=True)]
    return pa.Table.from_arrays(typed, schema=schema)
