"""`apwa ask` and `apwa run`: consent, exits, and what is told where."""

from __future__ import annotations

import json

import dask.config
import pytest

from apwa_dask.errors import BudgetError, PlanError, ProviderError, RefusalError, RunError
from apwa_dask.models.budget import Budget
from apwa_dask.models.model import Model, Price
from apwa_dask.plans.explain import Range

ASK = ("ask", "Which are complaints?", "reviews.csv")


def test_ask_shows_plan_and_price_before_and_the_table_after(apwa):
    done = apwa(*ASK)
    assert done.exit_code == 0
    assert done.stderr.index("1. map_1") < done.stderr.index("Estimate: 3 calls") < done.stderr.index("cost")
    assert "battery died" in done.stdout
    assert "$0.2500 of at most $2.00, 4 calls" in done.stderr
    assert "/kept/runs/calm-otter" in done.stderr


def test_standard_output_holds_the_table_and_nothing_else(apwa):
    lines = apwa(*ASK).stdout.splitlines()
    assert lines[0].split() == ["text", "severity"]
    assert len(lines) == 5


def test_control_sequences_of_models_and_plans_never_reach_the_terminal(apwa):
    done = apwa(*ASK)
    assert "\x1b" not in done.output
    assert "\x07" not in done.output
    assert "great kettle" in done.stdout


def test_what_is_said_on_the_command_line_reaches_the_run(apwa, fake_api, tmp_path):
    out = str(tmp_path / "out.parquet")
    reading = ("--hide", "email", "--hide", "phone", "--documents", "--sample", "5")
    running = ("--budget", "2", "--max-concurrency", "8", "--on-error", "drop", "--scheduler", "sync")
    apwa(*ASK, *reading, *running, "-m", "gpt-4.1-mini", "--store", "memory://x", "--name", "n", "-o", out)
    (read,), (planned,), (run,) = fake_api.named("read"), fake_api.named("plan"), fake_api.named("run")
    assert read == {"urlpath": ["reviews.csv"], "hide": ["email", "phone"], "documents": True, "sample": 5}
    assert planned == {
        "query": "Which are complaints?",
        "tables": 1,
        "model": "gpt-4.1-mini",
        "store": "memory://x",
    }
    assert run == {
        "model": "gpt-4.1-mini",
        "store": "memory://x",
        "budget": 2.0,
        "max_concurrency": 8,
        "on_error": "drop",
        "name": "n",
        "scheduler": "sync",
    }
    assert fake_api.named("export") == [{"path": out, "overwrite": False}]


def test_batch_on_the_command_line_reaches_the_run(apwa, fake_api):
    apwa(*ASK, "--batch")
    (run,) = fake_api.named("run")
    assert run["mode"] == "batch"


def test_an_endpoint_on_the_command_line_becomes_a_model(apwa, fake_api):
    apwa(*ASK, "-m", "m", "--base-url", "http://127.0.0.1:9/v1", "--api-key-env", "MY_KEY")
    (run,) = fake_api.named("run")
    assert run["model"] == Model("m", base_url="http://127.0.0.1:9/v1", api_key_env="MY_KEY")


def test_a_price_on_the_command_line_goes_with_the_model(apwa, fake_api, monkeypatch):
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    apwa(*ASK, "-m", "m", "--price", "0.5", "2", "--budget", "1", "--max-calls", "7")
    (run,) = fake_api.named("run")
    assert run["model"] == Model("m", price=Price(0.5, 2.0))
    assert run["budget"] == Budget(usd=1.0, calls=7)


