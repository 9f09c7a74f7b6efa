"""The notebook that users read first runs as printed, in a real kernel; an interrupted cell keeps its run."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apwa_dask.testing import Script

nbformat = pytest.importorskip("nbformat", reason="needs the extra `notebook`")
pytest.importorskip("nbclient", reason="needs the extra `notebook`")
pytest.importorskip("ipykernel", reason="needs the extra `notebook`")

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
QUICKSTART = NOTEBOOKS / "01_quickstart.ipynb"


@pytest.fixture(scope="module")
def cells() -> list[Any]:
    """The cells of the quickstart after it ran here."""
    spec = importlib.util.spec_from_file_location("execute", NOTEBOOKS / "execute.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return [cell for cell in module.executed(QUICKSTART).cells if cell.cell_type == "code"]


def text_of(cell: Any) -> str:
    """What a reader sees below a cell, as text."""
    parts = (output.get("text") or output.get("data", {}).get("text/plain", "") for output in cell.outputs)
    return "\n".join(parts)


def cell_with(cells: list[Any], code: str) -> str:
    (cell,) = [cell for cell in cells if code in cell.source]
    return text_of(cell)


def test_every_cell_runs_and_none_writes_to_stderr(cells):
    loud = [
        o for cell in cells for o in cell.outputs if o.output_type == "error" or o.get("name") == "stderr"
    ]
    assert loud == []


def test_reading_and_planning_call_nobody_and_the_preview_is_not_paid_twice(cells):
    assert "lazy table over messages" in cell_with(cells, "labelled = messages.map")
    assert "calls so far: 3" in cell_with(cells, "plan.preview")
    # 12 rows, 3 previewed; the refused one of them is asked again
    assert "done, 12/12 rows" in cell_with(cells, "run = plan.run")
    costs = cell_with(cells, "run.costs()")
    assert "refused" in costs
    assert "calls: 1" in cell_with(cells, "again = plan.run")


def test_the_refused_row_is_in_the_result_and_named_in_the_failures(cells):
    assert cell_with(cells, "result = run.result").count(" ok") == 11
    failures = cell_with(cells, "run.failures")
    assert "refused" in failures
    assert "0:11" in failures


def test_a_question_of_dates_and_counts_is_answered_without_a_model(cells):
    shown = cell_with(cells, "apwa.plan(")
    assert "Model calls: none" in shown
    assert "2026-03-12" in shown


def test_the_outputs_kept_in_the_repository_are_complete_and_name_no_machine():
    kept = nbformat.read(QUICKSTART, as_version=4)
    numbers = [cell.execution_count for cell in kept.cells if cell.cell_type == "code"]
    assert numbers == list(range(1, len(numbers) + 1))
    text = QUICKSTART.read_text(encoding="utf-8")
    for local in ("/home/", "/root/", "/tmp/", "/work/", "127.0.0.1"):
        assert local not in text


@pytest.fixture
def kernel() -> Iterator[Any]:
    """A client of a real kernel of this environment, and its manager."""
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(kernel_name="python3", startup_timeout=60)
    try:
        yield manager, client
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


BEGIN = """
import apwa_dask as apwa, pandas as pd
model = apwa.Model("scripted", base_url={base_url!r}, api_key_env="")
frame = pd.DataFrame({{"text": [f"message {{k}}" for k in range(200)]}})
table = apwa.from_pandas(frame).map("topic", inputs="text", output={{"topic": str}})
run = table.run(model=model, store={store!r}, max_concurrency=4, progress=False)
run.wait()
"""


def test_an_interrupted_cell_leaves_a_run_that_resumes_without_paying_twice(
    kernel, scripted_server, tmp_path
):
    manager, client = kernel
    script = Script(latency_s=0.2)
    server = scripted_server(script)

    asked = client.execute(BEGIN.format(base_url=server.base_url, store=str(tmp_path / "store")))
    server.wait_until(lambda stats: stats.calls >= 8, timeout_s=90)
    manager.interrupt_kernel()
    reply = client.get_shell_msg(timeout=60)
    assert reply["parent_header"]["msg_id"] == asked
    assert reply["content"]["ename"] == "KeyboardInterrupt"
    before = server.calls
    assert 8 <= before < 200

    server.set(script.but(latency_s=0.0))
    shown: list[str] = []

    def collect(message: dict[str, Any]) -> None:
        shown.append(message["content"].get("text", "") or str(message["content"].get("traceback", "")))

    code = "print(run.status()['status']); print(run.resume().result()['topic'].notna().sum())"
    done = client.execute_interactive(code, timeout=120, output_hook=collect)

    assert done["content"]["status"] == "ok", shown
    assert "".join(shown).split() == ["stopped", "200"]
    assert server.calls == 200
