"""The API key is in no graph, log, exception, journal, report or manifest."""

from __future__ import annotations

import logging
import pickle

import cloudpickle
import pandas as pd
import pytest

import apwa_dask as apwa
from apwa_dask.testing import Fault, Script, grep_canary

FRAME = pd.DataFrame({"text": [f"row {k}" for k in range(20)]})


def test_the_key_is_nowhere_after_a_run(scripted_server, canary_key, tmp_path, caplog):
    store = tmp_path / "store"
    server = scripted_server(Script(api_key=canary_key, faults=(Fault("refusal", on="row 3"),)))
    model = apwa.Model("m", base_url=server.base_url, api_key_env="APWA_TEST_KEY")
    table = apwa.from_pandas(FRAME, npartitions=2).map("x", inputs="text", output={"a": int})
    caplog.set_level(logging.DEBUG)

    planned = table.plan()
    run = table.run(model=model, store=str(store), progress=False).wait()
    lazy = table.to_dask(model=model, store=str(store))
    lazy.compute(scheduler="threads")
    run.report(str(tmp_path / "report.html"))
    run.export(str(tmp_path / "result.parquet"))

    places = [
        cloudpickle.dumps(lazy),
        cloudpickle.dumps(dict(lazy.__dask_graph__())),
        cloudpickle.dumps(planned),
        cloudpickle.dumps(run.frame),
        cloudpickle.dumps((run.spec, run.stages)),
        str(run.manifest),
        repr(run) + run._repr_html_() + repr(table) + planned._repr_html_() + repr(lazy),
        run.failures.to_json(),
        run.costs().to_json(),
        caplog.text,
        tmp_path,
    ]
    assert server.calls == 21  # one refused row is asked again by the lazy frame
    assert grep_canary(places, canary_key) == []


@pytest.mark.parametrize(
    "fault",
    [
        Fault("status", status=401),
        Fault("insufficient_quota"),
        Fault("null_content"),
        Fault("status", status=400),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.status}",
)
def test_the_key_is_in_no_exception_however_the_endpoint_fails(
    scripted_server, canary_key, tmp_path, caplog, fault
):
    server = scripted_server(Script(faults=(fault,)))
    model = apwa.Model("m", base_url=server.base_url, api_key_env="APWA_TEST_KEY", timeout_s=5)
    table = apwa.from_pandas(FRAME.head(2)).map("x", inputs="text", output={"a": int})
    caplog.set_level(logging.DEBUG)
    run = table.run(model=model, store=str(tmp_path / "store"), progress=False, on_error="raise")

    with pytest.raises(apwa.ApwaError) as caught:
        run.wait()

    assert server.calls >= 1
    chain, error = [], caught.value
    while error is not None:
        chain += [pickle.dumps(error), str(error), repr(error.args)]
        error = error.__cause__ or error.__context__
    assert grep_canary([*chain, caplog.text, tmp_path], canary_key) == []
