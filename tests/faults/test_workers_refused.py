"""What cannot work on a cluster is refused before it costs anything: faults 45 and 46."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import cloudpickle
import dask.dataframe as dd
import pytest
from dask import delayed

import apwa_dask as apwa
from apwa_dask.agents import capabilities
from apwa_dask.errors import ConfigError
from apwa_dask.testing import Rule

pytestmark = pytest.mark.slow

OTHER_VERSION = str(Path(__file__).with_name("another_version.py"))
ROWS = 40


@pytest.fixture(scope="module")
def cluster(processes, tmp_path_factory):
    with processes.Cluster(tmp_path_factory.mktemp("refused")) as made:
        made.add_worker()
        yield made


@pytest.fixture
def client(cluster):
    with cluster.client() as made:
        cluster.ready(made, 1)
        yield made


@pytest.fixture
def run_there(processes, client, workers_model, store):
    def begin(server, table=None):
        model = workers_model(server)
        table = processes.mapped(ROWS, 4) if table is None else table
        return table.run(model=model, store=store, client=client, progress=False)

    return begin


@pytest.fixture
def tools(monkeypatch):
    """Tools of a test are as those of a notebook: they are in no package that a worker could import."""
    monkeypatch.setattr(capabilities, "_registry", dict(capabilities._registry))
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def asking(processes, tool: str) -> apwa.Table:
    table = apwa.from_pandas(processes.frame(ROWS), npartitions=2)
    return table.map("Rate it.", inputs="text", output={"severity": int}, tools=[tool])


def test_fault_45_a_worker_of_another_version_is_refused_before_any_call(
    cluster, client, processes, run_there, scripted_server
):
    server = scripted_server()
    stranger = cluster.add_worker(preload=OTHER_VERSION)
    processes.until(lambda: stranger.pid in cluster.pids(client).values(), "the other worker")

    with pytest.raises(ConfigError, match=r"0\.0\.1") as told:
        run_there(server)

    stranger.kill()
    assert told.value.code == "CONFIG-VERSIONS"
    assert "install" in told.value.fix
    assert server.calls == 0


def test_fault_45_a_worker_of_another_version_that_joins_later_makes_no_call(
    cluster, client, processes, run_there, scripted_server
):
    server = scripted_server()
    run_there(server).wait(timeout=60)  # the cluster is prepared, and found to fit
    paid = server.calls
    stranger = cluster.add_worker(preload=OTHER_VERSION)
    processes.until(lambda: stranger.pid in cluster.pids(client).values(), "the other worker")
    own = cluster.workers.pop(0)
    own.kill()
    processes.until(lambda: list(cluster.pids(client).values()) == [stranger.pid], "the other worker alone")

    other_rows = apwa.from_pandas(processes.frame(ROWS).assign(text="new"), npartitions=2)
    table = other_rows.map("How severe?", inputs="text", output={"severity": int})
    with pytest.raises(ConfigError, match=r"0\.0\.1"):
        run_there(server, table).wait(timeout=60)

    stranger.kill()
    cluster.workers.remove(stranger)
    assert server.calls == paid


def test_fault_46_a_tool_that_holds_a_lock_is_named_before_any_call(
    processes, run_there, scripted_server, tools
):
    guard = threading.Lock()

    @apwa.capability
    def guarded(word: str) -> str:
        """Look a word up, one at a time."""
        with guard:
            return word

    server = scripted_server()
    with pytest.raises(ConfigError) as told:
        run_there(server, asking(processes, "guarded"))
    assert told.value.code == "CONFIG-TOOL"
    assert "'guarded'" in told.value.what
    assert "'guard'" in told.value.why
    assert "_thread.lock" in told.value.why
    assert server.calls == 0


def test_fault_46_a_tool_that_holds_too_much_data_is_named_before_any_call(
    processes, run_there, scripted_server, tools
):
    dictionary = "x" * (32 * 2**20)

    @apwa.capability
    def heavy(word: str) -> str:
        """Look a word up in all words."""
        return str(word in dictionary)

    server = scripted_server()
    with pytest.raises(ConfigError) as told:
        run_there(server, asking(processes, "heavy"))
    assert "32 MiB" in told.value.what
    assert "'dictionary'" in told.value.why
    assert server.calls == 0


def test_fault_46_a_frame_whose_function_cannot_travel_is_named_before_any_call(
    processes, run_there, scripted_server, tools
):
    guard = threading.Lock()

    def cleaned(part):
        with guard:
            return part

    part = processes.frame(ROWS)
    # a function given to `map_partitions` is refused by Dask itself, which must hash it
    frame = dd.from_delayed([delayed(cleaned)(part)], meta=part.iloc[:0], verify_meta=False)
    table = apwa.from_dask(frame).map("How severe?", inputs="text", output={"severity": int})
    server = scripted_server()
    with pytest.raises(ConfigError) as told:
        run_there(server, table)
    assert told.value.code == "CONFIG-FRAME"
    assert "cleaned" in told.value.what
    assert "'guard'" in told.value.why
    assert server.calls == 0


def test_fault_46_a_frame_whose_function_holds_too_much_data_is_named_before_any_call(
    processes, run_there, scripted_server, tools
):
    dictionary = "x" * (32 * 2**20)
    frame = dd.from_pandas(processes.frame(ROWS), npartitions=2)
    frame = frame.map_partitions(lambda part: part[part["k"] < len(dictionary)], meta=frame._meta)
    table = apwa.from_dask(frame).map("How severe?", inputs="text", output={"severity": int})
    server = scripted_server()
    with pytest.raises(ConfigError) as told:
        run_there(server, table)
    assert told.value.code == "CONFIG-FRAME"
    assert "'dictionary'" in told.value.why
    assert server.calls == 0


def test_a_tool_of_a_notebook_is_sent_to_the_workers_and_to_those_that_join_later(
    cluster, client, processes, run_there, scripted_server, tools
):
    @apwa.capability
    def reversed_word(word: str) -> str:
        """The word, backwards."""
        return word[::-1]

    call = {"tool_calls": [{"name": "reversed_word", "arguments": {"word": "abc"}}]}
    rules = (Rule(".", call, turn=0), Rule("cba", {"severity": 7}, where="last"))
    server = scripted_server(rules=rules, answers="fail")
    assert run_there(server, asking(processes, "reversed_word")).result()["severity"].tolist() == [7] * ROWS

    cluster.workers[0].kill()
    cluster.ready(client, 1)
    later = apwa.from_pandas(processes.frame(ROWS).assign(text="later"), npartitions=2)
    table = later.map("Rate it.", inputs="text", output={"severity": int}, tools=["reversed_word"])
    assert run_there(server, table).result()["severity"].tolist() == [7] * ROWS
