"""Any frame that goes in comes back: index, order, dtypes, and a declared schema even where there is no
row.
"""

from __future__ import annotations

import os
import tempfile
import threading
from typing import Any

import dask
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import apwa_dask as apwa
from apwa_dask.execution.plain_strings import plain_strings
from apwa_dask.testing import Fault, Script, ScriptedServer

OUTPUT = {"severity": int, "why": str, "sure": bool, "score": float, "tags": list[str]}
ANSWERED = {"severity": "Int64", "sure": "boolean", "score": "Float64"}

_WORDS = st.sampled_from(["battery", "late parcel", "ok", "naïve {x}", "x" * 40, "", "  "])
_INDEXES = {
    "range": lambda n, draw: pd.RangeIndex(n),
    "filtered": lambda n, draw: pd.Index(np.arange(n) * 3 + 7),
    "duplicates": lambda n, draw: pd.Index([k // 2 for k in range(n)], name="half"),
    "shuffled": lambda n, draw: pd.Index(draw(st.permutations(range(n)))),
    "strings": lambda n, draw: pd.Index([f"i{k % 4}" for k in range(n)], name="key", dtype=object),
    "dates": lambda n, draw: pd.date_range("2026-01-01", periods=n, freq="h", tz="UTC", name="at"),
    "levels": lambda n, draw: pd.MultiIndex.from_arrays(
        [[f"a{k % 2}" for k in range(n)], [k // 2 for k in range(n)]], names=["shop", "n"]
    ),
    "unnamed levels": lambda n, draw: pd.MultiIndex.from_arrays([list(range(n)), [1.5] * n]),
}


@st.composite
def frames(draw: Any, *, max_rows: int = 12) -> pd.DataFrame:
    n = draw(st.integers(0, max_rows))

    def cells(values: st.SearchStrategy[Any]) -> list[Any]:
        return draw(st.lists(values, min_size=n, max_size=n))

    gap = st.none()
    columns = {
        "text": pd.Series(cells(_WORDS), dtype=draw(st.sampled_from(["object", "string", "str"]))),
        "gaps": pd.Series(cells(_WORDS | gap), dtype="object"),
        "whole": pd.Series(
            cells(st.integers(-9, 9)), dtype=draw(st.sampled_from(["int64", "int8", "Int64"]))
        ),
        "share": pd.Series(cells(st.floats(allow_nan=True, width=32)), dtype="float64"),
        "flag": pd.Series(cells(st.booleans()), dtype=draw(st.sampled_from(["bool", "boolean"]))),
        "maybe": pd.Series(cells(st.integers(0, 3) | gap), dtype="Int32"),
        "when": pd.Series(
            pd.to_datetime(cells(st.sampled_from(["2026-01-02", "1999-12-31 23:59"]) | gap), format="mixed")
        ),
        "kind": pd.Series(pd.Categorical(cells(st.sampled_from("ab") | gap), categories=["b", "a", "c"])),
    }
    frame = pd.DataFrame(columns)
    frame.index = _INDEXES[draw(st.sampled_from(sorted(_INDEXES)))](n, draw)
    return frame


@pytest.fixture(scope="module")
def endpoint():
    with ScriptedServer(Script()) as server, tempfile.TemporaryDirectory() as store:
        yield apwa.Model("test-model", base_url=server.base_url), store


_RUN = settings(
    max_examples=int(os.environ.get("APWA_TEST_EXAMPLES", "8")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@_RUN
@given(frame=frames(), npartitions=st.integers(1, 5))
def test_a_pandas_frame_comes_back_as_it_was(endpoint, frame, npartitions):
    model, store = endpoint
    table = apwa.from_pandas(frame, npartitions=npartitions).map("severity", inputs="text", output=OUTPUT)

    result = table.run(model=model, store=store, scheduler="threads", progress=False).result(status=True)

    pd.testing.assert_frame_equal(result[list(frame.columns)], frame, check_freq=False)
    _check_answers(result, frame)


@_RUN
@given(frame=frames(), npartitions=st.integers(1, 5), known=st.booleans())
def test_a_dask_frame_comes_back_as_it_was(endpoint, frame, npartitions, known):
    model, store = endpoint
    if isinstance(frame.index, pd.MultiIndex):
        frame = frame.reset_index(drop=True)  # Dask frames have none
    source = dd.from_pandas(frame, npartitions=npartitions, sort=False)
    if known and frame.index.is_monotonic_increasing and len(frame):
        source = dd.from_pandas(frame, npartitions=npartitions, sort=True)
    held = source.compute(scheduler="sync")
    table = apwa.from_dask(source).map("severity", inputs="text", output=OUTPUT)

    run = table.run(model=model, store=store, scheduler="threads", progress=False)
    result = run.result(status=True)

    pd.testing.assert_frame_equal(result[list(held.columns)], held, check_freq=False)
    _check_answers(result, held)


def _check_answers(result: pd.DataFrame, frame: pd.DataFrame) -> None:
    assert {name: str(result[name].dtype) for name in ANSWERED} == ANSWERED
    asked = frame["text"].astype(object).map(lambda text: bool(str(text).strip())).to_numpy(dtype=bool)
    assert (result["_apwa_status"] == np.where(asked, "ok", "bad_input")).all()
    assert result["severity"].notna().to_numpy().tolist() == asked.tolist()


SOME = pd.DataFrame(
    {"text": ["a", "b", "c", "d"], "n": [1, 2, 3, 4]}, index=pd.Index(list("wxyz"), name="id")
)


def _schema(frame: pd.DataFrame) -> dict[str, str]:
    return {"index": str(frame.index.dtype), **{name: str(kind) for name, kind in frame.dtypes.items()}}


@pytest.mark.parametrize("way", ["pandas", "dask"])
@pytest.mark.parametrize("case", ["empty table", "one row", "empty partition", "all failed", "all null"])
def test_schema_is_the_same_whatever_the_rows(scripted_server, model_at, store, case, way):
    faults = (Fault("refusal"),) if case == "all failed" else ()
    server = scripted_server(Script(faults=faults))
    frame = {
        "empty table": SOME.iloc[:0],
        "one row": SOME.iloc[:1],
        "empty partition": SOME,
        "all failed": SOME,
        "all null": SOME.assign(text=pd.Series([None] * 4, index=SOME.index, dtype=SOME["text"].dtype)),
    }[case]

    def table_of(rows: pd.DataFrame, parts: int = 3) -> apwa.Table:
        if way == "pandas":
            return apwa.from_pandas(rows, npartitions=parts)
        lazy = dd.from_pandas(rows, npartitions=parts, sort=False)
        return apwa.from_dask(lazy[lazy["n"] != 2] if case == "empty partition" else lazy)

    table = table_of(frame, 4)
    if case == "empty partition":
        table = table.where("n <> 2")
    table = table.map("severity", inputs="text", output=OUTPUT)
    options = {"model": model_at(server), "store": store}
    run = table.run(progress=False, **options)
    result = run.result(status=True)
    lazy = table.to_dask(status=True, **options)

    given = SOME if way == "pandas" else dd.from_pandas(SOME, npartitions=1)._meta
    full = {
        "index": str(given.index.dtype), "text": str(given["text"].dtype), "n": "int64",
        "severity": "Int64", "why": "string", "sure": "boolean", "score": "Float64",
        "tags": "list<element: string>[pyarrow]", "_apwa_status": "string", "_apwa_error": "string",
    }  # fmt: skip
    assert {**_schema(result), "tags": full["tags"]} == full
    assert "list" in str(result["tags"].dtype)
    assert _schema(lazy.compute(scheduler="threads")) == _schema(result) == _schema(lazy._meta)
    assert _schema(run.frame._meta) == _schema(run.frame.compute(scheduler="sync"))
    stored = [run.folder.read_part(record.part).schema for record in run.folder.committed(0).values()]
    assert len(stored) == len(run.folder.committed(0)) > 0
    assert all(schema.equals(stored[0]) for schema in stored)
    assert (
        result.index.tolist()
        == (frame[frame["n"] != 2] if case == "empty partition" else frame).index.tolist()
    )
    if case in ("all failed", "all null"):
        assert (result["_apwa_status"] == ("refused" if case == "all failed" else "bad_input")).all()
        assert result["severity"].isna().all()
        assert len(run.failures) == 4
    assert server.calls == {"empty table": 0, "one row": 1, "empty partition": 3, "all null": 0}.get(case, 8)


def test_a_table_of_no_columns_but_text_and_no_rows_runs_every_verb(scripted_server, model_at, store):
    server = scripted_server()
    empty = pd.DataFrame({"text": pd.Series([], dtype="object"), "g": pd.Series([], dtype="int64")})
    table = apwa.from_pandas(empty, npartitions=2)
    whole = (
        table.map("a", inputs="text", output={"a": int})
        .filter("b", inputs="text")
        .flat_map("c", inputs="text", output={"c": str})
        .sort("a")
        .distinct("g")
        .limit(3)
        .aggregate(by="g", n="count")
    )
    grouped = table.reduce("d", inputs="text", by="g", output={"d": str})

    result = whole.run(model=model_at(server), store=store, progress=False).result()
    groups = grouped.run(model=model_at(server), store=store, progress=False).result()

    assert result.columns.tolist() == ["g", "n"]
    assert groups.columns.tolist() == ["g", "d"]
    assert (len(result), len(groups), server.calls) == (0, 0, 0)


@pytest.mark.parametrize(
    ("names", "says"), [(["text", "text"], "two columns"), (["text", "_apwa_row"], "_apwa")]
)
def test_columns_that_would_clash_are_refused_before_anything_else(names, says):
    frame = pd.DataFrame([["a", "b"]], columns=names)

    with pytest.raises(apwa.ApwaError, match=says):
        apwa.from_pandas(frame)


def test_rows_of_mixed_objects_are_refused_with_the_columns_name(store):
    frame = pd.DataFrame({"text": ["a", "b"], "mixed": [{"a": 1}, "word"]})

    with pytest.raises(apwa.ApwaError, match="mixed"):
        apwa.from_pandas(frame)


def test_threads_that_build_graphs_at_once_leave_the_setting_of_strings_as_it_was() -> None:
    first_is_in, second_has_tried = threading.Event(), threading.Event()

    def first() -> None:
        with plain_strings():
            first_is_in.set()
            second_has_tried.wait(5)

    def second() -> None:
        first_is_in.wait(5)
        second_has_tried.set()
        with plain_strings():
            thread.join(5)

    before = dask.config.get("dataframe.convert-string", None)
    thread = threading.Thread(target=first)
    other = threading.Thread(target=second)
    thread.start()
    other.start()
    other.join(10)
    assert dask.config.get("dataframe.convert-string", None) == before
