"""Answers from the endpoint's batches: what comes out, within which limits, and what goes wrong."""

from __future__ import annotations

from collections import Counter
from typing import Any

import orjson
import pandas as pd
import pytest

import apwa_dask as apwa
from apwa_dask.agents import capabilities
from apwa_dask.errors import BudgetError, ConfigError, ProviderError
from apwa_dask.execution.batch_asks import Ask
from apwa_dask.execution.events import Progress, RunFinished, State
from apwa_dask.models import batches
from apwa_dask.testing import BatchFault, BatchRules, Fault, Rule, Script

# -- what comes out


def test_each_row_gets_the_live_answer_and_each_distinct_text_one_line(
    kit, scripted_server, model_at, tmp_path
):
    server, live = scripted_server(), scripted_server()
    frame = kit.rows(90, distinct=40)

    result = kit.start(kit.severities(frame), server).result(status=True)

    wanted = kit.severities(frame).run(model=model_at(live), store=str(tmp_path / "live"), progress=False)
    assert result["severity"].tolist() == wanted.result()["severity"].tolist()
    assert (result["_apwa_status"] == "ok").all()
    assert kit.lines(server) == kit.once(frame["text"])
    assert server.calls == 40


def test_the_ledger_has_half_the_price_and_every_paid_token_once(kit, scripted_server):
    server = scripted_server()

    run = kit.start(kit.severities(kit.rows(90, distinct=40)), server).wait()

    stats, costs = server.stats(), run.costs()
    tokens = stats.billed_prompt_tokens + stats.billed_completion_tokens
    assert costs["cost_usd"].sum() == pytest.approx(tokens / 1e6 / 2)
    assert (costs["calls"].sum(), costs["units"].sum(), costs["reused"].sum()) == (40, 90, 50)
    assert run.status()["cost_usd"] == pytest.approx(tokens / 1e6 / 2)


def test_other_runs_are_served_by_what_a_batch_has_answered(kit, scripted_server):
    server = scripted_server()
    first = kit.start(kit.severities(kit.rows()), server).result()

    second = kit.start(kit.severities(kit.rows()), server, mode="live").result()

    assert second["severity"].tolist() == first["severity"].tolist()
    assert server.calls == kit.count
    assert kit.start(kit.severities(kit.rows()), server).wait().batches().empty


def test_a_chain_takes_one_round_a_step_and_its_words_say_what_is_waited_for(kit, scripted_server):
    server = scripted_server()
    events: list[Any] = []
    table = kit.severities(kit.rows()).filter("keep it?", inputs="text")

    run = kit.start(table, server, progress=events.append, mode=kit.terms(max_requests=40))

    kept = run.result()
    assert 0 < len(kept) < kit.count
    assert [batch["request_counts"]["total"] for batch in server.batches()] == [40, 20, 40, 20]
    words = [event.words for event in events if isinstance(event, State)]
    assert "waiting for 2 batches: 0 of 60 done" in words
    assert words[-1] == "running"
    progress = [event for event in events if isinstance(event, Progress)]
    assert sum(event.calls for event in progress) == 2 * kit.count
    assert sum(event.rows_done for event in progress) == kit.count
    assert sum(event.cost_usd for event in progress) == pytest.approx(run.status()["cost_usd"])
    assert isinstance(events[-1], RunFinished)


def test_packs_wait_for_the_answers_before_them_and_share_prompts(kit, scripted_server):
    server = scripted_server(row_id=r"(?m)^\[(\d+),")  # numbers of a pack's rows
    notes = pd.DataFrame({"text": [f"note {k}" for k in range(kit.count)]})
    table = kit.severities(notes).map("topic", inputs=["text"], output={"topic": str}, unit="pack(10)")

    result = kit.start(table, server).result(status=True)

    assert (result["_apwa_status"] == "ok").all()
    assert result["topic"].notna().all()
    assert len(server.log().lines) == kit.count + 6
    assert max(Counter(str(call.body) for call in server.log().lines).values()) == 1


