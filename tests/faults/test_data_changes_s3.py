"""Fault 30 on object stores and clusters: a changed object is known by its ETag, though its size may stay."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import apwa_dask as apwa
from apwa_dask.errors import SourceError
from apwa_dask.testing import Fault, On, Script, ScriptedServer

pytestmark = pytest.mark.slow
ROWS = 10


class Objects:
    """Three objects of ten rows in a bucket, a partition each."""

    def __init__(self, url: str, options: dict[str, Any]) -> None:
        import s3fs

        self.url, self.options = f"{url}/in", options
        self._filesystem = s3fs.S3FileSystem(**options, skip_instance_cache=True)
        self.rows = {name: [f"row {name}{k}" for k in range(ROWS)] for name in "abc"}
        for name in self.rows:
            self.write(name)

    def write(self, name: str) -> None:
        text = "text\n" + "".join(f"{row}\n" for row in self.rows[name])
        self._filesystem.pipe_file(f"{self.url}/{name}.csv", text.encode())

    def edit(self, name: str) -> None:
        """One row, by as many letters."""
        self.rows[name][1] = f"ROW {name}1"
        self.write(name)

    @property
    def frame(self) -> pd.DataFrame:
        return pd.DataFrame({"text": [row for name in sorted(self.rows) for row in self.rows[name]]})

    def table(self) -> apwa.Table:
        table = apwa.read(self.url, partition_rows=ROWS, storage_options=self.options)
        assert isinstance(table, apwa.Table)
        return table.map("say", inputs="text", output={"a": str})


@pytest.fixture
def objects(bucket: str, s3_options: dict[str, Any]) -> Objects:
    return Objects(bucket, s3_options)


@pytest.fixture(scope="module")
def cluster(processes, tmp_path_factory):
    with processes.Cluster(tmp_path_factory.mktemp("cluster")) as made:
        for _ in range(2):
            made.add_worker()
        yield made


@pytest.fixture(params=["this process", "a cluster"])
def where(request, processes, canary_key, monkeypatch) -> Iterator[dict[str, Any]]:
    """Options of a run: where it works."""
    monkeypatch.setenv("APWA_TEST_KEY", processes.KEY)
    if request.param == "this process":
        yield {"scheduler": "sync"}
        return
    cluster = request.getfixturevalue("cluster")
    with cluster.client() as client:
        cluster.ready(client, 2)
        yield {"client": client}


@pytest.fixture
def interrupted(
    scripted_server, model_at, bucket, s3_options, objects, where
) -> tuple[ScriptedServer, apwa.Run]:
    """Some rows are paid, and the account is empty."""
    empty = Fault("insufficient_quota", on=On(calls=tuple(range(26, 200))))
    server = scripted_server(Script(faults=(empty,)))
    run = objects.table().run(
        model=model_at(server, max_concurrency=1),
        store=f"{bucket}/store",
        storage_options=s3_options,
        progress=False,
        **where,
    )
    with pytest.raises(apwa.ApwaError):
        run.wait(timeout=100)
    assert len(server.log().billed) == 25
    server.set(Script())
    return server, run


def test_fault_30_an_object_that_changed_is_known_by_its_etag_and_only_its_new_rows_are_paid(
    interrupted, objects, invariants
):
    server, run = interrupted
    committed = run.folder.committed(0)
    name = "abc"[min(committed, default=0)]
    objects.edit(name)
    before = server.calls
    with pytest.raises(SourceError) as caught:
        run.resume()

    assert caught.value.code == "SOURCE-CHANGED"
    assert caught.value.where == f"changed: {name}.csv"
    assert server.calls == before
    redone = run.resume(on_change="redo")
    result = redone.result(status=True)

    invariants.i1_every_row_has_one_status(redone, 3 * ROWS)
    invariants.i2_order_and_index_are_the_inputs(result, objects.frame)
    invariants.i4_little_is_paid_again(server, 0)
    assert result["_apwa_status"].eq("ok").all()
    assert server.calls - before == 5 + 1  # what was still to be asked, and the row that is new
    now = {record.part.sha256 for record in redone.folder.committed(0).values()}
    assert {record.part.sha256 for k, record in committed.items() if "abc"[k] != name} <= now


def test_fault_30_a_file_that_changes_under_a_run_on_a_cluster_is_redone_there_and_nothing_else(
    processes, cluster, scripted_server, model_at, store, tmp_path: Path, canary_key, invariants, monkeypatch
):
    monkeypatch.setenv("APWA_TEST_KEY", processes.KEY)
    folder = tmp_path / "in"
    folder.mkdir()
    for name in "abcdef":
        (folder / f"{name}.csv").write_text("text\n" + "".join(f"row {name}{k}\n" for k in range(ROWS)))
    server = scripted_server()
    table = apwa.read(str(folder), partition_rows=ROWS).map("say", inputs="text", output={"a": str})
    with cluster.client() as client:
        cluster.ready(client, 2)
        run = table.run(model=model_at(server), store=store, client=client, progress=False).wait(timeout=100)
        (folder / "c.csv").write_text("text\n" + "".join(f"row c{k}\n" for k in range(1, ROWS)) + "row new\n")

        redone = run.resume(on_change="redo")
        result = redone.result()

    old, new = run.folder.committed(0), redone.folder.committed(0)
    assert [k for k in new if new[k].part.sha256 == old[k].part.sha256] == [0, 1, 3, 4, 5]
    expected = [row for name in "abcdef" for row in (folder / f"{name}.csv").read_text().splitlines()[1:]]
    invariants.i2_order_and_index_are_the_inputs(result, pd.DataFrame({"text": expected}))
    assert server.calls == 6 * ROWS + 1
