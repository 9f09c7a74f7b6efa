"""Resolving two bibliographies with gold answers: what the block does not offer is all that is lost."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import orjson
import pandas as pd
import pytest

import apwa_dask as apwa
from apwa_dask.testing import ChatRequest, Script, ScriptedServer
from tests.execution.conftest import ModelAt

FOLDER = (
    Path(os.environ.get("APWA_SHARED_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
    / "match_bibliography"
)
Pairs = set[frozenset[str]]


def rates(found: Pairs, true: Pairs) -> tuple[float, float, float]:
    """Precision, recall and F1 of pairs."""
    common = len(found & true)
    precision, recall = common / len(found), common / len(true)
    return precision, recall, 2 * precision * recall / (precision + recall)


@pytest.mark.skipif(not FOLDER.is_dir(), reason=f"the bibliographies are not at {FOLDER}")
def test_pairs_of_one_cluster_are_those_of_the_gold(store: str, model_at: ModelAt) -> None:
    sides = [
        pd.read_csv(FOLDER / f"small_{side}.csv", dtype=str).assign(
            id=lambda rows, mark=mark: mark + rows["id"]
        )
        for side, mark in (("left", "L"), ("right", "R"))
    ]
    rows = pd.concat(sides, ignore_index=True)
    gold = pd.read_csv(FOLDER / "small_gold_pairs.csv", dtype=str)
    true = {frozenset((f"L{left}", f"R{right}")) for left, right in gold.itertuples(index=False, name=None)}

    def judge(request: ChatRequest) -> str:
        cells = dict(line.split(": ", 1) for line in request.text.splitlines() if ": " in line)
        return orjson.dumps({"match": frozenset((cells["id"], cells["id_other"])) in true}).decode()

    with ScriptedServer(Script(respond=judge), in_process=True) as server:
        table = apwa.from_pandas(rows, npartitions=3).resolve(
            "the same publication?", inputs=["id", "title"], similar="title", nearest=4
        )
        result = table.run(model=model_at(server), store=store, progress=False).result()
        texts = [call.text for call in server.log().calls]

    assert result["id"].tolist() == rows["id"].tolist(), "every row, in its place"
    assert len(texts) == len(set(texts)) <= 4 * len(rows)
    groups = result.groupby("cluster")["id"].apply(list)
    found = {frozenset(pair) for group in groups for pair in itertools.combinations(group, 2)}
    precision, recall, f1 = rates(found, true)
    print(
        f"{len(rows)} rows, {len(texts)} pairs asked: precision {precision:.3f}, recall {recall:.3f}, F1 {f1:.3f}"
    )
    assert precision == 1.0
    assert recall >= 0.98
    assert f1 >= 0.99
