"""Credentials of a store, on a cluster: workers have them, and nothing that is kept or shown does (S1, S2, S3)."""

from __future__ import annotations

import io
import json
import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pandas as pd
import pytest
from distributed import Client, LocalCluster

import apwa_dask as apwa
from apwa_dask.errors import ConfigError
from apwa_dask.execution.hand_over import lend
from apwa_dask.testing import grep_canary

pytestmark = pytest.mark.slow

FRAME = pd.DataFrame({"text": [f"note {k}" for k in range(60)]})
FROM_ELSEWHERE = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_ENDPOINT_URL")


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """Two worker processes that know of no credential."""
    with pytest.MonkeyPatch.context() as environment:
        for name in FROM_ELSEWHERE:
            environment.delenv(name, raising=False)
        environment.setenv("AWS_EC2_METADATA_DISABLED", "true")
        environment.setenv("APWA_TEST_KEY", "sk-for-the-workers")
        with LocalCluster(
            n_workers=2, threads_per_worker=2, processes=True, dashboard_address="127.0.0.1:0"
        ) as made:
            yield made


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[Client]:
    with Client(cluster, set_as_default=False) as made:
        made.wait_for_workers(1)  # one test retires some
        yield made


@pytest.fixture
def inputs(bucket: str, s3_options: dict[str, Any]) -> str:
    """Files in the bucket, readable with the credentials alone."""
    import s3fs

    filesystem = s3fs.S3FileSystem(**s3_options)
    for start in range(0, 60, 20):
        data = io.BytesIO()
        FRAME.iloc[start : start + 20].to_parquet(data)
        filesystem.pipe_file(f"{bucket}/in/{start:02d}.parquet", data.getvalue())
    return f"{bucket}/in/*.parquet"


def bucket_content(bucket: str, options: dict[str, Any]) -> list[bytes]:
    import s3fs

    filesystem = s3fs.S3FileSystem(**options, skip_instance_cache=True)
    return [filesystem.cat_file(name) for name in filesystem.find(bucket)]


def pages_of(client: Client) -> list[str]:
    """What the scheduler's own web server shows of itself and its workers."""
    base = client.dashboard_link.removesuffix("/status")
    names = ["info/main/workers.html", "info/main/logs.html", "json/counts.json"]
    return [urllib.request.urlopen(f"{base}/{name}", timeout=10).read().decode() for name in names]


def canaries(options: dict[str, Any]) -> list[str]:
    return [options["key"], options["secret"]]


def test_workers_read_and_write_s3_with_options_that_are_nowhere_to_be_found(
    scripted_server, model_at, client, bucket, inputs, s3_options, tmp_path
):
    server = scripted_server()
    table = apwa.read(inputs, storage_options=s3_options).map("x", inputs="text", output={"a": int})
    common = {"model": model_at(server), "store": f"{bucket}/store", "storage_options": s3_options}

    run = table.run(client=client, progress=False, **common)
    result = run.result()
    lazy = table.to_dask(client=client, **common)
    counted = client.compute(lazy.map_partitions(len)).result()

    assert result["text"].tolist() == FRAME["text"].tolist()
    assert sum(counted) == server.calls == server.log().distinct_texts == 60
    workers = {record.worker for record in run.folder.committed(0).values()}
    assert workers <= set(client.scheduler_info(n_workers=-1)["workers"]), "the work was done by the cluster"
    client.dump_cluster_state(str(tmp_path / "dump"), format="yaml")
    places: list[Any] = [
        *bucket_content(bucket, s3_options),
        cloudpickle.dumps(lazy),
        cloudpickle.dumps(dict(lazy.dask)),
        json.dumps([str(client.get_worker_logs()), str(client.get_scheduler_logs())]),
        str(client.get_events()),
        *pages_of(client),
        str(run.manifest),
        run.spec.plan.to_yaml(),
        repr(run) + run.report() + repr(run.folder),
        tmp_path,
    ]
    for canary in canaries(s3_options):
        assert grep_canary(places, canary) == []
        assert grep_canary([canary], canary), "the search finds what is there"


