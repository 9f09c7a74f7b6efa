"""Recordings reach a model that hears: WAV and MP3, of files or of a column, beside the texts of their row."""

from __future__ import annotations

import base64
import io
import wave
from pathlib import Path
from typing import Any

import pandas as pd

import apwa_dask as apwa

MP3 = b"\xff\xfb\x90\x00" + bytes(64)


def recording(samples: int) -> bytes:
    """A WAV file of silence."""
    held = io.BytesIO()
    with wave.open(held, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8_000)
        file.writeframes(bytes(2 * samples))
    return held.getvalue()


def heard(server: Any) -> list[tuple[str, bytes]]:
    """Format and bytes of each recording that was sent."""
    return sorted(
        (part["input_audio"]["format"], base64.b64decode(part["input_audio"]["data"]))
        for call in server.log()
        for part in call.messages[-1]["content"]
        if isinstance(part, dict) and part["type"] == "input_audio"
    )


def test_a_folder_of_recordings_and_images_is_two_tables(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(recording(10))
    (tmp_path / "b.mp3").write_bytes(MP3)
    (tmp_path / "c.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(20))
    found = apwa.read(str(tmp_path))
    assert sorted(len(table.to_dask().compute(scheduler="sync")) for table in found.values()) == [1, 2]
    assert {tuple(table.columns) for table in found.values()} == {("path", "media")}
    together = apwa.read(str(tmp_path), documents=True).to_dask().compute(scheduler="sync")
    assert sorted(map(bytes, together["media"])) == sorted(
        path.read_bytes() for path in tmp_path.iterdir()
    ), "as documents they are one table"


def test_each_recording_is_heard_once_with_the_texts_of_its_row(
    scripted_server: Any, model_at: Any, store: str
) -> None:
    server = scripted_server()
    frame = pd.DataFrame({"city": ["Oslo", "Rome", "Bern"], "sound": [recording(10), MP3, None]})
    table = apwa.from_pandas(frame).map("Which animal?", inputs=["city", "sound"], output={"animal": str})
    run = table.run(model=model_at(server), store=store, progress=False).wait()

    assert len(run.failures) == 0
    assert heard(server) == [("mp3", MP3), ("wav", recording(10))]
    texts = sorted(
        call.messages[-1]["content"]
        if isinstance(call.messages[-1]["content"], str)
        else call.messages[-1]["content"][0]["text"]
        for call in server.log()
    )
    assert texts == [
        "city: Bern\n\nNot given: sound",
        "city: Oslo\nsound: recording 1",
        "city: Rome\nsound: recording 1",
    ]


def test_what_is_no_recording_or_too_large_is_one_rows_failure(
    scripted_server: Any, model_at: Any, store: str, monkeypatch: Any
) -> None:
    monkeypatch.setattr("apwa_dask.agents.clean.MAX_MEDIA_BYTES", 1_000)
    server = scripted_server()
    frame = pd.DataFrame({"sound": [recording(10), recording(1_000), b"RIFF\x00\x00\x00\x00AVI \x00"]})
    table = apwa.from_pandas(frame).filter("Is it an elephant?", inputs="sound")
    run = table.run(model=model_at(server), store=store, progress=False).wait()

    assert heard(server) == [("wav", recording(10))]
    assert sorted(run.failures["outcome"]) == ["bad_input", "too_large"]
