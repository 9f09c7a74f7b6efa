"""Every verb among the others: which rows come out, in which order, for how many calls, on any
partitioning.
"""

from __future__ import annotations

import json
import re

import dask.dataframe as dd
import pandas as pd
import pytest

import apwa_dask as apwa
from apwa_dask.testing import Fault, Rule, Script

FRAME = pd.DataFrame(
    {
        "text": [f"note {k}" for k in range(30)],
        "shop": [f"shop {k % 3}" for k in range(30)],
        "n": range(30),
        "tags": [[f"t{k}", "common"] if k % 2 else [] for k in range(30)],
    },
    index=pd.Index([f"i{k}" for k in range(30)], name="id"),
)
PACKS = Script(row_id=r"(?m)^\[(\d+),")
"""A server that finds the numbers of a pack's rows."""
EVEN = Script(
    rules=(
        Rule(r"note \d*[02468]\b", {"keep": True}, where="text"),
        Rule(r"note \d*[13579]\b", {"keep": False}, where="text"),
    )
)


@pytest.fixture
def run(scripted_server, model_at, store):
    """``run(table, script=None, **options)`` gives the run, finished, and its server."""

    def start(table: apwa.Table, script: Script | None = None, server=None, **options):
        server = server or scripted_server(script)
        options = {"model": model_at(server), "store": store, "progress": False, **options}
        return table.run(**options).wait(), server

    return start


def source(npartitions: int = 4, frame: pd.DataFrame = FRAME) -> apwa.Table:
    return apwa.from_pandas(frame, npartitions=npartitions)


@pytest.mark.parametrize("npartitions", [1, 5])
def test_filter_keeps_the_rows_judged_true_in_their_places(run, npartitions):
    done, server = run(source(npartitions).filter("even?", inputs="text"), EVEN)

    result = done.result()

    pd.testing.assert_frame_equal(result, FRAME[FRAME["n"] % 2 == 0])
    assert server.calls == 30


def test_rows_a_filter_could_not_judge_are_listed_and_not_kept(run):
    script = EVEN.but(faults=(Fault("refusal", on="note 4$"),))
    done, _ = run(source().filter("even?", inputs="text"), script)

    assert "note 4" not in set(done.result()["text"])
    assert done.failures["inputs"].tolist() == ["text=note 4"]
    assert len(done.result()) == 14


@pytest.mark.parametrize("npartitions", [1, 5])
def test_flat_map_puts_the_children_of_each_row_in_its_place(run, npartitions):
    script = Script(
        rules=(
            Rule(r"note 3\b", {"rows": []}),
            Rule(r"note 5\b", {"rows": [{"part": "a"}, {"part": "b"}, {"part": "c"}]}),
            Rule(r"note", {"rows": [{"part": "one"}]}),
        )
    )
    table = source(npartitions).flat_map("parts", inputs="text", output={"part": str})
    done, server = run(table, script)

    result = done.result()

    expected = [k for k in range(30) if k != 3 for _ in range(3 if k == 5 else 1)]
    assert result["n"].tolist() == expected
    assert result.index.tolist() == [f"i{k}" for k in expected]
    assert result.loc["i5", "part"].tolist() == ["a", "b", "c"]
    assert server.calls == 30


def test_explode_in_the_middle_gives_each_element_its_own_call(run):
    table = (
        source(3)
        .filter("even?", inputs="text", id="judge")
        .explode("tags")
        .map("say", inputs=["text", "tags"], output={"said": str})
    )
    odd = Script(
        rules=(
            Rule(r"note \d*[02468]\b", {"keep": False}),
            Rule(r"tags", {"said": "x"}, where="text"),
            Rule("note", {"keep": True}),
        )
    )
    done, server = run(table, odd)

    result = done.result()
    assert result["n"].tolist() == [k for k in range(1, 30, 2) for _ in range(2)]
    assert result["tags"].tolist() == [t for k in range(1, 30, 2) for t in (f"t{k}", "common")]
    assert server.calls == 30 + 30


