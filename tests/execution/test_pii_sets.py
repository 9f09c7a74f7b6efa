"""Redaction of three public sets with gold answers: the engine adds no loss, no leak, and moves no row."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import apwa_dask as apwa
from apwa_dask.testing import ChatRequest, Script, ScriptedServer
from tests.execution.conftest import ModelAt

DATA = Path(os.environ.get("APWA_SHARED_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
TASK = "Replace every piece of personal information by its type in square brackets."

needs = pytest.mark.skipif(
    not (DATA / "pii_table").is_dir(), reason=f"the shared data sets are not at {DATA}"
)


def redacted(text: str, spans: list[Mapping[str, Any]]) -> str:
    """The text with its spans replaced; overlapping ones count as the longest."""
    kept, end = [], len(text) + 1
    for span in sorted(spans, key=lambda span: (-span["start"], -span["end"])):
        if span["end"] <= end:
            kept.append(span)
            end = span["start"]
    for span in kept:
        text = f"{text[: span['start']]}[{span['label']}]{text[span['end'] :]}"
    return text


def gold_of(rows: list[dict[str, Any]]) -> dict[str, str]:
    """The redacted text of each text; equal texts are one question, so their spans count together."""
    spans: dict[str, dict[tuple[int, int], Mapping[str, Any]]] = {}
    for row in rows:
        known = spans.setdefault(row["text"], {})
        known.update({(span["start"], span["end"]): span for span in row["spans"]})
    return {text: redacted(text, list(known.values())) for text, known in spans.items()}


def answered_by(gold: Mapping[str, str]) -> Callable[[ChatRequest], str]:
    """An endpoint that knows each text's redacted one; any other text is an error."""
    return lambda request: json.dumps({"redacted": gold[request.text]})


def leaks(before: str, after: str, spans: list[Mapping[str, Any]]) -> int:
    """Spans that stand in the result as often as before."""
    return sum(after.count(span["text"]) >= before.count(span["text"]) for span in spans)


@needs
@pytest.mark.parametrize("name", ["pii_sentences", "pii_chats"])
def test_no_span_is_left_and_every_row_is_in_its_place(name: str, store: str, model_at: ModelAt) -> None:
    with gzip.open(DATA / name / "data.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    gold = gold_of(rows)
    with ScriptedServer(Script(respond=answered_by(gold)), in_process=True) as server:
        table = apwa.read(str(DATA / name / "data.jsonl.gz"), hide=["spans"])
        if "redacted" in table.columns:
            table = table.drop("redacted")
        written = table.map(TASK, inputs="text", output={"redacted": str}, id="redact")
        # A rewritten text is as long as the text: the longest has 20,000 characters.
        model = model_at(server, max_output_tokens=32_000)
        run = written.run(model=model, store=store, progress=False).wait()
        calls = server.calls
    frame = run.result()

    assert frame["id"].tolist() == [row["id"] for row in rows]
    assert frame["text"].tolist() == [row["text"] for row in rows]
    blank = [not row["text"].strip() for row in rows]
    assert frame["redacted"].isna().tolist() == blank
    assert run.failures["outcome"].tolist() == ["bad_input"] * sum(blank), "only rows without any text"
    after = frame["redacted"].fillna("").tolist()
    assert after == ["" if empty else gold[row["text"]] for row, empty in zip(rows, blank, strict=True)]
    total = sum(len(row["spans"]) for row in rows)
    left = sum(leaks(row["text"], text, row["spans"]) for row, text in zip(rows, after, strict=True))
    print(f"{name}: {left} of {total} spans left, {len(rows)} rows, {calls} calls")
    assert total > 1_000
    assert left == 0
    assert calls == len({row["text"] for row, empty in zip(rows, blank, strict=True) if not empty})


@needs
def test_a_table_comes_back_with_its_planted_cells_clean_and_all_others_as_they_were(
    store: str, model_at: ModelAt
) -> None:
    folder = DATA / "pii_table"
    cells = [json.loads(line) for line in (folder / "gold_cells.jsonl").read_text("utf-8").splitlines()]
    before = pd.read_csv(folder / "requests.csv", dtype=str, keep_default_na=False)
    planted = {before.loc[cell["row"], cell["column"]]: cell["values"] for cell in cells}

    def answer(request: ChatRequest) -> str:
        text = request.text
        for value in planted.get(text, ()):
            text = text.replace(value, "[PII]")
        return json.dumps({"redacted": text})

    with ScriptedServer(Script(respond=answer), in_process=True) as server:
        table = apwa.from_pandas(before, npartitions=4).map(
            TASK, inputs="closure_reason", output={"redacted": str}, id="redact"
        )
        run = table.run(model=model_at(server), store=store, progress=False).wait()
    after = run.result()

    assert {cell["column"] for cell in cells} == {"closure_reason"}
    assert len(after) == len(before)
    pd.testing.assert_frame_equal(
        after[before.columns.tolist()].astype(object), before.astype(object), check_dtype=False
    )
    written = after["redacted"].fillna("").tolist()
    left = [value for cell in cells for value in cell["values"] if value in written[cell["row"]]]
    print(f"pii_table: {len(left)} of {sum(len(cell['values']) for cell in cells)} values left")
    assert left == []
    rows = {cell["row"] for cell in cells}
    kept = [n for n in range(len(before)) if n not in rows]
    texts = before.loc[kept, "closure_reason"].tolist()
    assert [written[n] for n in kept] == [text if text.strip() else "" for text in texts]
    assert len(run.failures) == sum(not text.strip() for text in texts), "blank cells are not asked about"
