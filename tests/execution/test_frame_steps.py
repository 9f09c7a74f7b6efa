"""Frame steps give the rows, order, ids and dtypes of an oracle for any partitioning, empty parts too."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import dask
import dask.dataframe as dd
import duckdb
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apwa_dask.execution.frame_steps import apply_barrier, apply_local
from apwa_dask.plans.infer import output_schema
from apwa_dask.plans.steps import (
    Aggregate,
    Assign,
    Chunk,
    Concat,
    Distinct,
    Explode,
    Limit,
    Merge,
    Sample,
    Select,
    Sort,
    Where,
)
from apwa_dask.tables.dtypes import empty_frame, to_arrow, to_pandas

BOOKKEEPING = [("_apwa_row", pa.string()), ("_apwa_status", pa.string()), ("_apwa_error", pa.string())]
VISIBLE = pa.schema(
    [
        ("k", pa.string()),
        ("n", pa.int64()),
        ("x", pa.float64()),
        ("ok", pa.bool_()),
        ("day", pa.date32()),
        ("at", pa.timestamp("us", tz="UTC")),
        ("tags", pa.list_(pa.string())),
    ]
)


def table(
    rows: Sequence[dict[str, Any]], visible: pa.Schema = VISIBLE, failed: Sequence[int] = ()
) -> pa.Table:
    """Rows with bookkeeping in front, as every stored part has."""
    marked = [
        {
            **row,
            "_apwa_row": f"0:{i}",
            "_apwa_status": "refused" if i in failed else None,
            "_apwa_error": "the model refused" if i in failed else None,
        }
        for i, row in enumerate(rows)
    ]
    return pa.Table.from_pylist(marked, schema=pa.schema([*(pa.field(*f) for f in BOOKKEEPING), *visible]))


def rows_like(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Random rows with many ties and nulls in every column."""
    rng = random.Random(seed)

    def cell(values: Sequence[Any]) -> Any:
        return rng.choice([*values, None])

    return [
        {
            "k": cell(["a", "b", "B", "é", ""]),
            "n": cell([0, 1, 2, 2**60]),
            "x": cell([0.5, -1.25, 3.0, 1e-3]),
            "ok": cell([True, False]),
            "day": cell([18_000, 18_001]),
            "at": cell([0, 1_000_000]),
            "tags": cell([["p"], ["p", "q"], []]),
        }
        for _ in range(count)
    ]


def partitioned(source: pa.Table, cuts: Sequence[int]) -> dd.DataFrame:
    """A Dask frame with the given partition sizes (empty ones too)."""
    parts, start = [], 0
    for size in cuts:
        parts.append(to_pandas(source.slice(start, size)))
        start += size
    assert start == source.num_rows
    with dask.config.set({"dataframe.convert-string": False}):
        return dd.from_map(_itself, parts, meta=empty_frame(source.schema))


def _itself(part: pd.DataFrame) -> pd.DataFrame:
    return part


def physical(visible: pa.Schema) -> pa.Schema:
    return pa.schema([*(pa.field(*f) for f in BOOKKEEPING), *visible])


def run(step: Any, *sources: dd.DataFrame, schemas: Sequence[pa.Schema]) -> pa.Table:
    """Compute a barrier step; check meta, dtypes and index of every partition; give the rows as Arrow."""
    schema = physical(output_schema(step, schemas))
    frame = apply_barrier(step, sources[0], sources[1:], schema)
    meta = empty_frame(schema)
    pd.testing.assert_frame_equal(frame._meta, meta, check_index_type=False)
    parts = dask.compute(*[frame.get_partition(i) for i in range(frame.npartitions)], scheduler="sync")
    for part in parts:
        assert list(part.columns) == list(meta.columns)
        assert list(part.dtypes) == list(meta.dtypes)
    return pa.concat_tables([to_arrow(part, schema) for part in parts])


