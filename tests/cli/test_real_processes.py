"""The command line as a process, over the real engine and the scripted server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from apwa_dask import api
from apwa_dask.testing import Fault, Script, ScriptedServer, grep_canary

ROOT = Path(__file__).resolve().parents[2]
KEY = "sk-CANARY-cli-0123456789abcdef"
ROWS = 60


@pytest.fixture
def folder(tmp_path) -> Path:
    """A CSV, and a plan over it that calls a model once for each row."""
    frame = pd.DataFrame({"id": range(ROWS), "text": [f"message {i} \x1b[31mred" for i in range(ROWS)]})
    frame.to_csv(tmp_path / "messages.csv", index=False)
    table = api.read(str(tmp_path / "messages.csv"))
    planned = table.map("How severe?", inputs=["text"], output={"severity": int}).plan()
    (tmp_path / "plan.yaml").write_text(planned.to_yaml(), encoding="utf-8")
    return tmp_path


def start(folder: Path, *arguments: str, server: ScriptedServer | None = None) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OPENAI_API_KEY": KEY,
        "APWA_STORE": str(folder / "store"),
    }
    environment.pop("OPENAI_MODEL", None)
    if server is not None:
        environment["OPENAI_BASE_URL"] = server.base_url
    return subprocess.Popen(
        [sys.executable, "-m", "apwa_dask.cli", *arguments],
        cwd=folder,
        env=environment,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # whoever runs the tests in the background of a shell has Ctrl-C switched off, and children inherit it
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def apwa(folder: Path, *arguments: str, server: ScriptedServer | None = None) -> tuple[int, str, str]:
    process = start(folder, *arguments, server=server)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


RUN = ("run", "plan.yaml", "messages.csv", "-m", "gpt-test")


def test_a_plan_runs_and_its_result_is_written_and_run_again_for_nothing(folder):
    with ScriptedServer(Script()) as server:
        code, out, err = apwa(folder, *RUN, "-o", "out.parquet", "--show", "3", server=server)
        assert code == 0, err
        first = len(server.log())
        assert apwa(folder, *RUN, "--json", server=server)[0] == 0
        assert len(server.log()) == first == ROWS
    assert len(pd.read_parquet(folder / "out.parquet")) == ROWS
    assert "3 of 60 rows" in out
    assert "\x1b" not in out + err
    assert grep_canary(folder, KEY) == []
    assert KEY not in out + err


def test_progress_of_a_process_without_a_terminal_is_a_few_plain_lines(folder):
    with ScriptedServer(Script()) as server:
        _, _, err = apwa(folder, *RUN, server=server)
    lines = [line for line in err.splitlines() if line.startswith("apwa ")]
    assert 2 <= len(lines) <= 3
    assert "60/60 rows" in lines[-1]
    assert "\r" not in err


def test_a_wrong_key_is_one_sentence_and_exit_four(folder):
    with ScriptedServer(Script(faults=(Fault("status", status=401),))) as server:
        code, out, err = apwa(folder, *RUN, server=server)
        assert len(server.log()) <= 16
    assert code == 4
    assert "Traceback" not in err
    assert "OPENAI_API_KEY" in err
    assert KEY not in err
    assert out == ""


@pytest.mark.slow
def test_ctrl_c_leaves_a_run_that_resume_finishes_asking_again_at_most_what_was_in_flight(folder, slow_from):
    with ScriptedServer(Script(faults=(slow_from(13),))) as server:
        process = start(folder, *RUN, "--max-concurrency", "4", server=server)
        server.wait_until(lambda stats: stats.calls >= 12)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 130, err
        assert "apwa resume" in err
        stopped_at = len(server.log())
        assert stopped_at < ROWS
        server.set(Script())
        code, out, err = apwa(folder, "resume", "--json", server=server)
        assert code == 0, err
        assert json.loads(out)["run"]["rows_out"] == ROWS
        assert len(server.log()) <= ROWS + 4


def test_a_kept_run_is_found_and_reported_by_other_processes(folder):
    with ScriptedServer(Script(faults=(Fault("refusal", on="message 7 "),))) as server:
        assert apwa(folder, *RUN, server=server)[0] == 2
    code, out, _ = apwa(folder, "status", "--json")
    assert code == 0
    assert json.loads(out)["rows_failed"] == 1
    assert json.loads(apwa(folder, "failures", "--json")[1])["groups"][0]["outcome"] == "refused"
    code, out, _ = apwa(folder, "report", "-o", "report.html")
    assert code == 0
    assert "message 7" in (folder / "report.html").read_text(encoding="utf-8")
    run_id = json.loads(apwa(folder, "runs", "--json")[1])[0]["id"]
    assert apwa(folder, "purge", run_id, "--yes")[0] == 0
    assert json.loads(apwa(folder, "runs", "--json")[1]) == []


def test_a_column_that_is_hidden_is_gone_before_anything_sees_it(folder):
    code, out, _ = apwa(folder, "profile", "messages.csv", "--hide", "text", "--json")
    assert code == 0
    (profile,) = json.loads(out).values()
    assert [column["name"] for column in profile["columns"]] == ["id"]
    assert "message 1" not in out


def test_profile_shows_the_columns_of_a_file(folder):
    code, out, err = apwa(folder, "profile", "messages.csv")
    assert code == 0, err
    assert "text" in out
    assert "\x1b" not in out


def test_a_file_that_is_not_there_is_one_sentence(folder):
    code, _, err = apwa(folder, "profile", "nowhere.csv")
    assert code == 1
    assert "nowhere.csv" in err
    assert "Traceback" not in err
