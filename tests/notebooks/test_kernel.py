"""What people do to a kernel while a run is at work: interrupt it, kill it, run the cell again, await it."""

from __future__ import annotations

import json
import queue
import time
from pathlib import Path

import pytest

from apwa_dask.store.journal import Journal
from apwa_dask.testing import Fault, Script

pytestmark = pytest.mark.slow

ROWS, CONCURRENCY = 200, 4
SOON_S = 5.0
"""A second, on a machine that does nothing else."""

CELL = """
import apwa_dask as apwa, pandas as pd
model = apwa.Model("scripted", base_url={url!r}, api_key_env="")
frame = pd.DataFrame({{"text": [f"message {{k}}" for k in range({rows})]}})
table = apwa.from_pandas(frame, npartitions=4).map("topic", inputs="text", output={{"topic": str}})
run = table.run(model=model, store={store!r}, max_concurrency={concurrency}, name="cell", progress=False)
"""
RESULT = """
result = run.result()
print(len(result), result["topic"].notna().sum())
"""

WAITING = """
import pathlib, sys, threading, time, traceback

def watch(main=threading.main_thread().ident):
    while not any(frame.name == "_join" for frame in traceback.extract_stack(sys._current_frames()[main])):
        time.sleep(0.02)
    pathlib.Path({flag!r}).touch()

threading.Thread(target=watch, daemon=True).start()
"""


def cell(server, store: str) -> str:
    return CELL.format(url=server.base_url, store=store, rows=ROWS, concurrency=CONCURRENCY)


def test_u10_an_interrupted_cell_stops_dispatch_within_a_second_and_leaves_its_run(
    new_kernel, scripted_server, store, tmp_path
):
    script = Script(latency_s=0.5)
    server, kernel = scripted_server(script), new_kernel()

    kernel.run(cell(server, store))
    asked = waits_in(kernel, tmp_path)
    server.wait_until(lambda stats: stats.calls >= 8, timeout_s=90)
    interrupted_s = time.monotonic()
    kernel.interrupt()
    assert kernel.ended(asked) == "KeyboardInterrupt"

    assert [call for call in server.log() if call.t_start > interrupted_s + SOON_S] == []
    assert server.calls < ROWS
    assert kernel.run("print(run.status()['status'])").strip() == "stopped"
    server.set(script.but(latency_s=0.0))
    assert kernel.run("print(run.resume().result()['topic'].notna().sum())").split() == [str(ROWS)]
    assert server.calls == ROWS  # calls in flight were waited for, and kept


def waits_in(kernel, folder: Path) -> str:
    """A cell that waits for the result by now: before that, an interrupt would be anybody's."""
    flag = folder / "waits"
    asked = kernel.begin(WAITING.format(flag=str(flag)) + RESULT)
    end_s = time.monotonic() + 90
    while not flag.exists() and time.monotonic() < end_s:
        time.sleep(0.02)
    assert flag.exists(), "the cell does not wait"
    return str(asked)


def test_u10_a_second_interrupt_gives_the_run_back_where_nobody_answers(
    new_kernel, scripted_server, store, tmp_path
):
    server, kernel = scripted_server(faults=(Fault("hang"),)), new_kernel()

    kernel.run(cell(server, store))
    asked = waits_in(kernel, tmp_path)
    server.wait_until(lambda stats: stats.in_flight >= 1, timeout_s=90)
    kernel.interrupt()
    with pytest.raises(queue.Empty):  # it drains: calls in flight may be billed
        kernel.client.get_shell_msg(timeout=3.0)
    kernel.interrupt()
    assert kernel.ended(asked) == "KeyboardInterrupt"
    assert kernel.run("print(run.status()['status'])").strip() == "stopped"
    server.wait_until(lambda stats: stats.in_flight == 0)
    assert server.calls <= CONCURRENCY


