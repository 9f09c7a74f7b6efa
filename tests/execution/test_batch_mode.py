"""Answers from the endpoint's batches: each distinct request in one line, whatever ends in between."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pandas as pd
import pytest

import apwa_dask as apwa
from apwa_dask.agents import capabilities
from apwa_dask.errors import BudgetError, ConfigError, ProviderError
from apwa_dask.execution.batch_asks import Ask
from apwa_dask.execution.events import Progress, RunFinished, State
from apwa_dask.store.journal import Journal
from apwa_dask.testing import (
    BatchFault,
    BatchRules,
    Fault,
    Rule,
    Script,
    ScriptedServer,
)

CHILDREN = Path(__file__).with_name("batch_children.py")
ROWS = 60
PRICE = apwa.Price(1.0, 1.0)
SEVERITY: dict[str, Any] = {"severity": int}


def terms(**fields: Any) -> apwa.BatchTerms:
    return apwa.BatchTerms(**{"poll_first_s": 0.01, "poll_most_s": 0.1, **fields})


def rows(count: int = ROWS, distinct: int | None = None) -> pd.DataFrame:
    return pd.DataFrame({"text": [f"row {k % (distinct or count)}" for k in range(count)]})


def severities(frame: pd.DataFrame, npartitions: int = 3) -> apwa.Table:
    return apwa.from_pandas(frame, npartitions=npartitions).map("severity", inputs="text", output=SEVERITY)


Start = Callable[..., apwa.Run]


@pytest.fixture
def start(model_at, store) -> Start:
    """Starts a run in batches at a server."""

    def begin(table: apwa.Table, server: ScriptedServer, **options: Any) -> apwa.Run:
        model = model_at(server, price=options.pop("price", PRICE))
        settings = {"mode": terms(), "store": store, "progress": False, "scheduler": "threads", **options}
        return table.run(model=model, **settings)

    return begin


def lines(server: ScriptedServer) -> Counter[str]:
    """How often each text stood in a line of a batch that was worked on or is at work."""
    return Counter(server.log().lines.texts)


def once(texts: pd.Series) -> Counter[str]:
    return Counter(set(texts))


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


# -- what comes out


def test_each_row_gets_the_live_answer_and_each_distinct_text_one_line(
    start, scripted_server, model_at, tmp_path
):
    server, live = scripted_server(), scripted_server()
    frame = rows(90, distinct=40)

    result = start(severities(frame), server).result(status=True)

    wanted = severities(frame).run(model=model_at(live), store=str(tmp_path / "live"), progress=False)
    assert result["severity"].tolist() == wanted.result()["severity"].tolist()
    assert (result["_apwa_status"] == "ok").all()
    assert lines(server) == once(frame["text"])
    assert server.calls == 40


def test_the_ledger_has_half_the_price_and_every_paid_token_once(start, scripted_server):
    server = scripted_server()

    run = start(severities(rows(90, distinct=40)), server).wait()

    stats, costs = server.stats(), run.costs()
    tokens = stats.billed_prompt_tokens + stats.billed_completion_tokens
    assert costs["cost_usd"].sum() == pytest.approx(tokens / 1e6 / 2)
    assert (costs["calls"].sum(), costs["units"].sum(), costs["reused"].sum()) == (40, 90, 50)
    assert run.status()["cost_usd"] == pytest.approx(tokens / 1e6 / 2)


def test_other_runs_are_served_by_what_a_batch_has_answered(start, scripted_server):
    server = scripted_server()
    first = start(severities(rows()), server).result()

    second = start(severities(rows()), server, mode="live").result()

    assert second["severity"].tolist() == first["severity"].tolist()
    assert server.calls == ROWS
    assert start(severities(rows()), server).wait().batches().empty


def test_a_chain_takes_one_round_a_step_and_its_words_say_what_is_waited_for(start, scripted_server):
    server = scripted_server()
    events: list[Any] = []
    table = severities(rows()).filter("keep it?", inputs="text")

    run = start(table, server, progress=events.append, mode=terms(max_requests=40))

    kept = run.result()
    assert 0 < len(kept) < ROWS
    assert [batch["request_counts"]["total"] for batch in server.batches()] == [40, 20, 40, 20]
    words = [event.words for event in events if isinstance(event, State)]
    assert "waiting for 2 batches: 0 of 60 done" in words
    assert words[-1] == "running"
    progress = [event for event in events if isinstance(event, Progress)]
    assert sum(event.calls for event in progress) == 2 * ROWS
    assert sum(event.rows_done for event in progress) == ROWS
    assert sum(event.cost_usd for event in progress) == pytest.approx(run.status()["cost_usd"])
    assert isinstance(events[-1], RunFinished)


def test_packs_wait_for_the_answers_before_them_and_share_prompts(start, scripted_server):
    server = scripted_server(row_id=r"(?m)^\[(\d+),")  # numbers of a pack's rows
    notes = pd.DataFrame({"text": [f"note {k}" for k in range(ROWS)]})
    table = severities(notes).map("topic", inputs=["text"], output={"topic": str}, unit="pack(10)")

    result = start(table, server).result(status=True)

    assert (result["_apwa_status"] == "ok").all()
    assert result["topic"].notna().all()
    assert len(server.log().lines) == ROWS + 6
    assert max(Counter(str(call.body) for call in server.log().lines).values()) == 1


@pytest.mark.parametrize("by", [(), "shop"])
def test_a_reduce_goes_through_its_tree_in_batches(start, scripted_server, by):
    server = scripted_server()
    frame = rows(30).assign(shop=[f"s{k % 2}" for k in range(30)])
    table = apwa.from_pandas(frame, npartitions=3).reduce(
        "sum up", inputs="text", by=by, output={"summary": str}
    )

    run = start(table, server)

    assert len(run.result()) == (2 if by else 1)
    assert len(server.log().lines) == server.calls == (2 if by else 1)
    assert run.costs()["calls"].sum() == server.calls


def test_a_tool_speaks_once_and_its_word_goes_into_the_next_batch(start, scripted_server, monkeypatch):
    monkeypatch.setattr(capabilities, "_registry", dict(capabilities._registry))
    heard: list[str] = []

    @apwa.capability(power="pure")
    def area_code(city: str) -> str:
        """Dialling code of a city."""
        heard.append(city)
        return "030"

    rules = (
        Rule("Berlin", {"tool_calls": [{"name": "area_code", "arguments": {"city": "Berlin"}}]}, turn=0),
        Rule("030", {"code": "030"}, where="prompt"),
    )
    server = scripted_server(rules=rules, answers="fail")
    table = apwa.from_pandas(pd.DataFrame({"city": ["Berlin"]}))
    asked = table.map("Dialling code.", inputs="city", output={"code": str}, tools=["area_code"])

    assert start(asked, server).result()["code"].tolist() == ["030"]
    assert heard == ["Berlin"]
    assert [batch["request_counts"]["total"] for batch in server.batches()] == [1, 1]


def test_an_empty_table_makes_no_batch(start, scripted_server):
    server = scripted_server()

    assert start(severities(rows(1).iloc[:0], 1), server).result().empty
    assert server.batches() == []


# -- limits


def test_the_size_of_a_line_is_known_without_writing_it():
    ask = Ask(b"k" * 32, "0:0", "map_1", "", 10, b'{"model":"m"}')

    assert ask.line_bytes == len(ask.line)
    assert orjson.loads(ask.line)["body"] == {"model": "m"}


def test_files_stay_within_requests_bytes_and_waiting_tokens(start, scripted_server):
    rules = BatchRules(max_requests=25, max_bytes=12_000, enqueued_tokens=1_500)
    server = scripted_server(batches=rules)
    limits = terms(max_requests=25, max_bytes=12_000, max_enqueued_tokens=1_500)

    run = start(severities(rows()), server, mode=limits)

    assert len(run.result()) == ROWS
    batches = server.batches()
    assert {batch["status"] for batch in batches} == {"completed"}
    assert max(batch["bytes"] for batch in batches) <= 12_000
    assert max(batch["request_counts"]["total"] for batch in batches) <= 25
    assert lines(server) == once(rows()["text"])


def test_a_refusal_for_waiting_tokens_teaches_the_limit(start, scripted_server):
    server = scripted_server(batches=BatchRules(enqueued_tokens=2_000))

    run = start(severities(rows()), server)

    assert len(run.result()) == ROWS
    assert "failed" in set(run.batches()["status"])
    assert lines(server) == once(rows()["text"])


def test_a_request_that_no_file_can_hold_fails_alone(start, scripted_server):
    server = scripted_server()
    frame = pd.DataFrame({"text": ["row 0", "x" * 50_000, "row 2"]})

    result = start(severities(frame), server, mode=terms(max_bytes=10_000)).result(status=True)

    assert result["_apwa_status"].tolist() == ["ok", "too_large", "ok"]
    assert len(server.log().lines) == 2


# -- what goes wrong


def test_what_an_expired_batch_did_not_come_to_is_asked_again_and_nothing_else(start, scripted_server):
    faults = (BatchFault("expired", batches=(1,), answered=0.5),)
    server = scripted_server(batches=BatchRules(faults=faults))

    run = start(severities(rows()), server)

    assert (run.result(status=True)["_apwa_status"] == "ok").all()
    assert run.batches()["status"].tolist() == ["expired", "completed"]
    assert run.batches()["requests"].tolist() == [60, 30]
    assert Counter(server.log().billed.texts) == once(rows()["text"])


def test_a_request_that_no_batch_comes_to_ends_as_deadline(start, scripted_server):
    server = scripted_server(batches=BatchRules(faults=(BatchFault("expired", answered=0.0),)))

    run = start(severities(rows(3)), server, mode=terms(attempts=2))

    assert run.result(status=True)["_apwa_status"].tolist() == ["deadline"] * 3
    assert len(server.batches()) == 2
    assert len(server.log().billed) == 0
    assert "2 batches" in run.failures["message"][0]


def test_error_lines_are_classed_row_by_row(start, scripted_server):
    faults = (
        Fault("content_filter", on="row 1$"),
        Fault("status", on="row 2$", status=500, times=1),
        Fault("status", on="row 3$", status=500),
        Fault("refusal", on="row 4$"),
        Fault("length", on="row 5$", times=1),
        Fault("content", on="row 6$", content="no JSON", times=1),
    )
    server = scripted_server(Script(faults=faults))

    run = start(severities(rows(8)), server, mode=terms(attempts=3))

    statuses = run.result(status=True)["_apwa_status"].tolist()
    assert statuses == ["ok", "filtered", "ok", "transient", "refused", "ok", "ok", "ok"]
    assert lines(server)["row 3"] == 3
    assert lines(server)["row 0"] == lines(server)["row 1"] == lines(server)["row 4"] == 1
    failures = run.failures.set_index("outcome")
    assert failures.loc["transient", "attempts"] == 3
    assert run.costs()["calls"].sum() == len(server.log().lines)


def test_a_line_that_fails_validation_is_bad_input_and_the_others_go_on(start, scripted_server):
    faults = (BatchFault("failed", batches=(1,), line=2),)
    server = scripted_server(batches=BatchRules(faults=faults))

    run = start(severities(rows(5), 1), server)

    statuses = run.result(status=True)["_apwa_status"].tolist()
    assert statuses == ["ok", "bad_input", "ok", "ok", "ok"]
    assert len(server.log().lines) == 4


def test_a_batch_that_is_refused_as_a_whole_stops_the_run_in_the_servers_words(start, scripted_server):
    fault = BatchFault("failed", code="model_not_found", message="The model cannot be batched.")
    server = scripted_server(batches=BatchRules(faults=(fault,)))

    run = start(severities(rows()), server)

    with pytest.raises(ProviderError, match="refused a batch") as refused:
        run.wait()
    assert "cannot be batched" in refused.value.why
    assert len(server.batches()) == 1


def test_a_batch_cancelled_by_someone_else_stops_the_run_and_resume_asks_only_the_rest(
    start, scripted_server
):
    server = scripted_server(batches=BatchRules(faults=(BatchFault("cancelled", batches=(1,)),)))
    run = start(severities(rows()), server).wait()
    assert run.status()["status"] == "stopped"

    assert len(run.resume().result()) == ROWS

    assert Counter(server.log().billed.texts) == once(rows()["text"])


def test_what_the_endpoint_lacks_is_left_out_of_the_next_batch(start, scripted_server):
    server = scripted_server(Script(supports_json_schema=False, rules=(Rule("row", {"severity": 3}),)))

    result = start(severities(rows(4)), server).result(status=True)

    assert (result["_apwa_status"] == "ok").all()
    sent = [call.body.get("response_format", {}).get("type") for call in server.log().lines]
    assert sent == ["json_schema"] * 4 + ["json_object"] * 4


def test_a_wrong_key_is_an_error_before_anything_is_asked(start, scripted_server):
    server = scripted_server(api_key="sk-another")

    with pytest.raises(ProviderError, match="key"):
        start(severities(rows()), server).wait()
    assert server.calls == 0


def test_a_quota_met_inside_a_batch_stops_the_run_and_a_resume_goes_on(start, scripted_server):
    server = scripted_server(Script(faults=(Fault("insufficient_quota", on="row [0-9]$"),)))
    run = start(severities(rows(20)), server)
    with pytest.raises(ProviderError, match="quota"):
        run.wait()

    server.set(server.script.but(faults=()))

    assert (run.resume().result(status=True)["_apwa_status"] == "ok").all()
    assert Counter(server.log().billed.texts) == once(rows(20)["text"])


def test_an_endpoint_without_batches_is_an_error_before_anything_is_spent(start, scripted_server):
    server = scripted_server(batches=BatchRules(offered=False))

    with pytest.raises(ProviderError, match="has no batches"):
        start(severities(rows()), server).wait()
    assert server.calls == 0


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (apwa.Model.local(), "embedded model"),
        (apwa.Model("m", base_url="http://127.0.0.1:9/v1", transport="sdk"), "transport"),
    ],
)
def test_a_model_that_has_no_batches_is_refused_at_once(store, model, words):
    with pytest.raises(ConfigError, match=words):
        severities(rows()).run(model=model, store=store, mode="batch", progress=False)


def test_an_unknown_mode_and_a_lazy_batch_are_refused(store):
    with pytest.raises(ConfigError, match="batch"):
        severities(rows()).run(model="m", store=store, mode="batches", progress=False)
    with pytest.raises(ConfigError, match="lazy"):
        severities(rows()).to_dask(model="m", store=store, mode="batch")


# -- money


def test_the_estimate_knows_the_price_of_batches(scripted_server, model_at):
    model = model_at(scripted_server(), price=apwa.Price(1.0, 1.0, batch_factor=0.25))
    plan = severities(rows()).plan()

    live, batch = plan.estimate(model=model), plan.estimate(model=model, mode="batch")

    assert live.calls == batch.calls
    assert batch.cost_usd.expected == pytest.approx(live.cost_usd.expected / 4)


def test_the_budget_is_never_passed_and_a_larger_one_finishes(start, scripted_server):
    server = scripted_server()
    run = start(severities(rows()), server, budget=0.002)

    with pytest.raises(BudgetError, match="budget is used up"):
        run.wait()

    stats = server.stats()
    spent = (stats.billed_prompt_tokens + stats.billed_completion_tokens) / 1e6 / 2
    assert 0 < spent <= 0.002
    assert 0 < stats.calls < ROWS
    # what was reserved and not used is spent in further batches, until not even one request is covered
    assert len(server.batches()) > 1
    assert len(run.resume(budget=1.0).result()) == ROWS
    assert lines(server) == once(rows()["text"])


def test_a_ceiling_of_calls_counts_lines(start, scripted_server):
    server = scripted_server()
    run = start(severities(rows()), server, budget=apwa.Budget(calls=25))

    with pytest.raises(BudgetError):
        run.wait()
    assert server.calls == 25
    assert run.costs()["calls"].sum() == 25


def test_an_unknown_price_makes_a_budget_of_dollars_an_error(start, scripted_server):
    server = scripted_server()

    with pytest.raises(BudgetError, match="price"):
        start(severities(rows()), server, budget=1.0, price=None).wait()
    assert server.calls == 0


def test_failed_rows_are_tried_again_in_a_batch_of_their_own(start, scripted_server):
    server = scripted_server(Script(faults=(Fault("status", on="row 3$", status=500, times=2),)))
    run = start(severities(rows(8)), server, mode=terms(attempts=2)).wait()
    assert run.status()["rows_failed"] == 1

    again = run.retry_failed()

    assert (again.result(status=True)["_apwa_status"] == "ok").all()
    assert [batch["request_counts"]["total"] for batch in server.batches()] == [8, 1, 1]


# -- stopping, dying, coming back


def test_a_stop_cancels_the_batches_and_a_resume_asks_only_what_was_not_answered(start, scripted_server):
    server = scripted_server(batches=BatchRules(seconds=600.0))
    run = start(severities(rows()), server, mode=terms(max_requests=30))
    server.wait_until(lambda stats: stats.calls == ROWS)

    run.stop().wait()

    assert {batch["status"] for batch in server.batches()} == {"cancelled"}
    assert run.status()["status"] == "stopped"
    server.set(server.script.but(batches=BatchRules()))
    assert len(run.resume().result()) == ROWS
    assert Counter(server.log().billed.texts) == once(rows()["text"])


def test_leaving_lets_the_batches_go_on_and_attach_finds_them(start, scripted_server, store):
    server = scripted_server(batches=BatchRules(seconds=600.0))
    run = start(severities(rows()), server)
    server.wait_until(lambda stats: stats.calls == ROWS)
    run.leave().wait()
    assert [batch["status"] for batch in server.batches()] == ["in_progress"]

    server.set(server.script.but(batches=BatchRules()))
    again = apwa.attach(run.id, store, progress=False).resume()

    assert len(again.result()) == ROWS
    assert lines(server) == once(rows()["text"])
    assert len(server.batches()) == 1


def test_a_lost_reply_makes_no_second_batch(start, scripted_server):
    server = scripted_server(batches=BatchRules(faults=(BatchFault("lost_reply", batches=(1,)),)))

    assert len(start(severities(rows()), server).result()) == ROWS
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
def test_a_run_killed_anywhere_is_resumed_without_a_second_line(scripted_server, store, point):
    server = scripted_server()
    run = apwa.attach(killed(point, server, store), store, progress=False).resume()

    assert run.result()["severity"].notna().sum() == ROWS
    assert lines(server) == once(rows()["text"])
    assert run.costs()["calls"].sum() == ROWS
    stats = server.stats()
    assert run.status()["cost_usd"] == pytest.approx(
        (stats.billed_prompt_tokens + stats.billed_completion_tokens) / 1e6 / 2
    )


def test_a_run_killed_while_it_waits_goes_on_in_a_new_process(scripted_server, store):
    server = scripted_server(batches=BatchRules(seconds=600.0))
    with child("whole", server.base_url, store) as process:
        assert process.stdout is not None
        run_id = process.stdout.readline().strip()
        server.wait_until(lambda stats: stats.calls == ROWS)
        process.kill()
        process.wait()
    server.set(server.script.but(batches=BatchRules()))

    (severity,) = finished("resume", server.base_url, store, run_id)

    assert len(severity.split(",")) == ROWS
    assert lines(server) == once(rows()["text"])


def test_prompts_are_kept_beside_the_answers_where_asked(start, scripted_server, store):
    server = scripted_server()
    start(severities(rows(3)), server, store_prompts=True).wait()

    journal = Journal(store)
    keys = [bytes.fromhex(call.custom_id) for call in server.log().lines]
    kept = {
        orjson.loads(record.prompt)["messages"][-1]["content"] for record in journal.get_many(keys).values()
    }
    assert kept == {call.text for call in server.log().lines}


def test_no_prompt_stays_in_the_runs_folder(start, scripted_server, store):
    run = start(
        severities(rows(4).assign(text="the secret of row " + rows(4)["text"])), scripted_server()
    ).wait()

    held = [path for path in Path(store).rglob("*") if path.is_file() and "source-" not in str(path)]
    batch = [path for path in held if f"{run.id}/batch" in str(path)]
    assert batch
    assert not [path for path in batch if b"the secret" in path.read_bytes()]
    assert not [path for path in batch if path.suffix == ".asks"]


@pytest.mark.slow
def test_no_worker_is_held_while_the_batches_of_a_cluster_are_waited_for(start, scripted_server):
    from distributed import Client, LocalCluster

    server = scripted_server(batches=BatchRules(seconds=600.0))
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        client.wait_for_workers(2)
        run = start(
            severities(rows()).filter("keep it?", inputs="text"), server, client=client, scheduler=None
        )
        server.wait_until(lambda stats: stats.calls == ROWS)

        assert not any(client.processing().values())
        assert client.submit(sum, [1, 2]).result(timeout=30) == 3
        server.set(server.script.but(batches=BatchRules()))

        assert 0 < len(run.result()) < ROWS
        assert len(server.log().lines) == 2 * ROWS
        assert run.costs()["calls"].sum() == 2 * ROWS
