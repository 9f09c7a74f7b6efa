"""SQL over the row's own inputs and the tables lent to the step, in the locked DuckDB."""

from __future__ import annotations

import os
import re
import threading
from contextlib import closing
from typing import Annotated, Any

import pyarrow as pa
from pydantic import Field

from apwa_dask.agents.builtin.select_syntax import refusal
from apwa_dask.agents.unit import Row, Tables
from apwa_dask.plans._sandbox import open_locked

__all__ = ["MAX_SECONDS", "MOST_ROWS", "query_row"]

ROW_TABLE = "row_inputs"
MOST_ROWS = 50
MAX_SECONDS = 5.0
"""One query is interrupted after so long."""

MEMORY_LIMIT = "128MB"
AT_ONCE = 2
"""Queries of one process; opening a database takes about 15 ms."""

_turn = threading.BoundedSemaphore(AT_ONCE)
_LITERAL = re.compile(r"'(?:[^']|'')*'")

Query = Annotated[str, Field(min_length=1, max_length=4_000, description="one DuckDB SELECT")]


def query_row(row: Row, tables: Tables, query: Query) -> dict[str, Any]:
    """Run one SQL SELECT over the table row_inputs (one row: the row's inputs) and the tables named below.

    At most 50 rows come back.
    """
    known = {ROW_TABLE: row.schema, **{name: table.schema for name, table in tables.items()}}
    query = query.strip().rstrip(";")
    why, used = refusal(query, known)
    if why:
        raise ValueError(why)
    bound = {name: row.table() if name == ROW_TABLE else tables[name] for name in used}
    found = _run(query, bound)
    return {"rows": found.slice(0, MOST_ROWS).to_pylist(), "more": found.num_rows > MOST_ROWS}


def _run(query: str, bound: dict[str, pa.Table]) -> pa.Table:
    """The first rows of a checked query, in a database of its own: no row can use up another's memory."""
    import duckdb

    with _turn, closing(open_locked(MEMORY_LIMIT)) as connection:
        late = threading.Timer(MAX_SECONDS, connection.interrupt)
        try:
            for name, table in bound.items():
                connection.register(name, table)
            late.start()
            # the newline ends a trailing comment
            return connection.sql(f"SELECT * FROM (\n{query}\n) LIMIT {MOST_ROWS + 1}").to_arrow_table()
        except duckdb.InterruptException:
            why = f"the query took more than {MAX_SECONDS:g} s"
        except duckdb.OutOfMemoryException:
            why = "the query needs too much memory"
        except duckdb.Error as error:
            why = _first_line(str(error))
        finally:
            late.cancel()
    raise ValueError(why)


def _renew_turn() -> None:
    """A fork may have come in the middle of another thread's query."""
    global _turn
    _turn = threading.BoundedSemaphore(AT_ONCE)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_turn)


def _first_line(message: str) -> str:
    """DuckDB's message without what it quotes: a value that did not fit is the row's."""
    return _LITERAL.sub("'...'", message.split("\n")[0])[:300]
