"""The handle of a run: what failed, what it cost, stopping, going on, trying again, taking away."""

from __future__ import annotations

import json

import pandas as pd
import pyarrow.feather
import pytest

import apwa_dask as apwa
from apwa_dask.errors import BudgetError, ConfigError, RunError
from apwa_dask.execution.events import State
from apwa_dask.testing import Fault, On, Script

FRAME = pd.DataFrame({"text": [f"row {k}" for k in range(40)], "k": range(40)})
REFUSED = Script(faults=(Fault("refusal", on=r"row [123]\b"),))


def table(npartitions: int = 4) -> apwa.Table:
    return apwa.from_pandas(FRAME, npartitions=npartitions).map("x", inputs="text", output={"a": int})


def test_failed_rows_are_kept_with_nulls_and_listed_with_their_reasons(scripted_server, model_at, store):
    server = scripted_server(REFUSED)

    run = table().run(model=model_at(server, price=apwa.Price(1, 2)), store=store, progress=False)
    result = run.result(status=True)

    assert result["k"].tolist() == list(range(40))
    assert result.index[result["_apwa_status"] != "ok"].tolist() == [1, 2, 3]
    failures = run.failures
    assert failures["outcome"].tolist() == ["refused"] * 3
    assert failures["inputs"].tolist() == ["text=row 1", "text=row 2", "text=row 3"]
    assert (failures["cost_usd"] > 0).all()
    facts = run.status()
    assert (facts["status"], facts["rows_in"], facts["rows_out"], facts["rows_failed"]) == ("done", 40, 40, 3)


def test_failed_rows_are_dropped_when_asked(scripted_server, model_at, store):
    server = scripted_server(REFUSED)

    run = table().run(model=model_at(server), store=store, progress=False, on_error="drop")
    result = run.result()

    assert result["k"].tolist() == [0, *range(4, 40)]
    assert len(run.failures) == 3
    assert run.status()["rows_failed"] == 3


def test_the_first_failed_row_stops_the_run_when_asked(scripted_server, model_at, store):
    server = scripted_server(REFUSED)
    run = table(1).run(
        model=model_at(server, max_concurrency=1), store=store, progress=False, on_error="raise"
    )

    with pytest.raises(RunError, match="refused") as caught:
        run.result()

    assert "x" not in caught.value.where or "map_1" in caught.value.where
    assert run.status()["status"] == "failed"


def test_the_bill_is_the_servers_own(scripted_server, model_at, store):
    script = Script(faults=(Fault("status", on="row 5$", times=1), Fault("refusal", on="row 7$")))
    server = scripted_server(script)

    run = table().run(model=model_at(server, price=apwa.Price(1, 2)), store=store, progress=False).wait()

    costs, log = run.costs(), server.log()
    assert int(costs["calls"].sum()) == len(log) == 41
    prompt, completion = log.billed_tokens
    assert int(costs["input_tokens"].sum()) == prompt
    assert int(costs["output_tokens"].sum()) == completion
    assert costs["cost_usd"].sum() == pytest.approx((prompt + 2 * completion) / 1e6)
    assert run.status()["cost_usd"] == pytest.approx(costs["cost_usd"].sum())


def test_retrying_pays_only_for_the_failed_rows_and_then_there_is_nothing_to_retry(
    scripted_server, model_at, store
):
    server = scripted_server(REFUSED)
    run = table().run(model=model_at(server), store=store, progress=False).wait()
    assert server.calls == 40

    again = run.retry_failed().wait()
    assert server.calls == 43
    assert len(again.failures) == 3

    server.set(Script())
    third = again.retry_failed().wait()
    assert server.calls == 46
    assert len(third.failures) == 0
    assert third.result()["a"].notna().all()
    assert third.retry_failed() is third
    assert server.calls == 46


def test_a_second_run_of_the_same_code_costs_nothing(scripted_server, model_at, store):
    server = scripted_server()
    first = table().run(model=model_at(server), store=store, progress=False).wait()
    second = table(7).run(model=model_at(server), store=store, progress=False).wait()

    pd.testing.assert_frame_equal(first.result(), second.result())
    assert first.id != second.id
    assert server.calls == 40
    assert second.status()["cost_usd"] == 0
    assert int(second.costs()["reused"].sum()) == 40