@pytest.mark.parametrize("by", [(), "shop"])
def test_a_reduce_goes_through_its_tree_in_batches(kit, scripted_server, by):
    server = scripted_server()
    frame = kit.rows(30).assign(shop=[f"s{k % 2}" for k in range(30)])
    table = apwa.from_pandas(frame, npartitions=3).reduce(
        "sum up", inputs="text", by=by, output={"summary": str}
    )

    run = kit.start(table, server)

    assert len(run.result()) == (2 if by else 1)
    assert len(server.log().lines) == server.calls == (2 if by else 1)
    assert run.costs()["calls"].sum() == server.calls


def test_a_tool_speaks_once_and_its_word_goes_into_the_next_batch(kit, scripted_server, monkeypatch):
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

    assert kit.start(asked, server).result()["code"].tolist() == ["030"]
    assert heard == ["Berlin"]
    assert [batch["request_counts"]["total"] for batch in server.batches()] == [1, 1]


def test_an_empty_table_makes_no_batch(kit, scripted_server):
    server = scripted_server()

    assert kit.start(kit.severities(kit.rows(1).iloc[:0], 1), server).result().empty
    assert server.batches() == []


# -- limits


def test_the_size_of_a_line_is_known_without_writing_it():
    ask = Ask(b"k" * 32, "0:0", "map_1", "", 10, b'{"model":"m"}')

    assert ask.line_bytes == len(ask.line)
    assert orjson.loads(ask.line)["body"] == {"model": "m"}


def test_files_stay_within_requests_bytes_and_waiting_tokens(kit, scripted_server):
    rules = BatchRules(max_requests=25, max_bytes=12_000, enqueued_tokens=1_500)
    server = scripted_server(batches=rules)
    limits = kit.terms(max_requests=25, max_bytes=12_000, max_enqueued_tokens=1_500)

    run = kit.start(kit.severities(kit.rows()), server, mode=limits)

    assert len(run.result()) == kit.count
    batches = server.batches()
    assert {batch["status"] for batch in batches} == {"completed"}
    assert max(batch["bytes"] for batch in batches) <= 12_000
    assert max(batch["request_counts"]["total"] for batch in batches) <= 25
    assert kit.lines(server) == kit.once(kit.rows()["text"])


def test_a_refusal_for_waiting_tokens_teaches_the_limit(kit, scripted_server):
    server = scripted_server(batches=BatchRules(enqueued_tokens=2_000))

    run = kit.start(kit.severities(kit.rows()), server)

    assert len(run.result()) == kit.count
    assert "failed" in set(run.batches()["status"])
    assert kit.lines(server) == kit.once(kit.rows()["text"])


def test_a_request_that_no_file_can_hold_fails_alone(kit, scripted_server):
    server = scripted_server()
    frame = pd.DataFrame({"text": ["row 0", "x" * 50_000, "row 2"]})

    result = kit.start(kit.severities(frame), server, mode=kit.terms(max_bytes=10_000)).result(status=True)

    assert result["_apwa_status"].tolist() == ["ok", "too_large", "ok"]
    assert len(server.log().lines) == 2


# -- what goes wrong


def test_what_an_expired_batch_did_not_come_to_is_asked_again_and_nothing_else(kit, scripted_server):
    faults = (BatchFault("expired", batches=(1,), answered=0.5),)
    server = scripted_server(batches=BatchRules(faults=faults))

    run = kit.start(kit.severities(kit.rows()), server)

    assert (run.result(status=True)["_apwa_status"] == "ok").all()
    assert run.batches()["status"].tolist() == ["expired", "completed"]
    assert run.batches()["requests"].tolist() == [60, 30]
    assert Counter(server.log().billed.texts) == kit.once(kit.rows()["text"])