def test_a_server_of_ones_own_gets_no_key_where_none_is_set(apwa, fake_api, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    apwa(*ASK, "-m", "m", "--base-url", "http://127.0.0.1:9/v1")
    (run,) = fake_api.named("run")
    assert run["model"].api_key_env == ""


def test_an_endpoint_in_the_settings_counts_too(apwa, fake_api, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    with dask.config.set({"apwa.base-url": "http://127.0.0.1:9/v1", "apwa.model": "m"}):
        apwa(*ASK)
    (run,) = fake_api.named("run")
    assert run["model"] == Model("m", base_url="http://127.0.0.1:9/v1")


def test_an_endpoint_without_a_model_is_wrong_usage_before_anything_is_planned(apwa, fake_api, monkeypatch):
    monkeypatch.delenv("OPENAI_MODEL", raising=False)
    done = apwa(*ASK, "--base-url", "http://127.0.0.1:9/v1")
    assert done.exit_code == 1
    assert "--model NAME" in done.stderr
    assert fake_api.named("plan") == []


def test_a_large_bill_without_a_ceiling_fails_with_the_number_needed_and_runs_nothing(apwa, fake_api):
    fake_api.cost_usd = Range(8.0, 10.0, 12.341)
    done = apwa(*ASK)
    assert done.exit_code == 1
    assert "--budget 12.35" in done.stderr
    assert fake_api.named("run") == []
    assert apwa(*ASK, "--budget", "12.35").exit_code == 0


def test_yes_does_not_lift_the_ceiling(apwa, fake_api, somebody_there):
    fake_api.cost_usd = Range(8.0, 10.0, 12.0)
    assert apwa(*ASK, "--yes").exit_code == 1
    assert fake_api.named("run") == []


def test_a_budget_below_the_low_estimate_is_refused_before_a_call(apwa, fake_api):
    done = apwa(*ASK, "--budget", "0.05")
    assert done.exit_code == 3
    assert "[BUDGET-ESTIMATE]" in done.stderr
    assert fake_api.named("run") == []


@pytest.mark.parametrize("command", [ASK, ("run", "plan.yaml", "reviews.csv")])
def test_a_budget_without_a_price_is_refused_before_anything_is_planned_or_run(
    apwa, fake_api, somebody_there, tmp_path, monkeypatch, command
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plan.yaml").write_text("version: 1")
    fake_api.cost_usd = None
    done = apwa(*command, "-m", "nobody-knows-me", "--budget", "1")
    assert done.exit_code == 3
    assert "[BUDGET-PRICE]" in done.stderr
    assert "--price IN OUT" in done.stderr
    assert "?" not in done.stdout
    assert fake_api.named("plan") == fake_api.named("run") == []
    priced = apwa(*command, "-m", "nobody-knows-me", "--budget", "1", "--price", "0.5", "2", "--yes")
    assert priced.exit_code == 0


def test_a_budget_with_a_known_price_and_an_unknown_number_of_rows_is_no_reason_to_refuse(apwa, fake_api):
    fake_api.cost_usd = None
    assert apwa(*ASK, "-m", "m", "--price", "0.5", "2", "--budget", "1").exit_code == 0
    assert apwa(*ASK, "-m", "local", "--budget", "1").exit_code == 0


def test_an_unknown_price_does_not_stop_a_run_and_needs_no_ceiling(apwa, fake_api):
    fake_api.cost_usd = None
    assert apwa(*ASK).exit_code == 0


def test_nothing_is_asked_where_nobody_can_answer(apwa, fake_api):
    done = apwa(*ASK, input="")
    assert done.exit_code == 0
    assert "?" not in done.stderr.replace("Which are complaints?", "")


def test_somebody_is_asked_once_and_no_means_no(apwa, fake_api, somebody_there):
    assert apwa(*ASK, input="n\n").exit_code == 130
    assert fake_api.named("run") == []
    assert apwa(*ASK, input="y\n").exit_code == 0
    assert apwa(*ASK, "--yes").exit_code == 0
    assert len(fake_api.named("run")) == 2


def test_somebody_may_agree_to_a_ceiling_and_it_then_holds(apwa, fake_api, somebody_there):
    fake_api.cost_usd = Range(8.0, 10.0, 12.0)
    assert apwa(*ASK, input="y\n").exit_code == 0
    (run,) = fake_api.named("run")
    assert run["budget"] == 12.0


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BudgetError("the ceiling is reached"), 3),
        (ProviderError("the endpoint refused the key"), 4),
        (RunError("a row failed"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_how_a_run_ends_decides_the_exit_code_and_says_how_to_go_on(apwa, fake_api, error, code):
    fake_api.wait_raises = error
    done = apwa(*ASK)
    assert done.exit_code == code
    assert "apwa resume calm-otter" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("error", [PlanError("no such column"), RefusalError("the data cannot answer that")])
def test_a_plan_that_cannot_be_made_ends_in_one(apwa, fake_api, error):
    fake_api.plan_raises = error
    done = apwa(*ASK)
    assert done.exit_code == 1
    assert str(error) in done.stderr


def test_failed_rows_above_the_share_allowed_end_in_two_with_the_result_still_written(
    apwa, fake_api, tmp_path
):
    fake_api.failed_rows = 1
    done = apwa(*ASK, "-o", str(tmp_path / "out.csv"))
    assert done.exit_code == 2
    assert "1 row, truncated: the answer reached 512 tokens" in done.stderr
    assert "apwa retry calm-otter" in done.stderr
    assert len(fake_api.named("export")) == 1
    assert apwa(*ASK, "--max-failed", "0.5").exit_code == 0


@pytest.mark.parametrize("name", ["out.xlsx", "missing/out.csv"])
def test_an_output_that_cannot_be_written_is_found_before_anything_is_read(apwa, fake_api, name):
    done = apwa(*ASK, "-o", name)
    assert done.exit_code == 1
    assert fake_api.calls == []


def test_a_run_has_one_place(apwa, fake_api):
    done = apwa(*ASK, "--workers", "2", "--client", "tcp://127.0.0.1:1")
    assert done.exit_code == 1
    assert "--workers and --client exclude one another" in done.stderr
    assert fake_api.calls == []


def test_a_scheduler_that_does_not_answer_is_one_sentence(apwa, fake_api, monkeypatch):
    monkeypatch.setattr("apwa_dask.cli.place._CONNECT_TIMEOUT_S", 0.2)
    done = apwa(*ASK, "--client", "tcp://127.0.0.1:1")
    assert done.exit_code == 1
    assert "[CONFIG-CLUSTER]" in done.stderr
    assert "Traceback" not in done.stderr
    assert fake_api.named("run") == []


def test_quiet_says_how_it_ended_and_nothing_before(apwa):
    done = apwa(*ASK, "--quiet")
    assert "map_1" not in done.stderr
    assert "/kept/runs/calm-otter" in done.stderr


def test_the_plan_is_kept_where_asked_and_can_be_run_from_there(apwa, fake_api, tmp_path):
    plan = tmp_path / "plan.yaml"
    apwa(*ASK, "--plan-out", str(plan))
    assert plan.read_text() == "version: 1\nsources: [reviews]\n"
    assert apwa("run", str(plan), "reviews.csv").exit_code == 0
    assert fake_api.named("load_plan") == [{"path": str(plan)}]


def test_a_plan_file_that_is_not_there_is_wrong_usage(apwa):
    assert apwa("run", "nowhere.yaml", "reviews.csv").exit_code == 1


def test_with_json_an_error_is_json_too(apwa, fake_api):
    fake_api.wait_raises = ProviderError("wrong key", where="gpt-test", fix="export OPENAI_API_KEY=...")
    done = apwa(*ASK, "--json")
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "PROVIDER"
    assert error["what"] == "wrong key"
    assert error["exit_code"] == done.exit_code == 4


def test_a_traceback_is_shown_only_when_asked_for(apwa, fake_api):
    fake_api.plan_raises = PlanError("no such column")
    assert "Traceback" not in apwa(*ASK).stderr
    assert "Traceback" in apwa(*ASK, "--debug").stderr


def test_a_mistake_of_ours_is_not_dressed_up_as_a_users_error(apwa, fake_api):
    fake_api.plan_raises = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        apwa(*ASK)


def test_prices_in_a_file_come_before_the_list_and_hedging_is_a_choice(apwa, fake_api, monkeypatch, tmp_path):
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    prices = tmp_path / "prices.yaml"
    prices.write_text("m: [0.5, 2, 0.1]\nother: [1, 1]\n")
    apwa(*ASK, "-m", "m", "--prices", str(prices), "--hedge")
    (run,) = fake_api.named("run")
    assert run["model"].price == Price(0.5, 2, 0.1)
    assert run["hedge"] is True
    apwa(*ASK, "-m", "m", "--no-hedge")
    assert fake_api.named("run")[-1]["hedge"] is False


def test_a_file_of_prices_that_says_something_else_is_wrong_usage(apwa, fake_api, tmp_path):
    prices = tmp_path / "prices.yaml"
    prices.write_text("m: cheap\n")
    result = apwa(*ASK, "-m", "m", "--prices", str(prices))
    assert result.exit_code != 0
    assert "name-of-model: [0.15, 0.60]" in " ".join(result.stderr.split())
    assert not fake_api.named("run")


def test_a_preview_takes_rows_and_seed_and_tells_the_estimate_it_narrowed(apwa, fake_api):
    done = apwa("preview", "Which are complaints?", "reviews.csv", "-n", "2", "--seed", "7")
    assert done.exit_code == 0
    (asked,) = fake_api.named("preview")
    assert (asked["n"], asked["seed"]) == (2, 7)
    assert "the whole run, after this preview: Estimate: 3 calls" in done.stderr
