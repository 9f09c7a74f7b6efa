"""U12, outside of a notebook: one line of a log in half a minute, no widgets, and nothing is left open."""

from __future__ import annotations

import io
import threading

import pandas as pd
import psutil

import apwa_dask as apwa
from apwa_dask.observe.progress import progress_for_environment


def test_u12_a_run_that_is_no_terminal_writes_a_line_at_its_start_and_a_summary(
    scripted_server, model_at, store
):
    server = scripted_server(latency_s=0.05)
    stream = io.StringIO()
    frame = pd.DataFrame({"text": [f"row {k}" for k in range(200)]})
    table = apwa.from_pandas(frame, npartitions=4).map("x", inputs="text", output={"a": int})
    display = progress_for_environment(stream=stream)
    table.run(model=model_at(server), store=store, progress=display).wait()
    lines = [line for line in stream.getvalue().splitlines() if line.strip()]
    assert 2 <= len(lines) <= 6
    assert "  estimated $" in stream.getvalue()
    assert "\r" not in stream.getvalue()
    assert "\x1b" not in stream.getvalue()
    assert "200" in lines[-1] + lines[-2] + lines[-3]


def test_u12_threads_and_files_return_to_where_they_were(scripted_server, model_at, store):
    server = scripted_server()
    frame = pd.DataFrame({"text": [f"row {k}" for k in range(20)]})
    table = apwa.from_pandas(frame).map("x", inputs="text", output={"a": int})

    def once(number: int) -> None:
        display = progress_for_environment(stream=io.StringIO())
        table.run(model=model_at(server), store=f"{store}{number % 2}", progress=display).wait()

    for number in range(4):
        once(number)
    process = psutil.Process()
    before = (threading.active_count(), process.num_fds())
    for number in range(6):
        once(number)
    after = (threading.active_count(), process.num_fds())
    assert after[0] <= before[0] + 1
    assert after[1] <= before[1] + 2
