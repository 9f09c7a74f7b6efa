"""Every step over every awkward table gives the dtypes it declares: generated, so that no step can be left out.

A step is in the grid as soon as it is in the plan language. Each cell runs eagerly and lazily, over frames with
the caller's own dtypes and over files, and each partition is looked at by itself: what the plan declares, what
Dask is told and what is there must be one.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import dask.dataframe as dd
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import apwa_dask as apwa
from apwa_dask.plans.loading import OPERATIONS
from apwa_dask.tables.dtypes import empty_frame
from apwa_dask.testing import Fault, Script, ScriptedServer

# --- the tables

SCHEMA = pa.schema(
    [
        ("text", pa.string()),
        ("k", pa.string()),
        ("n", pa.int64()),
        ("x", pa.float64()),
        ("ok", pa.bool_()),
        ("day", pa.date32()),
        ("at", pa.timestamp("us", tz="UTC")),
        ("tags", pa.list_(pa.string())),
    ]
)
ANSWERED = {
    "k": str,
    "n": int,
    "x": float,
    "ok": bool,
    "day": dt.date,
    "at": dt.datetime,
    "tags": list[str],
}
"""The same columns as a model makes them."""
OTHER = pa.schema([("k", pa.string()), ("n", pa.int64()), ("ok", pa.bool_()), ("note", pa.string())])

FRAME_DTYPES = {
    "text": "object",
    "k": pd.CategoricalDtype(["b", "a", "c"]),
    "n": "int64",
    "x": "float64",
    "ok": "bool",
    "day": pd.ArrowDtype(pa.date32()),
    "at": "datetime64[ns, UTC]",
    "tags": pd.ArrowDtype(pa.list_(pa.string())),
    "note": "object",
}
"""What a caller's frame holds; NumPy's integers and booleans cannot be missing."""
NULLABLE = FRAME_DTYPES | {"n": "Int64", "ok": "boolean"}


def rows_of(count: int, schema: pa.Schema = SCHEMA) -> pa.Table:
    """Rows with a value in each column."""
    moment = dt.datetime(2026, 1, 2, tzinfo=dt.UTC)
    rows = [
        {
            "text": f"A text of many words. It has number {i}. " * 8,
            "k": "ab"[i % 2],
            "n": i,
            "x": i / 2,
            "ok": i % 3 == 0,
            "day": moment.date() + dt.timedelta(days=i),
            "at": moment + dt.timedelta(hours=i),
            "tags": ["p", "q"][: i % 3],
            "note": f"note {i}",
        }
        for i in range(1, count + 1)
    ]
    return pa.Table.from_pylist(rows, schema=schema)


def nulls_of(count: int, schema: pa.Schema = SCHEMA) -> pa.Table:
    return pa.Table.from_arrays([pa.nulls(count, field.type) for field in schema], schema=schema)


PARTS: dict[str, Callable[[pa.Schema], list[pa.Table]]] = {
    "empty table": lambda schema: [rows_of(0, schema)],
    "empty partition": lambda schema: [rows_of(3, schema), rows_of(0, schema), rows_of(2, schema)],
    "one row": lambda schema: [rows_of(1, schema)],
    "null inputs": lambda schema: [nulls_of(2, schema), nulls_of(1, schema)],
    "all failed before": lambda schema: [rows_of(2, schema), rows_of(0, schema), rows_of(1, schema)],
    "all failed here": lambda schema: [rows_of(2, schema), rows_of(1, schema)],
}


def _part(k: int, parts: list[pd.DataFrame]) -> pd.DataFrame:
    return parts[k]


def frame_table(parts: list[pa.Table], name: str, folder: Path) -> apwa.Table:
    """A Dask frame of the caller, with the caller's dtypes."""
    missing = any(part.num_rows and part.column("n").null_count for part in parts)
    dtypes = NULLABLE if missing else FRAME_DTYPES
    frames = []
    for part in parts:
        frame = part.to_pandas(types_mapper=pd.ArrowDtype, ignore_metadata=True)
        frames.append(frame.astype({column: dtypes[column] for column in frame.columns}))
    with dask.config.set({"dataframe.convert-string": False}):
        return apwa.from_dask(
            dd.from_map(_part, range(len(frames)), parts=frames, meta=frames[0].iloc[:0]), name=name
        )


def file_table(parts: list[pa.Table], name: str, folder: Path) -> apwa.Table:
    """A folder of Parquet files, one a part."""
    place = folder / name
    place.mkdir()
    for number, part in enumerate(parts):
        pq.write_table(part, place / f"{number}.parquet")
    return apwa.read(str(place))


SOURCES = {"frame": frame_table, "files": file_table}

# --- the steps

