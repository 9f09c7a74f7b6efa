"""Commands about runs that are kept."""

from __future__ import annotations

import json


def test_without_a_run_the_latest_is_meant(apwa, fake_api):
    apwa("status")
    assert fake_api.named("attach") == [{"run_id": "calm-otter", "store": None}]


def test_no_runs_at_all_is_said_with_what_to_do(apwa, fake_api):
    fake_api.kept = []
    assert apwa("runs").exit_code == 0
    done = apwa("status")
    assert done.exit_code == 1
    assert "[RUN-NONE]" in done.stderr


def test_runs_are_listed_newest_first(apwa):
    lines = apwa("runs").stdout.splitlines()
    assert lines[2].startswith("calm-otter")
    assert lines[3].startswith("brave-newt")


def test_an_unknown_run_is_one_sentence_and_exit_one(apwa):
    done = apwa("status", "no-such-run")
    assert done.exit_code == 1
    assert "[RUN-UNKNOWN] there is no run 'no-such-run'" in done.stderr


def test_resume_goes_on_in_the_place_and_under_the_budget_given(apwa, fake_api):
    done = apwa("resume", "calm-otter", "--budget", "9", "--scheduler", "sync", "--store", "memory://x")
    assert done.exit_code == 0
    assert fake_api.named("attach") == [{"run_id": "calm-otter", "store": "memory://x", "scheduler": "sync"}]
    assert fake_api.named("resume") == [{"budget": 9.0}]
    assert "battery died" in done.stdout


def test_resume_without_a_budget_keeps_the_runs_own(apwa, fake_api):
    apwa("resume", "calm-otter")
    assert fake_api.named("resume") == [{}]


def test_retry_waits_for_the_run_it_made_and_not_the_old_one(apwa, fake_api):
    fake_api.failed_rows = 1
    done = apwa("retry", "calm-otter")
    assert done.exit_code == 0
    assert "apwa status calm-otter-again" in done.stderr


def test_interrupting_a_resume_ends_in_130_with_the_command_to_go_on(apwa, fake_api):
    fake_api.wait_raises = KeyboardInterrupt()
    done = apwa("resume", "calm-otter")
    assert done.exit_code == 130
    assert "apwa resume calm-otter" in done.stderr


def test_failures_are_shown_by_kind_and_one_by_one(apwa, fake_api):
    fake_api.failed_rows = 1
    text = apwa("failures").stdout
    assert text.count("truncated") == 2
    assert apwa("failures", "--limit", "0").stdout.count("truncated") == 1
    fake_api.failed_rows = 0
    assert apwa("failures").stderr.strip() == "no row failed"


def test_failures_that_say_the_same_are_one_line_with_advice(apwa, fake_api):
    fake_api.failed_rows = 1
    text = apwa("failures", "--summary").stdout
    assert "truncated" in text
    assert "max_output_tokens" in text
    (group,) = json.loads(apwa("failures", "--summary", "--json").stdout)["groups"]
    assert (group["rows"], group["sample_row"], group["cost_usd"]) == (1, "2", 0.01)
    fake_api.failed_rows = 0
    assert apwa("failures", "--summary").stderr.strip() == "no row failed"


def test_a_row_is_told_by_its_id_or_its_position(apwa, fake_api):
    done = apwa("row", "calm-otter", "0:3.1")
    assert "Row 0:3.1: ok" in done.stdout
    assert "\x1b" not in done.stdout
    assert json.loads(apwa("row", "calm-otter", "3", "--json").stdout)["row_id"] == "3"
    assert fake_api.named("row") == [{"row": "0:3.1"}, {"row": 3}]


def test_an_output_that_exists_is_refused_before_anything_is_paid(apwa, fake_api, tmp_path):
    out = tmp_path / "out.parquet"
    out.write_bytes(b"kept")
    done = apwa("resume", "calm-otter", "-o", str(out))
    assert done.exit_code == 1
    assert "--overwrite" in done.stderr
    assert fake_api.named("resume") == []
    assert apwa("resume", "calm-otter", "-o", str(out), "--overwrite").exit_code == 0
    assert fake_api.named("export") == [{"path": str(out), "overwrite": True}]


def test_a_report_is_named_after_its_run(apwa, fake_api):
    assert apwa("report").stdout.strip() == "apwa-report-calm-otter.html"
    apwa("report", "calm-otter", "-o", "r.html")
    assert [call["path"] for call in fake_api.named("report")] == ["apwa-report-calm-otter.html", "r.html"]


def test_nothing_is_deleted_without_a_yes(apwa, fake_api, somebody_there):
    assert apwa("purge", "calm-otter", input="n\n").exit_code == 130
    assert fake_api.named("purge") == []
    assert apwa("purge", "calm-otter", "--yes").exit_code == 0
    (call,) = fake_api.named("purge")
    assert call == {"run_id": "calm-otter", "store": "memory://kept", "answers": False}


def test_answers_are_deleted_only_where_that_is_asked(apwa, fake_api):
    done = apwa("purge", "calm-otter", "--answers", "--yes")
    assert done.exit_code == 0
    assert "and 3 answers of it" in done.stderr
    assert fake_api.named("purge")[0]["answers"] is True


def test_deleting_where_nobody_can_be_asked_needs_yes(apwa, fake_api):
    done = apwa("purge", "calm-otter")
    assert done.exit_code == 1
    assert "add --yes" in done.stderr
    assert fake_api.named("purge") == []


def test_purge_never_means_the_latest_by_itself(apwa, fake_api):
    assert apwa("purge", "--yes").exit_code == 1
    assert fake_api.named("purge") == []
