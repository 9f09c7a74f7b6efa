"""Images reach a model that takes them: bytes of a column or of files, as data URLs, never larger than allowed."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import apwa_dask as apwa

DATA = Path(os.environ.get("APWA_SHARED_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(200))


def sent_images(server: Any) -> list[bytes]:
    """The images of each logged call, decoded from their data URLs."""
    urls = [
        part["image_url"]["url"]
        for call in server.log()
        for part in call.messages[-1]["content"]
        if isinstance(part, dict) and part["type"] == "image_url"
    ]
    return [base64.b64decode(url.partition(";base64,")[2]) for url in urls]


@pytest.mark.skipif(not (DATA / "images").is_dir(), reason=f"no images at {DATA / 'images'}")
def test_a_folder_of_images_is_a_table_whose_rows_a_model_sees(
    scripted_server: Any, model_at: Any, store: str
) -> None:
    labels = [json.loads(line) for line in (DATA / "images" / "labels.jsonl").read_text().splitlines()]
    server = scripted_server()
    table = apwa.read(str(DATA / "images" / "*.jpg"))
    mapped = table.map("Is there an animal?", inputs="media", output={"animal": bool}, id="look")
    result = mapped.run(model=model_at(server), store=store, progress=False).wait().result()

    files = sorted((DATA / "images").glob("*.jpg"))
    assert sorted(sent_images(server)) == sorted(path.read_bytes() for path in files)
    assert len(result) == len(files) == server.calls
    assert {Path(path).name for path in result["path"]} >= {label["file"] for label in labels}
    assert result["animal"].notna().all()


def test_images_of_a_column_go_with_the_texts_of_their_row(
    scripted_server: Any, model_at: Any, store: str
) -> None:
    server = scripted_server()
    frame = pd.DataFrame({"name": ["a", "b", "c"], "picture": [PNG, PNG + b"2", None]})
    mapped = apwa.from_pandas(frame).map("Describe.", inputs=["name", "picture"], output={"words": str})
    run = mapped.run(model=model_at(server), store=store, progress=False).wait()

    assert sorted(sent_images(server)) == [PNG, PNG + b"2"]
    texts = [str(call.messages[-1]["content"]) for call in server.log()]
    assert sum("Not given: picture" in text for text in texts) == 1, "a missing picture is named, not spelled"
    assert len(run.failures) == 0


def test_what_is_no_image_or_too_large_is_one_rows_failure(
    scripted_server: Any, model_at: Any, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apwa_dask.agents.clean.MAX_MEDIA_BYTES", 1_000)
    server = scripted_server()
    frame = pd.DataFrame({"picture": [PNG, PNG + b"x" * 1_000, b"\x00\x01\x02 no image", PNG + b"3"]})
    mapped = apwa.from_pandas(frame).map("Describe.", inputs="picture", output={"words": str})
    run = mapped.run(model=model_at(server), store=store, progress=False).wait()

    assert sorted(sent_images(server)) == [PNG, PNG + b"3"]
    assert sorted(run.failures["outcome"]) == ["bad_input", "too_large"]
    assert run.result()["words"].isna().tolist() == [False, True, True, False]


def test_an_image_is_in_no_log_report_or_journal_as_text(
    scripted_server: Any, model_at: Any, store: str
) -> None:
    server = scripted_server()
    mapped = apwa.from_pandas(pd.DataFrame({"picture": [PNG]})).map(
        "Describe.", inputs="picture", output={"words": str}
    )
    run = mapped.run(model=model_at(server), store=store, progress=False).wait()
    report = run.report()
    encoded = base64.b64encode(PNG).decode()
    assert encoded not in report
    kept = [path for path in Path(store).rglob("*") if path.is_file() and "journal" in str(path)]
    assert kept
    assert not any(encoded.encode() in path.read_bytes() for path in kept)
