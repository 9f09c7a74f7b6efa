"""Top-k by instruction, against the server's log: the order, how often is asked, and that the seed decides."""

from __future__ import annotations

from typing import Any

import orjson
import pandas as pd
import pytest

import apwa_dask as apwa
from apwa_dask.errors import PlanError, RunError
from apwa_dask.plans.lowering import calls_at_most
from apwa_dask.testing import ChatRequest, Script, ScriptedServer
from tests.execution.conftest import ModelAt

NUMBERS = [(i * 37) % 101 for i in range(60)]


def largest(request: ChatRequest) -> str:
    """Each line is ``[number of the candidate, "n=<value>"]``."""
    rows = [orjson.loads(line) for line in request.text.splitlines()[1:]]
    best = max(rows, key=lambda row: int(str(row[1]).removeprefix("n=")))
    return orjson.dumps({"best": best[0]}).decode()


def table(npartitions: int = 4) -> apwa.Table:
    frame = pd.DataFrame({"text": [f"n={n}" for n in NUMBERS], "n": NUMBERS})
    return apwa.from_pandas(frame, npartitions=npartitions, name="t")


def run(table: apwa.Table, server: ScriptedServer, store: str, model_at: ModelAt) -> apwa.Run:
    return table.run(store=store, model=model_at(server), progress=False, scheduler="sync").wait()


@pytest.fixture
def server() -> Any:
    with ScriptedServer(Script(respond=largest), in_process=True) as server:
        yield server


@pytest.mark.parametrize(("k", "width"), [(1, 8), (5, 8), (7, 2), (100, 5)])
def test_the_best_come_first_with_no_more_questions_than_promised(
    k: int, width: int, server: ScriptedServer, store: str, model_at: ModelAt
) -> None:
    result = run(
        table().rank("the largest", inputs="text", k=k, width=width), server, store, model_at
    ).result()
    assert result["n"].tolist() == sorted(NUMBERS, reverse=True)[:k]
    assert result["rank"].tolist() == list(range(1, min(k, 60) + 1))
    assert len(server.log().calls) <= calls_at_most(60, k, width)


def test_partitions_change_neither_questions_nor_ranks_and_a_run_again_asks_nothing(
    server: ScriptedServer, store: str, model_at: ModelAt
) -> None:
    first = run(table(1).rank("the largest", inputs="text", k=5), server, store, model_at)
    asked = len(server.log().calls)
    again = run(table(6).rank("the largest", inputs="text", k=5), server, store, model_at)
    assert again.result()["n"].tolist() == first.result()["n"].tolist()
    assert len(server.log().calls) == asked
    run(table(1).rank("the largest", inputs="text", k=5, seed=1), server, store, model_at)
    assert len(server.log().calls) > asked


def test_a_lazy_frame_holds_the_same_rows(server: ScriptedServer, store: str, model_at: ModelAt) -> None:
    frame = table().rank("the largest", inputs="text", k=3).to_dask(model=model_at(server), store=store)
    assert frame.compute(scheduler="sync")["n"].tolist() == sorted(NUMBERS, reverse=True)[:3]


def test_a_ranking_that_takes_too_many_questions_is_refused_before_the_first(
    server: ScriptedServer, store: str, model_at: ModelAt
) -> None:
    with pytest.raises(RunError, match="max_calls=3"):
        run(table().rank("the largest", inputs="text", max_calls=3), server, store, model_at)
    assert not server.log().calls


def test_a_question_without_an_answer_is_a_failure_and_its_winner_says_so(
    store: str, model_at: ModelAt
) -> None:
    with ScriptedServer(Script(respond=lambda _: '{"best": 99}'), in_process=True) as server:
        done = run(table().rank("the largest", inputs="text", k=1), server, store, model_at)
        assert done.result(status=True)["_apwa_status"].tolist() == ["invalid_output"]
        assert set(done.failures["step"]) == {"rank_1"}


def test_a_rank_is_written_and_read_and_estimated(server: ScriptedServer, model_at: ModelAt) -> None:
    plan = table().rank("the largest", inputs="text", k=3, seed=5).plan()
    assert apwa.Plan.from_yaml(plan.to_yaml()) == plan.plan
    calls = plan.estimate(model=model_at(server)).steps["rank_1"].calls
    assert calls is not None
    assert calls.expected == calls_at_most(60, 3, 8)


def test_a_ranked_row_leads_back_to_its_source(server: ScriptedServer, store: str, model_at: ModelAt) -> None:
    done = run(table(1).rank("the largest", inputs="text", k=2), server, store, model_at)
    assert done.lineage(0).origins["row"].tolist() == [NUMBERS.index(max(NUMBERS))]


def test_a_rank_column_that_is_there_already_is_refused() -> None:
    with pytest.raises(PlanError, match="exists already"):
        table().assign(rank="n").rank("the largest", inputs="text")
