"""Joins by a model, against the server's log: who meets whom, what is asked, and that nothing is asked twice."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pandas as pd
import pytest

import apwa_dask as apwa
from apwa_dask.errors import PlanError, RunError
from apwa_dask.testing import ChatRequest, Script, ScriptedServer
from tests.execution.conftest import ModelAt

LEFT = pd.DataFrame(
    {"name": ["a", "b", "c", None, "e", "f"], "k": ["x", "x", "y", "y", None, "w"]},
    index=[10, 11, 12, 13, 14, 15],
)
RIGHT = pd.DataFrame(
    {"name": ["A", "B", "B", "C", "Z", "F"], "k": ["x", "x", "x", "z", None, "w"], "v": [1, 2, 3, 4, 5, 6]}
)


def same_letter(request: ChatRequest) -> str:
    """Judges ``name: a`` and ``name_right: A`` by their letters."""
    cells = dict(line.split(": ", 1) for line in request.text.splitlines() if ": " in line)
    return orjson.dumps({"match": cells["name"].lower() == cells["name_right"].lower()}).decode()


def tables(left: int = 2, right: int = 3) -> tuple[apwa.Table, apwa.Table]:
    return (
        apwa.from_pandas(LEFT, npartitions=left, name="l"),
        apwa.from_pandas(RIGHT, npartitions=right, name="r"),
    )


def joined(how: str = "inner", *, left: int = 2, right: int = 3, **block: Any) -> apwa.Table:
    one, other = tables(left, right)
    return one.join(
        other, "the same letter?", inputs=["name", "name_right"], how=how, **(block or {"on": "k"})
    )


def rows_of(frame: pd.DataFrame) -> list[tuple[Any, ...]]:
    cells = frame[["name", "v"]] if "v" in frame.columns else frame[["name"]]
    return [
        tuple(None if pd.isna(value) else value for value in row) for row in cells.itertuples(index=False)
    ]


MATCHES = [("a", 1), ("b", 2), ("b", 3), ("f", 6)]
WANTED: dict[str, list[tuple[Any, ...]]] = {
    "inner": MATCHES,
    "left": [("a", 1), ("b", 2), ("b", 3), ("c", None), (None, None), ("e", None), ("f", 6)],
    "right": [*MATCHES, (None, 4), (None, 5)],
    "outer": [("a", 1), ("b", 2), ("b", 3), ("c", None), (None, None), ("e", None), ("f", 6), (None, 4), (None, 5)],
    "semi": [("a",), ("b",), ("f",)],
    "anti": [("c",), (None,), ("e",)],
}  # fmt: skip


@pytest.fixture
def server() -> Any:
    with ScriptedServer(Script(respond=same_letter), in_process=True) as server:
        yield server


def options(store: str, model: apwa.Model) -> dict[str, Any]:
    return {"store": store, "model": model, "progress": False, "scheduler": "sync"}


@pytest.mark.parametrize("how", list(WANTED))
def test_each_way_to_join_gives_its_rows_in_order(
    how: str, server: ScriptedServer, store: str, model_at: ModelAt
) -> None:
    run = joined(how).run(**options(store, model_at(server))).wait()
    assert rows_of(run.result()) == WANTED[how]


@pytest.mark.parametrize(("left", "right"), [(1, 1), (1, 4), (5, 1), (3, 2)])
def test_a_join_does_not_depend_on_partitions(
    left: int, right: int, server: ScriptedServer, store: str, model_at: ModelAt
) -> None:
    for how in ("outer", "anti"):
        run = joined(how, left=left, right=right).run(**options(store, model_at(server))).wait()
        assert rows_of(run.result()) == WANTED[how]


def test_a_pair_is_asked_about_once_whatever_the_join_and_a_run_again_asks_nothing(
    server: ScriptedServer, store: str, model_at: ModelAt
) -> None:
    for how in WANTED:
        joined(how).run(**options(store, model_at(server))).wait()
    asked = Counter(call.text for call in server.log().calls)
    # the two rows named B are one question
    pairs = [("a", "A"), ("a", "B"), ("b", "A"), ("b", "B"), ("f", "F")]
    assert asked == Counter(f"name: {a}\nname_right: {b}" for a, b in pairs)


def test_a_lazy_frame_holds_the_same_rows(server: ScriptedServer, store: str, model_at: ModelAt) -> None:
    frame = joined("outer").to_dask(model=model_at(server), store=store)
    assert rows_of(frame.compute(scheduler="sync")) == WANTED["outer"]


def test_semi_and_anti_keep_the_index_of_the_left_frame(
    server: ScriptedServer, store: str, model_at: ModelAt
) -> None:
    frame = joined("semi").run(**options(store, model_at(server))).result()
    assert list(frame.index) == [10, 11, 15]


def test_what_cannot_be_judged_is_not_said_to_be_unmatched(store: str, model_at: ModelAt) -> None:
    def no_words(request: ChatRequest) -> str:
        return '{"match": "perhaps"}' if "name_right: F" in request.prompt else same_letter(request)

    with ScriptedServer(Script(respond=no_words), in_process=True) as server:
        kept = {}
        for how in ("inner", "left", "outer", "semi", "anti"):
            run = joined(how).run(**options(store, model_at(server))).wait()
            result = run.result(status=True)
            kept[how] = result[result["_apwa_status"] != "ok"]["name"].dropna().tolist()
            assert run.failures["step"].tolist() == ["join_1"]
    assert kept == {"inner": [], "left": ["f"], "outer": ["f"], "semi": [], "anti": ["f"]}


def test_a_condition_makes_the_pairs(server: ScriptedServer, store: str, model_at: ModelAt) -> None:
    table = joined("inner", condition="lower(name_right) <= name AND v <> 3")
    assert rows_of(table.run(**options(store, model_at(server))).result()) == [
        ("a", 1),
        ("b", 2),
        ("c", 4),
        ("f", 6),
    ]
    assert len(server.log().calls) == 1 + 2 + 3 + 3 + 4


def test_a_short_right_table_is_one_question_a_row(store: str, model_at: ModelAt) -> None:
    def choose(request: ChatRequest) -> str:
        listed, _, own = request.text.rpartition("\n\nname: ")
        lines = [line for line in listed.splitlines() if line[:1].isdigit()]
        fits = [int(line.split(".")[0]) for line in lines if line.lower().endswith(f"name: {own}")]
        return orjson.dumps({"matches": fits}).decode()

    with ScriptedServer(Script(respond=choose), in_process=True) as server:
        one, other = tables()
        table = one.join(other, "the same letter?", inputs=["name", "name_right"], how="left")
        rows = rows_of(table.run(**options(store, model_at(server))).result())
        assert len(server.log().calls) == 5  # not 5 x 6; the row without a name is not asked about
    assert rows == [("a", 1), ("b", 2), ("b", 3), ("c", 4), (None, None), ("e", None), ("f", 6)]


def test_a_number_that_is_not_on_the_list_fails_its_row(store: str, model_at: ModelAt) -> None:
    with ScriptedServer(Script(respond=lambda _: '{"matches": [99]}'), in_process=True) as server:
        one, other = tables()
        table = one.join(other, "the same?", inputs=["name", "name_right"], how="anti")
        result = table.run(**options(store, model_at(server))).result(status=True)
    assert set(result["_apwa_status"]) == {"invalid_output", "ok"}


def test_a_long_right_table_without_a_block_is_refused_before_any_call(
    server: ScriptedServer, store: str, model_at: ModelAt
) -> None:
    one = apwa.from_pandas(LEFT, name="l")
    other = apwa.from_pandas(pd.DataFrame({"other": [str(i) for i in range(51)]}), npartitions=3, name="r")
    run = one.join(other, "the same?", inputs=["name", "other"]).run(**options(store, model_at(server)))
    with pytest.raises(RunError, match="more than 50 rows"):
        run.wait()
    assert not server.log().calls


@pytest.mark.parametrize(
    ("caps", "said"),
    [({"max_pairs_per_row": 2}, "has 3 pairs"), ({"max_pairs": 6}, "7 pairs, more than max_pairs=6")],
)
def test_a_block_that_explodes_is_refused_before_any_call(
    caps: dict[str, int], said: str, server: ScriptedServer, store: str, model_at: ModelAt
) -> None:
    run = joined("inner", on="k", **caps).run(**options(store, model_at(server)))
    with pytest.raises(RunError, match=said):
        run.wait()
    assert not server.log().calls


def test_the_recall_of_a_block_is_measured_on_all_pairs_of_some_rows_and_paid_once(
    server: ScriptedServer, store: str, model_at: ModelAt
) -> None:
    table = joined("inner")
    found = table.block_recall(rows=6, **options(store, model_at(server)))
    assert (found.matches, found.found) == (5, 4)  # c and C have other keys
    low, high = found.interval
    assert low < 0.8 < high
    asked = len(server.log().calls)
    assert rows_of(table.run(**options(store, model_at(server))).result()) == MATCHES
    assert len(server.log().calls) == asked
    with pytest.raises(RunError, match="max_pairs"):
        table.block_recall(rows=6, max_pairs=10, **options(store, model_at(server)))


def test_a_join_is_a_step_like_others_in_plans_of_several(
    server: ScriptedServer, store: str, model_at: ModelAt
) -> None:
    table = joined("inner").where("v > 1").select("name", "v").sort("v", descending=True).limit(2)
    plan = table.plan()
    assert apwa.Plan.from_yaml(plan.to_yaml()) == plan.plan
    assert rows_of(table.run(**options(store, model_at(server))).result()) == [("f", 6), ("b", 3)]


def test_a_row_of_a_join_leads_back_to_both_tables(
    server: ScriptedServer, store: str, model_at: ModelAt
) -> None:
    run = joined("inner").run(**options(store, model_at(server))).wait()
    origins = run.lineage(3).origins
    assert set(zip(origins["source"], origins["row"], strict=True)) == {
        ("l", 2),
        ("r", 1),
    }  # of their last partitions


def test_a_join_that_cannot_be_is_refused_with_the_candidates() -> None:
    one, other = tables()
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"on": "kk"}, "no column 'kk'"),
        ({"similar": "v", "similar_right": "v"}, "no column 'v'"),
        ({"similar": "name", "similar_right": "v"}, "no text; texts: name"),
        ({"condition": "v + 1"}, "not boolean"),
        ({"condition": "z = 1"}, "no column 'z'"),
        ({"inputs": ["name"], "on": "k"}, "nothing of the right row"),
        ({"left_on": "k", "right_on": ["k", "v"]}, "1 left keys and 2 right keys"),
    ]
    for block, said in wrong:
        with pytest.raises(PlanError, match=said.replace("+", r"\+")):
            one.join(other, "the same?", **{"inputs": ["name", "name_right"], **block})


def test_the_estimate_counts_candidate_pairs(model_at: ModelAt, server: ScriptedServer) -> None:
    calls = joined("inner").plan().estimate(model=model_at(server)).steps["join_1"].calls
    assert calls is not None
    assert calls.low <= 7 <= calls.high
    one, other = tables()
    listed = one.join(other, "?", inputs=["name", "name_right"]).plan().estimate(model=model_at(server))
    asked = listed.steps["join_1"].calls
    assert asked is not None
    assert asked.expected <= len(LEFT)


SHARED = Path(os.environ.get("APWA_SHARED_DATA", Path(__file__).parents[2].parent / "shared" / "data"))


@pytest.mark.skipif(not (SHARED / "match_bibliography").is_dir(), reason="the shared data sets are not here")
def test_publications_meet_with_gold_answers(store: str, model_at: ModelAt) -> None:
    """Two bibliographies, 200 x 195 rows: five candidates a row find all but a few of the 151 true pairs."""
    folder = SHARED / "match_bibliography"
    left, right = (pd.read_csv(folder / f"small_{side}.csv", dtype=str) for side in ("left", "right"))
    gold = set(pd.read_csv(folder / "small_gold_pairs.csv", dtype=str).itertuples(index=False, name=None))

    def judge(request: ChatRequest) -> str:
        cells = dict(line.split(": ", 1) for line in request.text.splitlines() if ": " in line)
        return orjson.dumps({"match": (cells["id"], cells["id_right"]) in gold}).decode()

    with ScriptedServer(Script(respond=judge), in_process=True) as server:
        one = apwa.from_pandas(left, npartitions=3, name="dblp")
        other = apwa.from_pandas(right, npartitions=2, name="acm")
        table = one.join(
            other,
            "the same publication?",
            inputs=["id", "title", "id_right", "title_right"],
            similar="title",
            nearest=5,
        )
        found = table.run(**options(store, model_at(server))).result()
        calls = server.log().calls
    assert len(calls) == len({call.text for call in calls}) <= 5 * len(left)
    pairs = set(found[["id", "id_right"]].itertuples(index=False, name=None))
    assert pairs <= gold
    assert len(pairs) >= 0.98 * len(gold)
