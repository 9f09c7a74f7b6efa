"""Real processes that die, are interrupted or end early: little is paid again, the result is the same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import apwa_dask as apwa
from apwa_dask.testing import Fault, Script

CHILDREN = Path(__file__).with_name("children.py")
ROWS, IN_FLIGHT, UNFLUSHED = 400, 8, 256 + 8


@contextmanager
def child(program: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    root = str(Path(apwa.__file__).parent.parent)
    process = subprocess.Popen(
        [sys.executable, str(CHILDREN), program, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": root},
        # whoever runs the tests in the background of a shell has Ctrl-C switched off, and children inherit it
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def finished(program: str, *arguments: str) -> list[str]:
    with child(program, *arguments) as process:
        out, err = process.communicate(timeout=100)
        assert process.returncode == 0, err
    return out.splitlines()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> str:
    from apwa_dask.testing import ScriptedServer

    with pytest.MonkeyPatch.context() as patch, ScriptedServer() as server:
        patch.setenv("OPENAI_API_KEY", "sk-only-for-loopback")
        lines = finished("whole", server.base_url, str(tmp_path_factory.mktemp("whole") / "store"))
    return lines[1]


def test_a_killed_run_is_resumed_by_its_id_in_a_new_process(scripted_server, store, uninterrupted, slow_from):
    server = scripted_server(latency_s=0.02, faults=(slow_from(ROWS // 2 + 1),))
    with child("whole", server.base_url, store) as process:
        run_id = process.stdout.readline().strip()
        server.wait_until(lambda stats: stats.calls >= ROWS // 2)
        process.kill()
        process.wait()
    server.wait_until(lambda stats: stats.in_flight == 0)
    at_crash = server.calls
    server.set(Script())

    lines = finished("resume", server.base_url, store, run_id)

    assert lines == [run_id, uninterrupted]
    assert server.log().distinct_texts == ROWS
    assert at_crash < ROWS
    assert server.calls - ROWS <= IN_FLIGHT + UNFLUSHED
    assert apwa.attach(run_id, store).status()["status"] == "done"


def test_the_same_program_after_a_kill_is_served_by_the_journal(scripted_server, store, uninterrupted):
    server = scripted_server(latency_s=0.02)
    with child("whole", server.base_url, store) as process:
        first_id = process.stdout.readline().strip()
        server.wait_until(lambda stats: stats.calls >= ROWS * 3 // 4)
        process.kill()
        process.wait()

    second_id, result = finished("whole", server.base_url, store)

    assert result == uninterrupted
    assert first_id != second_id
    assert server.calls - ROWS <= IN_FLIGHT + UNFLUSHED
    assert server.calls < 2 * ROWS - IN_FLIGHT
    again = finished("whole", server.base_url, store)
    assert again[1] == uninterrupted


def test_ctrl_c_stops_dispatch_and_resume_pays_only_the_rest(
    scripted_server, store, uninterrupted, slow_from
):
    server = scripted_server(faults=(slow_from(41),))
    with child("interrupted", server.base_url, store) as process:
        run_id = process.stdout.readline().strip()
        server.wait_until(lambda stats: stats.calls >= 40)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert out.strip() == "stopped"
    stopped_at = server.calls
    assert stopped_at < ROWS
    server.set(Script())
    assert apwa.attach(run_id, store).status()["status"] == "stopped"

    lines = finished("resume", server.base_url, store, run_id)

    assert lines == [run_id, uninterrupted]
    assert server.calls == server.log().distinct_texts == ROWS


def test_a_program_that_ends_early_leaves_a_run_that_can_be_resumed(
    scripted_server, store, uninterrupted, slow_from
):
    server = scripted_server(faults=(slow_from(41),))
    with child("ends_early", server.base_url, store) as process:
        run_id = process.stdout.readline().strip()
        server.wait_until(lambda stats: stats.calls >= 40)
        _, err = process.communicate("\n", timeout=60)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    assert server.calls < ROWS
    server.set(Script())

    lines = finished("resume", server.base_url, store, run_id)

    assert lines == [run_id, uninterrupted]
    assert server.calls == server.log().distinct_texts == ROWS


def test_a_program_ends_although_the_endpoint_never_answers(scripted_server, store):
    server = scripted_server(Script(faults=(Fault("hang"),)))
    with child("ends_early", server.base_url, store) as process:
        run_id = process.stdout.readline().strip()
        server.wait_until(lambda stats: stats.calls >= 1)
        _, err = process.communicate("\n", timeout=60)

    assert process.returncode == 0, err
    assert apwa.attach(run_id, store).status()["status"] == "stopped"


def test_a_second_process_may_not_work_on_a_run_that_is_at_work(scripted_server, store, slow_from):
    server = scripted_server(faults=(slow_from(11),))
    with child("whole", server.base_url, store) as process:
        run_id = process.stdout.readline().strip()
        server.wait_until(lambda stats: stats.calls >= 10)

        with pytest.raises(apwa.ApwaError, match=r"(?i)held|claim|work"):
            apwa.attach(run_id, store, progress=False).resume().wait()

        server.set(Script())
        _, err = process.communicate(timeout=100)
        assert process.returncode == 0, err
    assert server.calls == ROWS


def test_a_budget_holds_over_a_kill_and_a_resume_in_a_new_process(scripted_server, store):
    server = scripted_server(latency_s=0.05)
    with child("capped", server.base_url, store) as program:
        assert program.stdout is not None
        run_id = program.stdout.readline().strip()
        server.wait_until(lambda stats: stats.calls >= 30)
        program.kill()
    unflushed = server.calls
    assert finished("resume_capped", server.base_url, store, run_id) == ["BudgetError"]
    # answers that the kill took before they were flushed are known to nobody but the endpoint
    assert 60 <= server.calls <= 60 + unflushed
    assert server.log().distinct_texts <= 60 + IN_FLIGHT
