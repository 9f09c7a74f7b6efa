"""Faults 2 and 5 of the matrix on real processes: one ceiling of calls in flight, one pause, one pace of tokens."""

from __future__ import annotations

from statistics import median

import pandas as pd
import pytest

import apwa_dask as apwa
from apwa_dask.testing import Fault, Lognormal, On, ServerLog

pytestmark = pytest.mark.slow

WORKERS = 2


@pytest.fixture(scope="module")
def cluster(processes, tmp_path_factory):
    with processes.Cluster(tmp_path_factory.mktemp("cluster")) as made:
        for _ in range(WORKERS):
            made.add_worker()
        yield made


@pytest.fixture
def client(cluster):
    with cluster.client() as made:
        cluster.ready(made, WORKERS)
        yield made


@pytest.fixture
def start(client, workers_model, store):
    """Starts a run of one call a row, in many more partitions than threads."""

    def begin(server, rows: int, **settings):
        model = workers_model(server, **settings)
        frame = pd.DataFrame({"text": [f"row {k}" for k in range(rows)]})
        table = apwa.from_pandas(frame, npartitions=16).map("say", inputs="text", output={"a": int})
        return table.run(model=model, store=store, client=client, progress=False)

    return begin


def workers_of(run: apwa.Run) -> set[str]:
    return {record.worker for record in run.folder.committed(0).values()}


def most_in_flight(log: ServerLog) -> int:
    """Of calls whose sender lived: of the others, the server learns late that they ended."""
    lived = [call for call in log if not call.aborted and call.t_end is not None]
    moments = sorted([(call.t_start, 1) for call in lived] + [(call.t_end, -1) for call in lived])
    level = highest = 0
    for _, change in moments:
        level += change
        highest = max(highest, level)
    return highest


@pytest.mark.parametrize("ceiling", [1, 8, 32])
def test_fault_05_no_more_calls_are_in_flight_than_the_ceiling_over_all_processes(
    scripted_server, start, ceiling
):
    # fifty calls a second fill the ceiling, whatever it is: a machine that is busy sends as many
    server = scripted_server(latency_s=Lognormal(p50_s=0.02 * ceiling, p99_s=0.1 * ceiling, seed=1))

    run = start(server, 8 * ceiling + 120, max_concurrency=ceiling)
    result = run.result(status=True)

    assert (result["_apwa_status"] == "ok").all()
    assert server.stats().max_in_flight == ceiling, "all of it is used, and no call more"
    assert len(workers_of(run)) == WORKERS


def test_fault_05_the_ceiling_holds_while_a_worker_joins_and_another_dies(
    scripted_server, processes, cluster, client, start, slow_from
):
    latency = Lognormal(p50_s=0.1, p99_s=0.4, seed=1)
    server = scripted_server(latency_s=latency, faults=(slow_from(61, delay_s=1.0),))
    doomed = cluster.workers[0]

    run = start(server, 800, max_concurrency=8)
    server.wait_until(lambda stats: stats.calls >= 60, timeout_s=60)
    newcomer = cluster.add_worker()
    processes.until(
        lambda: newcomer.pid in cluster.pids(client).values() and cluster.address_of(client, newcomer),
        "the newcomer",
    )
    address = cluster.address_of(client, newcomer)
    processes.until(
        lambda: client.run_on_scheduler(shares_of).get(address, 0) > 0, "a share for the newcomer"
    )
    assert server.stats().max_in_flight == 8
    server.set(server.script.but(faults=()))
    doomed.kill()
    result = run.result(status=True)

    assert (result["_apwa_status"] == "ok").all()
    assert address in workers_of(run)
    assert most_in_flight(server.log()) <= 8


def shares_of(dask_scheduler) -> dict[str, int]:
    """Runs on the scheduler: calls in flight that each worker may have at the only gate in use."""
    coordinator = dask_scheduler.plugins["apwa-coordinator"].coordinator
    shares: dict[str, int] = {}
    for key in coordinator._lanes:
        for holder, share in coordinator.in_flight_share(key).items():
            shares[holder] = max(share, shares.get(holder, 0))
    return shares


def test_fault_02_a_pause_asked_of_one_worker_is_kept_by_the_other_within_a_second(scripted_server, start):
    pause_s, soon_s = 12.0, 4.0  # a second, on a machine that does nothing else
    refusal = Fault("status", On(text="row 110$"), times=1, status=429, retry_after=str(int(pause_s)))
    server = scripted_server(latency_s=0.1, faults=(refusal,))

    run = start(server, 400, max_concurrency=8)
    result = run.result(status=True)

    assert (result["_apwa_status"] == "ok").all()
    log = server.log()
    (refused,) = [call for call in log if call.status == 429]
    begun = [call.t_start - refused.t_end for call in log]
    assert [at for at in begun if soon_s < at < pause_s] == []
    assert sum(at < 0 for at in begun) >= 10
    assert sum(at > pause_s for at in begun) > 20
    before = {call.text for call in log if call.t_start < refused.t_start}
    assert len(senders(run, before)) == WORKERS, "the other one was at work too"


def senders(run: apwa.Run, texts: set[str]) -> set[str]:
    """Workers whose partitions hold a row that one of these messages asks about."""
    numbers = {int(text.rsplit("row ", 1)[1].split()[0]) for text in texts}
    size = 400 // 16
    return {record.worker for part, record in run.folder.committed(0).items() if
            any(part * size <= number < (part + 1) * size for number in numbers)}  # fmt: skip


@pytest.mark.parametrize(("counts", "ceiling", "rows"), [("most", 8, 280), ("made", 400, 280)])
def test_fault_05_two_processes_share_a_pace_of_tokens(scripted_server, start, counts, ceiling, rows):
    """A server counts a prompt and the most that may be answered when the call comes in, or what is made."""
    tpm = 60_000
    server = scripted_server(tpm=tpm, counts_tokens=counts, latency_s=0.2)

    run = start(server, rows, max_concurrency=32, max_output_tokens=ceiling)
    result = run.result(status=True)

    assert (result["_apwa_status"] == "ok").all()
    assert len(workers_of(run)) == WORKERS
    calls = list(server.log())
    begin = calls[0].t_start + 4.0
    steady = [call for call in calls if call.t_start >= begin]
    good = [call for call in steady if call.status == 200]
    span_s = good[-1].t_start - good[0].t_start
    stretch_s = 2.0  # in most stretches: a machine that stands still for a moment is not the pace's fault
    taken = [0] * int(span_s / stretch_s)
    for call in good:
        stretch = int((call.t_start - good[0].t_start) / stretch_s)
        if stretch < len(taken):
            taken[stretch] += call.prompt_tokens + (ceiling if counts == "most" else call.completion_tokens)
    used = median(taken) / (tpm / 60 * stretch_s)
    assert sum(call.status == 429 for call in steady) <= 0.02 * len(steady)
    assert used >= 0.9
