"""Rows that begin alike are asked about one after the other, where the endpoint keeps beginnings; the result is
the same.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import apwa_dask as apwa
from apwa_dask.execution.prefix_order import SHARED_CHARACTERS, prefix_order
from apwa_dask.models.client import Client

LONG = [letter * SHARED_CHARACTERS for letter in "abc"]


def test_rows_that_begin_alike_come_side_by_side() -> None:
    table = pa.table({"text": [f"{LONG[k % 3]} question {k}" for k in range(9)]})
    order = prefix_order(table, ["text"])
    assert order is not None
    assert [k % 3 for k in order] == [0, 0, 0, 1, 1, 1, 2, 2, 2]


@pytest.mark.parametrize(
    "texts", [["short"] * 5, [f"{k} {LONG[0]}" for k in range(5)], [], [f"{LONG[0]} {k}" for k in range(5)]]
)
def test_where_nothing_is_gained_the_order_stays(texts: list[str]) -> None:
    assert prefix_order(pa.table({"text": pa.array(texts, pa.string())}), ["text"]) is None


def test_a_document_in_the_first_column_groups_the_questions_in_the_second() -> None:
    table = pa.table({"q": [str(9 - k) for k in range(6)], "doc": [LONG[k % 2] for k in range(6)]})
    order = prefix_order(table, ["doc", "q"])
    assert order == [4, 2, 0, 5, 3, 1]


@given(st.lists(st.one_of(st.none(), st.sampled_from(LONG), st.text(max_size=5)), max_size=30))
def test_the_order_is_a_permutation_of_any_rows(texts: list[str | None]) -> None:
    order = prefix_order(pa.table({"text": pa.array(texts, pa.string())}), ["text"])
    assert order is None or sorted(order) == list(range(len(texts)))


def run_over(server: Any, model_at: Any, store: str, frame: pd.DataFrame, namespace: str) -> apwa.Run:
    table = apwa.from_pandas(frame).map("say", inputs=["doc", "q"], output={"a": str})
    model = model_at(server, max_concurrency=1)
    return table.run(model=model, store=store, namespace=namespace, progress=False).wait()


def test_the_result_is_the_same_and_the_order_of_calls_is_by_beginning(
    scripted_server, model_at, store, monkeypatch
):
    frame = pd.DataFrame({"doc": [LONG[k % 3] for k in range(30)], "q": [f"row {k}" for k in range(30)]})
    server = scripted_server()

    plain = run_over(server, model_at, store, frame, "plain").result(status=True)
    before = [str(call.messages[-1]["content"]) for call in server.log()]
    server.reset()
    monkeypatch.setattr(Client, "prefixes_are_kept", True)
    ordered = run_over(server, model_at, store, frame, "ordered").result(status=True)
    after = [str(call.messages[-1]["content"]) for call in server.log()]

    pd.testing.assert_frame_equal(ordered, plain)
    assert sorted(before) == sorted(after)
    assert changes(before) > 20
    assert changes(after) == 2


def changes(prompts: list[str]) -> int:
    """How often the document of a prompt is another one than that of the prompt before."""
    documents = [
        next(letter for letter, long in zip("abc", LONG, strict=True) if long in prompt) for prompt in prompts
    ]
    return sum(a != b for a, b in pairwise(documents))


def test_an_endpoint_that_keeps_prompts_is_asked_by_beginning_and_the_bill_says_what_was_kept(
    scripted_server, model_at, store
):
    """Nobody knows it at the first partition; those that come after its answers are in order."""
    frame = pd.DataFrame({"doc": [LONG[k % 3] * 4 for k in range(60)], "q": [f"row {k}" for k in range(60)]})
    table = apwa.from_pandas(frame, npartitions=2).map("say", inputs=["doc", "q"], output={"a": str})
    server = scripted_server(keeps_prompts=4)
    run = table.run(
        model=model_at(server, max_concurrency=1, price=apwa.Price(10.0, 20.0, 1.0)),
        store=store,
        scheduler="sync",
        progress=False,
    ).wait()

    calls = server.log()
    prompts = [str(call.messages[-1]["content"]) for call in calls]
    assert changes(prompts[:30]) > 20
    assert changes(prompts[30:]) == 2
    given, kept, made = (
        sum(getattr(call, f"{kind}_tokens") for call in calls) for kind in ("prompt", "cached", "completion")
    )
    assert kept == 55 * 512  # the server has forgotten two of the three when their turn comes again
    paid_usd = ((given - kept) * 10.0 + kept * 1.0 + made * 20.0) / 1e6
    status, costs = run.status(), run.costs()
    assert (status["input_tokens"], status["cached_tokens"]) == (given, kept)
    assert status["cost_usd"] == pytest.approx(paid_usd)
    assert costs["cached_tokens"].sum() == kept
    assert costs["cost_usd"].sum() == pytest.approx(paid_usd)
