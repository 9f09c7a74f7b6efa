"""Faults 23 to 32 of the matrix (data), and 62 (everything fails): what a table holds harms its row at most.

Fault 30 is in `test_data_changes.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import apwa_dask as apwa
from apwa_dask.errors import RunError, SourceError
from apwa_dask.execution.alarms import SAMPLE
from apwa_dask.testing import Fault, Script, ScriptedServer, expected_answer

MISSING: list[Any] = [None, np.nan, pd.NaT, pd.NA, "", "  \n", "\u200b"]
SPELLED_OUT = re.compile(r"\b(nan|NaN|None|NaT|NA|null)\b|<NA>")


def mapped(frame: pd.DataFrame, npartitions: int = 3, inputs: str | list[str] = "text") -> apwa.Table:
    return apwa.from_pandas(frame, npartitions=npartitions).map("say", inputs=inputs, output={"a": str})


def prompts(server: ScriptedServer) -> str:
    return "\n".join(str(message["content"]) for call in server.log() for message in call.messages)


# -- 23: missing values


def test_fault_23_missing_values_of_every_kind_make_no_call_and_are_never_spelled_out(
    scripted_server, model_at, canary_key, invariants, store
):
    server = scripted_server()
    frame = pd.DataFrame({"text": pd.Series(["row 0", *MISSING, "row 8"], dtype="object")})

    run = mapped(frame).run(model=model_at(server), store=store, progress=False)
    result = invariants.hold(run, server, frame, canary=canary_key)

    assert result["_apwa_status"].tolist() == ["ok", *["bad_input"] * 7, "ok"]
    assert server.calls == 2
    assert not SPELLED_OUT.search(prompts(server))


@pytest.mark.parametrize(
    "column",
    [
        pd.Series([1.5, np.nan, None], dtype="float64"),
        pd.Series([1, None, None], dtype="Int64"),
        pd.Series(pd.to_datetime(["2026-01-02", None, None])),
        pd.Series([True, None, None], dtype="boolean"),
        pd.Series(["x", None, None], dtype="category"),
        pd.Series(["x", None, None], dtype="string[pyarrow]"),
        pd.Series([["x"], [], None], dtype="object"),
    ],
    ids=lambda column: str(column.dtype),
)
def test_fault_23_missing_values_of_every_dtype_make_no_call(
    scripted_server, model_at, invariants, store, column
):
    server = scripted_server()
    frame = pd.DataFrame({"value": column, "k": range(3)})

    run = mapped(frame, 1, "value").run(model=model_at(server), store=store, progress=False)

    assert invariants.hold(run, server, frame[["k"]])["_apwa_status"].tolist() == [
        "ok",
        "bad_input",
        "bad_input",
    ]
    assert server.calls == 1
    assert not SPELLED_OUT.search(prompts(server))


# -- 24: strange cells


def test_fault_24_strange_cells_are_one_rows_failure_at_most_and_can_be_written(
    scripted_server, model_at, canary_key, invariants, store, tmp_path
):
    server = scripted_server()
    strange = {
        "plain": "row 1",
        "lone surrogate": "half \ud83d pair",
        "nul": "a\0b",
        "right to left": "\u202egnirts\u202c",
        "zero width": "a\u200bb\u2060c",
        "emoji": "👩‍👩‍👧‍👦",
        "ten megabytes": "x " * 5_000_000,
        "after": "row 8",
    }
    frame = pd.DataFrame({"text": pd.Series(list(strange.values()), list(strange), dtype="object")})
    table = apwa.from_pandas(frame, npartitions=2).map("say", inputs="text", output={"a": str})

    run = table.run(model=model_at(server, context_tokens=50_000), store=store, progress=False)
    result = invariants.hold(run, server, frame.drop(columns="text"), canary=canary_key)

    status = result["_apwa_status"].to_dict()
    assert status.pop("ten megabytes") == "too_large"
    assert set(status.values()) == {"ok"}
    assert server.calls == len(strange) - 1
    assert "\ud83d" not in prompts(server)
    assert result["text"].drop("lone surrogate").tolist() == frame["text"].drop("lone surrogate").tolist()
    written = pd.read_parquet(run.export(str(tmp_path / "out.parquet")))
    assert written["a"].tolist() == result["a"].tolist()
    pq.read_table(run.export(str(tmp_path / "status.parquet"), status=True)).validate(full=True)


def test_fault_24_an_answer_with_strange_text_is_written_too(
    scripted_server, model_at, invariants, store, tmp_path
):
    server = scripted_server(Script(faults=(Fault("content", content='{"a": "x\\ud83dy\\u0000z\\u202e"}'),)))
    frame = pd.DataFrame({"text": [f"row {k}" for k in range(4)]})

    run = mapped(frame, 2).run(model=model_at(server), store=store, progress=False)
    invariants.hold(run, server, frame)

    assert len(pd.read_parquet(run.export(str(tmp_path / "out.parquet")))) == 4


# -- 25: too large


def test_fault_25_a_prompt_over_the_known_window_makes_no_call(scripted_server, model_at, invariants, store):
    server = scripted_server(Script(context_tokens=2_000))
    frame = pd.DataFrame({"text": ["row 0", "word " * 20_000, "row 2"]})

    run = mapped(frame).run(
        model=model_at(server, context_tokens=2_000, max_output_tokens=100), store=store, progress=False
    )

    result = invariants.hold(run, server, frame)
    assert result["_apwa_status"].tolist() == ["ok", "too_large", "ok"]
    assert server.calls == 2
    assert "window" in run.failures["message"].iloc[0] or "tokens" in run.failures["message"].iloc[0]


def test_fault_25_where_the_window_is_unknown_the_endpoint_says_so_once(
    scripted_server, model_at, invariants, store
):
    server = scripted_server(Script(context_tokens=2_000))
    frame = pd.DataFrame({"text": ["row 0", "word " * 20_000, "row 2"]})

    run = mapped(frame).run(model=model_at(server, max_output_tokens=100), store=store, progress=False)

    assert invariants.hold(run, server, frame)["_apwa_status"].tolist() == ["ok", "too_large", "ok"]
    assert server.calls == 3


# -- 26: indexes and orders


CASES, DISTINCT = 12_500, 250
INDEXES: dict[str, Callable[[int, np.random.Generator], pd.Index]] = {
    "duplicate": lambda n, rng: pd.Index(rng.integers(0, 20, n)),
    "string": lambda n, rng: pd.Index([f"i{k}" for k in rng.permutation(n)]),
    "multi": lambda n, rng: pd.MultiIndex.from_arrays([rng.integers(0, 9, n), rng.permutation(n)], names=["a", "b"]),
    "shuffled": lambda n, rng: pd.Index(rng.permutation(n)),
    "time": lambda n, rng: pd.Index(pd.to_datetime("2026-01-01") + pd.to_timedelta(rng.integers(0, 99, n), "D")),
    "float": lambda n, rng: pd.Index(rng.normal(size=n)),
    "filtered": lambda n, rng: pd.Index(np.sort(rng.choice(10 * n, n, replace=False))),
    "default": lambda n, rng: pd.RangeIndex(n),
}  # fmt: skip


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Iterator[tuple[ScriptedServer, str]]:
    """A server and a store for all random frames: each distinct text is paid once."""
    with ScriptedServer() as server:
        yield server, str(tmp_path_factory.mktemp("fault-26") / "store")


@pytest.mark.parametrize("kind", INDEXES)
def test_fault_26_no_row_of_a_hundred_thousand_gets_the_answer_of_another(shared, model_at, invariants, kind):
    server, store = shared
    rng = np.random.default_rng(list(INDEXES).index(kind))
    texts = np.array([f"complaint number {k} end" for k in range(DISTINCT)])[rng.integers(0, DISTINCT, CASES)]
    index = INDEXES[kind](CASES, rng)
    frame = pd.DataFrame({"text": texts, "k": np.arange(CASES)}, index=index)
    npartitions = int(rng.integers(1, 40))
    if kind == "filtered":
        table = apwa.from_dask(dd.from_pandas(frame, npartitions=npartitions, sort=False))
    else:
        table = apwa.from_pandas(frame, npartitions=npartitions)

    run = table.map("say", inputs="text", output={"a": str, "n": int}).run(
        model=model_at(server), store=store, progress=False
    )

    result = run.result(status=True)
    invariants.i1_every_row_has_one_status(run, CASES)
    invariants.i2_order_and_index_are_the_inputs(result, frame)
    answers = answers_by_text(server)
    assert result["text"].map(lambda text: answers[text]["a"]).tolist() == result["a"].tolist()
    assert result["text"].map(lambda text: answers[text]["n"]).tolist() == result["n"].tolist()
    assert server.calls == server.log().distinct_texts <= DISTINCT


def answers_by_text(server: ScriptedServer) -> dict[str, dict[str, Any]]:
    found = {}
    for call in server.log():
        (text,) = re.findall(r"complaint number \d+ end", call.text)
        assert call.body is not None
        schema = call.body["response_format"]["json_schema"]["schema"]
        found[text] = json.loads(expected_answer(server.script, call.messages, schema))
    return found


# -- 27: duplicates


@pytest.mark.parametrize("npartitions", [1, 8])
def test_fault_27_equal_prompts_are_one_call_each_and_every_row_is_filled(
    scripted_server, model_at, canary_key, invariants, store, npartitions
):
    server = scripted_server(Script(latency_s=0.02))
    frame = pd.DataFrame({"text": [f"row {k // 2}" for k in range(400)], "k": range(400)})
    frame = frame.sample(frac=1, random_state=7)

    run = mapped(frame, npartitions).run(model=model_at(server), store=store, progress=False)
    result = invariants.hold(run, server, frame, canary=canary_key)

    assert server.calls == 200
    assert result["a"].notna().all()
    assert result.groupby("text")["a"].nunique().eq(1).all()


# -- 28: nothing there


def test_fault_28_an_empty_table_an_empty_partition_and_failures_only_have_one_schema(
    scripted_server, model_at, invariants, store
):
    server = scripted_server(Script(faults=(Fault("refusal", on="bad"),)))
    model = model_at(server)

    def parts(texts: list[Any], npartitions: int) -> list[pa.Schema]:
        frame = pd.DataFrame({"text": pd.Series(texts, dtype="string[pyarrow]")})
        run = mapped(frame, npartitions).run(model=model, store=store, progress=False).wait()
        invariants.i1_every_row_has_one_status(run, len(frame))
        invariants.i2_order_and_index_are_the_inputs(run.result(), frame)
        return [run.folder.read_part(record).schema for record in run.folder.committed(0).values()]

    good = parts(["row 0", "row 1"], 2)
    schemas = {
        "no rows": parts([], 1),
        "an empty partition": parts(["row 0"], 4),
        "all failed": parts(["bad 0", "bad 1", "row 2"], 3),
        "all null": parts([None, None], 2),
    }
    for case, found in schemas.items():
        assert all(schema.equals(good[0]) for schema in found), case


def test_fault_28_files_without_rows_leave_no_trace(scripted_server, model_at, invariants, store, tmp_path):
    server = scripted_server()
    for name, rows in (("a", 3), ("b", 0), ("c", 2)):
        table = pa.table({"text": pa.array([f"row {name}{k}" for k in range(rows)], pa.string())})
        pq.write_table(table, tmp_path / f"{name}.parquet")
    source = apwa.read(str(tmp_path / "*.parquet"), partition_rows=2)

    run = source.map("say", inputs="text", output={"a": str}).run(
        model=model_at(server), store=store, progress=False
    )

    expected = pd.DataFrame({"text": ["row a0", "row a1", "row a2", "row c0", "row c1"]})
    invariants.hold(run, server, expected)
    assert run.frame.compute().dtypes.equals(run.result().dtypes)


# -- 29: files that disagree


def test_fault_29_a_column_that_one_file_lacks_is_null_there_and_this_is_said(
    scripted_server, model_at, invariants, store, tmp_path
):
    server = scripted_server()
    (tmp_path / "a.csv").write_text("text,stars,who\nrow 0,5,ann\n")
    (tmp_path / "b.csv").write_text("text,stars\nrow 1,4\n")
    source = apwa.read(str(tmp_path))

    run = source.map("say", inputs=["text", "who"], output={"a": str}).run(
        model=model_at(server), store=store, progress=False
    )

    result = invariants.hold(run, server, pd.DataFrame({"text": ["row 0", "row 1"], "stars": [5, 4]}))
    assert result["who"].isna().tolist() == [False, True]
    assert any("'who' is missing in 1 of 2 files" in note.reason for note in source.report.notes)
    assert not SPELLED_OUT.search(prompts(server))


def test_fault_29_types_that_disagree_are_never_cast_in_silence(
    scripted_server, model_at, invariants, store, tmp_path
):
    server = scripted_server()
    pq.write_table(pa.table({"text": ["row 0"], "code": [7]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"text": ["row 1"], "code": ["007"]}), tmp_path / "b.parquet")
    source = apwa.read(str(tmp_path))

    run = source.map("say", inputs="text", output={"a": str}).run(
        model=model_at(server), store=store, progress=False
    )

    result = invariants.hold(run, server, pd.DataFrame({"text": ["row 0", "row 1"]}))
    assert result["code"].tolist() == ["7", "007"]
    assert any("code" in note.reason for note in source.report.notes)


def test_fault_29_a_value_that_does_not_fit_the_declared_type_names_its_file_and_costs_nothing(
    scripted_server, model_at, store, tmp_path
):
    server = scripted_server()
    (tmp_path / "a.csv").write_text("text,stars\nrow 0,5\n")
    (tmp_path / "b.csv").write_text("text,stars\nrow 1,many\n")
    source = apwa.read(str(tmp_path), schema={"stars": "integer"})
    run = source.map("say", inputs="text", output={"a": str}).run(
        model=model_at(server), store=store, progress=False, scheduler="sync"
    )

    with pytest.raises(SourceError, match=r"b\.csv"):
        run.wait()

    assert "row 1" not in prompts(server)


# -- 31: names and braces


def test_fault_31_columns_named_like_ours_and_braces_are_literal_and_prompts_are_as_promised(
    scripted_server, model_at, canary_key, invariants, store
):
    server = scripted_server()
    frame = pd.DataFrame(
        {
            "{{text}}": ["{{ user }} {0} %s ${HOME} {% raw %}", "{}", "plain"],
            "_status": ["mine"] * 3,
            "status": [1, 2, 3],
            "naïve {col}": ["x", "y", "z"],
        }
    )
    inputs = ["{{text}}", "naïve {col}"]
    planned = mapped(frame, 1, inputs).plan()
    model = model_at(server, max_concurrency=1)

    run = planned.run(model=model, store=store, progress=False)
    result = invariants.hold(run, server, frame, canary=canary_key)

    assert list(result.columns) == [*frame.columns, "a", "_apwa_status", "_apwa_error"]
    bodies = [planned.prompt_for(row, model=model) for row in frame[inputs].to_dict("records")]
    promised = [json.loads(body)["messages"] for body in bodies]
    sent = [call.messages for call in server.log()]
    assert sorted(map(json.dumps, sent)) == sorted(map(json.dumps, promised))
    for text in frame["{{text}}"]:
        assert text in prompts(server)


# -- 32: regular expressions


def test_fault_32_a_regex_bomb_in_text_or_pattern_stalls_nobody(scripted_server, model_at, invariants, store):
    server = scripted_server(Script(faults=(Fault("status", status=400, on="bomb"),)))
    bombs = ["a" * 50_000 + "!", "(a+)+$", "(" * 5_000, "x" * 100_000, "'" * 20_000, "0-" * 20_000]
    frame = pd.DataFrame({"text": [*(f"bomb {text}" for text in bombs), "row good"], "k": range(7)})
    table = (
        apwa.from_pandas(frame, npartitions=2)
        .assign(hit="regexp_matches(text, '(a+)+$')", cut="regexp_replace(text, '(a|aa)+b', '')")
        .map("say", inputs="text", output={"a": str})
    )

    run = table.run(model=model_at(server), store=store, progress=False)
    result = invariants.hold(run, server, frame)

    assert result["_apwa_status"].tolist() == [*["bad_input"] * 6, "ok"]
    assert result["hit"].tolist() == [bool(re.search(r"a$", text)) for text in frame["text"]]


# -- 62: everything fails


def test_fault_62_when_every_row_fails_alike_the_run_stops_after_a_sample_with_one_message(
    scripted_server, model_at, canary_key, invariants, store
):
    server = scripted_server(Script(faults=(Fault("status", status=400),)))
    frame = pd.DataFrame({"text": [f"row {k}" for k in range(1_000)]})
    run = mapped(frame, 8).run(model=model_at(server, max_concurrency=256), store=store, progress=False)

    error = invariants.stopped_with(run, RunError, "RUN-ALIKE")

    assert server.calls <= SAMPLE == 50
    assert str(error).count("HTTP 400") == 1
    server.set(Script())
    resumed = apwa.attach(run.id, store, progress=False).resume()
    invariants.hold(resumed, server, frame, canary=canary_key, interrupted=True)
