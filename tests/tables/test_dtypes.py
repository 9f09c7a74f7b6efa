"""Frames as Arrow tables of a declared schema."""

from __future__ import annotations

from decimal import Decimal

import pandas as pd
import pyarrow as pa
import pytest

from apwa_dask.tables.dtypes import to_arrow


def test_values_of_other_types_in_a_column_of_text_become_text() -> None:
    frame = pd.DataFrame({"a": pd.Series(["x", Decimal("0.10"), None, True, "\ud800"], dtype=object)})
    table = to_arrow(frame, pa.schema([("a", pa.string())]))
    assert table.column("a").to_pylist() == ["x", "0.10", None, "True", "\ufffd"]


def test_a_value_that_is_no_number_is_not_made_one() -> None:
    with pytest.raises(pa.ArrowException):
        to_arrow(pd.DataFrame({"a": pd.Series([1, object()])}), pa.schema([("a", pa.int64())]))
