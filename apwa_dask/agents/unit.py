"""What a tool may see of the unit it works for: the row's own inputs, and the tables that the plan lends it.

A capability asks for them by type: a parameter annotated `Row` or `Tables` is filled in by the engine and is
no part of what the model sees or may give.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from apwa_dask.errors import candidates

__all__ = ["NOTHING", "Row", "Tables", "Unit"]


class Row(Mapping[str, Any]):
    """The inputs of one row, by column. Its repr tells the columns and never a value.

    Parameters
    ----------
    values : mapping of str to value
    schema : pyarrow.Schema
        Of these columns.
    """

    def __init__(self, values: Mapping[str, Any], schema: pa.Schema) -> None:
        self._values, self.schema = values, schema

    def __getitem__(self, column: str) -> Any:
        return self._values[column]

    def __iter__(self) -> Iterator[str]:
        return iter(self.schema.names)

    def __len__(self) -> int:
        return len(self.schema)

    def __repr__(self) -> str:
        return f"Row({', '.join(self)})"

    def text(self, column: str | None = None) -> str:
        """The text of a column; of the only text column when none is named.

        Raises
        ------
        LookupError
            No such text; the message holds column names only.
        """
        texts = [name for name in self if isinstance(self._values.get(name), str)]
        if column is None and len(texts) == 1:
            return str(self._values[texts[0]])
        if column is None or column not in texts:
            wanted = "name a column" if column is None else f"no text column {column!r}"
            raise LookupError(f"{wanted}; {candidates(column or '', texts, noun='text columns')}")
        return str(self._values[column])

    def table(self) -> pa.Table:
        """One row, with the declared types."""
        return pa.Table.from_pylist([{name: self._values.get(name) for name in self}], schema=self.schema)


class Tables(Mapping[str, pa.Table]):
    """The tables that a contract lends its tools, by their alias in the plan. Its repr tells no value."""

    def __init__(self, tables: Mapping[str, pa.Table] | None = None) -> None:
        self._tables = dict(tables or {})

    def __getitem__(self, name: str) -> pa.Table:
        return self._tables[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tables)

    def __len__(self) -> int:
        return len(self._tables)

    def __repr__(self) -> str:
        return f"Tables({', '.join(self)})"

    def find(self, name: str) -> pa.Table:
        """The table of this name.

        Raises
        ------
        LookupError
            With the candidates.
        """
        if name not in self._tables:
            raise LookupError(f"no table {name!r}; {candidates(name, self, noun='tables')}")
        return self._tables[name]


@dataclass(frozen=True, slots=True)
class Unit:
    """What the tools of one conversation may see."""

    row: Row = field(default_factory=lambda: Row({}, pa.schema([])))
    tables: Tables = field(default_factory=Tables)


NOTHING = Unit()