SHAPES = {
    "no rows": (0, [[0], [0, 0, 0]]),
    "one row": (1, [[1], [0, 1, 0, 0, 0]]),
    "rows": (23, [[23], [5, 5, 5, 5, 3], [0, 20, 0, 3, 0]]),
}
STEPS: dict[str, Any] = {
    "sort text": Sort(id="s", input="t", by=[{"column": "k"}]),
    "sort descending": Sort(id="s", input="t", by=[{"column": "n", "descending": True}, {"column": "k"}]),
    "sort mixed": Sort(id="s", input="t", by=[{"column": "ok"}, {"column": "x", "descending": True}]),
    "sort day": Sort(id="s", input="t", by=[{"column": "day", "descending": True}]),
    "sort time": Sort(id="s", input="t", by=[{"column": "at"}, {"column": "at", "descending": True}]),
    "limit 0": Limit(id="s", input="t", n=0),
    "limit 7": Limit(id="s", input="t", n=7),
    "limit 100": Limit(id="s", input="t", n=100),
    "distinct k": Distinct(id="s", input="t", columns=("k",)),
    "distinct pair": Distinct(id="s", input="t", columns=("ok", "day")),
    "by one": Aggregate(
        id="s",
        input="t",
        by=("k",),
        aggregates={
            "rows": {"fn": "count"},
            "known": {"fn": "count", "column": "n"},
            "kinds": {"fn": "count_distinct", "column": "x"},
            "days": {"fn": "count_distinct", "column": "day"},
            "total": {"fn": "sum", "column": "x"},
            "yes": {"fn": "sum", "column": "ok"},
            "share": {"fn": "mean", "column": "ok"},
            "mean": {"fn": "mean", "column": "x"},
            "low": {"fn": "min", "column": "n"},
            "high": {"fn": "max", "column": "day"},
            "first": {"fn": "min", "column": "at"},
            "name": {"fn": "max", "column": "k"},
            "middle": {"fn": "median", "column": "x"},
            "spread": {"fn": "std", "column": "x"},
            "some": {"fn": "any", "column": "ok"},
            "each": {"fn": "all", "column": "ok"},
        },
    ),
    "by two": Aggregate(id="s", input="t", by=("ok", "day"), aggregates={"n": {"fn": "count"}}),
    "all": Aggregate(
        id="s",
        input="t",
        aggregates={
            "rows": {"fn": "count"},
            "total": {"fn": "sum", "column": "x"},
            "middle": {"fn": "median", "column": "x"},
            "kinds": {"fn": "count_distinct", "column": "k"},
            "spread": {"fn": "std", "column": "x"},
        },
    ),
}
SQL = {
    "count": "count({c})",
    "count_distinct": "count(DISTINCT {c})",
    "sum": "sum({c})",
    "mean": "avg({c})",
    "min": "min({c})",
    "max": "max({c})",
    "median": "median({c})",
    "std": "stddev_samp({c})",
    "any": "bool_or({c})",
    "all": "bool_and({c})",
}


def oracle(step: Any, source: pa.Table) -> list[dict[str, Any]]:
    """The same by DuckDB over the whole table at once."""
    connection = duckdb.connect()
    connection.execute("SET threads=1")
    connection.execute("SET TimeZone='UTC'")
    numbered = source.append_column("at_row", pa.array(range(source.num_rows), pa.int64()))
    connection.register("t", numbered)
    shown = ", ".join(f'"{name}"' for name in source.column_names)
    if isinstance(step, Sort):
        keys = ", ".join(f'"{k.column}" {"DESC" if k.descending else "ASC"} NULLS LAST' for k in step.by)
        sql = f"SELECT {shown} FROM t ORDER BY {keys}, at_row"
    elif isinstance(step, Limit):
        sql = f"SELECT {shown} FROM t ORDER BY at_row LIMIT {step.n}"
    elif isinstance(step, Distinct):
        keys = ", ".join(f'"{name}"' for name in step.columns)
        numbered_in_group = f"SELECT *, row_number() OVER (PARTITION BY {keys} ORDER BY at_row) r FROM t"
        sql = f"SELECT {shown} FROM ({numbered_in_group}) WHERE r = 1 ORDER BY at_row"
    else:
        values = []
        for name, rule in step.aggregates.items():
            column = f'"{rule.column}"' if rule.column else "*"
            if rule.column == "ok" and rule.fn in ("sum", "mean"):
                column = "CAST(ok AS INTEGER)"
            values.append(f'{SQL[rule.fn].format(c=column)} AS "{name}"')
        keys = ", ".join(f'"{name}"' for name in step.by)
        columns = ", ".join([*([keys] if keys else []), *values])
        order = ", ".join(f'"{name}" NULLS LAST' for name in step.by)
        sql = f"SELECT {columns} FROM t WHERE _apwa_status IS NULL"
        sql += f" GROUP BY {keys} ORDER BY {order}" if keys else ""
    return connection.sql(sql).to_arrow_table().to_pylist()


