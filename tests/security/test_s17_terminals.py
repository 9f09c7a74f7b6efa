"""S17: no control sequence of data, answers, names or errors reaches a terminal, by any command."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner

import apwa_dask as apwa
from apwa_dask.cli import main
from apwa_dask.testing import Fault, Rule, Script, ScriptedServer

pytestmark = pytest.mark.slow

ATTACKS = {
    "colour": "\x1b[31mowned\x1b[0m",
    "title": "\x1b]0;owned\x07",
    "link": "\x1b]8;;http://127.0.0.1/owned\x1b\\look\x1b]8;;\x1b\\",
    "clipboard": "\x1b]52;c;b3duZWQ=\x07",
    "one-byte": "\x9b31mowned\x9d0;owned\x9c",
    "device": "\x1bP+q544e\x1b\\\x1b_owned\x1b\\\x1b^owned\x1b\\",
    "clear": "\x1b[2J\x1b[H\x1bc\x1b[?1049h",
    "bell": "\x07\x08\x08\x7f\x0e\x0f",
    "overwrite": "safe\rowned",
    "bidi": "\u202eowned\u2066",
    "tags": "\U000e0061\U000e0062",
}
EVERYTHING = " ".join(ATTACKS.values())
UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\U000e0000-\U000e007f]")
"""Control characters, but tab and line feed, and what reorders or hides text."""
OF_OTHERS = re.compile(
    r"\x1b\](?:0|8|52);|\x1b[P_^c]|\x1b\[2J|\x1b\[\?1049|\x07|\x08|\x0e|\x0f|[\x80-\x9f\u202e\u2066]|\U000e0061"
)
"""What no display of ours writes, even to a terminal that it draws on."""
ROWS = len(ATTACKS)
PRICED = ("--max-failed", "1", "--budget", "1", "--price", "1", "1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hostile cells, column and file names, a plan whose words are hostile too."""
    made = tmp_path_factory.mktemp("terminal")
    frame = pd.DataFrame({"text": list(ATTACKS.values()), EVERYTHING: list(ATTACKS)})
    frame.to_parquet(made / "data\x1b]0;owned\x07.parquet")
    table = apwa.read(str(made / "*.parquet"))
    planned = table.map(
        f"Rate. {EVERYTHING}", inputs=["text", EVERYTHING], output={"label": str}, id="rate"
    ).plan()
    (made / "plan.yaml").write_text(planned.to_yaml(), encoding="utf-8")
    return made


@pytest.fixture(scope="module")
def server() -> Iterator[ScriptedServer]:
    faults = (Fault("refusal", on="overwrite"),)
    rules = (Rule(match="", answer={"label": EVERYTHING}),)
    with ScriptedServer(Script(rules=rules, faults=faults, latency_s=0.05)) as made:
        yield made


@pytest.fixture
def environment(folder: Path, server: ScriptedServer) -> dict[str, str]:
    root = str(Path(apwa.__file__).parents[1])
    return {**os.environ, "PYTHONPATH": root, "OPENAI_API_KEY": "sk-only-for-loopback", "TERM": "xterm-256color",
            "OPENAI_BASE_URL": server.base_url, "OPENAI_MODEL": f"model {EVERYTHING}".replace("\x00", ""),
            "APWA_STORE": str(folder / "store"), "LANG": "C.UTF-8"}  # fmt: skip


def files(folder: Path) -> list[str]:
    return [path.name for path in folder.glob("*.parquet")]


def commands(folder: Path) -> dict[str, list[str]]:
    """Every command that shows something of data, plans, answers or runs."""
    return {
        "profile": ["profile", *files(folder)],
        "explain": ["explain", "plan.yaml", *files(folder)],
        "estimate": ["estimate", "plan.yaml", *files(folder)],
        "preview": ["preview", "plan.yaml", *files(folder), "--rows", "3"],
        "run": ["run", "plan.yaml", *files(folder), *PRICED],
        "status": ["status"],
        "runs": ["runs"],
        "failures": ["failures"],
        "failures by kind": ["failures", "--summary"],
        "row": ["row", "latest", "0"],
        "wrong file": ["profile", f"nowhere{EVERYTHING}.csv"],
        "wrong run": ["status", f"run{EVERYTHING}"],
        "wrong usage": [f"bogus{EVERYTHING}"],
        "wrong code": ["explain-error", f"X{EVERYTHING}"],
    }


def test_s17_no_command_writes_a_control_sequence_into_a_pipe(folder, environment, monkeypatch):
    monkeypatch.chdir(folder)
    latest = ""
    said = {}
    for name, arguments in commands(folder).items():
        given = [latest if argument == "latest" else argument for argument in arguments]
        done = CliRunner().invoke(main, given, env=environment)
        assert done.exception is None or isinstance(done.exception, SystemExit), (name, done.exception)
        said[name] = done.stdout + done.stderr
        expected = 1 if name.startswith("wrong") else 0
        assert done.exit_code == expected, (name, done.exit_code, said[name][-1500:], done.exception)
        if name == "runs":
            latest = done.stdout.splitlines()[2].split()[0]
    left = {name: UNSEEN.findall(text) for name, text in said.items() if UNSEEN.search(text)}
    assert left == {}
    assert "owned" in said["row"], "the words of the data are shown"
    assert "look" in said["run"]


def on_a_terminal(arguments: list[str], folder: Path, environment: dict[str, str]) -> tuple[int, str]:
    """Run a command on a terminal of its own; its exit code, and all that the terminal got."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "apwa_dask.cli", *arguments],
        cwd=folder, env=environment, stdin=follower, stdout=follower, stderr=follower, start_new_session=True,
    )  # fmt: skip
    os.close(follower)
    got, end = b"", time.monotonic() + 120
    try:
        while time.monotonic() < end:
            ready, _, _ = select.select([leader], [], [], 0.2)
            if ready:
                try:
                    piece = os.read(leader, 65536)
                except OSError:  # the other end is closed
                    break
                if not piece:
                    break
                got += piece
            elif process.poll() is not None:
                break
        return process.wait(10), got.decode(errors="replace")
    finally:
        os.close(leader)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            process.wait(10)


def test_s17_a_terminal_that_is_drawn_on_gets_our_sequences_only(folder, environment):
    run = ["run", "plan.yaml", *files(folder), *PRICED, "--yes", "--name", f"n{EVERYTHING}"]
    code, got = on_a_terminal(run, folder, {**environment, "APWA_STORE": str(folder / "another")})
    assert code == 0, got[-1500:]
    assert "\x1b[" in got, "it is drawn on: our own colours and cursor"
    assert OF_OTHERS.findall(got) == []
    assert f"{ROWS}" in got
    assert "owned" in got


def test_s17_the_reprs_and_the_errors_hold_none(folder, server, monkeypatch: Any):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-only-for-loopback")
    table = apwa.read(str(folder / "*.parquet"))
    planned = apwa.load_plan(str(folder / "plan.yaml"), table)
    model = apwa.Model("m", base_url=server.base_url)
    run = planned.run(
        model=model, store=str(folder / "third"), scheduler="sync", name=EVERYTHING, progress=False
    )
    run.wait()
    faces = [table, table.profile(), planned, planned.explain(), planned.estimate(model="m"), run, run.row(0),
             run.lineage(0), run.failures.summary()]  # fmt: skip
    left = {type(face).__name__: UNSEEN.findall(str(face)) for face in faces if UNSEEN.search(str(face))}
    assert left == {}
