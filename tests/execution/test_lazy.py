"""`to_dask`: the calls are in the graph, each distinct request is made once, and nothing is called at
build.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import cloudpickle
import dask.dataframe as dd
import pandas as pd
import pytest

import apwa_dask as apwa
from apwa_dask.testing import Fault, Script

FRAME = pd.DataFrame({"text": [f"row {k % 30}" for k in range(40)], "k": range(40)})


def mapped(frame: pd.DataFrame = FRAME, npartitions: int = 4) -> apwa.Table:
    table = apwa.from_pandas(frame, npartitions=npartitions)
    return table.map("severity", inputs="text", output={"severity": int, "why": str})


def test_head_compute_and_len_pay_for_each_distinct_request_once(scripted_server, model_at, store):
    server = scripted_server()
    lazy = mapped().to_dask(model=model_at(server), store=store)
    assert server.calls == 0

    head = lazy.head(3)
    assert server.calls == 10  # the first partition, no more
    whole = lazy.compute()
    assert len(lazy) == len(whole) == 40
    assert lazy["severity"].sum().compute() == whole["severity"].sum()

    assert server.calls == 30
    pd.testing.assert_frame_equal(head, whole.head(3), check_dtype=False)
    pd.testing.assert_frame_equal(whole[["text", "k"]], FRAME, check_dtype=False)


def test_a_lazy_dask_frame_as_source_pays_once_too(scripted_server, model_at, store):
    server = scripted_server()
    table = apwa.from_dask(dd.from_pandas(FRAME, npartitions=3))
    lazy = table.map("severity", inputs="text", output={"severity": int}).to_dask(
        model=model_at(server), store=store
    )

    assert len(lazy.compute()) == len(lazy) == 40
    assert server.calls == 30
    twice = table.map("severity", inputs="text", output={"severity": int}).to_dask(
        model=model_at(server), store=store
    )
    assert len(twice.compute()) == 40
    assert server.calls == 30


def test_the_same_code_in_a_new_process_makes_no_request(scripted_server, store, tmp_path):
    server = scripted_server()
    script = tmp_path / "program.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import pandas as pd
            import apwa_dask as apwa

            frame = pd.DataFrame({{"text": [f"row {{k % 30}}" for k in range(40)]}})
            table = apwa.from_pandas(frame, npartitions=4).map("severity", inputs="text", output={{"s": int}})
            options = {{"model": apwa.Model("m", base_url={server.base_url!r}), "store": {store!r}}}
            eager = table.run(progress=False, **options).result()
            lazy = table.to_dask(**options).compute(scheduler="threads")
            assert eager["s"].tolist() == lazy["s"].tolist()
            print(eager["s"].sum())
            """
        )
    )

    outputs = [python(script) for _ in range(2)]

    assert outputs[0] == outputs[1] != ""
    assert server.calls == 30


def python(script: Path) -> str:
    root = str(Path(apwa.__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": root},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_reading_columns_of_a_lazy_frame_pays_no_row_twice_after_new_rows(scripted_server, model_at, store):
    server = scripted_server()
    options = {"model": model_at(server), "store": store}
    mapped().to_dask(**options).compute()
    grown = pd.concat([pd.DataFrame({"text": ["a new one"], "k": [99]}), FRAME], ignore_index=True)

    result = mapped(grown, npartitions=3).to_dask(**options).compute()

    assert server.calls == 31
    assert result["k"].tolist() == grown["k"].tolist()


def test_a_stopped_lazy_frame_can_be_computed_again(scripted_server, model_at, store, monkeypatch):
    server = scripted_server(Script(api_key="sk-right"))
    lazy = mapped().to_dask(model=model_at(server), store=store)
    with pytest.raises(apwa.ApwaError):
        lazy.compute(scheduler="threads")
    assert server.calls == 1

    monkeypatch.setenv("OPENAI_API_KEY", "sk-right")

    assert len(lazy.compute(scheduler="threads")) == 40
    assert server.calls == 31


def test_a_budget_holds_for_a_lazy_frame(scripted_server, model_at, store):
    server = scripted_server()
    model = model_at(server, price=apwa.Price(1, 1), max_concurrency=2, max_output_tokens=50)
    lazy = mapped().to_dask(model=model, store=store, budget=apwa.Budget(calls=7))

    with pytest.raises(apwa.ApwaError, match="budget"):
        lazy.compute(scheduler="threads")

    assert server.calls == 7


def test_a_lazy_frame_made_again_counts_what_was_paid_before(scripted_server, model_at, store):
    """As a resume does: the ceiling that counts is the latest, for all that the frame has cost."""
    server = scripted_server()
    options = {"model": model_at(server, max_concurrency=2), "store": store}

    def computed(calls: int) -> None:
        with pytest.raises(apwa.ApwaError, match="budget"):
            mapped().to_dask(**options, budget=apwa.Budget(calls=calls)).compute(scheduler="threads")

    for calls in (7, 12, 12):
        computed(calls)
        assert server.calls == calls
    assert len(mapped().to_dask(**options, budget=apwa.Budget(calls=30)).compute(scheduler="threads")) == 40
    assert server.calls == 30


def test_a_process_that_was_not_told_of_the_budget_makes_no_call(scripted_server, model_at, store, tmp_path):
    """The graph goes anywhere, the money does not."""
    server = scripted_server()
    lazy = mapped().to_dask(model=model_at(server), store=store, budget=apwa.Budget(calls=7))
    (tmp_path / "frame.pickle").write_bytes(cloudpickle.dumps(lazy))
    script = tmp_path / "elsewhere.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import pickle
            import apwa_dask as apwa

            lazy = pickle.load(open({str(tmp_path / "frame.pickle")!r}, "rb"))
            try:
                lazy.compute(scheduler="threads")
            except apwa.ApwaError as error:
                print(error.code, error.fix)
            """
        )
    )

    said = python(script)

    assert said.startswith("BUDGET-ACCOUNT")
    assert "to_dask()" in said
    assert server.calls == 0


def test_failed_rows_of_a_lazy_frame_are_nulls_and_do_not_stop_it(scripted_server, model_at, store):
    server = scripted_server(Script(faults=(Fault("refusal", on=r"row 3\b"),)))

    result = mapped().to_dask(model=model_at(server), store=store, status=True).compute(scheduler="sync")

    failed = result["text"] == "row 3"
    assert (result.loc[failed, "_apwa_status"] == "refused").all()
    assert result.loc[failed, "severity"].isna().all()
    assert result.loc[~failed, "severity"].notna().all()


def test_hedging_of_a_lazy_frame_is_in_what_its_workers_read(scripted_server, model_at, store):
    from apwa_dask.store.runs import RunStore

    table = apwa.from_pandas(pd.DataFrame({"text": ["a"]})).map("x", inputs="text", output={"a": int})
    for hedge in (False, True):
        table.to_dask(model=model_at(scripted_server()), store=store, hedge=hedge)
    kept = RunStore(store, None)
    assert sorted(kept.open(run_id).spec["models"][""]["hedge"] for run_id in kept.ids()) == [False, True]
