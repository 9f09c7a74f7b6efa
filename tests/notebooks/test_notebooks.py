"""The notebooks run as printed, in a real kernel, and say what they say; so do the outputs that are kept."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="needs the extra `notebook`")

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
ALL = sorted(path.name for path in NOTEBOOKS.glob("*.ipynb"))
LOCAL = ("/home/", "/root/", "/tmp/", "/work/", "apwa-notebook-")


def number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    assert found is not None, text
    return int(found[1].replace(",", ""))


@pytest.fixture
def run(execute, request):
    """The notebook that a class is about, after it ran here."""
    return execute(request.cls.name)


@pytest.mark.parametrize("name", ALL)
def test_u21_the_kept_outputs_are_complete_and_readable_and_name_no_machine(name):
    kept = nbformat.read(NOTEBOOKS / name, as_version=4)
    code = [cell for cell in kept.cells if cell.cell_type == "code"]
    numbers = [cell.execution_count for cell in code]
    restarts = [at for at, cell in enumerate(code) if "restart-kernel" in cell.metadata.get("tags", ())]
    assert numbers == [
        n for begin, end in pairwise([0, *restarts, len(code)]) for n in range(1, end - begin + 1)
    ]
    outputs = [output for cell in code for output in cell.outputs]
    assert [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"] == []
    assert [o for o in outputs if "application/vnd.jupyter.widget-view+json" in o.get("data", {})] == []
    live = [o.data["text/plain"] for o in outputs if o.output_type == "display_data"]
    assert [text for text in live if not re.match(r"apwa \S+: (done|stopped)", text)] == []
    text = (NOTEBOOKS / name).read_text(encoding="utf-8")
    assert [local for local in LOCAL if local in text] == []
    assert re.search(r"127\.0\.0\.1:[1-9]", text) is None
    assert len(text) < 300_000


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) for name in ALL])
def test_u21_every_cell_runs_in_a_kernel_and_none_writes_to_stderr(execute, name):
    run = execute(name)
    assert run.outputs
    assert [o for o in run.outputs if o.output_type == "error" or o.get("name") == "stderr"] == []


class TestRedaction:
    name = "02_redaction.ipynb"
    pytestmark = pytest.mark.slow

    def test_u11_the_kernel_dies_in_the_middle_and_only_what_was_not_written_is_asked_again(self, run):
        assert "redaction: stopped" in run.shown("apwa.runs(store)")
        shown = run.shown("run.resume().result()")
        answered = number(r"(\d+) of 1,200 messages had been asked", shown)
        again = number(r"(\d+) of them had to be asked", shown)
        written = number(r"done, 1,200/1,200 rows in \S+ s, 0 failed, ([\d,]+) cached", shown)
        assert 200 <= answered < 1200
        assert 0 <= again <= answered - written
        assert run.shown("again = plan.run").endswith("calls: 0 | same rows: True\n")

    def test_nothing_personal_is_left_and_nothing_else_is_changed(self, run):
        assert "number left: 0" in run.shown("leaks =")
        assert "other words changed: 0" in run.shown("leaks =")

    def test_the_stand_in_is_gone_with_the_notebook(self, run):
        assert run.cells[-1].outputs == []


class TestExtraction:
    name = "03_extraction.ipynb"
    pytestmark = pytest.mark.slow

    def test_five_files_become_six_typed_rows_and_the_damaged_one_is_named(self, run):
        assert "5 files: 4 ok, 1 failed" in run.shown("pages.report")
        assert "scan.pdf" in run.shown("pages.report")
        assert "done, 6/6 rows" in run.shown("records.run(")
        assert "date32[day]" in run.shown("result.dtypes")

    def test_the_invented_number_is_found_without_a_call(self, run):
        found = run.shown("unfounded.run")
        assert "calls: 0" in found
        assert found.count("HP-") == 1
        assert "HP-4711" in found

    def test_amounts_become_rows(self, run):
        amounts = run.shown('.explode("amounts")')
        assert [price in amounts for price in ("189.0", "6.9", "39.5", "4.9", "74.9", "47.9")] == [True] * 6


class TestSummaries:
    name = "04_summaries.ipynb"
    pytestmark = pytest.mark.slow

    def test_no_decision_is_lost_on_the_way_up_and_every_prompt_fits(self, run):
        shown = run.shown("told =")
        assert "decisions in the files: 24" in shown
        assert "decisions at the top: 24" in shown
        assert number(r"tokens of the largest prompt: (\d+)", shown) < 2000

    def test_reduce_alone_builds_the_levels(self, run):
        shown = run.shown("flat = ")
        assert "decisions at the top: 24" in shown
        assert number(r"prompts of the tree: (\d+)", shown) > 12
        assert number(r"tokens of the largest: (\d+)", shown) < 2000

    def test_a_changed_file_pays_for_its_branch_only(self, run):
        assert "decisions at the top: 25" in run.shown("corrected =")
        assert number(r"calls: (\d+) of", run.shown("corrected =")) <= 3

    def test_the_top_leads_back_to_all_files(self, run):
        assert "12 source rows, in 12 files" in run.shown("lineage(0)")


class TestCatalogues:
    name = "05_catalogues.ipynb"
    pytestmark = pytest.mark.slow

    def test_the_block_asks_about_few_pairs_and_finds_all(self, run):
        assert "pairs asked about: 180 of 4200" in run.shown("matches = plan.run")
        assert "right: 40 of 40 found; 0 missed" in run.shown("found & truth")

    def test_a_narrow_block_is_measured_as_such(self, run):
        narrow, wide = re.findall(r"block recall (\S+)", run.shown("block_recall("))
        assert float(narrow) < float(wide) == 1.0

    def test_another_join_of_the_same_pairs_pays_nothing(self, run):
        assert "20 of ours are not in their catalogue; calls: 0" in run.shown('how="anti").run')

    def test_entries_are_resolved_to_the_true_number_of_products(self, run):
        assert "130 entries are 90 products; in truth 90" in run.shown("resolved.run(")


class TestCluster:
    name = "06_cluster.ipynb"
    pytestmark = pytest.mark.slow

    def test_the_dashboard_has_the_page(self, run):
        assert "the page answers: 200" in run.shown('"/apwa"')

    def test_a_killed_worker_costs_at_most_what_it_had_not_written(self, run):
        shown = run.shown("SIGKILL")
        assert "rows: 400 | rows without an answer: 0" in shown
        assert number(r"paid for twice: (\d+)", shown) < 200

    def test_a_lazy_frame_over_known_rows_pays_nothing(self, run):
        assert "calls: 0" in run.shown("to_dask(")


class TestCapabilities:
    name = "07_capabilities.ipynb"
    pytestmark = pytest.mark.slow

    def test_four_rows_fail_in_four_ways_and_two_are_answered(self, run):
        shown = run.shown("answered.run(")
        assert "done, 6/6 rows" in shown
        assert "4 failed, 0 cached" in shown
        failures = run.shown('run.failures[["row_id"')
        for outcome in ("invalid_output", "tool_error", "refused", "bad_input"):
            assert outcome in failures

    def test_the_story_of_a_row_names_the_tool_that_failed(self, run):
        shown = run.shown("run.row(drone)")
        assert "1. map_1 (map) on 0:3: tool_error: the tool pieces_in_stock raised KeyError" in shown
        assert "KeyError: 'drone'" in shown

    def test_a_retry_mends_what_can_be_mended(self, run):
        shown = run.shown("retry_failed()")
        assert "1 failed, 2 cached" in shown  # the good rows cost nothing
        assert "calls: 5" in shown
        assert shown.count(" ok") == 5
        assert "bad_input" in shown

    def test_what_changes_things_needs_a_grant(self, run):
        assert "PLAN-TOOL-POWER" in run.shown("reserving.run(")