def test_chunk_in_the_middle_keeps_the_order_of_the_pieces(run):
    frame = pd.DataFrame(
        {"text": [" ".join(f"w{k}_{j}" for j in range(200)) for k in range(3)], "n": range(3)}
    )
    table = (
        source(2, frame)
        .chunk("text", tokens=100, overlap_tokens=0)
        .map("say", inputs="text", output={"said": str})
    )
    done, server = run(table)

    result = done.result()

    assert result["n"].is_monotonic_increasing
    assert len(result) == server.calls > 6
    for k in range(3):
        pieces = result.loc[result["n"] == k, "text"]
        assert " ".join(pieces).split() == frame["text"][k].split()


@pytest.mark.parametrize("npartitions", [1, 3])
def test_packs_answer_for_each_of_their_rows(run, npartitions):
    done, server = run(source(npartitions).map("x", inputs="text", output={"a": str}, unit="pack(5)"), PACKS)

    result = done.result(status=True)

    assert (result["_apwa_status"] == "ok").all()
    assert result["n"].tolist() == list(range(30))
    assert result["a"].nunique() == 30
    assert server.calls == 6


def test_a_row_missing_in_a_packs_answer_is_asked_again_and_nothing_shifts(run):
    whole, _ = run(source(1).map("x", inputs="text", output={"a": str}, unit="pack(10)"), PACKS)
    script = PACKS.but(faults=(Fault("drop_item", item=3, times=1),))
    done, _server = run(
        source(1).map("x", inputs="text", output={"a": str}, unit="pack(10)"), script, namespace="other"
    )

    result = done.result(status=True)
    assert (result["_apwa_status"] == "ok").all()
    same = result["a"] == whole.result()["a"]
    assert same.sum() >= 27  # those asked again have another prompt, and so another scripted answer


@pytest.mark.parametrize("npartitions", [1, 3])
def test_unit_partition_asks_once_for_all_rows_of_a_partition(run, npartitions):
    done, server = run(
        source(npartitions).map("x", inputs="text", output={"a": str}, unit="partition"), PACKS
    )

    result = done.result()

    assert result["a"].notna().all()
    assert result["n"].tolist() == list(range(30))
    assert server.calls == npartitions


@pytest.mark.parametrize("npartitions", [1, 5])
@pytest.mark.parametrize("by", [(), "shop"])
def test_reduce_consumes_each_row_once_whatever_the_partitions(run, npartitions, by):
    table = source(npartitions).reduce("sum up", inputs="text", by=by, output={"summary": str})
    done, server = run(table)

    result = done.result()

    groups = [f"shop {k}" for k in range(3)] if by else []
    if by:
        assert result["shop"].tolist() == groups
    assert len(result) == server.calls == (3 if by else 1)
    seen = [word for call in server.log() for word in _rows_in(call.text)]
    assert sorted(seen) == list(range(30))


def _rows_in(text: str) -> list[int]:
    return [int(found) for found in re.findall(r"note (\d+)", text)]


def test_reduce_is_the_same_with_one_and_five_partitions(run, scripted_server):
    server = scripted_server()
    results = [
        run(source(n).reduce("sum up", inputs="text", by="shop", output={"summary": str}), server=server)[0]
        for n in (1, 5, 3)
    ]

    first, *others = [done.result() for done in results]
    for other in others:
        pd.testing.assert_frame_equal(first, other)
    assert server.calls == 3


def test_a_reduce_too_large_for_one_prompt_goes_through_a_tree(run, model_at, scripted_server):
    server = scripted_server(context_tokens=3000)
    frame = pd.DataFrame({"text": [f"note {k} " + "long words " * 40 for k in range(60)]})
    model = model_at(server, context_tokens=3000, max_output_tokens=300)
    table = source(5, frame).reduce("sum up", inputs="text", output={"summary": str})
    done, _ = run(table, server=server, model=model)

    assert done.result()["summary"].notna().all()
    seen = sorted(k for call in server.log() for k in _rows_in(call.text))
    assert seen == list(range(60))
    assert server.calls > 3
    again, _ = run(table, server=server, model=model)
    pd.testing.assert_frame_equal(again.result(), done.result())
    assert server.calls == len(server.log()) == len({json.dumps(call.body) for call in server.log()})


