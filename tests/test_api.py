"""The public face: building a table looks at nothing and calls nobody, in any loop, from any frame."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import subprocess
import sys
import textwrap
import threading
import weakref
from pathlib import Path

import dask.dataframe as dd
import pandas as pd
import pytest

import apwa_dask as apwa
from apwa_dask.execution.runtime import runtime
from apwa_dask.testing import Script

FRAME = pd.DataFrame({"text": [f"note {k}" for k in range(20)], "n": range(20), "tags": [["a"]] * 20})


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-only-for-loopback")


def model_of(server) -> apwa.Model:
    return apwa.Model("m", base_url=server.base_url)


def computed_never(frame: pd.DataFrame) -> dd.DataFrame:
    """A Dask frame whose partitions may not be computed."""
    return dd.from_map(_refuse, [0, 1], meta=frame.iloc[:0])


def _refuse(k: int) -> pd.DataFrame:
    raise AssertionError("a lazy operation computed its source")


@pytest.mark.parametrize("kind", ["pandas", "dask"])
def test_no_public_operation_calls_or_computes_while_a_table_is_built(
    scripted_server, store, monkeypatch, kind
):
    server = scripted_server()
    monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
    monkeypatch.setenv("OPENAI_MODEL", "m")
    plain = FRAME[["text", "n"]]
    source = apwa.from_pandas(plain, npartitions=2)
    if kind == "dask":
        source = apwa.from_dask(computed_never(plain))
    other = apwa.from_pandas(pd.DataFrame({"n": [1], "city": ["Oslo"]}), name="cities")
    tables = [
        source,
        source.map("x", inputs="text", output={"a": int}),
        source.filter("x", inputs="text"),
        source.flat_map("x", inputs="text", output={"a": int}),
        source.reduce("x", inputs="text", output={"a": int}),
        source.reduce("x", inputs="text", by="n", output={"a": int}),
        source.where("n > 1"),
        source.assign(m="n + 1"),
        source.select("n", words="text"),
        source.drop("n"),
        source.aggregate(by="n", c="count"),
        source.sort("n"),
        source.limit(2),
        source.distinct("n"),
        source.sample(3),
        source.chunk("text"),
        source.merge(other, on="n"),
        source.concat(source),
        apwa.from_pandas(FRAME).explode("tags"),
    ]

    for table in tables:
        assert table.columns == table.schema.names
        assert repr(table)
        assert table._repr_html_()
        assert str(table.explain())
        planned = table.plan()
        assert repr(planned)
        assert planned._repr_html_()
        assert planned.to_yaml()
        lazy = table.to_dask(store=store)
        assert repr(lazy)
        assert list(lazy.columns) == table.columns

    assert server.calls == server.stats().reads == 0


@pytest.mark.parametrize(
    "order",
    [
        "import apwa_dask\nimport pandas\nimport dask.dataframe as dd",
        "import dask.dataframe as dd\nimport pandas\nimport apwa_dask",
    ],
)
def test_frames_have_the_verbs_whatever_is_imported_first(order):
    program = order + textwrap.dedent(
        """
        frame = pandas.DataFrame({"text": ["a", "b"], "n": [1, 2]})
        assert frame.apwa.where("n > 1").columns == ["text", "n"]
        assert frame.apwa.table(npartitions=2).map("x", inputs="text", output={"a": int}).columns[-1] == "a"
        lazy = dd.from_pandas(frame, npartitions=2)
        assert lazy.apwa.filter("x", inputs="text").columns == ["text", "n"]
        assert lazy.apwa.table().columns == ["text", "n"]
        assert "map" in dir(frame.apwa) and "map" in dir(lazy.apwa)
        """
    )
    root = str(Path(apwa.__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": root},
    )
    assert done.returncode == 0, done.stderr


def test_an_unknown_verb_of_a_frame_names_the_nearest():
    with pytest.raises(AttributeError, match="filter"):
        FRAME.apwa.filtre("x")


def test_sync_calls_work_inside_a_running_loop_and_a_run_can_be_awaited(scripted_server, store):
    server = scripted_server(Script(latency_s=0.02))
    table = apwa.from_pandas(FRAME, npartitions=2).map("x", inputs="text", output={"a": int})

    async def main() -> tuple[pd.DataFrame, pd.DataFrame, int]:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0.005)

        ticking = asyncio.create_task(tick())
        run = await table.run(model=model_of(server), store=store, progress=False)
        awaited = run.result()
        seen = ticks
        ticking.cancel()
        again = table.run(model=model_of(server), store=store, progress=False).result()
        return awaited, again, seen

    awaited, again, ticks = asyncio.run(main())

    pd.testing.assert_frame_equal(awaited, again)
    assert server.calls == 20
    assert ticks > 1


def test_loops_that_come_and_go_share_the_private_one(scripted_server, store):
    server = scripted_server()
    table = apwa.from_pandas(FRAME).map("x", inputs="text", output={"a": int})

    async def once(namespace: str) -> int:
        run = await table.run(model=model_of(server), store=store, progress=False, namespace=namespace)
        return len(run.result())

    assert [asyncio.run(once(f"n{k}")) for k in range(3)] == [20, 20, 20]
    assert server.calls == 60


def test_a_finished_run_leaves_no_context_sink_task_or_thread_behind(scripted_server, store):
    server = scripted_server()
    table = apwa.from_pandas(FRAME, npartitions=2).map("x", inputs="text", output={"a": int})
    table.run(model=model_of(server), store=store, progress=False).wait()
    here = runtime()
    threads = {thread.name for thread in threading.enumerate() if thread.name.startswith("apwa")}

    run = table.run(model=model_of(server), store=store, progress=False, namespace="second").wait()

    assert here.known_runs(run.id) == []
    assert run.id not in here._sinks
    assert not any(waiting for waiting in here._in_flight.values())
    run._thread.join(10)
    after = {t.name for t in threading.enumerate() if t.name.startswith("apwa")}
    assert after - threads <= {"apwa-journal-writer"}
    gone = weakref.ref(run)
    del run
    gc.collect()
    assert gone() is None


def test_a_run_writes_nothing_to_standard_output_and_warns_nobody(scripted_server, store, capsys, caplog):
    caplog.set_level(logging.WARNING)
    table = apwa.from_pandas(FRAME).map("x", inputs="text", output={"a": int})

    table.run(model=model_of(scripted_server()), store=store, progress=False).wait()

    assert capsys.readouterr().out == ""
    assert caplog.records == []