def test_u11_a_killed_kernel_costs_the_calls_in_flight_and_the_same_cell_goes_on(
    new_kernel, scripted_server, store, slow_from
):
    script = Script(latency_s=0.02)
    # from there on nothing is answered any more, and what was gets written down
    server, kernel = scripted_server(script.but(faults=(slow_from(41, delay_s=300.0),))), new_kernel()

    kernel.begin(cell(server, store))
    server.wait_until(lambda stats: stats.calls >= 40, timeout_s=90)
    (run_id,) = kernel_runs(store)
    server.wait_until(lambda stats: stats.in_flight == CONCURRENCY)
    written_down(store, run_id, server)
    answered = server.stats().calls - CONCURRENCY
    kernel.kill()

    server.set(script)
    successor = new_kernel()
    assert successor.run(cell(server, store) + RESULT).split() == [str(ROWS), str(ROWS)]
    assert 40 <= answered + CONCURRENCY < ROWS
    assert server.calls == ROWS + CONCURRENCY  # paid again: what was in flight, and nothing else

    attached = f"print(len(apwa.attach({run_id!r}, {store!r}, progress=False).resume().result()))"
    assert successor.run(attached).split()[-1] == str(ROWS)
    assert server.calls == ROWS + CONCURRENCY


def test_u11_a_new_kernel_lists_the_run_attaches_and_resumes_it(
    new_kernel, scripted_server, store, slow_from
):
    script = Script(latency_s=0.02)
    server, kernel = scripted_server(script.but(faults=(slow_from(41, delay_s=300.0),))), new_kernel()
    kernel.begin(cell(server, store))
    server.wait_until(lambda stats: stats.calls >= 40, timeout_s=90)
    (run_id,) = kernel_runs(store)
    server.wait_until(lambda stats: stats.in_flight == CONCURRENCY)
    written_down(store, run_id, server)
    kernel.kill()

    server.set(script)
    successor = new_kernel()
    listed = successor.run(
        "import apwa_dask as apwa\n"
        f"(lost,) = apwa.runs({store!r})\n"
        "print(lost.name, lost.status)\n"
        f"run = apwa.attach(lost.run_id, {store!r}, progress=False)\n"
        "print(run.id, len(run.resume().result()))"
    )
    assert listed.split() == ["cell", "stopped", run_id, str(ROWS)]
    assert server.calls == ROWS + CONCURRENCY


def kernel_runs(store: str) -> list[str]:
    import apwa_dask as apwa

    return [info.run_id for info in apwa.runs(store)]


def written_down(store: str, run_id: str, server) -> None:
    """Wait until every answer that was given is in the journal on disk."""
    deadline_s = time.monotonic() + 60
    while time.monotonic() < deadline_s:
        stats = server.stats()
        with Journal(store) as journal:
            if journal.paid_by(run_id).calls == stats.calls - stats.in_flight:
                return
        time.sleep(0.05)
    raise AssertionError("answers were not flushed")


def test_u12_a_live_display_is_one_output_updated_by_its_id_in_text_and_plain_html(
    new_kernel, scripted_server, store
):
    """All that a frontend without widgets or scripts has to know, VS Code's among them."""
    server, kernel = scripted_server(latency_s=0.1), new_kernel()
    told: list[dict] = []
    source = cell(server, store).replace("progress=False", "progress=None") + RESULT
    done = kernel.client.execute_interactive(source, timeout=120, output_hook=told.append)
    assert done["content"]["status"] == "ok"

    kinds = [message["msg_type"] for message in told]
    assert not [kind for kind in kinds if kind.startswith("comm_")]  # what widgets speak
    begun = [message["content"] for message in told if message["msg_type"] == "display_data"]
    later = [message["content"] for message in told if message["msg_type"] == "update_display_data"]
    assert len(begun) == 1
    assert len(later) >= 2
    (place,) = {content["transient"]["display_id"] for content in (*begun, *later)}
    assert place
    for content in (*begun, *later):
        assert set(content["data"]) == {"text/plain", "text/html"}
        html = content["data"]["text/html"]
        assert not [
            word
            for word in ("<script", "<link", "<img", "<style", "http", "class=", "onload")
            if word in html
        ]
    live = [content["data"]["text/plain"].count("\n") for content in (*begun, *later[:-1])]
    assert set(live) == {3}  # its height, until the summary takes its place
    assert ": done, 200/200 rows" in later[-1]["data"]["text/plain"]