def test_reduce_with_unit_partition_gives_one_row_a_partition(run):
    done, server = run(source(5).reduce("sum up", inputs="text", output={"summary": str}, unit="partition"))

    assert len(done.result()) == server.calls == 5


def test_rows_that_failed_before_a_reduce_are_left_out_of_it(run):
    script = Script(faults=(Fault("refusal", on=r"note 7\b"),))
    table = (
        source(2)
        .map("a", inputs="text", output={"a": str})
        .reduce("sum up", inputs="a", output={"summary": str})
    )
    done, server = run(table, script)

    assert len(done.result()) == 1
    assert server.calls == 31
    assert done.failures["outcome"].tolist() == ["refused"]


def test_merge_of_two_sources_then_map(run):
    shops = pd.DataFrame({"shop": ["shop 0", "shop 2"], "city": ["Oslo", "Lima"]})
    table = (
        source(3)
        .merge(apwa.from_pandas(shops, name="shops"), on="shop")
        .map("say", inputs=["text", "city"], output={"said": str})
    )
    done, server = run(table)

    result = done.result().sort_values("n")
    assert result["n"].tolist() == [k for k in range(30) if k % 3 != 1]
    assert (result["city"] == result["shop"].map({"shop 0": "Oslo", "shop 2": "Lima"})).all()
    assert server.calls == 20


@pytest.mark.parametrize("npartitions", [1, 5])
def test_sort_limit_and_aggregate_after_a_map(run, npartitions):
    mapped = source(npartitions).map("x", inputs="text", output={"a": int})
    top, server = run(mapped.sort("a", descending=True).limit(4))
    sums, _ = run(mapped.aggregate(by="shop", most=("max", "a"), n="count"), server=server)
    whole, _ = run(mapped, server=server)

    frame = whole.result()
    expected = frame.sort_values("a", ascending=False, kind="stable").head(4)
    pd.testing.assert_frame_equal(top.result(), expected)
    by_shop = frame.groupby("shop")["a"].agg(["max", "count"])
    got = sums.result().set_index("shop").sort_index()
    assert got["most"].tolist() == by_shop["max"].tolist()
    assert got["n"].tolist() == by_shop["count"].tolist()
    assert server.calls == 30


def test_a_limit_before_a_map_pays_only_for_its_rows(run):
    done, server = run(source(5).limit(7).map("x", inputs="text", output={"a": int}))

    assert done.result()["n"].tolist() == list(range(7))
    assert server.calls == 7


def test_a_step_read_by_two_others_is_worked_once(run):
    mapped = source(2).map("x", inputs="text", output={"a": int})
    high, low = mapped.where("a >= 50"), mapped.where("a < 50")
    done, server = run(high.concat(low))

    assert sorted(done.result()["n"]) == list(range(30))
    assert server.calls == 30


@pytest.mark.parametrize("scheduler", ["sync", "threads"])
def test_the_answers_do_not_depend_on_the_scheduler(run, scripted_server, scheduler):
    server = scripted_server()
    lazy = dd.from_pandas(FRAME.drop(columns="tags").reset_index(drop=True), npartitions=3)
    table = (
        apwa.from_dask(lazy)
        .map("x", inputs="text", output={"a": int})
        .where("a > 20")
        .filter("y", inputs=["text", "a"])
        .sort("a")
    )
    expected, _ = run(table, server=server, scheduler="sync")
    done, _ = run(table, server=server, scheduler=scheduler, namespace=scheduler)

    pd.testing.assert_frame_equal(done.result(), expected.result())


def test_preview_pays_for_its_sample_and_the_run_does_not_pay_it_again(scripted_server, model_at, store):
    server = scripted_server()
    planned = source(3).map("x", inputs="text", output={"a": int}).plan()
    options = {"model": model_at(server), "store": store}

    shown = planned.preview(5, **options)
    assert (len(shown), server.calls) == (5, 5)
    result = planned.run(progress=False, **options).result()

    assert len(result) == server.calls == 30
