"""A reduce as a tree: few groups or many, any partitions, any workers: the same prompts, every row read once."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pandas as pd
import pytest
from distributed import Client, LocalCluster

import apwa_dask as apwa
from apwa_dask.errors import BudgetError, RunError
from apwa_dask.execution import reduce, reduce_groups
from apwa_dask.testing import Fault, Script, ScriptedServer
from apwa_dask.testing.script import ChatRequest

FILLER = " and so on" * 80
WORDY = "long words " * 40
SMALL = {"context_tokens": 3000, "max_output_tokens": 300}
"""A model whose prompts hold some twenty rows of `wordy`."""


def wordy(rows: int, groups: int) -> pd.DataFrame:
    return pd.DataFrame(
        {"text": [f"note {k} {WORDY}" for k in range(rows)], "g": [k % groups for k in range(rows)]}
    )


def summed(frame: pd.DataFrame, npartitions: int, by: tuple[str, ...] = (), **options: Any) -> apwa.Table:
    table = apwa.from_pandas(frame, npartitions=npartitions)
    return table.reduce("sum up", inputs="text", by=by, output={"summary": str, "count": int}, **options)


def notes_of(request: ChatRequest) -> Any:
    """Notes as long as the model may write them; other answers as the server makes them."""
    if request.schema is None or "notes" not in request.schema["properties"]:
        return None
    digest = hashlib.sha256(request.text.encode()).hexdigest()[:12]
    return {"notes": f"seen {digest}{FILLER}"}


def rows_read(server: ScriptedServer) -> list[int]:
    return sorted(int(found) for call in server.log() for found in re.findall(r"note (\d+) ", call.text))


def bodies(server: ScriptedServer) -> Counter[str]:
    return Counter(json.dumps(call.body, sort_keys=True) for call in server.log())


@pytest.fixture
def run(scripted_server: Any, model_at: Any, store: str) -> Callable[..., tuple[apwa.Run, ScriptedServer]]:
    def start(table: apwa.Table, server: ScriptedServer | None = None, **options: Any) -> Any:
        server = server or scripted_server(Script(respond=notes_of, context_tokens=3000), in_process=True)
        settings = {"model": model_at(server, **SMALL), "store": store, "progress": False, **options}
        return table.run(**settings).wait(), server

    return start


# -- few groups, and many


@pytest.mark.parametrize("by", [(), ("g",)])
def test_every_row_is_read_once_by_leaves_of_bounded_size_and_each_answer_is_typed(run, by):
    done, server = run(summed(wordy(300, 3), 40, by))

    result = done.result()
    assert result.dtypes.astype(str)[["summary", "count"]].tolist() == ["string", "Int64"]
    assert result[["summary", "count"]].notna().all(axis=None)
    assert result["g"].tolist() == [0, 1, 2] if by else len(result) == 1
    assert rows_read(server) == list(range(300))
    assert all(len(json.dumps(call.body)) < 4 * 3000 for call in server.log())
    assert max(bodies(server).values()) == 1
    levels = sum("Notes 1:" in call.text for call in server.log())
    assert levels > 3, "notes were made of notes"


def test_groups_come_in_the_order_in_which_they_first_occur_whatever_the_partitions(run, scripted_server):
    keys = [f"k{(k * 7) % 90}" if k % 5 else None for k in range(450)]
    frame = pd.DataFrame({"text": [f"note {k} ." for k in range(450)], "g": keys})
    server = scripted_server(context_tokens=3000)

    results = [run(summed(frame, n, ("g",)), server)[0].result() for n in (1, 7, 40)]

    assert results[0]["g"].fillna("null").tolist() == [key or "null" for key in dict.fromkeys(keys)]
    for other in results[1:]:
        pd.testing.assert_frame_equal(other, results[0])
    assert server.calls == results[0].shape[0], (
        "small groups have one prompt each, the same in any partitions"
    )


def test_many_groups_are_spread_over_all_nodes_and_no_node_holds_more_than_its_share(run, monkeypatch):
    held: list[int] = []
    partial = reduce.GroupTree.partial

    def noted(tree: reduce.GroupTree) -> pd.DataFrame:
        held.append(sum(len(group.items) for group in tree.groups.values()))
        return partial(tree)

    monkeypatch.setattr(reduce.GroupTree, "partial", noted)
    frame = pd.DataFrame(
        {"text": [f"note {k} ." for k in range(6_000)], "g": [k % 2_000 for k in range(6_000)]}
    )

    done, server = run(summed(frame, 50, ("g",)), scheduler="threads")

    parts = done.folder.committed(done.stages[-1].index)
    assert len(parts) == 50
    assert all(record.rows_out == 40 for record in parts.values())
    assert server.calls == 2_000
    assert rows_read(server) == list(range(6_000))
    assert max(held) < 6_000 // 50 * 3, "a node holds about a fiftieth of the rows, at any level"


def test_neighbours_are_merged_where_there_are_more_partitions_than_nodes(run, monkeypatch, scripted_server):
    frame = wordy(120, 2)
    monkeypatch.setattr(reduce_groups, "NODES_AT_MOST", 5)
    monkeypatch.setattr(reduce_groups, "BLOCK", 2)

    done, server = run(summed(frame, 12, ("g",)), scheduler="threads")

    assert done.result()["g"].tolist() == [0, 1]
    assert rows_read(server) == list(range(120))
    story = done.row(1)
    assert sum(len(re.findall(r"note \d+ ", exchange.messages[-1][1])) for exchange in story.exchanges) == 60
    assert len(done.lineage(1).origins) == 60


def test_a_group_that_fails_costs_no_other_and_is_named(run, scripted_server):
    server = scripted_server(Script(context_tokens=3000, faults=(Fault("refusal", on=r"note 4 "),)))

    done, _ = run(summed(wordy(60, 6), 8, ("g",)), server)

    result = done.result(status=True)
    assert result["_apwa_status"].tolist() == ["ok"] * 4 + ["refused", "ok"]
    assert done.failures[["row_id", "outcome", "inputs"]].values.tolist() == [["r4", "refused", "g=4"]]
    assert done.costs()["calls"].sum() == server.calls


# -- bounds and checks


@pytest.mark.parametrize("by", [(), ("g",)])
def test_a_tree_that_would_pass_its_levels_ends_as_too_large(run, by):
    done, server = run(summed(wordy(400, 1), 20, by, max_levels=1))

    assert done.failures["outcome"].tolist() == ["too_large"]
    assert "max_levels=1" in done.failures["message"].iloc[0]
    assert not any("Notes 1:" in call.text for call in server.log())
    higher, _ = run(summed(wordy(400, 1), 20, by), server)
    assert higher.result()["summary"].notna().all()
    assert max(bodies(server).values()) == 1, "what was paid for the low tree is not paid again"


@pytest.mark.parametrize("by", [(), ("g",)])
def test_a_row_that_is_lost_on_the_way_stops_the_run_before_its_answer(run, monkeypatch, by):
    add = reduce.GroupTree.add_partials

    def losing(tree: reduce.GroupTree, frame: pd.DataFrame) -> None:
        rows = frame["_apwa_items"].notna()
        add(tree, frame[rows].iloc[1:] if rows.sum() > 2 else frame[rows])
        add(tree, frame[~rows])

    monkeypatch.setattr(reduce.GroupTree, "add_partials", losing)
    frame = pd.DataFrame({"text": [f"note {k} ." for k in range(40)], "g": [k % 2 for k in range(40)]})

    with pytest.raises(RunError, match="RUN-ROWS"):
        run(summed(frame, 10, by), scheduler="sync")


# -- paid once


@pytest.mark.parametrize("by", [(), ("g",)])
def test_a_tree_that_stops_at_its_budget_is_finished_by_a_resume_and_each_level_is_paid_once(run, by):
    table = summed(wordy(300, 2), 10, by)
    full, server = run(table, namespace="full")
    whole = bodies(server)
    server.reset()

    stopped = table.run(
        model=full.spec.models[""],
        store=full.store,
        progress=False,
        budget=apwa.Budget(calls=len(whole) * 2 // 3),
    )
    with pytest.raises(apwa.ApwaError):
        stopped.wait()
    finished = apwa.attach(stopped.id, full.store, progress=False).resume(budget=apwa.Budget(calls=10_000))

    pd.testing.assert_frame_equal(finished.result(), full.result())
    assert bodies(server) == whole


def test_documents_in_pieces_are_read_in_their_order_with_their_headings(run):
    sections = "".join(
        f"# Part {p}\n\n"
        + "".join(f"## Section {p}.{s}\n\n" + f"Item {p}.{s} says so. " * 30 + "\n\n" for s in range(3))
        for p in range(4)
    )
    frame = pd.DataFrame({"doc": ["a", "b"], "text": [sections, sections.replace("Item", "Point")]})
    table = apwa.from_pandas(frame, npartitions=2).chunk("text", tokens=200, overlap_tokens=20, headings=True)
    table = table.reduce("sum up", inputs=["text_headings", "text"], by="doc", output={"summary": str})

    done, server = run(table)

    assert done.result()["doc"].tolist() == ["a", "b"]
    for word in ("Item", "Point"):
        leaves = sorted(
            [(int(p), int(s)) for p, s in found]
            for call in server.log()
            if (found := re.findall(rf"{word} (\d)\.(\d) says", call.text))
        )
        assert {place for leaf in leaves for place in leaf} == {(p, s) for p in range(4) for s in range(3)}
        assert all(leaf == sorted(leaf) for leaf in leaves), (
            "in a prompt, pieces stand in the document's order"
        )
        assert all(one[-1] <= other[0] for one, other in pairwise(leaves)), "prompts are stretches of it"
    lines = [
        json.loads(line)
        for call in server.log()
        for line in call.text.splitlines()
        if line.startswith('["Part') and "says so" in line
    ]
    assert lines
    for headings, text in lines:
        part = re.search(r"Part (\d)", headings).group(1)  # type: ignore[union-attr]
        assert re.search(rf"(Item|Point) {part}\.", text)


# -- on real worker processes

UNFLUSHED = 256
"""Answers that one process keeps in memory at most."""


@pytest.fixture(scope="module")
def cluster():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", "sk-only-for-loopback")  # workers look for it in their own environment
        with LocalCluster(
            n_workers=1, threads_per_worker=2, processes=True, dashboard_address="127.0.0.1:0"
        ) as made:
            yield made


@pytest.fixture
def client(cluster):
    with Client(cluster, set_as_default=False) as made:
        yield made


@pytest.fixture
def server(scripted_server):
    return scripted_server(Script(respond=notes_of, context_tokens=3000), in_process=True)


@pytest.mark.slow
def test_one_worker_and_four_ask_the_same_prompts_and_give_the_same_rows(
    cluster, client, server, model_at, store
):
    results: list[list[pd.DataFrame]] = []
    asked: list[Counter[str]] = []
    for workers in (1, 4):
        cluster.scale(workers)
        client.wait_for_workers(workers, timeout=120)
        settings = {"model": model_at(server, **SMALL), "namespace": f"of-{workers}", "progress": False}
        tables = [summed(wordy(200, 5), 10, by) for by in ((), ("g",))]
        results.append([table.run(store=store, client=client, **settings).result() for table in tables])
        asked.append(bodies(server))
        server.reset()

    for one, four in zip(*results, strict=True):
        pd.testing.assert_frame_equal(one, four)
    assert asked[0] == asked[1]
    assert max(asked[0].values()) == 1


@pytest.mark.slow
def test_a_worker_that_is_killed_in_the_tree_costs_at_most_what_was_unflushed(
    cluster, client, server, model_at, store
):
    cluster.scale(4)
    client.wait_for_workers(4, timeout=120)
    table = summed(wordy(240, 7), 12, ("g",))
    model = model_at(server, **SMALL, max_concurrency=8)
    whole = table.run(
        model=model, store=store, scheduler="threads", namespace="whole", progress=False
    ).result()
    asked = bodies(server)
    server.reset()
    server.set(server.script.but(latency_s=0.05))
    run = table.run(model=model, store=store, client=client, progress=False)
    server.wait_until(lambda stats: stats.calls >= len(asked) // 2)

    os.kill(next(iter(client.run(os.getpid).values())), signal.SIGKILL)
    result = run.result()

    pd.testing.assert_frame_equal(result, whole)
    assert set(bodies(server)) == set(asked), "the same tree, whoever does it"
    assert sum(bodies(server).values()) - len(asked) <= 8 + UNFLUSHED
    assert set(rows_read(server)) == set(range(240))
    paid = server.calls
    again = table.run(model=model, store=store, scheduler="threads", progress=False).result()
    pd.testing.assert_frame_equal(again, whole)
    assert server.calls == paid
    client.wait_for_workers(4, timeout=120)


@pytest.mark.slow
@pytest.mark.parametrize("by", [(), ("g",)])
def test_the_budget_of_a_tree_is_one_for_all_workers_and_its_end_is_said(
    cluster, client, server, model_at, store, by
):
    table = summed(wordy(200, 5), 8, by)
    run = table.run(
        model=model_at(server, **SMALL),
        store=store,
        client=client,
        budget=apwa.Budget(calls=10),
        progress=False,
    )

    with pytest.raises(BudgetError):
        run.wait()

    assert server.calls <= 10
    assert run.status()["status"] == "stopped"
    finished = run.resume(budget=apwa.Budget(calls=1_000)).result()
    assert finished["summary"].notna().all()
    assert max(bodies(server).values()) == 1