def assert_rows(found: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> None:
    assert len(found) == len(wanted)
    for mine, theirs in zip(found, wanted, strict=True):
        for name, value in theirs.items():
            if isinstance(value, float):
                assert mine[name] == pytest.approx(value, rel=1e-12, abs=1e-15), name
            else:
                assert mine[name] == value, name


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", STEPS)
def test_a_barrier_step_agrees_with_sql_over_the_whole_table(name: str, shape: str) -> None:
    count, partitionings = SHAPES[shape]
    source = table(rows_like(count))
    wanted = oracle(STEPS[name], source)
    for cuts in partitionings:
        found = run(STEPS[name], partitioned(source, cuts), schemas=[VISIBLE])
        assert_rows(found.to_pylist(), wanted)


def test_rows_that_failed_are_not_counted_as_answers() -> None:
    source = table(rows_like(20), failed=(0, 3, 19))
    found = run(STEPS["by one"], partitioned(source, [7, 0, 13]), schemas=[VISIBLE])
    assert_rows(found.to_pylist(), oracle(STEPS["by one"], source))
    assert sum(found.column("rows").to_pylist()) == 17


def test_groups_get_new_row_ids_in_key_order_and_no_status() -> None:
    found = run(STEPS["by two"], partitioned(table(rows_like(23)), [10, 13]), schemas=[VISIBLE])
    assert found.column("_apwa_row").to_pylist() == [f"g{i}" for i in range(found.num_rows)]
    assert found.column("_apwa_status").null_count == found.num_rows


def test_picking_steps_keep_id_and_status_of_each_row() -> None:
    source = table(rows_like(20), failed=(2, 5))
    by_id = {row["_apwa_row"]: row for row in source.to_pylist()}
    for step in (STEPS["sort mixed"], STEPS["limit 7"], STEPS["distinct k"], Sample(id="s", input="t", n=9)):
        found = run(step, partitioned(source, [6, 6, 8]), schemas=[VISIBLE]).to_pylist()
        assert found
        assert all(row == by_id[row["_apwa_row"]] for row in found)


def test_a_column_may_be_called_like_our_partial_results() -> None:
    visible = pa.schema([("0_n", pa.string()), ("x_mean", pa.float64()), ("rows", pa.int64())])
    rows = [{"0_n": "a", "x_mean": 1.0, "rows": 1}, {"0_n": "a", "x_mean": 2.0, "rows": None}]
    step = Aggregate(
        id="s",
        input="t",
        by=("0_n",),
        aggregates={"m": {"fn": "std", "column": "x_mean"}, "r": {"fn": "count", "column": "rows"}},
    )
    found = run(step, partitioned(table(rows, visible), [1, 1]), schemas=[visible]).to_pylist()
    assert found[0]["r"] == 1
    assert found[0]["m"] == pytest.approx(0.5**0.5)


# --- sample


@pytest.mark.parametrize(
    ("size", "count"),
    [({"n": 0}, 0), ({"n": 5}, 5), ({"n": 99}, 23), ({"fraction": 0.5}, 12), ({"fraction": 1.0}, 23)],
)
def test_a_sample_has_its_size_keeps_the_order_and_ignores_the_partitioning(
    size: dict[str, Any], count: int
) -> None:
    source = table(rows_like(23))
    step = Sample(id="s", input="t", seed=7, **size)
    found = [run(step, partitioned(source, cuts), schemas=[VISIBLE]) for cuts in SHAPES["rows"][1]]
    assert all(one.equals(found[0]) for one in found)
    places = [int(row.split(":")[1]) for row in found[0].column("_apwa_row").to_pylist()]
    assert len(places) == count
    assert places == sorted(places)


def test_another_seed_gives_another_sample() -> None:
    source = partitioned(table(rows_like(200)), [100, 100])
    first, second = (run(Sample(id="s", input="t", n=20, seed=s), source, schemas=[VISIBLE]) for s in (0, 1))
    assert not first.equals(second)


# --- merge and concat

RIGHT = pa.schema([("k", pa.string()), ("n", pa.int64()), ("note", pa.string())])
RIGHT_ROWS = [
    {"k": "a", "n": 1, "note": "first"},
    {"k": None, "n": 2, "note": "null key"},
    {"k": "a", "n": None, "note": "again"},
    {"k": "zz", "n": 9, "note": "no partner"},
]


@pytest.mark.parametrize("how", ["inner", "left", "right", "outer"])
@pytest.mark.parametrize("cuts", [[12], [4, 0, 8], [0, 0, 0, 12, 0]], ids=str)
@pytest.mark.parametrize("right_cuts", [[4], [1, 0, 3]], ids=str)
def test_a_merge_agrees_with_sql_and_keeps_left_then_right_order(
    how: Any, cuts: list[int], right_cuts: list[int]
) -> None:
    left, right = table(rows_like(12, seed=3)), table(RIGHT_ROWS, RIGHT)
    step = Merge(id="s", input="t", right="r", how=how, left_on=("k",), right_on=("k",))
    found = run(step, partitioned(left, cuts), partitioned(right, right_cuts), schemas=[VISIBLE, RIGHT])
    connection = duckdb.connect()
    connection.register("l", left.append_column("lp", pa.array(range(left.num_rows))))
    connection.register("r", right.append_column("rp", pa.array(range(right.num_rows))))
    joined = "FULL OUTER" if how == "outer" else how.upper()
    wanted = connection.sql(
        f"SELECT coalesce(l.k, r.k) AS k, l.n AS n, l.x AS x, r.n AS n_right, r.note AS note"
        f" FROM l {joined} JOIN r"
        " ON l.k = r.k ORDER BY lp NULLS LAST, rp NULLS LAST"
    ).to_arrow_table()
    assert_rows(found.to_pylist(), wanted.to_pylist())
    ids = found.column("_apwa_row").to_pylist()
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("key", ["n", "x", "ok", "day", "at"])
def test_keys_of_every_type_meet_and_null_meets_nothing(key: str) -> None:
    left, right = table(rows_like(15, seed=1)), table(rows_like(15, seed=2))
    step = Merge(id="s", input="t", right="r", left_on=(key, "k"), right_on=(key, "k"))
    found = run(step, partitioned(left, [5, 5, 5]), partitioned(right, [15]), schemas=[VISIBLE, VISIBLE])
    pairs = [
        f"{a['_apwa_row']}~{b['_apwa_row']}"
        for a in left.to_pylist()
        for b in right.to_pylist()
        if a[key] is not None and a["k"] is not None and (a[key], a["k"]) == (b[key], b["k"])
    ]
    assert found.column("_apwa_row").to_pylist() == pairs


def test_keys_with_two_names_stay_two_columns() -> None:
    visible = pa.schema([("code", pa.string()), ("k", pa.int64())])
    right = table([{"code": "a", "k": 5}], visible)
    left = table(rows_like(12, seed=3))
    step = Merge(id="s", input="t", right="r", how="outer", left_on=("k",), right_on=("code",), suffix="_r")
    found = run(step, partitioned(left, [6, 6]), partitioned(right, [1]), schemas=[VISIBLE, visible])
    assert found.schema.names[-2:] == ["code", "k_r"]
    assert {(r["code"], r["k_r"]) for r in found.to_pylist() if r["k"] == "a"} == {("a", 5)}


def test_a_merge_keeps_big_integers_exact() -> None:
    visible = pa.schema([("k", pa.string()), ("big", pa.int64())])
    left = table([{"k": "a"}, {"k": "b"}], pa.schema([("k", pa.string())]))
    right = table([{"k": "a", "big": 2**62 + 1}], visible)
    step = Merge(id="s", input="t", right="r", how="left", left_on=("k",), right_on=("k",))
    schemas = [pa.schema([("k", pa.string())]), visible]
    found = run(step, partitioned(left, [1, 1]), partitioned(right, [1]), schemas=schemas)
    assert found.column("big").to_pylist() == [2**62 + 1, None]


def test_concat_puts_tables_under_one_another_with_nulls_for_missing_columns() -> None:
    step = Concat(id="s", input="t", others=("r",))
    left, right = table(rows_like(5)), table(RIGHT_ROWS, RIGHT)
    for cuts, right_cuts in (([5], [4]), ([2, 0, 3], [0, 4]), ([0, 5], [4, 0])):
        found = run(step, partitioned(left, cuts), partitioned(right, right_cuts), schemas=[VISIBLE, RIGHT])
        assert found.column("k").to_pylist() == [r["k"] for r in (*left.to_pylist(), *RIGHT_ROWS)]
        assert found.column("note").to_pylist() == [None] * 5 + [r["note"] for r in RIGHT_ROWS]
        assert found.column("x").to_pylist()[5:] == [None] * 4


# --- the graph

CALLS: list[int] = []


def _counted(k: int, source: pa.Table) -> pd.DataFrame:
    CALLS.append(k)
    return to_pandas(source.slice(k * 5, 5))


@pytest.mark.parametrize("name", [*STEPS, "sample", "merge", "concat"])
def test_building_reads_nothing_and_computing_reads_each_partition_once(name: str) -> None:
    source = table(rows_like(20))
    with dask.config.set({"dataframe.convert-string": False}):
        frame = dd.from_map(_counted, range(4), meta=empty_frame(source.schema), source=source)
    other = partitioned(table(RIGHT_ROWS, RIGHT), [4])
    more: dict[str, Any] = {
        "sample": Sample(id="s", input="t", n=3),
        "merge": Merge(id="s", input="t", right="r", left_on=("k",), right_on=("k",)),
        "concat": Concat(id="s", input="t", others=("r",)),
    }
    step = STEPS.get(name) or more[name]
    others = [other] if name in ("merge", "concat") else []
    CALLS.clear()
    schema = physical(output_schema(step, [VISIBLE, RIGHT][: 1 + len(others)]))
    built = apply_barrier(step, frame, others, schema)
    repr(built)
    assert CALLS == []
    built.compute(scheduler="sync")
    assert sorted(CALLS) == [0, 1, 2, 3]


@settings(max_examples=25, deadline=None)
@given(
    data=st.lists(
        st.tuples(st.one_of(st.none(), st.integers(0, 3)), st.one_of(st.none(), st.text("ab", max_size=2))),
        max_size=30,
    ),
    cuts=st.lists(st.integers(0, 10), max_size=5),
    down=st.booleans(),
)
def test_sorting_is_stable_for_any_rows_and_partitions(data: list[Any], cuts: list[int], down: bool) -> None:
    visible = pa.schema([("n", pa.int64()), ("k", pa.string())])
    source = table([{"n": n, "k": k} for n, k in data], visible)
    sizes, left = [], len(data)
    for cut in cuts:
        sizes.append(min(cut, left))
        left -= sizes[-1]
    step = Sort(id="s", input="t", by=[{"column": "n", "descending": down}, {"column": "k"}])
    found = run(step, partitioned(source, [*sizes, left]), schemas=[visible])
    rows = list(enumerate(data))
    rows.sort(key=lambda r: (r[1][1] is None, r[1][1] or ""))
    rows.sort(key=lambda r: (r[1][0] is None, (-1 if down else 1) * (r[1][0] or 0)))
    assert found.column("_apwa_row").to_pylist() == [f"0:{i}" for i, _ in rows]


# --- row-local steps

LOCAL: dict[str, Any] = {
    "where": Where(id="s", input="t", condition="n > 0 AND k IS NOT NULL"),
    "assign": Assign(id="s", input="t", columns={"n": "n + 1", "wide": "length(k) * 1.5"}),
    "select": Select(id="s", input="t", columns=("x", "k"), rename={"k": "key"}),
    "explode": Explode(id="s", input="t", column="tags"),
    "chunk": Chunk(id="s", input="t", column="k", tokens=16, overlap_tokens=2),
}


@pytest.mark.parametrize("count", [0, 1, 23])
@pytest.mark.parametrize("name", LOCAL)
def test_a_local_step_has_the_inferred_schema_and_is_the_same_row_by_row(name: str, count: int) -> None:
    source = table(rows_like(count))
    whole = apply_local(LOCAL[name], source)
    assert whole.schema.equals(physical(output_schema(LOCAL[name], [VISIBLE])))
    single = [apply_local(LOCAL[name], source.slice(i, 1)) for i in range(count)]
    assert pa.concat_tables([whole.slice(0, 0), *single]).equals(whole)


def test_bookkeeping_passes_through_and_new_rows_get_new_ids() -> None:
    rows = [{"tags": ["p", None]}, {"tags": []}, {"tags": None}, {"tags": ["q"]}]
    source = table(rows, failed=(3,)).append_column("_apwa_order", pa.array([4, 5, 6, 7]))
    found = apply_local(LOCAL["explode"], source)
    assert found.column("tags").to_pylist() == ["p", None, None, None, "q"]
    assert found.column("_apwa_row").to_pylist() == ["0:0.0", "0:0.1", "0:1.0", "0:2.0", "0:3.0"]
    assert found.column("_apwa_order").to_pylist() == [4, 4, 5, 6, 7]
    assert found.column("_apwa_status").to_pylist() == [None, None, None, None, "refused"]


def test_a_row_that_an_expression_fails_on_keeps_its_place_and_says_so() -> None:
    source = table([{"k": "1"}, {"k": "private text"}, {"k": None}])
    found = apply_local(Assign(id="s", input="t", columns={"v": "CAST(k AS INTEGER)", "w": "1"}), source)
    assert found.column("v").to_pylist() == [1, None, None]
    assert found.column("w").to_pylist() == [1, None, 1]
    assert found.column("_apwa_status").to_pylist() == [None, "bad_input", None]
    assert "private" not in str(found.column("_apwa_error").to_pylist())
    kept = apply_local(Where(id="s", input="t", condition="CAST(k AS INTEGER) > 5"), source)
    assert kept.column("_apwa_row").to_pylist() == ["0:1"]
