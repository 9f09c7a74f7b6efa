"""Rows that are the same thing: clusters, contradictions, evidence, and each pair asked about once in either order."""

from __future__ import annotations

import itertools
import os
import random
from pathlib import Path
from typing import Any

import orjson
import pandas as pd
import pytest

import apwa_dask as apwa
from apwa_dask.errors import PlanError
from apwa_dask.execution.resolve_rows import clusters_of
from apwa_dask.testing import ChatRequest, Script, ScriptedServer
from tests.execution.conftest import ModelAt

ROWS = pd.DataFrame(
    {
        "name": ["Ann 1", "Bob 1", "Ann 2", "Ann 3", "Bob 2", "Cy 1", None, "Dee 1"],
        "k": ["x", "x", "x", "x", "x", "y", "x", None],
    }
)


def cells_of(request: ChatRequest) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in request.text.splitlines() if ": " in line)


def same_first_word(request: ChatRequest) -> str:
    cells = cells_of(request)
    return orjson.dumps({"match": cells["name"].split()[0] == cells["name_other"].split()[0]}).decode()


def table(rows: pd.DataFrame = ROWS, npartitions: int = 3) -> apwa.Table:
    return apwa.from_pandas(rows, npartitions=npartitions, name="t")


def run(table: apwa.Table, server: ScriptedServer, store: str, model_at: ModelAt) -> apwa.Run:
    return table.run(store=store, model=model_at(server), progress=False, scheduler="sync").wait()


@pytest.fixture
def server() -> Any:
    with ScriptedServer(Script(respond=same_first_word), in_process=True) as server:
        yield server


@pytest.mark.parametrize("npartitions", [1, 3])
def test_rows_that_are_the_same_get_the_number_of_one_of_them(
    npartitions: int, server: ScriptedServer, store: str, model_at: ModelAt
) -> None:
    found = run(
        table(npartitions=npartitions).resolve("the same person?", inputs="name", on="k"),
        server,
        store,
        model_at,
    )
    result = found.result()
    assert result["name"].tolist()[:6] == ROWS["name"].tolist()[:6]
    assert result["cluster"].tolist() == [0, 1, 0, 0, 1, 5, 6, 7]
    assert result["canonical"].tolist() == [True, True, False, False, False, True, True, True]
    told = orjson.loads(result["cluster_evidence"][2])
    assert told == {"agree": 2, "against": 0, "overruled": 0, "apart": 2, "unjudged": 0}
    assert len(server.log().calls) == 10  # of five rows with a name and the key x


def test_two_rows_are_one_question_in_whichever_order_they_stand(
    server: ScriptedServer, store: str, model_at: ModelAt
) -> None:
    run(table().resolve("the same person?", inputs="name", on="k"), server, store, model_at)
    asked = len(server.log().calls)
    run(table(ROWS.iloc[::-1]).resolve("the same person?", inputs="name", on="k"), server, store, model_at)
    near = table().where("k = 'x'").resolve("the same person?", inputs="name", similar="name", nearest=4)
    run(near, server, store, model_at)
    assert len(server.log().calls) == asked


def test_a_chain_that_is_contradicted_is_cut_and_the_evidence_says_so(store: str, model_at: ModelAt) -> None:
    """Two trios that agree among themselves, and one wrong yes between them."""

    def judge(request: ChatRequest) -> str:
        cells = cells_of(request)
        pair = {cells["name"], cells["name_other"]}
        same = len({name[0] for name in pair}) == 1 or pair == {"a1", "b1"}
        return orjson.dumps({"match": same}).decode()

    rows = pd.DataFrame({"name": ["a1", "a2", "a3", "b1", "b2", "b3"], "k": "x"})
    with ScriptedServer(Script(respond=judge), in_process=True) as server:
        result = run(
            table(rows).resolve("the same?", inputs="name", on="k"), server, store, model_at
        ).result()
    assert result["cluster"].tolist() == [0, 0, 0, 3, 3, 3]
    assert orjson.loads(result["cluster_evidence"][0]) == {
        "agree": 2,
        "against": 0,
        "overruled": 1,
        "apart": 2,
        "unjudged": 0,
    }


