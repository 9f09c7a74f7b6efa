"""The main promise: every row has one outcome, in its place, and each distinct request is made once."""

from __future__ import annotations

import json

import pandas as pd

import apwa_dask as apwa
from apwa_dask.testing import Script, expected_answer

ROWS, DISTINCT = 20_000, 3_000
OUTPUT = {"severity": int, "why": str}


def numbered(rows: int, distinct: int | None = None) -> pd.DataFrame:
    texts = [f"complaint {k % (distinct or rows)}" for k in range(rows)]
    return pd.DataFrame({"text": texts, "k": range(rows)}, index=[f"i{k}" for k in range(rows)])


def test_twenty_thousand_rows_keep_index_and_order_and_pay_each_distinct_request_once(
    scripted_server, model_at, store
):
    server = scripted_server(Script(keep_bodies=False))
    frame = numbered(ROWS, DISTINCT)
    table = apwa.from_pandas(frame, npartitions=16).map("severity", inputs="text", output=OUTPUT)

    run = table.run(model=model_at(server), store=store, scheduler="threads", progress=False)
    result = run.result(status=True)

    pd.testing.assert_frame_equal(result[["text", "k"]], frame)
    assert (result["_apwa_status"] == "ok").all()
    assert server.calls == DISTINCT
    assert run.status()["calls"] == DISTINCT
    assert len(run.folder.committed(0)) == 16
    same = result.groupby("text")["severity"].nunique()
    assert (same == 1).all()


def test_each_row_gets_the_answer_to_its_own_text(scripted_server, model_at, store):
    script = Script()
    server = scripted_server(script)
    frame = numbered(300)
    table = apwa.from_pandas(frame, npartitions=3).map("severity", inputs="text", output=OUTPUT)

    result = table.run(model=model_at(server), store=store, progress=False).result()

    sent = {call.text: call for call in server.log()}
    assert len(sent) == 300
    for text, call in sent.items():
        (label,) = [word for word in frame["text"] if word in text and text.rstrip().endswith(word)] or [""]
        schema = call.body["response_format"]["json_schema"]["schema"]
        answer = json.loads(expected_answer(script, call.messages, schema))
        row = result[result["text"] == label].iloc[0]
        assert (row["severity"], row["why"]) == (answer["severity"], answer["why"])


def test_rows_flow_through_map_where_filter_and_map_without_waiting_for_neighbours(
    scripted_server, model_at, store
):
    server = scripted_server()
    frame = numbered(200)
    table = (
        apwa.from_pandas(frame, npartitions=4)
        .map("severity", inputs="text", output={"severity": int}, id="first")
        .where("severity >= 30")
        .map("explain", inputs=["text", "severity"], output={"why": str}, id="second")
    )

    run = table.run(model=model_at(server), store=store, progress=False)
    result = run.result()

    assert len(run.stages) == 1
    assert (result["severity"] >= 30).all()
    assert 0 < len(result) < 200
    assert list(result.index) == [k for k in frame.index if k in set(result.index)]
    assert server.calls == 200 + len(result)


def test_two_runs_at_once_share_the_gate_and_the_calls_in_flight(scripted_server, model_at, store):
    server = scripted_server(latency_s=0.05)
    model = model_at(server, max_concurrency=4)
    frame = numbered(60)
    tables = [
        apwa.from_pandas(frame, npartitions=2).map(words, inputs="text", output=OUTPUT)
        for words in ("severity", "severity in other words")
    ]

    runs = [table.run(model=model, store=store, progress=False) for table in tables]
    results = [run.result() for run in runs]

    assert [len(result) for result in results] == [60, 60]
    assert server.calls == 120
    assert server.max_in_flight <= 4


def test_identical_runs_at_once_pay_once(scripted_server, model_at, store):
    server = scripted_server(latency_s=0.02)
    table = apwa.from_pandas(numbered(50), npartitions=2).map("severity", inputs="text", output=OUTPUT)
    model = model_at(server)

    runs = [table.run(model=model, store=store, progress=False) for _ in range(2)]
    first, second = (run.result() for run in runs)

    pd.testing.assert_frame_equal(first, second)
    assert server.calls == 50
