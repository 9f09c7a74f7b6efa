"""Money, stops and deaths of runs in batches: each distinct request stays in one line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson
import pytest

import apwa_dask as apwa
from apwa_dask.errors import BudgetError
from apwa_dask.store.journal import Journal
from apwa_dask.testing import BatchFault, BatchRules, Fault, Script, ScriptedServer

CHILDREN = Path(__file__).with_name("batch_children.py")


@contextmanager
def child(program: str, *arguments: str, kill_at: str = "") -> Iterator[subprocess.Popen[str]]:
    root = str(Path(apwa.__file__).parent.parent)
    process = subprocess.Popen(
        [sys.executable, str(CHILDREN), program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": root, "APWA_KILL_AT": kill_at},
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


def killed(point: str, server: ScriptedServer, store: str) -> str:
    """The id of a run whose process died at a kill point."""
    with child("whole", server.base_url, store, kill_at=point) as process:
        out, err = process.communicate(timeout=100)
        assert process.returncode == -signal.SIGKILL, err
    return out.splitlines()[0]


# -- money


def test_the_estimate_knows_the_price_of_batches(kit, scripted_server, model_at):
    model = model_at(scripted_server(), price=apwa.Price(1.0, 1.0, batch_factor=0.25))
    plan = kit.severities(kit.rows()).plan()

    live, batch = plan.estimate(model=model), plan.estimate(model=model, mode="batch")

    assert live.calls == batch.calls
    assert batch.cost_usd.expected == pytest.approx(live.cost_usd.expected / 4)


def test_the_budget_is_never_passed_and_a_larger_one_finishes(kit, scripted_server):
    server = scripted_server()
    run = kit.start(kit.severities(kit.rows()), server, budget=0.002)

    with pytest.raises(BudgetError, match="budget is used up"):
        run.wait()

    stats = server.stats()
    spent = (stats.billed_prompt_tokens + stats.billed_completion_tokens) / 1e6 / 2
    assert 0 < spent <= 0.002
    assert 0 < stats.calls < kit.count
    # what was reserved and not used is spent in further batches, until not even one request is covered
    assert len(server.batches()) > 1
    assert len(run.resume(budget=1.0).result()) == kit.count
    assert kit.lines(server) == kit.once(kit.rows()["text"])


def test_a_ceiling_of_calls_counts_lines(kit, scripted_server):
    server = scripted_server()
    run = kit.start(kit.severities(kit.rows()), server, budget=apwa.Budget(calls=25))

    with pytest.raises(BudgetError):
        run.wait()
    assert server.calls == 25
    assert run.costs()["calls"].sum() == 25


def test_runs_in_batches_and_live_ones_spend_one_budget_that_they_name(kit, scripted_server):
    server = scripted_server()
    team = apwa.Budget(calls=70, name="of batches and live runs")
    first = kit.start(kit.severities(kit.rows()), server, budget=team).wait()
    assert server.calls == kit.count == 60

    others = kit.rows().assign(text=lambda rows: "another " + rows["text"])
    second = kit.start(kit.severities(others), server, budget=team)
    with pytest.raises(BudgetError, match="by the runs that share it: 70 of 70 calls"):
        second.wait()
    assert server.calls == 70
    third = kit.start(kit.severities(others.tail(5)), server, budget=team, mode="live")
    with pytest.raises(BudgetError):
        third.wait()
    assert server.calls == 70

    more = apwa.Budget(calls=120, name="of batches and live runs")
    assert len(second.resume(budget=more).result()) == kit.count
    assert server.calls == 120
    assert [run.costs()["calls"].sum() for run in (first, second)] == [60, 60]


def test_an_unknown_price_makes_a_budget_of_dollars_an_error(kit, scripted_server):
    server = scripted_server()

    with pytest.raises(BudgetError, match="price"):
        kit.start(kit.severities(kit.rows()), server, budget=1.0, price=None).wait()
    assert server.calls == 0


def test_failed_rows_are_tried_again_in_a_batch_of_their_own(kit, scripted_server):
    server = scripted_server(Script(faults=(Fault("status", on="row 3$", status=500, times=2),)))
    run = kit.start(kit.severities(kit.rows(8)), server, mode=kit.terms(attempts=2)).wait()
    assert run.status()["rows_failed"] == 1

    again = run.retry_failed()

    assert (again.result(status=True)["_apwa_status"] == "ok").all()
    assert [batch["request_counts"]["total"] for batch in server.batches()] == [8, 1, 1]


# -- stopping, dying, coming back


def test_a_stop_cancels_the_batches_and_a_resume_asks_only_what_was_not_answered(kit, scripted_server):
    server = scripted_server(batches=BatchRules(seconds=600.0))
    run = kit.start(kit.severities(kit.rows()), server, mode=kit.terms(max_requests=30))
    server.wait_until(lambda stats: stats.calls == kit.count)

    run.stop().wait()

    assert {batch["status"] for batch in server.batches()} == {"cancelled"}
    assert run.status()["status"] == "stopped"
    server.set(server.script.but(batches=BatchRules()))
    assert len(run.resume().result()) == kit.count
    assert Counter(server.log().billed.texts) == kit.once(kit.rows()["text"])


def test_leaving_lets_the_batches_go_on_and_attach_finds_them(kit, scripted_server, store):
    server = scripted_server(batches=BatchRules(seconds=600.0))
    run = kit.start(kit.severities(kit.rows()), server)
    server.wait_until(lambda stats: stats.calls == kit.count)
    run.leave().wait()
    assert [batch["status"] for batch in server.batches()] == ["in_progress"]

    server.set(server.script.but(batches=BatchRules()))
    again = apwa.attach(run.id, store, progress=False).resume()

    assert len(again.result()) == kit.count
    assert kit.lines(server) == kit.once(kit.rows()["text"])
    assert len(server.batches()) == 1


def test_a_lost_reply_makes_no_second_batch(kit, scripted_server):
    server = scripted_server(batches=BatchRules(faults=(BatchFault("lost_reply", batches=(1,)),)))

    assert len(kit.start(kit.severities(kit.rows()), server).result()) == kit.count
    assert len(server.batches()) == 1


@pytest.mark.parametrize(
    "point",
    [
        "shard.after_link:2",  # the second batch is about to be made
        "batch.created:2",  # it is made, and its id is known to nobody here
        "batch.kept:2",  # answers are durable, their batch is not closed
        "partition.before_commit:2",  # all answers are here
    ],
)
def test_a_run_killed_anywhere_is_resumed_without_a_second_line(kit, scripted_server, store, point):
    server = scripted_server()
    run = apwa.attach(killed(point, server, store), store, progress=False).resume()

    assert run.result()["severity"].notna().sum() == kit.count
    assert kit.lines(server) == kit.once(kit.rows()["text"])
    assert run.costs()["calls"].sum() == kit.count
    stats = server.stats()
    assert run.status()["cost_usd"] == pytest.approx(
        (stats.billed_prompt_tokens + stats.billed_completion_tokens) / 1e6 / 2
    )


def test_failed_answers_are_on_the_bill_once_though_their_process_died_as_it_kept_them(
    kit, scripted_server, store
):
    server = scripted_server(Script(faults=(Fault("refusal", on="row [0-9]*5$"),)))
    run = apwa.attach(killed("batch.kept:2", server, store), store, progress=False).resume().wait()

    assert run.status()["rows_failed"] == 6
    assert run.costs()["calls"].sum() == len(server.log().lines) == kit.count
    tokens = run.costs()[["input_tokens", "output_tokens"]].sum()
    stats = server.stats()
    assert tuple(tokens) == (stats.billed_prompt_tokens, stats.billed_completion_tokens)


def test_answers_that_another_run_got_meanwhile_are_on_both_bills(kit, scripted_server, store):
    """Both runs have paid, whoever was first to keep the answer."""
    server = scripted_server(batches=BatchRules(seconds=600.0))
    first = kit.start(kit.severities(kit.rows(6)), server)
    server.wait_until(lambda stats: stats.calls == 6)
    second = kit.start(kit.severities(kit.rows(6)), server)
    server.wait_until(lambda stats: stats.calls == 12)

    server.set(server.script.but(batches=BatchRules()))

    for run in (first, second):
        assert run.wait().costs()["calls"].sum() == 6
        assert Journal(store).paid_by(run.id).calls == 6


def test_a_run_killed_while_it_waits_goes_on_in_a_new_process(kit, scripted_server, store):
    server = scripted_server(batches=BatchRules(seconds=600.0))
    with child("whole", server.base_url, store) as process:
        assert process.stdout is not None
        run_id = process.stdout.readline().strip()
        server.wait_until(lambda stats: stats.calls == kit.count)
        process.kill()
        process.wait()
    server.set(server.script.but(batches=BatchRules()))

    (severity,) = finished("resume", server.base_url, store, run_id)

    assert len(severity.split(",")) == kit.count
    assert kit.lines(server) == kit.once(kit.rows()["text"])


def test_prompts_are_kept_beside_the_answers_where_asked(kit, scripted_server, store):
    server = scripted_server()
    kit.start(kit.severities(kit.rows(3)), server, store_prompts=True).wait()

    journal = Journal(store)
    keys = [bytes.fromhex(call.custom_id) for call in server.log().lines]
    kept = {
        orjson.loads(record.prompt)["messages"][-1]["content"] for record in journal.get_many(keys).values()
    }
    assert kept == {call.text for call in server.log().lines}


def test_no_prompt_stays_in_the_runs_folder(kit, scripted_server, store):
    run = kit.start(
        kit.severities(kit.rows(4).assign(text="the secret of row " + kit.rows(4)["text"])), scripted_server()
    ).wait()

    held = [path for path in Path(store).rglob("*") if path.is_file() and "source-" not in str(path)]
    batch = [path for path in held if f"{run.id}/batch" in str(path)]
    assert batch
    assert not [path for path in batch if b"the secret" in path.read_bytes()]
    assert not [path for path in batch if path.suffix == ".asks"]


@pytest.mark.slow
def test_no_worker_is_held_while_the_batches_of_a_cluster_are_waited_for(kit, scripted_server):
    from distributed import Client, LocalCluster

    server = scripted_server(batches=BatchRules(seconds=600.0))
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        client.wait_for_workers(2)
        run = kit.start(
            kit.severities(kit.rows()).filter("keep it?", inputs="text"),
            server,
            client=client,
            scheduler=None,
        )
        server.wait_until(lambda stats: stats.calls == kit.count)

        assert not any(client.processing().values())
        assert client.submit(sum, [1, 2]).result(timeout=30) == 3
        server.set(server.script.but(batches=BatchRules()))

        assert 0 < len(run.result()) < kit.count
        assert len(server.log().lines) == 2 * kit.count
        assert run.costs()["calls"].sum() == 2 * kit.count