def test_a_row_that_could_not_be_judged_is_in_no_cluster(store: str, model_at: ModelAt) -> None:
    def judge(request: ChatRequest) -> str:
        return '{"match": "perhaps"}' if "Cy" in request.prompt else same_first_word(request)

    rows = pd.DataFrame({"name": ["Ann 1", "Ann 2", "Cy 1"], "k": "x"})
    with ScriptedServer(Script(respond=judge), in_process=True) as server:
        done = run(table(rows).resolve("the same?", inputs="name", on="k"), server, store, model_at)
        result = done.result(status=True)
    assert result["_apwa_status"].tolist() == ["ok", "ok", "invalid_output"]
    assert result["cluster"].tolist()[:2] == [0, 0]
    assert pd.isna(result["cluster"][2])
    assert len(done.failures) == 2


def test_clusters_do_not_depend_on_the_order_of_judgements() -> None:
    rng = random.Random(5)
    for _ in range(60):
        pairs = list(itertools.combinations(range(8), 2))
        verdicts = {pair: rng.random() < 0.4 for pair in pairs if rng.random() < 0.7}
        yes, no = ([p for p, same in verdicts.items() if same is wanted] for wanted in (True, False))
        known = clusters_of(yes, no)
        rng.shuffle(yes)
        rng.shuffle(no)
        assert clusters_of(yes, no) == known
        assert all(root <= row and known[root] == root for row, root in known.items())


def test_without_a_contradiction_clusters_are_components() -> None:
    assert clusters_of([(1, 2), (2, 5), (7, 8)], [(1, 7)]) == {1: 1, 2: 1, 5: 1, 7: 7, 8: 7}


def test_a_resolve_is_written_and_read_and_refused_without_a_block(
    model_at: ModelAt, server: ScriptedServer
) -> None:
    plan = table().resolve("the same?", inputs="name", similar="name", nearest=3).plan()
    assert apwa.Plan.from_yaml(plan.to_yaml()) == plan.plan
    calls = plan.estimate(model=model_at(server)).steps["resolve_1"].calls
    assert calls is not None
    assert calls.expected > 0
    for block, said in (
        ({}, "needs a block"),
        ({"on": "kk"}, "no column 'kk'"),
        ({"condition": "k"}, "not boolean"),
    ):
        with pytest.raises(PlanError, match=said):
            table().resolve("the same?", inputs="name", **block)


SHARED = Path(os.environ.get("APWA_SHARED_DATA", Path(__file__).parents[2].parent / "shared" / "data"))


@pytest.mark.skipif(not (SHARED / "match_bibliography").is_dir(), reason="the shared data sets are not here")
def test_publications_of_two_sources_become_clusters_with_gold_answers(store: str, model_at: ModelAt) -> None:
    folder = SHARED / "match_bibliography"
    left, right = (pd.read_csv(folder / f"small_{side}.csv", dtype=str) for side in ("left", "right"))
    gold = set(pd.read_csv(folder / "small_gold_pairs.csv", dtype=str).itertuples(index=False, name=None))
    rows = pd.concat(
        [left.assign(id="L" + left["id"]), right.assign(id="R" + right["id"])], ignore_index=True
    )
    true = {frozenset((f"L{a}", f"R{b}")) for a, b in gold}

    def judge(request: ChatRequest) -> str:
        cells = cells_of(request)
        return orjson.dumps({"match": frozenset((cells["id"], cells["id_other"])) in true}).decode()

    with ScriptedServer(Script(respond=judge), in_process=True) as server:
        near = table(rows).resolve(
            "the same publication?", inputs=["id", "title"], similar="title", nearest=4
        )
        result = run(near, server, store, model_at).result()
        texts = [call.text for call in server.log().calls]
    assert len(texts) == len(set(texts))
    together = {frozenset(group) for group in result.groupby("cluster")["id"].apply(list) if len(group) == 2}
    assert together <= true
    assert len(together) >= 0.98 * len(true)
