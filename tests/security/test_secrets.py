"""S1 to S4: the key is in no graph, log, exception, page, file or report; our errors travel without it."""

from __future__ import annotations

import inspect
import logging
import pickle
from collections.abc import Iterator

import cloudpickle
import pandas as pd
import pytest

import apwa_dask as apwa
from apwa_dask import errors
from apwa_dask.errors import ApwaError
from apwa_dask.execution.hand_over import Lender
from apwa_dask.execution.runtime import runtime
from apwa_dask.testing import Fault, Script, grep_canary

FRAME = pd.DataFrame({"text": [f"row {k}" for k in range(12)]})


def mapped() -> apwa.Table:
    return apwa.from_pandas(FRAME, npartitions=2).map("x", inputs="text", output={"a": int})


def test_s01_no_key_or_storage_option_is_in_a_graph(scripted_server, model_at, canary_key, store):
    secret = "secret-CANARY-of-the-store"
    common = {
        "model": model_at(scripted_server()),
        "store": store,
        "storage_options": {"secret": secret, "endpoint_url": f"http://u:{secret}@b"},
    }
    lazy = mapped().to_dask(**common)
    run = mapped().run(scheduler="threads", progress=False, **common).wait()

    graphs = [
        cloudpickle.dumps(lazy),
        cloudpickle.dumps(dict(lazy.__dask_graph__())),
        cloudpickle.dumps(run.frame),
        cloudpickle.dumps((run.spec, run.stages, mapped().plan())),
    ]
    assert grep_canary(graphs, canary_key) == []
    assert grep_canary(graphs, secret) == []
    assert grep_canary(cloudpickle.dumps({"key": canary_key}), canary_key), "the search finds what is there"


@pytest.mark.parametrize(
    "fault",
    [
        Fault("status", status=401),
        Fault("status", status=403),
        Fault("insufficient_quota"),
        Fault("status", status=429, times=1, retry_after="0"),
        Fault("status", status=400),
        Fault("error_in_200", times=1),
        Fault("wrong_enum"),
        Fault("disconnect", times=1),
        Fault("broken_json", times=1),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.status}",
)
def test_s02_the_key_is_in_no_log_and_no_exception_however_the_endpoint_fails(
    scripted_server, model_at, canary_key, store, caplog, fault, tmp_path
):
    server = scripted_server(Script(faults=(fault,)))
    caplog.set_level(logging.DEBUG)
    run = mapped().run(model=model_at(server), store=store, progress=False, on_error="raise")

    said: list[bytes | str] = []
    try:
        run.wait(timeout=100)
    except ApwaError as error:
        said = list(_told(error))

    assert server.calls >= 1
    assert grep_canary([*said, caplog.text, repr(run), run.failures.to_json(), tmp_path], canary_key) == []


def _told(error: BaseException | None) -> Iterator[bytes | str]:
    """All that a chain of exceptions could show somewhere."""
    while error is not None:
        yield from (pickle.dumps(error), str(error), repr(error.args), str(vars(error)))
        error = error.__cause__ or error.__context__


def test_s03_secrets_of_every_kind_are_in_no_file_report_or_output(
    scripted_server, model_at, canary_key, tmp_path
):
    store, out = tmp_path / "store", tmp_path / "out"
    secret = "secret-CANARY-of-the-store"
    server = scripted_server(Script(api_key=canary_key, faults=(Fault("refusal", on="row 3"),)))
    run = mapped().run(
        model=model_at(server),
        store=str(store),
        storage_options={"secret": secret, "token": secret},
        name=f"from s3://AKIA:{secret}@bucket/in?X-Amz-Signature={secret}",
        progress=False,
    )
    run.wait()
    run.report(str(tmp_path / "report.html"))
    run.export(str(out / "result.parquet"))
    shown = [repr(run), run._repr_html_(), str(run.manifest), run.costs().to_json(), run.failures.to_json()]
    shown += [
        repr(run.spec),
        repr(run.folder),
        repr(runtime().journal(str(store), "default", store_prompts=False)),
    ]

    assert server.calls == 12
    assert run.status()["rows_failed"] == 1
    assert grep_canary([tmp_path, *shown], canary_key) == []
    assert grep_canary([tmp_path], secret) == []


def _classes() -> list[type[ApwaError]]:
    found = [found for _, found in inspect.getmembers(errors, inspect.isclass)]
    return [found for found in found if issubclass(found, ApwaError)]


@pytest.mark.parametrize("kind", _classes(), ids=lambda kind: kind.__name__)
def test_s04_every_error_travels_whole_and_carries_text_only(kind: type[ApwaError]) -> None:
    given = {"where": "a", "why": "b", "fix": "c", "saved": "d", "code": "X-1"}
    error = kind("what", **given)
    for wire in (pickle, cloudpickle):
        came = wire.loads(wire.dumps(error))
        assert type(came) is kind
        assert str(came) == str(error)
        assert all(isinstance(value, str) for value in vars(came).values())


def test_s04_what_led_to_an_error_stays_behind_although_dask_would_send_it(canary_key) -> None:
    pytest.importorskip("tblib").pickling_support.install()
    try:
        try:
            raise RuntimeError(f"a provider's own, with its request: Bearer {canary_key}")
        except RuntimeError as cause:
            raise errors.ProviderError("refused", fix="look at the key") from cause
    except errors.ProviderError as error:
        chained = error
    assert grep_canary(pickle.dumps(chained), canary_key), "without care it travels along"

    assert grep_canary(pickle.dumps(chained.alone()), canary_key) == []
    assert str(chained.alone()) == str(chained)


def test_s04_a_lazy_frame_that_is_stopped_raises_our_error_alone(scripted_server, model_at, store):
    server = scripted_server(Script(api_key="sk-another"))
    with pytest.raises(ApwaError) as stopped:
        mapped().to_dask(model=model_at(server), store=store).compute(scheduler="threads")
    assert (stopped.value.__cause__, stopped.value.__context__) == (None, None)


def test_s04_a_providers_error_that_holds_the_key_becomes_one_of_ours_without_it(
    scripted_server, model_at, canary_key, store
):
    server = scripted_server(Script(api_key="sk-another"))

    with pytest.raises(ApwaError) as refused:
        mapped().run(model=model_at(server), store=store, progress=False).wait()

    came = pickle.loads(pickle.dumps(refused.value))
    assert str(came) == str(refused.value)
    assert grep_canary(list(_told(refused.value)), canary_key) == []
    assert not {"request", "response", "headers"} & {*vars(refused.value)}


def test_s02_what_lends_options_to_workers_shows_none_of_them() -> None:
    lender = Lender()
    lender._sealed = {"s3://b": ("client-1", {"secret": "CANARY"})}
    assert "CANARY" not in repr(lender)
