"""U4: a preview shows input beside output, what it cost and took; and its rows are never paid again."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import dask
import dask.dataframe as dd
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import apwa_dask as apwa
from apwa_dask.testing import Fault, On, Rule


def typed_table(rows: int = 60) -> pa.Table:
    """Each type that a cell of a prompt may have, missing values among them."""
    return pa.table(
        {
            "text": [f"message {k} {'long ' * (k % 7)}" for k in range(rows)],
            "count": pa.array([None if k % 5 == 0 else k for k in range(rows)], pa.int64()),
            "price": pa.array([None if k % 7 == 0 else k / 4 for k in range(rows)], pa.float64()),
            "exact": pa.array([Decimal(k) / 10 for k in range(rows)], pa.decimal128(10, 2)),
            "day": pa.array([dt.date(2025, 1, 1) + dt.timedelta(k) for k in range(rows)]),
            "at": pa.array([dt.datetime(2025, 1, 1, 0, 0, k % 60) for k in range(rows)], pa.timestamp("us", "UTC")),
            "ok": pa.array([None if k % 3 == 0 else k % 2 == 0 for k in range(rows)]),
            "tags": pa.array([[f"t{k}", "x"] for k in range(rows)]),
        }
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["parquet", "csv", "pandas", "dask", "dask of objects"])
def test_u4_calls_of_the_full_run_are_the_distinct_ones_less_the_previewed(
    scripted_server, model_at, store, tmp_path, kind
):
    server = scripted_server()
    data = typed_table()
    if kind == "csv":
        data = data.drop_columns(["tags"])
        data.to_pandas().to_csv(tmp_path / "t.csv", index=False)
        table = apwa.read(str(tmp_path / "t.csv"))
    elif kind == "parquet":
        pq.write_table(data, tmp_path / "t.parquet", row_group_size=13)
        table = apwa.read(str(tmp_path / "t.parquet"))
    elif kind == "pandas":
        table = apwa.from_pandas(data.to_pandas().set_index("day", drop=False), npartitions=3)
    else:  # whatever Dask makes of objects
        with dask.config.set({"dataframe.convert-string": kind == "dask"}):
            frame = dd.from_pandas(data.drop_columns(["tags"]).to_pandas(), npartitions=3)
        table = apwa.from_dask(frame)
    plan = table.map("judge it", inputs=list(table.columns), output={"a": int}).plan()
    options = {"model": model_at(server), "store": store}

    shown = plan.preview(12, **options)
    assert (len(shown), server.calls) == (12, 12)
    plan.preview(12, **options)
    assert server.calls == 12
    run = plan.run(progress=False, **options).wait()
    assert server.calls == 60
    assert run.status()["calls"] == 60 - 12


def test_u4_equal_rows_of_the_sample_count_once(scripted_server, model_at, store):
    server = scripted_server()
    table = apwa.from_pandas(pd.DataFrame({"text": [f"row {k % 10}" for k in range(100)]}))
    plan = table.map("x", inputs="text", output={"a": int}).plan()
    shown = plan.preview(30, model=model_at(server), store=store)
    before = server.calls
    assert before == shown["text"].nunique()
    plan.run(model=model_at(server), store=store, progress=False).wait()
    assert server.calls == 10


CHAIN_RULES = (
    Rule("part", {"keep": True}, where="text"),
    Rule(r"row \d*[05]$", {"rows": []}),
    Rule(r"row", {"rows": [{"part": "part one"}, {"part": "part two"}]}),
)


def test_u4_all_steps_run_and_each_row_says_what_it_gave_cost_and_took(scripted_server, model_at, store):
    server = scripted_server(latency_s=0.02, rules=CHAIN_RULES)
    frame = pd.DataFrame({"n": range(40), "text": [f"row {k}" for k in range(40)]}, index=range(100, 140))
    plan = (
        apwa.from_pandas(frame)
        .flat_map("parts", inputs="text", output={"part": str})
        .filter("a good part?", inputs=["text", "part"])
        .plan()
    )
    shown = plan.preview(10, seed=3, model=model_at(server), store=store)

    assert shown.index.nunique() == 10
    assert set(shown.index) <= set(frame.index)
    assert (frame.loc[shown.index, "text"].tolist()) == shown["text"].tolist()
    gone = shown["_apwa_status"] == "dropped"
    assert set(shown.loc[gone, "text"].str[-1]) <= {"0", "5"}
    assert set(shown.loc[~gone, "part"]) == {"part one", "part two"}
    one_each = shown[~shown.index.duplicated()]
    assert one_each["_apwa_cost_usd"].sum() == pytest.approx(shown.run.status()["cost_usd"])
    assert (shown["_apwa_latency_s"] >= 0.02).all()


def test_u4_a_row_that_failed_stands_there_with_its_reason(scripted_server, model_at, store):
    server = scripted_server(faults=(Fault("refusal", on=On(text="row 7$")),))
    frame = pd.DataFrame({"text": [f"row {k}" for k in range(12)]})
    table = apwa.from_pandas(frame).map("x", inputs="text", output={"a": int})
    shown = table.plan().preview(12, model=model_at(server), store=store)
    (failed,) = shown[shown["_apwa_status"] != "ok"].to_dict("records")
    assert (failed["text"], failed["_apwa_status"]) == ("row 7", "refused")
    assert failed["_apwa_error"]


def test_u4_the_sample_has_short_and_long_rows_of_each_category(scripted_server, model_at, store):
    server = scripted_server()
    frame = pd.DataFrame(
        {"kind": ["a"] * 30 + ["b"] * 30 + ["c"] * 30, "text": [f"{k} " + "w " * (k % 30) for k in range(90)]}
    )
    plan = apwa.from_pandas(frame).map("x", inputs="text", output={"a": int}).plan()
    shown = plan.preview(9, model=model_at(server), store=store)
    assert shown["kind"].value_counts().to_dict() == {"a": 3, "b": 3, "c": 3}
    for _, rows in shown.groupby("kind"):
        lengths = sorted(rows["text"].str.len())
        assert lengths[0] < 25 < 40 < lengths[-1]


def test_u4_equal_seeds_try_equal_rows(scripted_server, model_at, store):
    server = scripted_server()
    frame = pd.DataFrame({"text": [f"row {k}" for k in range(300)]})
    plan = apwa.from_pandas(frame).map("x", inputs="text", output={"a": int}).plan()
    options = {"model": model_at(server), "store": store}
    first = plan.preview(7, seed=1, **options)
    assert plan.preview(7, seed=1, **options)["text"].tolist() == first["text"].tolist()
    assert server.calls == 7
    assert plan.preview(7, seed=2, **options)["text"].tolist() != first["text"].tolist()


def test_u4_a_reduce_and_a_join_are_previewed_by_their_result(scripted_server, model_at, store):
    server = scripted_server()
    left = apwa.from_pandas(
        pd.DataFrame({"k": list("abcdef") * 5, "text": [f"t {n}" for n in range(30)]}), name="l"
    )
    right = apwa.from_pandas(pd.DataFrame({"k": list("abc"), "city": ["Oslo", "Rome", "Bern"]}), name="r")
    plan = left.merge(right, on="k").reduce("sum", inputs="text", by="city", output={"s": str}).plan()
    shown = plan.preview(12, model=model_at(server), store=store)
    assert {"city", "s", "_apwa_cost_usd", "_apwa_latency_s"} <= set(shown.columns)
    assert 1 <= len(shown) <= 3
