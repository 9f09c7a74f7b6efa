"""Joins, ranks and resolves while processes die, and in batches: the same rows, each question paid once.

I1 to I4 of the tests of faults: every row once with its status, in its place; the ledger is the server's log; what is
paid again is at most what a death took.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from distributed import Client, LocalCluster

import apwa_dask as apwa
from apwa_dask.execution.events import Progress
from apwa_dask.store.journal import Journal
from apwa_dask.testing import Script, ScriptedServer
from tests.execution.comparing import VERBS, answer, started, table

CHILD = Path(__file__).with_name("comparing.py")
CONCURRENCY = 4
PLACES = {"join": 48, "rank": 6, "resolve": 48}
"""Rows that must come out at least."""


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer(Script(respond=answer), in_process=True) as made:
        yield made


@pytest.fixture(params=VERBS)
def verb(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def questions(calls: Any) -> Counter[str]:
    return Counter(json.dumps(call.body["messages"]) for call in calls)


def uninterrupted(verb: str, server: ScriptedServer, tmp_path: Path) -> tuple[pd.DataFrame, Counter[str]]:
    result = started(verb, server.base_url, str(tmp_path / "whole")).result(status=True)
    asked = questions(server.log())
    server.reset()
    assert max(asked.values()) == 1
    assert len(result) >= PLACES[verb]
    assert (result["_apwa_status"] == "ok").all()
    return result, asked


def at_risk(run_id: str, store: str, server: ScriptedServer) -> int:
    """Calls that were made and are in no journal: what a death now takes."""
    with Journal(store) as journal:
        flushed = journal.paid_by(run_id).calls
    return server.calls - flushed


def billed(run: apwa.Run) -> int:
    return int(run.costs()["calls"].sum())


def test_a_killed_client_is_resumed_with_the_same_rows_and_pays_again_what_it_lost(
    verb: str, server: ScriptedServer, store: str, tmp_path: Path
) -> None:
    wanted, asked = uninterrupted(verb, server, tmp_path)
    server.set(server.script.but(latency_s=0.03))
    root = str(Path(apwa.__file__).parent.parent)
    command = [sys.executable, str(CHILD), verb, server.base_url, store]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": root}
    ) as child:
        try:
            assert child.stdout is not None
            run_id = child.stdout.readline().strip()
            server.wait_until(lambda stats: stats.calls >= sum(asked.values()) // 2, timeout_s=60)
        finally:
            child.kill()
    server.wait_until(lambda stats: stats.in_flight == 0)
    lost = at_risk(run_id, store, server)
    server.set(server.script.but(latency_s=0))

    run = apwa.attach(run_id, store, progress=False).resume()

    pd.testing.assert_frame_equal(run.result(status=True), wanted)
    assert set(questions(server.log())) == set(asked), "the same questions, whoever asks them"
    assert server.calls - len(asked) <= lost
    assert server.calls - lost <= billed(run) <= server.calls
    paid = server.calls
    again = started(verb, server.base_url, store)
    pd.testing.assert_frame_equal(again.result(status=True), wanted)
    assert server.calls == paid


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(
        n_workers=2, threads_per_worker=2, processes=True, dashboard_address="127.0.0.1:0"
    ) as made:
        yield made


@pytest.mark.slow
def test_a_killed_worker_changes_no_row_and_costs_what_it_lost(
    verb: str, server: ScriptedServer, store: str, tmp_path: Path, cluster: LocalCluster
) -> None:
    wanted, asked = uninterrupted(verb, server, tmp_path)
    server.set(server.script.but(latency_s=0.05))
    model = apwa.Model(
        "m", base_url=server.base_url, max_concurrency=CONCURRENCY, price=apwa.Price(1, 1), api_key_env=""
    )
    with Client(cluster, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=120)
        run = table(verb).run(model=model, store=store, client=client, progress=False)
        server.wait_until(lambda stats: stats.calls >= sum(asked.values()) // 2, timeout_s=60)
        victim = _busiest(client, run)
        os.kill(victim, signal.SIGKILL)
        # what the others have asked and not written yet makes the bound wider, never narrower
        lost = at_risk(run.id, store, server)
        result = run.result(status=True)

    pd.testing.assert_frame_equal(result, wanted)
    assert set(questions(server.log())) == set(asked)
    assert server.calls - len(asked) <= lost
    assert billed(run) <= server.calls


def _busiest(client: Client, run: apwa.Run) -> int:
    """A worker that has a task of the run; any, where none is told."""
    working = [address for address, keys in client.processing().items() if keys]
    pids: dict[str, int] = client.run(os.getpid)
    return pids[(working or list(pids))[0]]


# -- in batches


def test_in_batches_the_rows_are_those_of_a_live_run_and_each_question_is_one_line(
    verb: str, server: ScriptedServer, tmp_path: Path, kit: Any
) -> None:
    wanted, asked = uninterrupted(verb, server, tmp_path)
    server.reset()

    events: list[Any] = []
    run = kit.start(table(verb), server, progress=events.append)

    pd.testing.assert_frame_equal(run.result(status=True), wanted)
    assert questions(server.log().lines) == asked
    assert billed(run) == server.calls == len(asked)
    assert run.status()["rows_failed"] == 0
    counted = sum(getattr(event, "rows_done", 0) for event in events if isinstance(event, Progress))
    assert counted == (48 if verb == "rank" else len(asked)), (
        "rows are counted once, however many rounds they take"
    )


def test_batches_that_are_left_are_found_again_and_no_question_is_asked_twice(
    verb: str, server: ScriptedServer, tmp_path: Path, store: str, kit: Any
) -> None:
    wanted, asked = uninterrupted(verb, server, tmp_path)
    run = kit.start(table(verb), server, mode=kit.terms(max_requests=10))
    server.wait_until(lambda stats: stats.calls >= 10, timeout_s=60)
    run.leave()
    run._join(None)

    found = apwa.attach(run.id, store, progress=False).resume()

    pd.testing.assert_frame_equal(found.result(status=True), wanted)
    assert questions(server.log().lines) == asked
    assert billed(found) == len(asked)
