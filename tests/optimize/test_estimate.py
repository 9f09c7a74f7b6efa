"""Estimates: ranges from profiles and real prompts, without a call; what is unknown stays unknown."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from apwa_dask.agents.limits import room_of
from apwa_dask.agents.prompts import build_template, render_row
from apwa_dask.agents.tokens import estimate_tokens
from apwa_dask.models.model import Model, Price
from apwa_dask.optimize import estimate
from apwa_dask.plans.explain import Range, StepEstimate
from apwa_dask.plans.loading import load
from apwa_dask.plans.plan import Plan
from apwa_dask.tables import Profile, profile_frame

PRICED = Model("m", base_url="http://127.0.0.1:9/v1", price=Price(1.0, 10.0))
FRAME = pd.DataFrame(
    {
        "id": range(100),
        "city": ["Oslo", "Rome", "Bern", "Kyiv"] * 25,
        "text": [f"number {n}: " + "some words of a review " * (1 + n % 5) for n in range(100)],
    }
)
SCHEMA = pa.Schema.from_pandas(FRAME, preserve_index=False).remove_metadata()
LABEL: dict[str, Any] = {"instruction": "Label it.", "inputs": ["text"], "output": {"mood": ["good", "bad"]}}
LABEL["output"] = {"mood": {"type": "string", "labels": ["good", "bad"]}}


def plan(*steps: dict[str, Any]) -> Plan:
    return load({"sources": ["t"], "steps": list(steps)})


def estimated(a_plan: Plan, model: Model = PRICED, profile: Profile | None = None) -> dict[str, StepEstimate]:
    profiles = {"t": profile or profile_frame(FRAME)}
    return estimate(a_plan, {"t": SCHEMA}, profiles, {"": model})


def is_ordered(figure: Range | None) -> bool:
    return figure is not None and 0 <= figure.low <= figure.expected <= figure.high


def test_a_map_is_estimated_with_the_prompt_that_is_sent() -> None:
    labelling = plan({"op": "map", "contract": LABEL})
    found = estimated(labelling)["map_1"]
    step = labelling.llm_steps[0]
    template = build_template(step, PRICED, SCHEMA)
    constant = room_of(template, step.contract).constant_tokens
    shown = [render_row(step.contract, row)[0].content for row in FRAME.to_dict("records")]
    rows = sum(estimate_tokens(str(text)) + 4 for text in shown)
    real = 100 * constant + rows
    assert found.rows == Range.exactly(100)
    assert found.calls is not None
    assert found.calls.expected == 100
    assert found.input_tokens is not None
    assert found.input_tokens.low <= real <= found.input_tokens.high
    assert found.input_tokens.expected == pytest.approx(real, rel=0.4)
    for figure in (found.calls, found.input_tokens, found.output_tokens, found.cost_usd):
        assert is_ordered(figure)
    assert found.cost_usd is not None
    assert found.output_tokens is not None
    dollars = (found.input_tokens.expected + 10 * found.output_tokens.expected) / 1e6
    assert found.cost_usd.expected == pytest.approx(dollars, rel=0.01)


def test_equal_inputs_are_expected_to_be_called_once() -> None:
    found = estimated(plan({"op": "map", "contract": {**LABEL, "inputs": ["city"]}}))["map_1"]
    assert found.calls is not None
    assert (found.calls.low, found.calls.expected) == (4, 4)
    assert found.calls.high >= 100


def test_rows_behind_a_filter_are_a_range_from_none_to_all() -> None:
    keep = {"op": "filter", "contract": {"instruction": "Is it good?", "inputs": ["text"]}}
    found = estimated(plan(keep, {"op": "map", "contract": LABEL}))
    assert found["filter_1"].rows == Range.exactly(100)
    assert found["map_1"].rows == Range(0, 50, 100)
    assert found["map_1"].cost_usd is not None
    assert found["map_1"].cost_usd.low == 0


def test_limit_and_sample_and_groups_bound_what_is_paid() -> None:
    seven = estimated(plan({"op": "limit", "n": 7}, {"op": "map", "contract": LABEL}))
    assert seven["map_1"].rows == Range.exactly(7)
    some = estimated(plan({"op": "sample", "fraction": 0.1}, {"op": "map", "contract": LABEL}))
    assert some["map_1"].rows == Range.exactly(10)
    each_city = {"op": "distinct", "columns": ["city"]}
    assert estimated(plan(each_city, {"op": "map", "contract": LABEL}))["map_1"].rows == Range(1, 4, 4)


def test_frame_steps_cost_nothing() -> None:
    found = estimated(plan({"op": "aggregate", "by": ["city"], "aggregates": {"n": {"fn": "count"}}}))
    zero = Range.exactly(0)
    assert found["aggregate_1"] == StepEstimate(Range(1, 4, 4), zero, zero, zero, zero)


def test_unknown_stays_unknown() -> None:
    labelling = plan({"op": "map", "contract": LABEL})
    unpriced = estimated(labelling, Model("m", base_url="http://127.0.0.1:9/v1"))["map_1"]
    assert unpriced.cost_usd is None
    assert unpriced.calls is not None
    assert estimate(labelling, {"t": SCHEMA}, {}, {"": PRICED})["map_1"] == StepEstimate()
    assert estimate(labelling, {"t": SCHEMA}, {"t": profile_frame(FRAME)}, {})["map_1"].calls is None
    guessed = estimated(labelling, profile=profile_frame(FRAME, rows=1_000, exact=False))["map_1"]
    assert guessed.rows == Range(500, 1_000, 2_000)
    lists = pa.schema([("text", pa.list_(pa.string()))])
    frame = pd.DataFrame({"text": [["a", "b"]] * 5})
    exploded = plan({"op": "explode", "column": "text"}, {"op": "map", "contract": LABEL})
    found = estimate(exploded, {"t": lists}, {"t": profile_frame(frame)}, {"": PRICED})
    assert found["map_1"].calls is None


def test_the_embedded_model_costs_nothing() -> None:
    found = estimated(plan({"op": "map", "contract": LABEL}), Model.local())["map_1"]
    assert found.cost_usd == Range.exactly(0)


@pytest.mark.parametrize(("rows", "most_calls"), [(10, 1), (100_000, 100_000 // 100)])
def test_a_reduce_is_a_tree_of_full_prompts(rows: int, most_calls: int) -> None:
    contract = {"instruction": "Sum up.", "inputs": ["text"], "output": {"gist": "string"}}
    reduced = plan({"op": "reduce", "contract": contract})
    found = estimated(reduced, profile=profile_frame(FRAME, rows=rows, est_tokens=rows * 20))["reduce_1"]
    assert found.calls is not None
    assert 1 <= found.calls.expected <= most_calls
    assert found.input_tokens is not None
    assert found.input_tokens.expected >= rows * 20
    for figure in (found.calls, found.input_tokens, found.output_tokens, found.cost_usd):
        assert is_ordered(figure)


def test_packs_and_partitions_share_calls() -> None:
    packed = estimated(plan({"op": "map", "contract": {**LABEL, "unit": "pack(10)"}}))["map_1"]
    assert packed.calls is not None
    assert packed.calls.expected == 10
    alone = estimated(plan({"op": "map", "contract": LABEL}))["map_1"]
    assert packed.input_tokens is not None
    assert alone.input_tokens is not None
    assert packed.input_tokens.expected < alone.input_tokens.expected
    profile = profile_frame(FRAME, npartitions=3)
    by_partition = plan({"op": "map", "contract": {**LABEL, "unit": "partition"}})
    parts = estimated(by_partition, profile=profile)["map_1"]
    assert parts.calls is not None
    assert 3 <= parts.calls.expected <= 10


def test_a_model_by_alias_prices_its_own_step() -> None:
    dear = Model("dear", base_url="http://127.0.0.1:9/v1", price=Price(100.0, 1000.0))
    two = plan(
        {"op": "map", "contract": LABEL},
        {"op": "map", "contract": {**LABEL, "model": "dear", "output": {"again": "string"}}},
    )
    found = estimate(two, {"t": SCHEMA}, {"t": profile_frame(FRAME)}, {"": PRICED, "dear": dear})
    assert found["map_1"].cost_usd is not None
    assert found["map_2"].cost_usd is not None
    assert found["map_2"].cost_usd.low > found["map_1"].cost_usd.high


def test_chunks_of_long_texts_are_counted() -> None:
    frame = pd.DataFrame({"text": ["word " * 4_000] * 3})
    chunk = {"op": "chunk", "column": "text", "tokens": 1_000, "overlap_tokens": 0}
    cut = plan(chunk, {"op": "map", "contract": LABEL})
    schema = pa.schema([("text", pa.string())])
    found = estimate(cut, {"t": schema}, {"t": profile_frame(frame)}, {"": PRICED})["map_1"]
    assert found.rows is not None
    assert found.rows.low <= 15 <= found.rows.high
