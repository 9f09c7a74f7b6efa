"""Rows of another table of the plan, by key."""

from __future__ import annotations

from typing import Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from apwa_dask.agents.unit import Tables
from apwa_dask.errors import candidates

__all__ = ["lookup_rows"]

Key = str | int | float | bool
Most = Annotated[int, Field(ge=1, le=50)]


def lookup_rows(
    tables: Tables, table: str, column: str, value: Key, columns: list[str] | None = None, most: Most = 5
) -> dict[str, Any]:
    """Rows of a table in which a column equals a value. `found` counts all of them, `rows` tells the first."""
    side = tables.find(table)
    wanted = columns or side.schema.names
    for name in (column, *wanted):
        if name not in side.schema.names:
            raise LookupError(f"no column {name!r}; {candidates(name, side.schema.names, noun='columns')}")
    try:
        key = pa.scalar(value).cast(side.schema.field(column).type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return {"found": 0, "rows": []}  # a word is no number: nothing can be equal to it
    hits = pc.indices_nonzero(pc.fill_null(pc.equal(side.column(column), key), False))
    return {"found": len(hits), "rows": side.select(wanted).take(hits.slice(0, most)).to_pylist()}