STEPS: dict[str, list[Callable[[apwa.Table, apwa.Table], apwa.Table]]] = {
    "map": [lambda t, o: t.map("say", inputs=["text", "k"], output={"said": str, "size": int, "y": list[float]})],
    "filter": [lambda t, o: t.filter("keep?", inputs=["text", "n"])],
    "flat_map": [lambda t, o: t.flat_map("parts", inputs="text", output={"part": str, "sure": bool})],
    "reduce": [
        lambda t, o: t.reduce("sum up", inputs="text", output={"summary": str, "score": float}),
        lambda t, o: t.reduce("sum up", inputs="text", by="k", output={"summary": str, "count": int}),
        lambda t, o: t.reduce("sum up", inputs="text", output={"summary": str}, unit="partition"),
    ],
    "where": [lambda t, o: t.where("n > 1 OR k IS NULL"), lambda t, o: t.where("CAST(k AS INTEGER) > 0")],
    "assign": [
        lambda t, o: t.assign(m="n + 1", half="x / 2", words="len(tags)", again='"at"'),
        lambda t, o: t.assign(bad="CAST(text AS INTEGER)", big="CAST(text AS DATE)"),
    ],
    "select": [lambda t, o: t.select("tags", "n", "at", name="k", yes="ok")],
    "explode": [lambda t, o: t.explode("tags")],
    "chunk": [lambda t, o: t.chunk("text", tokens=16, overlap_tokens=2)],
    "aggregate": [
        lambda t, o: t.aggregate(
            by="k", c="count", d=("count_distinct", "day"), s=("sum", "n"), a=("mean", "x"), lo=("min", "at")
        ),
        lambda t, o: t.aggregate(
            c="count", hi=("max", "day"), md=("median", "x"), sd=("std", "n"), some=("any", "ok"), f=("min", "text")
        ),
        lambda t, o: t.aggregate(by=["ok", "n", "at", "day"], share=("mean", "ok"), e=("all", "ok")),
    ],
    "sort": [lambda t, o: t.sort("k", "x"), lambda t, o: t.sort("at", "day", "ok", descending=True)],
    "limit": [lambda t, o: t.limit(2), lambda t, o: t.limit(0)],
    "distinct": [lambda t, o: t.distinct("k", "ok"), lambda t, o: t.select("n", "x", "k", "at").distinct()],
    "sample": [lambda t, o: t.sample(2, seed=3), lambda t, o: t.sample(fraction=0.5)],
    "merge": [
        *(lambda t, o, how=how: t.merge(o, on="k", how=how) for how in ("inner", "left", "right", "outer")),
        lambda t, o: t.merge(o, left_on="n", right_on="n", how="outer", suffix="_o"),
    ],
    "join": [
        *(
            lambda t, o, how=how: t.join(o, "the same?", inputs=["text", "note"], on="k", how=how)
            for how in ("outer", "anti")
        ),
        lambda t, o: t.join(o, "the same?", inputs=["n", "note"], condition="n <= n_right"),
        lambda t, o: t.join(o, "the same?", inputs=["text", "note"], how="right"),
    ],
    "rank": [lambda t, o: t.rank("the longest", inputs=["text", "k"], k=2, width=2)],
    "resolve": [lambda t, o: t.resolve("the same?", inputs=["text", "n"], on="k", condition="n < n_other")],
    "concat": [lambda t, o: t.concat(o), lambda t, o: o.concat(t, o)],
}  # fmt: skip


def cells() -> Iterator[Any]:
    for condition in PARTS:
        for op, variants in STEPS.items():
            model_step = OPERATIONS[op].calls_model  # type: ignore[attr-defined]
            if condition == "all failed here" and not model_step:
                continue
            for number, step in enumerate(variants):
                name = f"{condition}-{op}{number}"
                # A stored run costs most of a cell, and what it adds is the same for all variants of a step.
                yield pytest.param("frame", condition, step, number == 0, id=f"{name}-frame")
                if number == 0:
                    yield pytest.param("files", condition, step, False, id=f"{name}-files")


# --- the cells


@pytest.fixture(scope="module")
def answers() -> Iterator[ScriptedServer]:
    with ScriptedServer(Script()) as server:
        yield server


@pytest.fixture(scope="module")
def refuses() -> Iterator[ScriptedServer]:
    with ScriptedServer(Script(faults=(Fault("refusal"),))) as server:
        yield server


@pytest.fixture(scope="module")
def grid_store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("grid") / "store")


def test_every_step_of_the_language_is_in_the_grid() -> None:
    assert set(STEPS) == set(OPERATIONS)


@pytest.mark.parametrize(("kind", "condition", "step", "stored"), list(cells()))
def test_a_step_gives_the_dtypes_it_declares(
    kind: str,
    condition: str,
    step: Callable[[apwa.Table, apwa.Table], apwa.Table],
    stored: bool,
    answers: ScriptedServer,
    refuses: ScriptedServer,
    grid_store: str,
    tmp_path: Path,
) -> None:
    server = refuses if "failed" in condition else answers
    table = SOURCES[kind](PARTS[condition](SCHEMA), "t", tmp_path)
    other = SOURCES[kind](PARTS[condition](OTHER), "other", tmp_path)
    if condition == "all failed before":
        table = table.select("text").map("answer", inputs="text", output=ANSWERED)
        other = other.select("note").map(
            "answer", inputs="note", output={c: ANSWERED[c] for c in ("k", "n", "ok")}
        )
    grown = step(table, other)
    declared = empty_frame(grown.schema)
    options: dict[str, Any] = {
        "model": apwa.Model("test-model", base_url=server.base_url),
        "store": grid_store,
    }

    frames = [grown.to_dask(**options)]
    if stored:
        run = grown.run(progress=False, scheduler="sync", **options).wait()
        frames.append(run.frame)
        pd.testing.assert_series_equal(run.result().dtypes, declared.dtypes)

    for frame in frames:
        pd.testing.assert_series_equal(frame._meta.dtypes, declared.dtypes)
        parts = dask.compute(*frame.to_delayed(), scheduler="sync")
        for part in parts:
            pd.testing.assert_series_equal(part.dtypes, declared.dtypes)
            assert part.index.dtype == frame._meta.index.dtype
