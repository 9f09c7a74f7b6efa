"""Servers come up, die with their parents, close at once, and leave nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import psutil
import pytest

from apwa_dask.errors import ConfigError, RunError
from apwa_dask.testing import Fault, Script, ScriptedServer


def gone(pid: int, timeout_s: float = 60.0) -> bool:
    """Whether the process ends in time; a zombie that waits for its parent has ended."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.01)
    return False


def start_owner(code: str) -> tuple[subprocess.Popen[str], int, str]:
    """Run Python code that owns a server and prints its pid and URL."""
    opening = "from apwa_dask.testing import *; server = ScriptedServer().start(); "
    script = opening + "print(server.pid, server.base_url, flush=True)\n" + textwrap.dedent(code)
    owner = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    pid, url = owner.stdout.readline().split()
    return owner, int(pid), url


def test_the_server_runs_in_a_process_of_its_own_and_ends_with_the_block(post) -> None:
    with ScriptedServer() as server:
        assert server.pid != os.getpid()
        assert psutil.pid_exists(server.pid)
        assert post(server, "x")[0].status == 200
        pid = server.pid
    assert not psutil.pid_exists(pid)


def test_the_server_in_a_thread_ends_with_the_block(post) -> None:
    with ScriptedServer(in_process=True) as server:
        assert server.pid == os.getpid()
        assert post(server, "x")[0].status == 200
    assert "scripted-server" not in [thread.name for thread in threading.enumerate()]


def test_the_server_dies_when_its_owner_is_killed() -> None:
    owner, pid, _ = start_owner("input()")
    assert psutil.pid_exists(pid)
    owner.kill()
    owner.communicate()
    assert gone(pid)


def test_the_server_dies_when_its_owner_is_killed_while_a_fork_lives_on() -> None:
    # The fork inherits the pipe to the server, so the end of stdin never comes: the parent's pid must tell.
    owner, pid, _ = start_owner(
        """
        import os, signal
        child = os.fork()
        if child:
            print(child, flush=True)
        signal.pause()
        """
    )
    child = int(owner.stdout.readline())
    try:
        owner.kill()
        owner.wait()
        assert gone(pid)
        assert psutil.pid_exists(child)
    finally:
        os.kill(child, signal.SIGKILL)
        owner.communicate()


def test_the_server_dies_when_its_owner_forgets_to_close_it() -> None:
    owner, pid, _ = start_owner("")
    owner.communicate(timeout=60)
    assert gone(pid)


def test_the_server_outlives_an_interrupt_of_its_owners_terminal() -> None:
    owner, pid, _ = start_owner("input()")
    try:
        assert os.getpgid(pid) != os.getpgid(owner.pid)
    finally:
        owner.kill()
        owner.communicate()
    assert gone(pid)


@pytest.mark.parametrize("in_process", [False, True])
def test_closing_with_calls_in_flight_is_quick_and_the_clients_hear_of_it(post, in_process) -> None:
    server = ScriptedServer(Script(faults=(Fault("hang"),)), in_process=in_process).start()
    answers = []
    client = threading.Thread(
        target=lambda: answers.extend(post(server, *"abcdef", at_once=True, timeout_s=60))
    )
    client.start()
    server.wait_until(lambda stats: stats.in_flight == 6)
    before = time.monotonic()
    server.close()
    assert time.monotonic() - before < 20, "the calls would last for ever"
    client.join(60)
    assert [answer.status for answer in answers] == [0] * 6
    assert all("Timeout" not in answer.error for answer in answers)


def test_a_client_that_is_killed_is_seen_as_aborted_and_the_server_goes_on(scripted_server, post) -> None:
    server = scripted_server(latency_s=60.0)
    code = f"""
    import json, urllib.request
    body = json.dumps({{"model": "m", "messages": [{{"role": "user", "content": "x"}}]}}).encode()
    urllib.request.urlopen(urllib.request.Request("{server.base_url}/chat/completions", body))
    """
    client = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)])
    server.wait_until(lambda stats: stats.in_flight == 1)
    client.kill()
    client.wait()
    server.wait_until(lambda stats: stats.in_flight == 0)
    assert server.log()[0].aborted
    server.set(Script())
    assert post(server, "y")[0].status == 200


def test_closing_twice_and_asking_a_closed_server_are_handled() -> None:
    server = ScriptedServer().start()
    server.close()
    server.close()
    with pytest.raises(RunError, match="not running"):
        server.log()


def test_a_server_that_cannot_start_says_why() -> None:
    with ScriptedServer() as first:
        port = int(first.base_url.rsplit(":", 1)[1].partition("/")[0])
        with pytest.raises(RunError, match=r"(?s)did not start.*address already in use"):
            ScriptedServer(port=port).start()
        with pytest.raises(RunError, match=r"(?s)did not start.*address already in use"):
            ScriptedServer(port=port, in_process=True).start()


def test_a_script_with_a_callable_stays_in_this_process(scripted_server) -> None:
    with pytest.raises(ConfigError, match="callable"):
        ScriptedServer(Script(respond=lambda request: "x")).start()
    server = scripted_server()
    with pytest.raises(ConfigError, match="callable"):
        server.set(Script(respond=lambda request: "x"))


def test_waiting_for_what_never_comes_ends_with_the_counters(scripted_server) -> None:
    with pytest.raises(TimeoutError, match="calls=0"):
        scripted_server().wait_until(lambda stats: stats.calls > 0, timeout_s=0.05)


def test_a_server_of_a_child_process_is_usable_from_its_url_alone(post) -> None:
    owner, pid, url = start_owner("input()")
    try:
        remote = type("Remote", (), {"base_url": url})
        assert post(remote, "x")[0].status == 200
    finally:
        owner.communicate("\n", timeout=60)
    assert gone(pid)