SEVERAL = """
import gc, json, os, threading, time
import pandas as pd
import apwa_dask as apwa

def held():
    gc.collect()
    return [threading.active_count(), len(os.listdir("/proc/self/fd"))]

def once(number, progress):
    frame = pd.DataFrame({"text": [f"run {number}, message {k}" for k in range(20)]})
    table = apwa.from_pandas(frame, npartitions=2).map("topic", inputs="text", output={"topic": str})
    return table.run(model=model, store=STORE, max_concurrency=4, progress=progress)

once(0, None).wait()  # what stays for the life of the process is made: loop, pools, journal
before = held()
for number in range(1, 7):
    once(number, None).wait()
# The kernel closes the pipe of a thread that wrote and ended when it next looks, every ten seconds.
deadline_s = time.monotonic() + 40
while any(now > then for now, then in zip(held(), before)) and time.monotonic() < deadline_s:
    time.sleep(0.2)
print(json.dumps([before, held()]))
"""
ASYNC = """
import asyncio
asyncio.get_running_loop()  # the kernel's own
blocking = once(1, False).result()["topic"].tolist()
awaited = (await once(1, False)).result()["topic"].tolist()
both = await asyncio.gather(once(1, False), once(2, False))
print(blocking == awaited == both[0].result()["topic"].tolist(), len(both[1].result()))
"""


@pytest.fixture(scope="module")
def answering():
    from apwa_dask.testing import ScriptedServer

    with ScriptedServer() as server:
        yield server


@pytest.fixture(scope="module")
def saved(answering, tmp_path_factory) -> list:
    """The cells of a notebook after it ran, as they would be saved."""
    nbformat = pytest.importorskip("nbformat", reason="needs the extra `notebook`")
    nbclient = pytest.importorskip("nbclient", reason="needs the extra `notebook`")
    pytest.importorskip("ipykernel", reason="needs the extra `notebook`")
    store = str(tmp_path_factory.mktemp("kernel") / "store")
    begin = (
        "import sys\nsys.modules['ipywidgets'] = None  # a kernel without widgets\nimport apwa_dask as apwa\n"
        f"STORE, model = {store!r}, apwa.Model('scripted', base_url={answering.base_url!r}, api_key_env='')"
    )
    looked_at = "found = apwa.attach(apwa.runs(STORE)[0].run_id, STORE)\nfound"
    resumed = "run = once(9, None)\nrun.stop().wait()"
    sources = [begin, SEVERAL, ASYNC, looked_at, resumed, "run.resume().wait()", TABLE]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    return notebook.cells


TABLE = """
apwa.from_pandas(pd.DataFrame({"text": ["a"]})).map("topic", inputs="text", output={"topic": str})
"""


def test_u12_threads_and_files_return_to_where_they_were_after_six_runs(saved):
    (printed,) = [output for output in saved[1].outputs if output.output_type == "stream"]
    before, after = json.loads(printed.text)
    assert after[0] <= before[0]
    assert after[1] <= before[1]


def test_u12_every_run_leaves_its_summary_and_nothing_live(saved):
    shown = [output for cell in saved for output in cell.outputs if output.output_type == "display_data"]
    texts = [output.data["text/plain"] for output in shown]
    assert len(texts) == 7 + 2  # a stopped run, and its resumption
    for output, text in zip(shown, texts, strict=True):
        assert ": done," in text or ": stopped," in text, text
        assert set(output.data) == {"text/plain", "text/html"}
        assert "<script" not in output.data["text/html"]


def test_u12_a_run_that_is_looked_at_shows_itself_and_no_progress(saved):
    (output,) = saved[3].outputs
    assert output.output_type == "execute_result"
    assert output.data["text/plain"].startswith("<Run ")


def test_u12_a_resumed_run_shows_its_progress_under_the_cell_that_resumes_it(saved):
    (first, *_), (second, *_) = saved[4].outputs, saved[5].outputs
    assert ": stopped," in first.data["text/plain"]
    assert ": done, 20/20 rows" in second.data["text/plain"]


def test_u12_a_table_shows_its_columns_in_one_output_of_text_and_html(saved):
    (output,) = saved[6].outputs
    assert output.output_type == "execute_result"
    assert "topic" in output.data["text/plain"]
    assert "topic" in output.data["text/html"]


def test_u18_blocking_and_awaited_runs_agree_inside_the_kernels_loop_and_pay_once(saved, answering):
    assert [output.text.split() for output in saved[2].outputs] == [["True", "20"]]
    texts = [call.text for call in answering.log() if "run 1," in call.text]
    assert len(texts) == len(set(texts)) == 20
