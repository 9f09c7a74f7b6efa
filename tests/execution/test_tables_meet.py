"""Columns of two tables that are alike but not the same: no value is lost, and every partition has one dtype."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dask
import dask.dataframe as dd
import pandas as pd
import pyarrow as pa
import pytest

from apwa_dask.execution.frame_steps import apply_barrier
from apwa_dask.plans.infer import output_schema
from apwa_dask.plans.steps import Concat, Merge
from apwa_dask.tables.dtypes import arrow_schema_of, empty_frame, to_arrow, to_pandas

BOOKKEEPING = [("_apwa_row", pa.string()), ("_apwa_status", pa.string()), ("_apwa_error", pa.string())]


def physical(visible: pa.Schema) -> pa.Schema:
    return pa.schema([*(pa.field(*f) for f in BOOKKEEPING), *visible])


def _slice(bounds: tuple[int, int], source: pa.Table) -> pd.DataFrame:
    return to_pandas(source.slice(*bounds))


def partitioned(source: pa.Table, sizes: Sequence[int]) -> dd.DataFrame:
    bounds = [(sum(sizes[:k]), size) for k, size in enumerate(sizes)]
    with dask.config.set({"dataframe.convert-string": False}):
        return dd.from_map(_slice, bounds, source=source, meta=empty_frame(source.schema))


def run(step: Any, *sources: dd.DataFrame, schemas: Sequence[pa.Schema]) -> pa.Table:
    """The rows that come out, after each partition has been seen to have the declared dtypes."""
    schema = physical(output_schema(step, schemas))
    frame = apply_barrier(step, sources[0], sources[1:], schema)
    parts = dask.compute(*frame.to_delayed(), scheduler="sync")
    for part in (frame._meta, *parts):
        pd.testing.assert_series_equal(part.dtypes, empty_frame(schema).dtypes)
    return pa.concat_tables([to_arrow(part, schema) for part in parts])


def categorical(values: Sequence[str | None], categories: Sequence[str]) -> pa.Schema:
    """Schema of a frame's column of categories, as reading the frame declares it."""
    return arrow_schema_of(pd.DataFrame({"k": pd.Categorical(values, categories=categories)}))


def of_values(values: Sequence[Any], schema: pa.Schema) -> pa.Table:
    """Rows of the one visible column ``k``."""
    count = len(values)
    hidden = [pa.array([f"0:{i}" for i in range(count)]), *[pa.nulls(count, pa.string())] * 2]
    plain = pa.array(values, getattr(schema.field("k").type, "value_type", schema.field("k").type))
    return pa.Table.from_arrays([*hidden, plain.cast(schema.field("k").type)], schema=physical(schema))


A_B, B_C = categorical(["a"], ["a", "b"]), categorical(["b"], ["b", "c"])


def test_concat_keeps_values_that_are_no_category_of_the_first_table() -> None:
    step = Concat(id="s", input="t", others=("r",))
    left, right = of_values(["a", None], A_B), of_values(["b", "c"], B_C)
    found = run(step, partitioned(left, [2]), partitioned(right, [1, 1]), schemas=[A_B, B_C])
    assert found.column("k").to_pylist() == ["a", None, "b", "c"]
    text = pa.schema([("k", pa.string())])
    with_text = run(
        step, partitioned(left, [2]), partitioned(of_values(["z"], text), [1]), schemas=[A_B, text]
    )
    assert with_text.column("k").to_pylist() == ["a", None, "z"]


def test_concat_of_the_same_categories_stays_categorical() -> None:
    step = Concat(id="s", input="t", others=("r",))
    assert output_schema(step, [A_B, A_B]).field("k").equals(A_B.field("k"), check_metadata=True)


@pytest.mark.parametrize(
    ("how", "wanted"),
    [("inner", ["b"]), ("left", ["a", "b"]), ("right", ["b", "c"]), ("outer", ["a", "b", "c"])],
)
def test_a_merge_by_categories_keeps_the_keys_of_either_side(how: Any, wanted: list[str]) -> None:
    step = Merge(id="s", input="t", right="r", how=how, left_on=("k",), right_on=("k",))
    left, right = of_values(["a", "b"], A_B), of_values(["b", "c"], B_C)
    found = run(step, partitioned(left, [1, 1]), partitioned(right, [2]), schemas=[A_B, B_C])
    assert found.column("k").to_pylist() == wanted


@pytest.mark.parametrize("how", ["inner", "left", "right", "outer"])
def test_a_merge_of_narrow_with_wide_integers_keeps_every_digit(how: Any) -> None:
    narrow, wide = pa.schema([("k", pa.int32())]), pa.schema([("k", pa.int64())])
    step = Merge(id="s", input="t", right="r", how=how, left_on=("k",), right_on=("k",))
    left, right = of_values([1, 2], narrow), of_values([2, 2**40], wide)
    found = run(step, partitioned(left, [2]), partitioned(right, [1, 1]), schemas=[narrow, wide])
    expected = {"inner": [2], "left": [1, 2], "right": [2, 2**40], "outer": [1, 2, 2**40]}
    assert found.column("k").to_pylist() == expected[how]


def test_frames_whose_dtypes_differ_give_one_dtype_in_every_partition() -> None:
    plain = arrow_schema_of(pd.DataFrame({"k": pd.Series([1], dtype="int64")}))
    nullable = arrow_schema_of(pd.DataFrame({"k": pd.Series([None], dtype="Int64")}))
    step = Concat(id="s", input="t", others=("r",))
    left, right = of_values([1], plain), of_values([None, 2], nullable)
    found = run(step, partitioned(left, [1]), partitioned(right, [1, 1]), schemas=[plain, nullable])
    assert found.column("k").to_pylist() == [1, None, 2]
