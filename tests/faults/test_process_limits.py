"""What a process may use of memory, disk and time: faults 41 to 44. The long soak is ``make soak``."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from itertools import pairwise

import pytest

import apwa_dask as apwa
from apwa_dask.testing import Fault, On

pytestmark = pytest.mark.slow

SOAK_ROWS = int(os.environ.get("APWA_SOAK_ROWS", "16000"))
"""``make soak`` takes 1,000,000."""
MIB_FOR_10_000_ROWS = 1.0


@pytest.fixture(autouse=True)
def _key(processes, monkeypatch):
    monkeypatch.setenv("APWA_TEST_KEY", processes.KEY)


def test_fault_41_a_response_of_50_mb_fails_its_row_and_is_not_held(
    processes, scripted_server, store, tmp_path, invariants
):
    rows, huge = 40, Fault("huge_body", on=On(prompt=r"note [37]\b"), size_bytes=50 * 2**20)
    peaks = []
    for faults in ((), (huge,)):
        server = scripted_server(faults=faults)
        place = f"{store}-{len(faults)}"
        given = {"url": server.base_url, "store": place, "rows": rows, "npartitions": 2}
        with processes.program("whole", tmp_path, **given) as program:
            run_id = program.line("RUN")
            peaks.append(float(program.line("DONE")))
            assert program.ended() == 0
    run = apwa.attach(run_id, place, progress=False)
    result = run.result(status=True)
    invariants.i1_every_row_has_one_status(run, rows)
    invariants.i2_order_and_index_are_the_inputs(result, processes.frame(rows))
    invariants.i6_the_key_is_nowhere(processes.KEY, [place, program.output])
    # the tokens of an answer that is not read are known to nobody: the calls are all listed
    assert int(run.costs()["calls"].sum()) == server.calls
    failed = result[result["_apwa_status"] != "ok"]
    assert failed["text"].tolist() == ["note 3", "note 7"]
    assert peaks[1] - peaks[0] < 50, "the response was read whole"


def test_fault_42_memory_threads_and_files_are_flat_over_many_rows(
    processes, scripted_server, store, tmp_path
):
    server = scripted_server(keep_calls=1000, keep_bodies=False)
    given = {"url": server.base_url, "store": store, "rows": SOAK_ROWS, "concurrency": 64}
    given["env"] = {"MALLOC_ARENA_MAX": "2"}  # memory that threads keep for themselves says nothing
    with processes.program("measured", tmp_path, **given, npartitions=SOAK_ROWS // 500) as program:
        half = float(program.line("HALF", timeout_s=3600))
        end = float(program.line("END", timeout_s=3600))
        threads, files = int(program.line("THREADS")), int(program.line("FILES"))
        assert program.ended() == 0
    assert server.calls == SOAK_ROWS
    allowed = MIB_FOR_10_000_ROWS * SOAK_ROWS / 2 / 10_000
    assert end - half < max(allowed, NOISE_MIB), f"{half:.1f} MiB at half, {end:.1f} MiB at the end"
    assert threads < 60
    assert files < 64 + 80


NOISE_MIB = 16.0
"""What the allocator keeps of short runs, up to 10 MiB from one run to the next; it does not grow, so the
long soak is held to the slope itself. The short one finds what keeps 2 kB of each row."""


def test_fault_43_a_full_disk_stops_the_run_with_words_and_it_goes_on_when_there_is_room(
    processes, scripted_server, tmp_path, invariants
):
    """A real small disk: a file system in memory that only the program sees, on a name space of its own."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], check=False).returncode:
        pytest.skip("this machine allows no name space of one's own, so there is no small disk")
    rows = 3000
    server = scripted_server()
    given = {"url": server.base_url, "rows": rows, "npartitions": 30, "disk": str(tmp_path / "small")}
    with processes.program("full_disk", tmp_path, **given, within=["unshare", "-rm"]) as program:
        why = program.line("STOPPED")
        assert program.line("STATUS") in ("failed", "stopped")
        program.line("ROOM")
        assert program.line("ROWS") == str(rows)
        assert program.line("DAMAGED") == "0"
        assert program.ended() == 0, program.said
    assert "space" in why.lower() or "full" in why.lower()
    assert server.log().distinct_texts == rows
    # what could not be written waits in memory and is written when there is room: nothing is paid again
    invariants.i4_little_is_paid_again(server, 0)


@pytest.mark.parametrize("jump_s", [3600.0, -3600.0])
def test_fault_44_a_jump_of_the_clock_makes_no_stall_and_no_burst(
    processes, scripted_server, store, model_at, invariants, monkeypatch, jump_s
):
    rows, rpm = 120, 1200
    real, offset_s = time.time, 0.0
    monkeypatch.setattr(time, "time", lambda: real() + offset_s)
    server = scripted_server(rpm=rpm, burst_s=2.0, latency_s=0.02)
    model = model_at(server, max_concurrency=16)
    monkeypatch.setenv("APWA_TEST_KEY", processes.KEY)
    run = processes.mapped(rows, 4).run(model=model, store=store, scheduler="threads", progress=False)
    server.wait_until(lambda stats: stats.calls >= rows // 3)
    offset_s = jump_s
    run.wait(timeout=120)

    invariants.hold(run, server, processes.frame(rows), paid_again=0)
    assert server.stats().by_status == {"200": rows}  # a burst would have met the limit
    starts = [call.t_start for call in server.log()]
    assert max(b - a for a, b in pairwise(starts)) < 30