def test_a_batch_that_the_endpoint_has_forgotten_is_asked_again_and_its_money_counts_as_spent(
    kit, scripted_server, caplog
):
    server = scripted_server(batches=BatchRules(faults=(BatchFault("gone", batches=(1,)),)))

    run = kit.start(kit.severities(kit.rows()), server)

    assert (run.result(status=True)["_apwa_status"] == "ok").all()
    assert run.batches()["status"].tolist() == ["gone", "completed"]
    assert Counter(server.log().billed.texts) == kit.once(kit.rows()["text"])
    assert "60 requests are asked again" in caplog.text


def test_results_that_the_endpoint_has_deleted_are_asked_for_again_and_counted_as_paid(
    kit, scripted_server, monkeypatch, caplog
):
    monkeypatch.setattr(batches, "LACKING_WAITS_S", (0.0, 0.0, 0.0))
    server = scripted_server(batches=BatchRules(faults=(BatchFault("no_results", batches=(1,)),)))

    run = kit.start(kit.severities(kit.rows()), server, store_prompts=True)

    assert (run.result(status=True)["_apwa_status"] == "ok").all()
    assert run.batches()["status"].tolist() == ["completed", "completed"]
    assert Counter(kit.lines(server).values()) == {2: 60}
    assert "60 requests are asked again" in caplog.text


def test_a_budget_holds_although_results_are_deleted(kit, scripted_server, monkeypatch):
    monkeypatch.setattr(batches, "LACKING_WAITS_S", (0.0, 0.0, 0.0))
    server = scripted_server(batches=BatchRules(faults=(BatchFault("no_results", batches=(1,)),)))

    with pytest.raises(BudgetError):
        kit.start(kit.severities(kit.rows()), server, budget=apwa.Budget(calls=100)).result()
    assert [batch["request_counts"]["total"] for batch in server.batches()] == [60, 40]


def test_a_budget_holds_although_a_batch_is_forgotten(kit, scripted_server):
    server = scripted_server(batches=BatchRules(faults=(BatchFault("gone", batches=(1,)),)))

    with pytest.raises(BudgetError):
        kit.start(kit.severities(kit.rows()), server, budget=apwa.Budget(calls=100)).result()
    asked = [batch["request_counts"]["total"] for batch in server.batches()]
    assert asked == [60, 40], "those of the first may have been billed"


def test_a_request_that_no_batch_comes_to_ends_as_deadline(kit, scripted_server):
    server = scripted_server(batches=BatchRules(faults=(BatchFault("expired", answered=0.0),)))

    run = kit.start(kit.severities(kit.rows(3)), server, mode=kit.terms(attempts=2))

    assert run.result(status=True)["_apwa_status"].tolist() == ["deadline"] * 3
    assert len(server.batches()) == 2
    assert len(server.log().billed) == 0
    assert "2 batches" in run.failures["message"][0]


def test_error_lines_are_classed_row_by_row(kit, scripted_server):
    faults = (
        Fault("content_filter", on="row 1$"),
        Fault("status", on="row 2$", status=500, times=1),
        Fault("status", on="row 3$", status=500),
        Fault("refusal", on="row 4$"),
        Fault("length", on="row 5$", times=1),
        Fault("content", on="row 6$", content="no JSON", times=1),
    )
    server = scripted_server(Script(faults=faults))

    run = kit.start(kit.severities(kit.rows(8)), server, mode=kit.terms(attempts=3))

    statuses = run.result(status=True)["_apwa_status"].tolist()
    assert statuses == ["ok", "filtered", "ok", "transient", "refused", "ok", "ok", "ok"]
    assert kit.lines(server)["row 3"] == 3
    assert kit.lines(server)["row 0"] == kit.lines(server)["row 1"] == kit.lines(server)["row 4"] == 1
    failures = run.failures.set_index("outcome")
    assert failures.loc["transient", "attempts"] == 3
    assert run.costs()["calls"].sum() == len(server.log().lines)


