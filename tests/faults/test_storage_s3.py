"""Faults 52 and 53 of the matrix on S3: cached listings, a store that stumbles, credentials that expire."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

import pandas as pd
import pytest

import apwa_dask as apwa
from apwa_dask.errors import StoreError
from apwa_dask.execution.runtime import runtime
from apwa_dask.store import trouble
from apwa_dask.store.runs import RunStore

pytestmark = pytest.mark.slow
KINDS = {0: "SlowDown", 5: "InternalError", 10: "lost answer", 15: "slow"}
ROWS, PARTS, IN_FLIGHT, ASKED = 48, 8, 2, 8
FRAME = pd.DataFrame({"text": [f"row {k}" for k in range(ROWS)], "k": range(ROWS)})


def table() -> apwa.Table:
    return apwa.from_pandas(FRAME, npartitions=PARTS).map("say", inputs="text", output={"a": str})


@pytest.fixture
def proxy(s3_proxy, s3_options) -> Iterator[Any]:
    with s3_proxy.S3Proxy(s3_options["endpoint_url"]) as made:
        yield made


@pytest.fixture
def options(s3_options, proxy, monkeypatch) -> dict[str, Any]:
    """Through the proxy, and without the retries of the client below: ours have to do."""
    monkeypatch.setattr(trouble, "BASE_S", 0.0)
    plain = {"retries": {"max_attempts": 0}, "read_timeout": 20}
    return {**s3_options, "endpoint_url": proxy.url, "config_kwargs": plain}


@pytest.fixture
def whole(scripted_server, model_at, tmp_path) -> pd.DataFrame:
    """What comes out when nothing goes wrong."""
    run = table().run(model=model_at(scripted_server()), store=str(tmp_path / "whole"), progress=False)
    return run.result(status=True)


def started(server: Any, model: Any, store: str, options: dict[str, Any]) -> Any:
    """A run of which some calls have been answered, and most will not be soon."""
    run = table().run(model=model, store=store, storage_options=options, progress=False)
    server.wait_until(lambda stats: stats.calls >= ASKED)
    return run


def objects(bucket: str, options: dict[str, Any]) -> list[bytes]:
    """All that lies in the bucket, read past the proxy's troubles."""
    import s3fs

    filesystem = s3fs.S3FileSystem(**options, skip_instance_cache=True)
    return [filesystem.cat_file(name) for name in filesystem.find(bucket)]


def test_fault_53_an_s3_that_stumbles_costs_no_row_and_no_call(
    scripted_server, model_at, canary_key, invariants, whole, bucket, s3_options, proxy, options
):
    server = scripted_server()
    # sources are read with the retries of their own client, which are switched off here
    proxy.plan = lambda number, path: KINDS.get(number % 20, "") if "/source-" not in path else ""

    run = table().run(
        model=model_at(server), store=f"{bucket}/store", storage_options=options, progress=False
    )
    invariants.hold(run, server, FRAME, canary=canary_key, uninterrupted=whole)
    proxy.heal()

    assert proxy.struck.keys() == set(KINDS.values())
    assert proxy.struck.total() >= 10
    assert server.calls == ROWS
    invariants.i6_the_key_is_nowhere(canary_key, objects(bucket, s3_options))
    invariants.i6_the_key_is_nowhere(s3_options["secret"], objects(bucket, s3_options))


def test_fault_53_expired_s3_credentials_stop_the_run_in_words_and_new_ones_pay_for_the_rest(
    scripted_server, model_at, canary_key, invariants, whole, bucket, s3_options, proxy, options, slow_from
):
    server = scripted_server(faults=(slow_from(ASKED + 1),))
    store = f"{bucket}/store"
    run = started(server, model_at(server, max_concurrency=IN_FLIGHT), store, options)
    proxy.plan = lambda number, path: "ExpiredToken"

    with pytest.raises(StoreError) as caught:
        run.wait(timeout=100)
    said, stopped_at = caught.value, server.calls
    proxy.heal()
    server.set(server.script.but(faults=()))

    assert said.code == "STORE-DENIED"
    assert said.fix
    assert said.saved
    assert s3_options["secret"] not in str(said)
    assert stopped_at < ROWS, "it stopped paying"
    renewed = {**options, "key": f"AKIANEW{secrets.token_hex(4)}", "secret": secrets.token_hex(8)}
    again = apwa.attach(run.id, store, storage_options=renewed, progress=False).resume()
    invariants.hold(again, server, FRAME, canary=canary_key, uninterrupted=whole)
    assert server.calls == server.log().distinct_texts == ROWS


def test_fault_53_an_s3_that_is_gone_for_good_stops_the_run_and_loses_nothing_that_was_committed(
    scripted_server, model_at, canary_key, invariants, whole, bucket, proxy, options, slow_from
):
    server = scripted_server(faults=(slow_from(ASKED + 1),))
    store = f"{bucket}/store"
    run = started(server, model_at(server, max_concurrency=IN_FLIGHT), store, options)
    proxy.plan = lambda number, path: "InternalError"

    with pytest.raises(StoreError) as caught:
        run.wait(timeout=100)
    stopped_at = server.calls
    proxy.heal()
    server.set(server.script.but(faults=()))

    assert caught.value.saved
    assert stopped_at < ROWS, "it stopped paying"
    again = apwa.attach(run.id, store, storage_options=options, progress=False).resume()
    invariants.hold(again, server, FRAME, canary=canary_key, uninterrupted=whole)
    assert server.calls == ROWS


def test_fault_52_on_s3_what_is_done_is_never_decided_from_a_cached_listing(
    scripted_server, model_at, canary_key, invariants, whole, bucket, s3_options, slow_from
):
    """The caller's own options turn a listings cache on, and another process has worked meanwhile."""
    server = scripted_server(faults=(slow_from(ASKED + 1),))
    store, caching = f"{bucket}/store", {**s3_options, "use_listings_cache": True}
    run = started(server, model_at(server, max_concurrency=IN_FLIGHT), store, caching)
    run.stop().wait()
    server.set(server.script.but(faults=()))
    watcher = RunStore(store, {**caching, "skip_instance_cache": True}).open(run.id)
    before = {stage.index: len(watcher.committed(stage.index)) for stage in run.stages}
    other = apwa.attach(run.id, store, storage_options=s3_options, progress=False)
    other.resume().wait()

    after = {stage.index: len(watcher.committed(stage.index)) for stage in run.stages}

    assert sum(before.values()) < sum(after.values()) == PARTS
    again = apwa.attach(run.id, store, storage_options=caching, progress=False)
    assert again.resume() is again, "it sees that another has finished it"
    invariants.hold(again, server, FRAME, canary=canary_key, uninterrupted=whole)
    fresh = table().run(model=model_at(server), store=store, storage_options=caching, progress=False)
    pd.testing.assert_frame_equal(fresh.result(status=True), whole)
    assert server.calls == ROWS
    assert runtime().journal(store, "default", store_prompts=False).stats().ignored == {}