def test_a_run_is_found_again_by_its_id_and_tells_the_same(scripted_server, model_at, store):
    server = scripted_server(REFUSED)
    run = table().run(model=model_at(server), store=store, progress=False, name="first try").wait()

    found = apwa.attach(run.id, store)

    assert found.status() == run.status()
    pd.testing.assert_frame_equal(found.result(status=True), run.result(status=True))
    pd.testing.assert_frame_equal(found.failures, run.failures)
    assert [info.run_id for info in apwa.runs(store)] == [run.id]
    assert found.resume().wait().id == run.id
    assert server.calls == 40
    with pytest.raises(RunError, match=run.id):
        apwa.attach("no-such-run", store)


def test_the_manifest_says_what_was_run_with_what_and_what_came_of_it(scripted_server, model_at, store):
    server = scripted_server(REFUSED)
    run = table().run(model=model_at(server), store=store, progress=False).wait()

    manifest = json.loads(json.dumps(run.manifest))

    assert manifest["run_id"] == run.id
    assert manifest["plan_hash"] == run.spec.plan.hash
    assert manifest["counts"]["rows_out"] == 40
    assert manifest["models"]["default"]["asked"] == "test-model"
    assert {"pandas", "dask", "apwa-dask"} <= set(manifest["versions"])
    assert sum(part["rows"] for part in manifest["parts"] if part["kind"] == "rows") == 40
    assert sum(part["rows"] for part in manifest["parts"] if part["kind"] == "failures") == 3
    assert "row 1" not in json.dumps(manifest)


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".feather", ".jsonl", ".csv"])
def test_the_result_can_be_taken_away_in_each_format(scripted_server, model_at, store, tmp_path, suffix):
    server = scripted_server()
    run = table().run(model=model_at(server), store=store, progress=False)
    path = run.export(str(tmp_path / f"out{suffix}"))

    read = {
        ".parquet": pd.read_parquet,
        ".arrow": pyarrow.feather.read_feather,
        ".feather": pyarrow.feather.read_feather,
        ".jsonl": lambda p: pd.read_json(p, lines=True),
        ".csv": pd.read_csv,
    }[suffix](path)

    assert read["a"].tolist() == run.result()["a"].tolist()
    assert read["text"].tolist() == FRAME["text"].tolist()
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"out{suffix}", "store"]


def test_an_unknown_format_is_refused_by_name(scripted_server, model_at, store, tmp_path):
    run = table().run(model=model_at(scripted_server()), store=store, progress=False)

    with pytest.raises(ConfigError, match="xlsx"):
        run.export(str(tmp_path / "out.xlsx"))


def test_the_report_is_one_offline_page(scripted_server, model_at, store, tmp_path):
    server = scripted_server(REFUSED)
    run = table().run(model=model_at(server), store=store, progress=False).wait()

    page = run.report(str(tmp_path / "report.html"))

    assert (tmp_path / "report.html").read_text(encoding="utf-8") == page
    assert run.id in page
    assert 'src="http' not in page


def test_stopping_starts_no_further_call_and_resuming_pays_only_the_rest(
    scripted_server, model_at, store, slow_from
):
    server = scripted_server(faults=(slow_from(11, delay_s=5.0),))
    model = model_at(server, max_concurrency=4)
    run = table(8).run(model=model, store=store, progress=False)
    server.wait_until(lambda stats: stats.calls >= 10)

    run.stop()
    run.wait()
    stopped_at = server.calls
    assert stopped_at <= 10 + 4
    assert run.status()["status"] == "stopped"
    with pytest.raises(RunError, match="resume"):
        run.result()
    assert server.calls == stopped_at
    server.set(Script())

    result = run.resume().result()

    assert result["k"].tolist() == list(range(40))
    assert server.calls == server.log().distinct_texts == 40


def test_stopping_before_the_first_call_makes_none(scripted_server, model_at, store):
    server = scripted_server(latency_s=1.0)  # nobody needs as long between the two lines below
    for _ in range(5):
        run = table().run(model=model_at(server, max_concurrency=1), store=store, progress=False)
        run.stop()
        run.wait()
        assert run.status()["status"] == "stopped"

    assert server.calls <= 5  # one may have been on its way each time


