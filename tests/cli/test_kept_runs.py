"""Commands about runs that are kept."""

from __future__ import annotations

import pytest


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


def test_a_report_is_named_after_its_run(apwa, fake_api):
    assert apwa("report").stdout.strip() == "apwa-report-calm-otter.html"
    apwa("report", "calm-otter", "-o", "r.html")
    assert [call["path"] for call in fake_api.named("report")] == ["apwa-report-calm-otter.html", "r.html"]


class Purged:
    stores: list[tuple[str, str]]


@pytest.fixture
def purged(monkeypatch) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []

    class Store:
        def __init__(self, url: str) -> None:
            self.url = url

        def purge(self, run_id: str) -> None:
            found.append((self.url, run_id))

    monkeypatch.setattr("apwa_dask.store.runs.RunStore", Store)
    return found


def test_nothing_is_deleted_without_a_yes(apwa, purged, somebody_there):
    assert apwa("purge", "calm-otter", input="n\n").exit_code == 130
    assert purged == []
    assert apwa("purge", "calm-otter", "--yes").exit_code == 0
    assert purged == [("memory://kept", "calm-otter")]


def test_deleting_where_nobody_can_be_asked_needs_yes(apwa, purged):
    done = apwa("purge", "calm-otter")
    assert done.exit_code == 1
    assert "add --yes" in done.stderr
    assert purged == []


def test_purge_never_means_the_latest_by_itself(apwa, purged):
    assert apwa("purge", "--yes").exit_code == 1
    assert purged == []
