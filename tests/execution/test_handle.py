"""What a run tells of itself: its bill also after a death, its failures by kind, its manifest, its result as a file."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import orjson
import pandas as pd
import pyarrow.parquet as pq
import pytest

import apwa_dask as apwa
from apwa_dask.errors import ConfigError
from apwa_dask.execution.events import RunFinished
from apwa_dask.execution.failures import ADVICE, Failures, normalised
from apwa_dask.execution.manifest import RunManifest
from apwa_dask.models.types import OutcomeClass
from apwa_dask.store.journal import Journal
from apwa_dask.testing import Fault, Rule, Script

CHILDREN = Path(__file__).with_name("children.py")
FRAME = pd.DataFrame({"text": [f"row {k}" for k in range(12)], "k": range(12)})
NEVER_FITS = Script(rules=(Rule(r"row [12]\b", "no json at all", where="prompt"),))
SECRET = "Ludmilla's teapot"
"""What only a row says."""


def table(npartitions: int = 3) -> apwa.Table:
    return apwa.from_pandas(FRAME, npartitions=npartitions).map("x", inputs="text", output={"a": int})


# -- the bill


def test_the_bill_is_the_servers_after_a_kill_of_an_uncommitted_partition_and_a_resume(
    scripted_server, model_at, store
):
    server = scripted_server(Script(faults=(Fault("hang", on=r"row 3\d$"), Fault("refusal", on=r"row 7$"))))
    child = subprocess.Popen(
        [sys.executable, str(CHILDREN), "one_partition", server.base_url, store],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(apwa.__file__).parent.parent)},
    )
    try:
        run_id = child.stdout.readline().strip()
        server.wait_until(lambda stats: stats.calls == 40)
        _until(lambda: _journaled(store, run_id) == 30)
    finally:
        child.kill()
        child.communicate()
    server.wait_until(lambda stats: stats.in_flight == 0)
    server.set(Script())

    run = apwa.attach(run_id, store, progress=False)
    before = run.costs()
    run.resume().wait()

    costs, paid = run.costs(), server.log().billed
    prompt, completion = paid.billed_tokens
    assert int(costs["calls"].sum()) == len(paid) == 41  # the refused row is asked again
    assert (int(costs["input_tokens"].sum()), int(costs["output_tokens"].sum())) == (prompt, completion)
    assert costs["cost_usd"].sum() == pytest.approx((prompt + 2 * completion) / 1e6)
    assert before["outcome"].tolist() == ["uncommitted"]
    lines = costs.set_index("outcome")
    assert int(lines.loc["uncommitted", "calls"]) == 30
    assert (int(lines.loc["ok", "units"]), int(lines.loc["ok", "reused"])) == (40, 29)
    assert run.status()["cost_usd"] == pytest.approx(costs["cost_usd"].sum())
    assert run.manifest["actual"]["calls"] == 41
    pd.testing.assert_frame_equal(apwa.attach(run_id, store).costs(), costs)


def _journaled(store: str, run_id: str) -> int:
    with Journal(store) as journal:
        return journal.paid_by(run_id).calls


def _until(is_so, deadline_s: float = 120.0) -> None:
    end = time.monotonic() + deadline_s
    while not is_so():
        assert time.monotonic() < end, "it never became so"
        time.sleep(0.05)


def test_the_bill_of_a_run_that_reuses_half_a_conversation_lists_only_what_it_paid(
    scripted_server, model_at, store
):
    server = scripted_server(NEVER_FITS)
    first = table().run(model=model_at(server), store=store, progress=False).wait()
    at_first = server.calls
    server.set(Script())
    second = table().run(model=model_at(server), store=store, progress=False).wait()
    third = first.retry_failed().wait()

    calls = [int(run.costs()["calls"].sum()) for run in (first, second, third)]

    assert calls == [at_first, 0, server.calls - at_first]
    assert sum(calls) == server.calls


# -- failures


def test_ten_thousand_failures_that_say_the_same_are_one_line_with_advice():
    failures = Failures(
        {
            "row_id": [f"0:{k}" for k in range(10_000)],
            "step": "map_1",
            "outcome": "too_large",
            "message": [f"a prompt of about {k + 9000:,} tokens; 8,192 fit" for k in range(10_000)],
            "attempts": 1,
            "input_tokens": 2,
            "output_tokens": 1,
            "cost_usd": 0.5,
        }
    )
    (line,) = failures.summary().to_dict("records")
    assert line == {
        "rows": 10_000,
        "outcome": "too_large",
        "step": "map_1",
        "message": "a prompt of about # tokens; # fit",
        "sample_row": "0:0",
        "input_tokens": 20_000,
        "output_tokens": 10_000,
        "cost_usd": 5_000.0,
        "advice": ADVICE[OutcomeClass.TOO_LARGE],
    }


def test_every_class_of_failure_has_advice():
    ends = {outcome for outcome in OutcomeClass if not outcome.is_pending} - {OutcomeClass.OK}
    assert set(ADVICE) == ends
    assert all(ADVICE.values())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("field 'a' is missing", "field 'bc' is missing"),
        ("status 503 after 2.5 s", "status 500 after 31 s"),
        ("request 3f2a9c1e-77aa-4bd2 failed", "request 9b1c00ff-1234-abcd failed"),
    ],
)
def test_messages_that_differ_by_a_number_or_a_quoted_word_are_alike(one, other):
    assert normalised(one) == normalised(other)


def test_messages_of_different_troubles_stay_apart():
    assert normalised("the model refused") != normalised("the answer was empty")


def test_failures_are_a_frame_whose_slices_are_plain_frames(scripted_server, model_at, store):
    server = scripted_server(NEVER_FITS)
    run = table().run(model=model_at(server, price=apwa.Price(1, 2)), store=store, progress=False).wait()

    failures = run.failures

    assert isinstance(failures, pd.DataFrame)
    assert type(failures[failures["attempts"] > 0]) is pd.DataFrame
    summary = failures.summary()
    assert summary["rows"].tolist() == [2]
    assert run.row(summary["sample_row"].iloc[0]).status == "invalid_output"
    assert summary["cost_usd"].sum() == pytest.approx(failures["cost_usd"].sum())
    assert (
        len(
            table()
            .where("k < 0")
            .run(model=model_at(server), store=store, progress=False)
            .wait()
            .failures.summary()
        )
        == 0
    )


def test_retrying_asks_again_what_was_answered_in_no_usable_form(scripted_server, model_at, store):
    server = scripted_server(NEVER_FITS)
    run = table().run(model=model_at(server), store=store, progress=False).wait()
    at_first = server.calls
    assert len(run.failures) == 2

    again = run.retry_failed().wait()
    assert server.calls == at_first + 2
    assert len(again.failures) == 2
    assert (
        int(again.costs()["calls"].sum()) == 2
    )  # the re-asks were the same again, and came from the journal

    server.set(Script())
    third = again.retry_failed().wait()
    assert server.calls == at_first + 4
    assert len(third.failures) == 0
    fourth = table().run(model=model_at(server), store=store, progress=False).wait()
    pd.testing.assert_frame_equal(fourth.result(), third.result())
    assert third.retry_failed() is third
    assert server.calls == at_first + 4
    assert third.manifest["retry_of"] == again.id


# -- the manifest


def test_the_manifest_is_complete_and_its_checksums_are_those_of_the_files(
    scripted_server, model_at, store, tmp_path
):
    source = tmp_path / "rows.csv"
    FRAME.to_csv(source, index=False)
    server = scripted_server(Script(faults=(Fault("refusal", on=r"row 3$"), Fault("other_model"))))
    model = model_at(server, price=apwa.Price(1, 2))
    run = (
        apwa.read(str(source))
        .map("x", inputs="text", output={"a": int})
        .run(model=model, store=store, progress=False)
    )
    run.wait()

    manifest = RunManifest.model_validate(json.loads(json.dumps(run.manifest)))

    (file,) = manifest.inputs["rows"].files
    assert (file.path, file.size_bytes) == ("rows.csv", source.stat().st_size)
    assert manifest.inputs["rows"].fingerprint
    assert manifest.estimate["calls"]["low"] <= manifest.actual["calls"] <= manifest.estimate["calls"]["high"]
    assert manifest.estimate["cost_usd"]["expected"] > 0 < manifest.actual["cost_usd"]
    resolved = manifest.models["default"].resolved
    assert resolved
    assert resolved != ["test-model"]
    assert manifest.models["default"].usd_per_million_tokens["input_usd"] == 1
    assert manifest.outcomes == {"ok": 11, "refused": 1}
    assert [entry["event"] for entry in manifest.history] == ["started", "stage", "done"]
    folder = Path(store) / "runs" / run.id
    assert {part.kind for part in manifest.parts} == {"rows", "failures"}
    for part in manifest.parts:
        assert hashlib.sha256((folder / part.file).read_bytes()).hexdigest() == part.sha256
    others = [path for path in folder.rglob("*") if path.is_file() and "lease" not in path.parts]
    assert max(others, key=lambda path: path.stat().st_mtime_ns).name == "manifest.json"


def test_a_resumed_run_has_its_resume_in_the_manifest(scripted_server, model_at, store, slow_from):
    server = scripted_server(faults=(slow_from(5),))
    run = table(12).run(model=model_at(server, max_concurrency=2), store=store, progress=False)
    server.wait_until(lambda stats: stats.calls >= 4)
    run.stop().wait()
    server.set(Script())
    run.resume().wait()
    events = [entry["event"] for entry in run.manifest["history"]]
    assert [event for event in events if event != "stage"] == ["started", "stopped", "resumed", "done"]
    assert run.manifest["counts"]["calls"] == server.calls == 12


# -- export


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".jsonl", ".csv"])
def test_fault_54_an_export_never_mixes_with_what_is_there(
    scripted_server, model_at, store, tmp_path, suffix
):
    server = scripted_server()
    few = table(2).where("k < 4").run(model=model_at(server), store=store, progress=False)
    more = table(5).where("k < 8").run(model=model_at(server), store=store, progress=False)
    path = str(tmp_path / f"out{suffix}")
    few.export(path)
    before = Path(path).read_bytes()

    with pytest.raises(ConfigError) as caught:
        more.export(path)
    assert caught.value.code == "CONFIG-EXPORT-EXISTS"
    assert "overwrite=True" in str(caught.value)
    assert Path(path).read_bytes() == before

    more.export(path, overwrite=True)
    read = {
        ".parquet": pd.read_parquet,
        ".arrow": pd.read_feather,
        ".jsonl": lambda p: pd.read_json(p, lines=True),
        ".csv": pd.read_csv,
    }[suffix](path)
    assert read["k"].tolist() == list(range(8))
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"out{suffix}", "store"]


def test_a_folder_is_never_replaced_by_an_export(scripted_server, model_at, store, tmp_path):
    run = table().run(model=model_at(scripted_server()), store=store, progress=False)
    (tmp_path / "out.parquet").mkdir()
    with pytest.raises(ConfigError, match="folder"):
        run.export(str(tmp_path / "out.parquet"), overwrite=True)


def test_a_csv_runs_nothing_in_a_spreadsheet_unless_asked(store, tmp_path):
    risky = ["=1+1", "+1", "-1", "@a", "\t=1", " =1", "\u00a0=1", "＝1", "plain", None]
    frame = pd.DataFrame({"=cmd": risky, "c": pd.Categorical(risky), "n": [-1] * len(risky)})
    frame.index = pd.Index([f"={k}" for k in range(len(risky))], name="key")
    run = apwa.from_pandas(frame).run(store=store, progress=False)

    safe = pd.read_csv(run.export(str(tmp_path / "safe.csv")), keep_default_na=False)
    raw = pd.read_csv(run.export(str(tmp_path / "raw.csv"), safe_csv=False), keep_default_na=False)

    assert safe.columns.tolist() == ["key", "'=cmd", "c", "n"]
    assert safe["'=cmd"].tolist() == [f"'{cell}" for cell in risky[:-2]] + ["plain", ""]
    assert safe["c"].tolist() == safe["'=cmd"].tolist()
    assert all(key.startswith("'=") for key in safe["key"])
    assert safe["n"].tolist() == [-1] * len(risky)
    assert raw["=cmd"].tolist()[0] == "=1+1"


# -- prompts


def test_prompts_are_stored_where_asked_and_nowhere_else(scripted_server, model_at, tmp_path):
    source = tmp_path / "rows.csv"
    pd.DataFrame({"text": [SECRET, "other"]}).to_csv(source, index=False)
    server = scripted_server()
    mapped = apwa.read(str(source)).map("Rate it.", inputs="text", output={"a": int}).select("a")
    off, on = str(tmp_path / "off"), str(tmp_path / "on")

    mapped.run(model=model_at(server), store=off, progress=False).wait()
    run = mapped.run(model=model_at(server), store=on, progress=False, store_prompts=True).wait()

    assert SECRET not in _all_text(Path(off))
    assert "Rate it." not in _journal_text(Path(off))
    assert _journal_text(Path(on)).count(SECRET) == 1
    story = run.row(0)
    assert story.exchanges[0].is_stored
    sent = next(call.messages for call in server.log() if SECRET in str(call.messages))
    assert [text for _, text in story.exchanges[0].messages] == [message["content"] for message in sent]


def test_one_run_that_keeps_prompts_does_not_keep_those_of_others_in_its_store(
    scripted_server, model_at, store
):
    server = scripted_server()
    keeps = apwa.from_pandas(pd.DataFrame({"text": ["first"]})).map("x", inputs="text", output={"a": int})
    keeps.run(model=model_at(server), store=store, progress=False, store_prompts=True).wait()
    other = apwa.from_pandas(pd.DataFrame({"text": [SECRET]})).map("x", inputs="text", output={"a": int})
    other.run(model=model_at(server), store=store, progress=False).wait()
    assert "first" in _journal_text(Path(store))
    assert SECRET not in _journal_text(Path(store))


def test_prompts_can_be_kept_by_a_setting(scripted_server, model_at, store, monkeypatch):
    import dask

    one = apwa.from_pandas(pd.DataFrame({"text": [SECRET]})).map("x", inputs="text", output={"a": int})
    with dask.config.set({"apwa.store-prompts": True}):
        run = one.run(model=model_at(scripted_server()), store=store, progress=False).wait()
    assert SECRET in _journal_text(Path(store))
    assert run.manifest["store_prompts"] is True


def _journal_text(store: Path) -> str:
    return "\n".join(_text_of(path) for path in (store / "journal").rglob("seg-*"))


def _all_text(store: Path) -> str:
    return "\n".join(_text_of(path) for path in store.rglob("*") if path.is_file())


def _text_of(path: Path) -> str:
    """What stands in a file, also behind compression."""
    if path.suffix == ".parquet":
        return orjson.dumps(pq.read_table(path).to_pylist(), default=str).decode()
    return path.read_bytes().decode("utf-8", "replace")


def test_a_group_that_failed_is_listed_with_what_it_cost_and_is_asked_again(scripted_server, model_at, store):
    frame = pd.DataFrame({"text": [f"note {k}" for k in range(6)], "g": list("ab") * 3})
    server = scripted_server(Script(rules=(Rule("note 1", "no json at all", where="prompt"),)))
    reduced = apwa.from_pandas(frame, npartitions=2).reduce(
        "sum up", inputs="text", by="g", output={"s": str}
    )
    run = reduced.run(model=model_at(server, price=apwa.Price(1, 2)), store=store, progress=False).wait()

    (failed,) = run.failures.to_dict("records")
    assert (failed["outcome"], failed["inputs"], failed["raw"]) == ("invalid_output", "g=b", "no json at all")
    assert failed["attempts"] == server.calls - 1
    assert failed["request_id"]
    assert failed["cost_usd"] > 0
    story = run.row(failed["row_id"])
    assert story.status == "invalid_output"
    assert story.attempts == failed["attempts"]
    before = server.calls

    server.set(Script())
    again = run.retry_failed().wait()
    assert server.calls == before + 1
    assert again.result()["s"].notna().all()
    assert again.retry_failed() is again


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_subscriber_that_breaks_at_the_end_leaves_nobody_waiting(scripted_server, model_at, store):
    def breaks(event: object) -> None:
        if isinstance(event, RunFinished):
            raise ZeroDivisionError

    table = apwa.from_pandas(pd.DataFrame({"text": ["a", "b"]})).map("x", inputs="text", output={"a": int})
    run = table.run(model=model_at(scripted_server()), store=store, progress=breaks)

    assert run.wait(timeout=60) is run
    assert len(run.result()) == 2
