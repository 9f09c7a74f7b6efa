"""Blocks by embeddings, against the server's log: who meets whom, what each text costs, and that it is paid once."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import orjson
import pandas as pd
import pyarrow as pa
import pytest

import apwa_dask as apwa
from apwa_dask.errors import BudgetError, ConfigError, PlanError, ProviderError, RunError
from apwa_dask.execution import join_vectors
from apwa_dask.execution.frame_exchange import POSITION
from apwa_dask.models.vectors import MOST_TEXTS, vector_text
from apwa_dask.plans.lowering import Pairs, vector_of
from apwa_dask.testing import ChatRequest, Fault, On, Script, ScriptedServer
from tests.execution.conftest import ModelAt

EMBEDDINGS = "/v1/embeddings"
TITLES = ["Dune", "Solaris", "Neuromancer", "Foundation", "Hyperion", "Ubik", "Kindred", "Blindsight"]
LEFT = pd.DataFrame({"name": [f"the novel {title}" for title in TITLES] + [None, "  "]})
RIGHT = pd.DataFrame({"title": [f"{title} (a novel)" for title in reversed(TITLES)] + ["Dune (a novel)"]})


def same_title(request: ChatRequest) -> str:
    cells = dict(line.split(": ", 1) for line in request.text.splitlines() if ": " in line)
    one, other = (cells.get(name, "") for name in ("name", "title"))
    return orjson.dumps({"match": one.split()[-1] == other.split()[0]}).decode()


@pytest.fixture
def server() -> Any:
    with ScriptedServer(Script(respond=same_title), in_process=True) as server:
        yield server


def joined(left: pd.DataFrame = LEFT, right: pd.DataFrame = RIGHT, **changes: Any) -> apwa.Table:
    one = apwa.from_pandas(left, npartitions=2, name="l")
    other = apwa.from_pandas(right, npartitions=3, name="r")
    block = {"similar": "name", "similar_right": "title", "embed": "vectors", "nearest": 2, **changes}
    return one.join(other, "the same book?", inputs=["name", "title"], **block)


def models(server: ScriptedServer, model_at: ModelAt, **fields: Any) -> dict[str, apwa.Model]:
    price = apwa.Price(1.0, 1.0)
    vectors = apwa.Model("vectors", base_url=server.base_url, price=apwa.Price(1.0, 0.0), **fields)
    return {"": model_at(server, price=price), "vectors": vectors}


def run(table: apwa.Table, server: ScriptedServer, store: str, model_at: ModelAt, **options: Any) -> apwa.Run:
    return table.run(
        model=models(server, model_at), store=store, progress=False, scheduler="threads", **options
    )


def embedded(server: ScriptedServer) -> list[str]:
    """Every text that was sent to be embedded, as often as it was."""
    calls = [call for call in server.log() if call.path == EMBEDDINGS]
    return [text for call in calls for text in call.text.split("\n")]


def asked(server: ScriptedServer) -> Counter[str]:
    return Counter(call.path for call in server.log())


def test_the_nearest_by_vectors_meet_and_each_distinct_text_is_sent_once(
    server: ScriptedServer, store: str, model_at: ModelAt
) -> None:
    result = run(joined(), server, store, model_at).result()

    wanted = [(f"the novel {title}", f"{title} (a novel)") for title in [TITLES[0], *TITLES]]
    assert [*result[["name", "title"]].itertuples(index=False, name=None)] == wanted
    assert list(result.columns) == ["name", "title"]
    assert sorted(embedded(server)) == sorted({*LEFT["name"][:8], *RIGHT["title"]})
    assert asked(server)[EMBEDDINGS] <= 5, "texts of one partition share a request"


@pytest.mark.parametrize("how", ["left", "outer", "anti", "semi"])
def test_rows_without_text_have_no_neighbours_and_stay_where_the_join_keeps_them(
    how: str, server: ScriptedServer, store: str, model_at: ModelAt
) -> None:
    done = run(joined(how=how), server, store, model_at)

    lonely = int(done.result()["name"].fillna("").str.strip().eq("").sum())
    assert lonely == (0 if how == "semi" else 2)
    assert len(done.failures) == 0


def test_a_resume_and_a_second_run_ask_for_no_vector(
    server: ScriptedServer, store: str, model_at: ModelAt
) -> None:
    first = run(joined(), server, store, model_at)
    first.result()
    calls = server.calls

    again = run(joined(), server, store, model_at)

    assert len(again.result()) == len(first.result())
    first.resume().wait()
    assert server.calls == calls


def test_an_inserted_row_repays_its_own_text_alone(
    server: ScriptedServer, store: str, model_at: ModelAt
) -> None:
    run(joined(), server, store, model_at).result()
    server.reset()

    more = pd.concat([LEFT.iloc[:3], pd.DataFrame({"name": ["the novel Ringworld"]}), LEFT.iloc[3:]])
    run(joined(more.reset_index(drop=True)), server, store, model_at).result()

    assert embedded(server) == ["the novel Ringworld"]


def test_many_texts_share_requests_and_the_bill_is_the_endpoints(
    server: ScriptedServer, store: str, model_at: ModelAt
) -> None:
    left = pd.DataFrame({"name": [f"the novel number {n}" for n in range(300)]})

    done = run(joined(left, how="semi", nearest=1), server, store, model_at)
    done.result()

    calls = [call for call in server.log() if call.path == EMBEDDINGS]
    assert len(calls) < 30
    assert max(len(call.text.split("\n")) for call in calls) <= MOST_TEXTS
    costs = done.costs()
    rows = costs[costs["step"].str.startswith("join_1.") & (costs["outcome"] == "ok")]
    assert rows["input_tokens"].sum() == sum(call.prompt_tokens for call in calls)
    assert rows["output_tokens"].sum() == 0
    assert rows["cost_usd"].sum() == pytest.approx(rows["input_tokens"].sum() / 1e6)


def many_to_embed(kind: str) -> tuple[apwa.Table, int]:
    """A judged step over texts that need many requests for vectors, and its distinct texts."""
    texts = pd.DataFrame({"name": [f"the novel number {n}" for n in range(300)]})
    if kind == "join":
        return joined(texts, how="semi", nearest=1), len(texts) + RIGHT["title"].nunique()
    table = apwa.from_pandas(texts, npartitions=2, name="t")
    options = {"similar": "name", "embed": "vectors", "nearest": 1}
    return table.resolve("the same?", inputs="name", **options), len(texts)


CEILINGS = {
    # a request's 64 texts come to some 300 tokens: each of these ends amid the vectors
    "calls": (apwa.Budget(calls=3), "of 3 calls"),
    "tokens": (apwa.Budget(tokens=1_000), "of 1000 tokens"),
    "usd": (apwa.Budget(usd=0.001), r"0\.001"),
}


@pytest.mark.parametrize("kind", ["join", "resolve"])
@pytest.mark.parametrize("ceiling", [*CEILINGS])
def test_each_ceiling_holds_amid_the_vectors_and_a_resume_pays_for_no_text_again(
    kind: str, ceiling: str, server: ScriptedServer, store: str, model_at: ModelAt
) -> None:
    server.set(server.script.but(respond=lambda request: {"match": False}))
    table, texts = many_to_embed(kind)
    budget, said = CEILINGS[ceiling]

    at = models(server, model_at, max_concurrency=1)
    begun = table.run(model=at, store=store, progress=False, scheduler="threads", budget=budget)
    with pytest.raises(BudgetError, match=said) as stopped:
        begun.wait()

    assert stopped.value.code == "BUDGET-REACHED"
    calls = server.log().calls
    assert {call.path for call in calls} == {EMBEDDINGS}, "no pair was judged"
    assert 0 < len(embedded(server)) < texts
    tokens = [call.prompt_tokens for call in calls]
    used = {"calls": len(calls), "tokens": sum(tokens), "usd": sum(tokens) / 1e6}
    # what was reserved holds; calls in flight may come to more, as tokens are reserved by bytes (here within a fifth)
    most = getattr(budget, ceiling) * (1 if ceiling == "calls" else 1.2)
    assert used[ceiling] <= most

    done = begun.resume(budget=apwa.Budget(calls=10_000)).wait()

    assert len(done.failures) == 0
    sent = Counter(embedded(server))
    assert len(sent) == texts
    assert set(sent.values()) == {1}, "what was paid before the ceiling is not asked again"


def test_a_text_that_the_endpoint_refuses_fails_its_row_and_no_other(
    server: ScriptedServer, store: str, model_at: ModelAt
) -> None:
    server.set(server.script.but(faults=(Fault("status", on=On(text="Solaris"), status=400),)))

    done = run(
        joined(how="left", right=RIGHT[RIGHT["title"] != "Solaris (a novel)"]), server, store, model_at
    )

    result = done.result()
    assert set(result["name"].dropna().str.strip()) >= {
        f"the novel {title}" for title in TITLES if title != "Solaris"
    }
    assert [*done.failures["step"]] == ["join_1.left_texts"]
    assert [*done.failures["outcome"]] == ["bad_input"]


def test_a_resolve_finds_its_pairs_by_vectors(server: ScriptedServer, store: str, model_at: ModelAt) -> None:
    rows = pd.DataFrame({"name": ["Dune, a novel", "Solaris", "the novel Dune", "Solaris!", "Ubik"]})
    server.set(server.script.but(respond=lambda request: {"match": len(set(_words(request))) == 1}))
    table = apwa.from_pandas(rows, npartitions=2, name="t")

    done = run(
        table.resolve("the same?", inputs="name", similar="name", embed="vectors", nearest=1),
        server,
        store,
        model_at,
    )

    clusters = done.result()["cluster"].tolist()
    assert clusters[0] == clusters[2]
    assert clusters[1] == clusters[3]
    assert len(set(clusters)) == 3
    assert sorted(embedded(server)) == sorted(rows["name"])


def test_the_price_of_the_vectors_must_be_known_to_a_budget_of_dollars_too(
    server: ScriptedServer, store: str, model_at: ModelAt
) -> None:
    known = models(server, model_at)
    unpriced = {**known, "vectors": replace(known["vectors"], price=None)}
    with pytest.raises(BudgetError, match="'vectors' is unknown") as refusal:
        joined().run(model=unpriced, store=store, progress=False, budget=1.0)
    assert refusal.value.code == "BUDGET-PRICE"
    assert "nothing was run or paid" in str(refusal.value)
    assert server.calls == 0
    assert list(apwa.runs(store)) == []


def _words(request: ChatRequest) -> list[str]:
    return [title for title in ("Dune", "Solaris", "Ubik") for _ in range(request.text.count(title)) if title]


# -- what cannot be


def test_an_endpoint_without_embeddings_is_named_with_the_way_out(
    server: ScriptedServer, store: str, model_at: ModelAt
) -> None:
    server.set(server.script.but(dimensions=0))

    with pytest.raises(ProviderError, match="does not embed texts") as caught:
        run(joined(), server, store, model_at).result()

    assert caught.value.code == "PROVIDER-EMBEDDINGS"
    assert f"{server.base_url}/embeddings" in str(caught.value)
    assert "leave embed out" in str(caught.value)


@pytest.mark.parametrize("status", [405, 501])
def test_an_endpoint_that_says_not_implemented_is_not_asked_again(
    status: int, server: ScriptedServer, store: str, model_at: ModelAt
) -> None:
    server.set(server.script.but(faults=(Fault("status", status=status),)))

    with pytest.raises(ProviderError, match="does not embed texts"):
        run(joined(), server, store, model_at).result()

    assert server.calls <= 4, "what was under way when the first answer came"


def test_wrong_plans_are_refused_before_a_call(server: ScriptedServer, store: str, model_at: ModelAt) -> None:
    with pytest.raises(PlanError, match="similar_left and similar_right, or leave embed out"):
        joined(similar=(), similar_right=(), condition="TRUE").plan()
    with pytest.raises(PlanError, match="no model 'vectors'"):
        joined().run(model=model_at(server), store=store, progress=False)
    with pytest.raises(ConfigError, match="asked for live") as in_batches:
        run(joined(), server, store, model_at, mode="batch")
    with pytest.raises(ConfigError, match="embedded model has no embeddings") as embedded_model:
        joined().run(model={"": model_at(server), "vectors": apwa.Model.local()}, store=store, progress=False)
    for refusal in (in_batches.value, embedded_model.value):
        assert "'join_1'" in refusal.where
        assert all((refusal.why, refusal.fix, refusal.saved))
        assert "leave embed out" in refusal.fix
    assert "'vectors': apwa.Model(name, base_url=...)" in embedded_model.value.fix
    assert server.calls == 0


def test_the_plan_counts_vectors_and_is_written_and_read(server: ScriptedServer, model_at: ModelAt) -> None:
    plan = joined().plan()
    bare = joined(embed=None).plan()

    with_vectors = plan.estimate(model=models(server, model_at)).steps["join_1"]
    without = bare.estimate(model=models(server, model_at)).steps["join_1"]

    assert with_vectors.calls.expected == without.calls.expected + 2
    assert with_vectors.input_tokens.expected > without.input_tokens.expected
    assert with_vectors.cost_usd.expected > without.cost_usd.expected
    assert "embed: vectors" in plan.to_yaml()
    assert "embed" not in bare.to_yaml()
    assert "by vectors of vectors" in str(plan.explain(model=models(server, model_at)))


# -- the arithmetic


def test_the_nearest_are_those_of_the_whole_product_whatever_the_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    random = np.random.default_rng(7)
    some, others = (random.integers(-2, 3, size=(n, 6)).astype(np.float32) for n in (23, 57))
    likeness = np.round(some @ others.T, 4)
    wanted = [[*np.lexsort((np.arange(57), -row))[:5]] for row in likeness]
    for width in (3, 10, 57, 100):
        monkeypatch.setattr(join_vectors, "RIGHT_AT_ONCE", width)
        assert join_vectors.top_of(some, others, 5).tolist() == wanted


def test_unlike_rows_are_still_the_nearest_there_are_and_those_apart_never_meet() -> None:
    some = np.array([[1.0, 0.0]], dtype=np.float32)
    others = np.array([[-1.0, 0.0], [1.0, 0.0], [-0.6, 0.8]], dtype=np.float32)
    assert join_vectors.top_of(some, others, 5).tolist() == [[1, 2, 0]]
    keys = np.array([1]), np.array([0, 1, 2])
    assert join_vectors.top_of(some, others, 5, keys).tolist() == [[2, 0, -1]]


def test_twenty_thousand_rows_meet_twenty_thousand_in_bounded_memory() -> None:
    rows, size = 20_000, 64
    random = np.random.default_rng(1)
    vectors = random.normal(size=(rows, size)).astype(np.float32)
    texts = [vector_text(list(map(float, vector))) for vector in vectors]
    left, right = (_side(each) for each in (texts, texts[::-1]))
    step = Pairs.model_construct(of="j", nearest=3, is_within=False)
    everything = [(np.arange(rows), np.arange(rows))]
    tracemalloc.start()

    found = join_vectors.nearest_by_vectors(step, left, right, everything)

    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found.left) == 3 * rows
    assert (found.right[::3] == rows - 1 - found.left[::3]).all(), "each row's nearest is its own vector"
    assert peak < 100 * 2**20, (
        f"the whole product has {rows * rows * 4 / 2**20:,.0f} MiB, these took {peak / 2**20:,.0f}"
    )


def test_vectors_that_cannot_be_compared_or_held_are_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    step = Pairs.model_construct(of="j", nearest=3, is_within=False)
    short, long = _side([vector_text([1.0, 0.0])]), _side([vector_text([1.0, 0.0, 0.0])])
    one = [(np.arange(1), np.arange(1))]
    with pytest.raises(RunError, match="2 and 3 dimensions"):
        join_vectors.nearest_by_vectors(step, short, long, one)
    monkeypatch.setattr(join_vectors, "VECTOR_BYTES_AT_MOST", 4)
    with pytest.raises(RunError, match="do not fit one task"):
        join_vectors.nearest_by_vectors(step, short, short, one)


def _side(texts: list[str]) -> pa.Table:
    return pa.table(
        {vector_of("j"): pa.array(texts, pa.string()), POSITION: pa.array(range(len(texts)), pa.int64())}
    )