def test_resuming_a_run_that_is_still_stopping_waits_for_it_and_goes_on(scripted_server, model_at, store):
    server = scripted_server(latency_s=0.1)
    run = table().run(model=model_at(server, max_concurrency=4), store=store, progress=False)
    server.wait_until(lambda stats: stats.calls >= 4)

    result = run.stop().resume().result()

    assert len(result) == 40
    assert server.calls == 40


def test_the_budget_is_not_passed_and_a_larger_one_finishes_the_run(scripted_server, model_at, store):
    server = scripted_server(latency_s=0.005)
    price = apwa.Price(10, 20)
    model = model_at(server, max_concurrency=3, price=price, max_output_tokens=60)
    run = table().run(model=model, store=store, progress=False, budget=0.02)

    with pytest.raises(BudgetError):
        run.result()

    prompt, completion = server.log().billed_tokens
    spent = price.cost_usd(prompt, completion)
    assert 0 < spent <= 0.02 + 3 * price.cost_usd(200, 60)
    assert run.status()["status"] in ("failed", "stopped")
    before = server.calls
    with pytest.raises(BudgetError):
        run.resume().wait()
    prompt, completion = server.log().billed_tokens
    assert price.cost_usd(prompt, completion) <= 0.02 + 3 * price.cost_usd(200, 60)

    result = run.resume(budget=1.0).result()

    assert len(result) == 40
    assert server.calls == server.log().distinct_texts == 40
    assert before < 40
    assert apwa.attach(run.id, store).status()["status"] == "done"


@pytest.mark.parametrize("calls", [0, 1, 7, 40])
def test_a_budget_of_calls_is_exact(scripted_server, model_at, store, calls):
    server = scripted_server()
    run = table().run(
        model=model_at(server, max_concurrency=4),
        store=store,
        progress=False,
        budget=apwa.Budget(calls=calls),
    )

    if calls == 40:
        run.wait()
    else:
        with pytest.raises(BudgetError):
            run.wait()

    assert server.calls == calls
    assert server.calls == calls


def test_costs_of_an_unpriced_model_are_unknown_not_zero(scripted_server, model_at, store):
    run = table().run(model=model_at(scripted_server()), store=store, progress=False).wait()

    assert run.status()["cost_usd"] is None
    assert "unknown cost" in repr(run)


def test_a_result_says_which_run_it_is_from_and_who_answered(scripted_server, canary_key, tmp_path):
    server = scripted_server()
    model = apwa.Model("m", base_url=server.base_url)
    table = apwa.from_pandas(pd.DataFrame({"text": ["a"]}))
    run = table.map("x", inputs="text", output={"n": int}).run(
        model=model, store=str(tmp_path / "s"), progress=False
    )
    said = {"run": run.id, "answers_by": ["m"]}
    assert run.result().attrs["apwa"] == said
    assert pd.read_parquet(run.export(str(tmp_path / "out.parquet"))).attrs["apwa"] == said


def test_a_pause_is_told_in_words_and_so_is_its_end(scripted_server, canary_key, tmp_path):
    server = scripted_server(faults=(Fault("status", status=429, retry_after=2, on=On(calls=(2,)), times=1),))
    model = apwa.Model("m", base_url=server.base_url)
    table = apwa.from_pandas(pd.DataFrame({"text": [f"row {k}" for k in range(20)]}))
    events = []
    mapped = table.map("x", inputs="text", output={"n": int})
    mapped.run(model=model, store=str(tmp_path), progress=events.append).wait()
    words = [event.words for event in events if isinstance(event, State)]
    assert [word.partition(" until")[0] for word in words] == ["paused", "running"]
    assert words[0].endswith(": rate limit")


def test_the_prompt_for_a_row_is_what_is_sent_byte_for_byte(scripted_server, canary_key, tmp_path):
    server = scripted_server()
    model = apwa.Model("m", base_url=server.base_url)
    table = apwa.from_pandas(pd.DataFrame({"text": ["{braces} and Ω"]}))
    planned = table.map("x", inputs="text", output={"n": int}).plan()
    promised = json.loads(planned.prompt_for({"text": "{braces} and Ω"}, model=model))
    assert server.calls == 0
    planned.run(model=model, store=str(tmp_path), progress=False).wait()
    assert server.log()[0].messages == promised["messages"]
