"""Progress in a real kernel: one output, updated in place from another thread, readable when saved."""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.slow
nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

BEGIN = """
import gc, os, sys, threading, time, json
sys.modules["ipywidgets"] = None  # a kernel without widgets
from apwa_dask.execution.events import Progress, RunFinished, RunStarted, StageStarted
from apwa_dask.observe.progress import progress_for_environment

may_end = threading.Event()

def follow(display, end=True):
    def drive():
        display(RunStarted("calm-otter", 0.0, stages=1, budget_usd=5.0))
        display(StageStarted("calm-otter", 0.0, name="judge", rows=100))
        for i in range(100):
            display(Progress("calm-otter", i / 10, rows_done=1, failures={"refused: <img src=x>": 1}))
        if end:
            may_end.wait(60)
            display(RunFinished("calm-otter", 10.0, status="done"))
    thread = threading.Thread(target=drive)
    thread.start()
    return thread

def held():
    gc.collect()
    files = os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else []
    return [threading.active_count(), len(files)]
"""
RUN = "display_of_run = progress_for_environment()\nthread = follow(display_of_run)"
LATER = "may_end.set()\nthread.join()\nprint('another cell')"
INTERRUPTED = """
with progress_for_environment() as display_of_run:
    follow(display_of_run, end=False).join()
"""
COUNTS = """
before = held()
for _ in range(10):
    with progress_for_environment() as display_of_run:
        follow(display_of_run, end=False).join()
# The kernel closes the pipe of a thread that wrote and ended when it next looks, every ten seconds.
deadline_s = time.monotonic() + 40
while held() > before and time.monotonic() < deadline_s:
    time.sleep(0.2)
print(json.dumps([before, held()]))
"""


@pytest.fixture(scope="module")
def cells() -> list:
    """The cells of a notebook after it ran, as they would be saved."""
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(source) for source in (BEGIN, RUN, LATER, INTERRUPTED, COUNTS)]
    )
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    return notebook.cells


def test_a_run_leaves_one_output_under_its_own_cell(cells):
    (output,) = cells[1].outputs
    assert output.output_type == "display_data"
    assert [o.output_type for o in cells[2].outputs] == ["stream"]


def test_the_saved_output_is_the_summary_as_text_and_escaped_html(cells):
    (output,) = cells[1].outputs
    assert output.data["text/plain"].startswith("apwa calm-otter: done, 100/100 rows in 10 s")
    assert "&lt;img" in output.data["text/html"]
    assert "<img" not in output.data["text/html"]
    assert "application/vnd.jupyter.widget-view+json" not in output.data


def test_a_cell_that_ends_early_leaves_a_summary_too(cells):
    (output,) = cells[3].outputs
    assert output.data["text/plain"].startswith("apwa calm-otter: running, 100/100 rows")


def test_threads_and_files_return_to_where_they_were(cells):
    before, after = json.loads(cells[4].outputs[-1].text)
    assert after <= before