def test_a_frame_written_into_the_store_is_read_by_workers_and_a_worker_that_joins_later_has_the_options(
    scripted_server, model_at, client, cluster, bucket, s3_options
):
    server = scripted_server()
    table = apwa.from_pandas(FRAME, npartitions=6).map("x", inputs="text", output={"a": int})
    common = {"model": model_at(server), "store": f"{bucket}/store", "storage_options": s3_options}
    first = set(client.scheduler_info(n_workers=-1)["workers"])
    table.limit(10).run(client=client, progress=False, **common).wait()

    cluster.scale(3)
    client.wait_for_workers(3)
    joined = set(client.scheduler_info(n_workers=-1)["workers"]) - first
    client.retire_workers(sorted(first))
    run = table.run(client=client, progress=False, **common)

    assert run.result()["text"].tolist() == FRAME["text"].tolist()
    assert server.calls == 60
    done = run.folder.committed(len(run.stages) - 1).values()
    assert joined & {record.worker for record in done}


def test_what_a_client_lent_goes_with_it(client, cluster, bucket, s3_options):
    with Client(cluster, set_as_default=False) as other:
        lend(other, {f"{bucket}/lent": s3_options})
        assert client.sync(client.scheduler.apwa_borrow, place=f"{bucket}/lent") is not None

    def forgotten() -> bool:
        return client.sync(client.scheduler.apwa_borrow, place=f"{bucket}/lent") is None

    for _ in range(200):
        if forgotten():
            break
        client.sync(_a_moment)
    assert forgotten()


async def _a_moment() -> None:
    import asyncio

    await asyncio.sleep(0.05)


def test_options_that_cannot_travel_are_refused_before_any_call(
    scripted_server, model_at, client, s3_options, tmp_path
):
    import threading

    secret = s3_options["secret"]
    server = scripted_server()
    with pytest.raises(ConfigError) as refused:
        lend(client, {"s3://b": {"secret": secret, "session": threading.Lock()}})

    assert refused.value.code == "CONFIG-OPTIONS"
    assert "session" in str(refused.value)
    assert secret not in str(refused.value)
    assert server.calls == 0


def test_s14_workers_sign_with_the_key_of_the_process_that_submits(
    scripted_server, model_at, client, tmp_path, monkeypatch
):
    key = "CANARY of thirty-two characters."
    monkeypatch.setenv("APWA_JOURNAL_KEY", key)
    server = scripted_server()
    table = apwa.from_pandas(FRAME, npartitions=4).map("x", inputs="text", output={"a": int})

    table.run(model=model_at(server), store=str(tmp_path), client=client, progress=False).wait()

    segments = [path.name for path in tmp_path.glob("journal/*/seg-*")]
    assert segments
    assert all(".signed." in name for name in segments)
    again = table.run(model=model_at(server), store=str(tmp_path), scheduler="threads", progress=False)
    assert len(again.result()) == server.calls == 60
    logs = [str(client.get_worker_logs()), str(client.get_scheduler_logs()), str(client.get_events())]
    assert grep_canary([tmp_path, *logs], key) == []


def test_a_run_on_s3_is_resumed_with_new_credentials_in_the_same_process(
    scripted_server, model_at, bucket, s3_options
):
    """Fault 53: credentials expire, are given anew, and the journal's waiting answers are written with them."""
    from apwa_dask.execution.runtime import runtime

    server = scripted_server()
    store = f"{bucket}/store"
    table = apwa.from_pandas(FRAME, npartitions=2).map("x", inputs="text", output={"a": int})
    common = {"model": model_at(server), "store": store, "scheduler": "threads", "progress": False}
    first = table.run(storage_options=s3_options, **common).wait()
    journal = runtime().journal(store, "default", store_prompts=False)
    renewed = {**s3_options, "key": "AKIANEW", "secret": "new"}

    again = apwa.attach(first.id, store, storage_options=renewed, progress=False)
    runtime().journal(store, "default", store_prompts=False)

    assert again.result()["text"].tolist() == FRAME["text"].tolist()
    assert journal._folder._filesystem.get().key == "AKIANEW"
    assert Path(store).exists() is False, "nothing fell on the local disk"
    assert os.environ.get("AWS_ACCESS_KEY_ID") is None
