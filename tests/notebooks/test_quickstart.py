"""The quickstart says what users are promised: nothing is called before a run, nothing is paid twice."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(execute):
    return execute("01_quickstart.ipynb")


def test_reading_and_planning_call_nobody_and_the_preview_is_not_paid_twice(run):
    assert "lazy table over messages" in run.shown("labelled = messages.map")
    assert "calls so far: 3" in run.shown("plan.preview")
    # 12 rows, 3 previewed; the refused one of them is asked again
    assert "done, 12/12 rows" in run.shown("run = plan.run")
    costs = run.shown("run.costs()")
    assert "refused" in costs
    assert "calls: 1" in run.shown("again = plan.run")


def test_the_refused_row_is_in_the_result_and_named_in_the_failures(run):
    assert run.shown("result = run.result").count(" ok") == 11
    failures = run.shown("run.failures")
    assert "refused" in failures
    assert "0:11" in failures


def test_a_question_of_dates_and_counts_is_answered_without_a_model(run):
    shown = run.shown("apwa.plan(")
    assert "Model calls: none" in shown
    assert "2026-03-12" in shown