def test_a_line_that_fails_validation_is_bad_input_and_the_others_go_on(kit, scripted_server):
    faults = (BatchFault("failed", batches=(1,), line=2),)
    server = scripted_server(batches=BatchRules(faults=faults))

    run = kit.start(kit.severities(kit.rows(5), 1), server)

    statuses = run.result(status=True)["_apwa_status"].tolist()
    assert statuses == ["ok", "bad_input", "ok", "ok", "ok"]
    assert len(server.log().lines) == 4


def test_a_batch_that_is_refused_as_a_whole_stops_the_run_in_the_servers_words(kit, scripted_server):
    fault = BatchFault("failed", code="model_not_found", message="The model cannot be batched.")
    server = scripted_server(batches=BatchRules(faults=(fault,)))

    run = kit.start(kit.severities(kit.rows()), server)

    with pytest.raises(ProviderError, match="refused a batch") as refused:
        run.wait()
    assert "cannot be batched" in refused.value.why
    assert len(server.batches()) == 1


def test_a_batch_cancelled_by_someone_else_stops_the_run_and_resume_asks_only_the_rest(kit, scripted_server):
    server = scripted_server(batches=BatchRules(faults=(BatchFault("cancelled", batches=(1,)),)))
    run = kit.start(kit.severities(kit.rows()), server).wait()
    assert run.status()["status"] == "stopped"

    assert len(run.resume().result()) == kit.count

    assert Counter(server.log().billed.texts) == kit.once(kit.rows()["text"])


def test_what_the_endpoint_lacks_is_left_out_of_the_next_batch(kit, scripted_server):
    server = scripted_server(Script(supports_json_schema=False, rules=(Rule("row", {"severity": 3}),)))

    result = kit.start(kit.severities(kit.rows(4)), server).result(status=True)

    assert (result["_apwa_status"] == "ok").all()
    sent = [call.body.get("response_format", {}).get("type") for call in server.log().lines]
    assert sent == ["json_schema"] * 4 + ["json_object"] * 4


def test_a_wrong_key_is_an_error_before_anything_is_asked(kit, scripted_server):
    server = scripted_server(api_key="sk-another")

    with pytest.raises(ProviderError, match="key"):
        kit.start(kit.severities(kit.rows()), server).wait()
    assert server.calls == 0


def test_a_quota_met_inside_a_batch_stops_the_run_and_a_resume_goes_on(kit, scripted_server):
    server = scripted_server(Script(faults=(Fault("insufficient_quota", on="row [0-9]$"),)))
    run = kit.start(kit.severities(kit.rows(20)), server)
    with pytest.raises(ProviderError, match="quota"):
        run.wait()

    server.set(server.script.but(faults=()))

    assert (run.resume().result(status=True)["_apwa_status"] == "ok").all()
    assert Counter(server.log().billed.texts) == kit.once(kit.rows(20)["text"])


def test_an_endpoint_without_batches_is_an_error_before_anything_is_spent(kit, scripted_server):
    server = scripted_server(batches=BatchRules(offered=False))

    with pytest.raises(ProviderError, match="has no batches"):
        kit.start(kit.severities(kit.rows()), server).wait()
    assert server.calls == 0


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (apwa.Model.local(), "embedded model"),
        (apwa.Model("m", base_url="http://127.0.0.1:9/v1", transport="sdk"), "transport"),
    ],
)
def test_a_model_that_has_no_batches_is_refused_at_once(kit, store, model, words):
    with pytest.raises(ConfigError, match=words):
        kit.severities(kit.rows()).run(model=model, store=store, mode="batch", progress=False)


def test_an_unknown_mode_and_a_lazy_batch_are_refused(kit, store):
    with pytest.raises(ConfigError, match="batch"):
        kit.severities(kit.rows()).run(model="m", store=store, mode="batches", progress=False)
    with pytest.raises(ConfigError, match="lazy"):
        kit.severities(kit.rows()).to_dask(model="m", store=store, mode="batch")
