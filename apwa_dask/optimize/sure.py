"""Whether a condition can fail on a row: it may move only where its failures cannot come or go."""

from __future__ import annotations

import re
from typing import Any

import pyarrow as pa

from apwa_dask.errors import PlanError
from apwa_dask.plans.expressions import columns_of, failed_rows

__all__ = ["never_fails"]

_MAY_RAISE = re.compile(
    r"::|(?<!try_)\bcast\b|\b(strptime|make_\w+|chr|repeat|\w*json\w*|from_\w+|decode)\b", re.I
)
_LITERAL = re.compile(r"'(?:[^']|'')*'")

_INT64 = (2**63 - 1, -(2**63), 0, None)
_PROBES: tuple[tuple[Any, tuple[Any, ...]], ...] = (
    (pa.types.is_string, ("x", "", "1", None, "-1e999", "\U0001f4a5")),
    (pa.types.is_large_string, ("x", "", "1", None)),
    (pa.types.is_int64, _INT64),
    (pa.types.is_floating, (float("inf"), float("-inf"), float("nan"), 0.0, None)),
    (pa.types.is_boolean, (True, False, None)),
    (pa.types.is_date32, (-(2**22), 0, 2**22, None)),
)
"""Values on which casts, overflows and parsers fail, if they can."""


def never_fails(condition: str, schema: pa.Schema) -> bool:
    """Whether the condition has a value on every row, as far as can be seen without rows; doubt says no.

    It must hold no construct that raises on some value, and pass rows of extreme values, which also brings
    out casts that SQL makes by itself (``text > 3``).
    """
    if _MAY_RAISE.search(_LITERAL.sub("''", condition)):
        return False
    fields = [schema.field(name) for name in sorted(columns_of(condition))]
    values = [_values(field.type) for field in fields]
    if not all(values):
        return False
    rows = max((len(column) for column in values), default=1)
    try:
        for shift in range(rows):
            table = pa.table(
                {
                    field.name: pa.array(_turned(column, rows, shift * index), field.type)
                    for index, (field, column) in enumerate(zip(fields, values, strict=True))
                }
            )
            if table.num_columns and any(failed_rows(condition, table).to_pylist()):
                return False
    except (PlanError, pa.ArrowInvalid, OverflowError):
        return False
    return True


def _values(of: pa.DataType) -> tuple[Any, ...]:
    return next((values for fits, values in _PROBES if fits(of)), ())


def _turned(values: tuple[Any, ...], rows: int, by: int) -> list[Any]:
    return [values[(row + by) % len(values)] for row in range(rows)]
