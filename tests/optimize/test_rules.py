"""Rewrites keep rows, order and columns, pay for fewer rows, and leave alone what they are not sure of."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apwa_dask.optimize import optimize
from apwa_dask.optimize.sure import never_fails
from apwa_dask.plans.loading import load
from apwa_dask.plans.plan import Plan
from apwa_dask.plans.validate import problems_of

TABLE = pa.table(
    {
        "id": pa.array(range(20), pa.int64()),
        "stars": pa.array([n % 6 if n % 7 else None for n in range(20)], pa.int64()),
        "text": pa.array([f"text {n % 9}" if n % 5 else None for n in range(20)], pa.string()),
    }
)
CATALOG = {"t": TABLE.schema}


def llm(op: str, *outputs: str, inputs: tuple[str, ...] = ("text",), unit: str = "row") -> dict[str, Any]:
    contract: dict[str, Any] = {"instruction": f"do {op} {outputs}", "inputs": list(inputs), "unit": unit}
    if op != "filter":
        contract["output"] = dict.fromkeys(outputs, "integer")
    return {"op": op, "contract": contract}


def where(condition: str) -> dict[str, Any]:
    return {"op": "where", "condition": condition}


def plan(*steps: dict[str, Any], output: str | None = None) -> Plan:
    data: dict[str, Any] = {"sources": ["t"], "steps": list(steps)}
    return load(data | ({"output": output} if output else {}))


def ops(a_plan: Plan) -> list[str]:
    return [step.op for step in a_plan.steps]


def test_where_moves_before_models_it_does_not_depend_on(interpreter: Any) -> None:
    before = plan(llm("map", "mood"), llm("filter"), where("stars > 3"))
    after = optimize(before, CATALOG)
    assert ops(after.plan) == ["where", "map", "filter"]
    assert after.notes == ("where_1 moved before map_1, filter_1: fewer rows are paid",)
    expected = interpreter.run(before, {"t": TABLE})
    assert interpreter.asked["map_1"] == 20
    assert interpreter.run(after.plan, {"t": TABLE}).equals(expected)
    assert interpreter.asked["map_1"] == sum((s or 0) > 3 for s in TABLE["stars"].to_pylist())


def test_limit_moves_before_maps(interpreter: Any) -> None:
    before = plan(
        {"op": "sort", "by": [{"column": "stars", "descending": True}]},
        llm("map", "mood"),
        {"op": "assign", "columns": {"double": "stars * 2"}},
        {"op": "select", "columns": ["id", "mood", "double"]},
        {"op": "limit", "n": 3},
    )
    after = optimize(before, CATALOG)
    assert ops(after.plan) == ["sort", "limit", "map", "assign", "select"]
    assert after.notes == ("limit_1 moved before map_1: only 3 rows are paid",)
    expected = interpreter.run(before, {"t": TABLE})
    assert interpreter.run(after.plan, {"t": TABLE}).equals(expected)
    assert interpreter.asked == {"map_1": 3}


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param([llm("map", "mood"), where("mood > 3")], id="reads what the model writes"),
        pytest.param(
            [llm("map", "mood", unit="partition"), where("stars > 3")], id="agent sees several rows"
        ),
        pytest.param([llm("map", "mood", unit="pack(4)"), where("stars > 3")], id="rows share a prompt"),
        pytest.param([llm("map", "mood"), where("CAST(text AS INTEGER) > 3")], id="the cast may fail"),
        pytest.param([llm("filter"), where("text > 3")], id="a hidden cast may fail"),
        pytest.param([llm("filter"), where("stars * 9223372036854775807 > 1")], id="may overflow"),
        pytest.param([llm("filter"), {"op": "limit", "n": 3}], id="limit after a filter"),
        pytest.param([llm("flat_map", "part"), {"op": "limit", "n": 3}], id="limit after a flat_map"),
        pytest.param(
            [llm("map", "m", unit="partition"), {"op": "limit", "n": 3}], id="limit after an agent of many"
        ),
        pytest.param([where("stars > 3"), llm("map", "mood")], id="already first"),
        pytest.param(
            [llm("map", "mood"), {"op": "distinct", "columns": ["text"]}, where("stars > 3")],
            id="distinct between",
        ),
        pytest.param(
            [llm("map", "mood"), {"op": "limit", "n": 9}, where("mood > 3")], id="limit stays before where"
        ),
        pytest.param(
            [llm("map", "m"), {"op": "assign", "columns": {"stars": "id"}}, where("stars > 3")],
            id="replaced between",
        ),
        pytest.param(
            [
                llm("map", "m"),
                {"op": "select", "columns": ["id"], "rename": {"id": "stars"}},
                where("stars > 3"),
            ],
            id="renamed between",
        ),
    ],
)
def test_plans_that_a_rule_cannot_be_sure_of_stay_as_they_are(steps: list[dict[str, Any]]) -> None:
    before = plan(*steps)
    kept = [op for op in ops(before) if op in ("where", "limit")]
    after = optimize(before, CATALOG)
    if "limit" in kept and "where" in kept:  # the limit may move; the where may not
        assert ops(after.plan) == ["limit", "map", "where"]
    else:
        assert after.plan == before
        assert after.notes == ()


def test_a_step_whose_rows_somebody_else_reads_is_not_passed() -> None:
    before = load(
        {
            "sources": ["t"],
            "steps": [
                {"id": "m", "input": "t", **llm("map", "mood")},
                {"id": "w", "input": "m", **where("stars > 3")},
                {"id": "both", "input": "w", "op": "concat", "others": ["m"]},
            ],
        }
    )
    assert optimize(before, CATALOG).plan == before
    result_in_between = plan(llm("map", "mood"), where("stars > 3"), output="map_1")
    assert optimize(result_in_between, CATALOG).plan == result_in_between


def test_readers_of_a_moved_step_read_what_is_last_now() -> None:
    before = load(
        {
            "sources": ["t"],
            "steps": [
                {"id": "m", "input": "t", **llm("map", "mood")},
                {"id": "w", "input": "m", **where("stars > 3")},
                {
                    "id": "c",
                    "input": "w",
                    "op": "aggregate",
                    "by": ["mood"],
                    "aggregates": {"n": {"fn": "count"}},
                },
                {
                    "id": "j",
                    "input": "w",
                    "op": "merge",
                    "right": "c",
                    "left_on": ["mood"],
                    "right_on": ["mood"],
                },
                {"id": "k", "input": "j", "op": "concat", "others": ["w"]},
            ],
        }
    )
    after = optimize(before, CATALOG).plan
    assert [(step.id, step.inputs_from) for step in after.steps] == [
        ("w", ("t",)),
        ("m", ("w",)),
        ("c", ("m",)),
        ("j", ("m", "c")),
        ("k", ("j", "m")),
    ]
    assert problems_of(after, CATALOG)[0] == ()
    moved_result = optimize(plan(llm("map", "mood"), where("stars > 3"), output="where_1"), CATALOG).plan
    assert moved_result.result == "map_1"


# --- any chain of steps

_MODEL_STEPS = st.sampled_from(
    [
        llm("map", "a"),
        llm("map", "b", inputs=("text", "stars")),
        llm("map", "c", unit="pack(3)"),
        llm("filter", inputs=("stars",)),
        llm("flat_map", "d"),
    ]
)
_FRAME_STEPS = st.sampled_from(
    [
        where("stars > 2"),
        where("text IS NOT NULL AND id < 15"),
        where("lower(text) LIKE '%3%' OR stars IS NULL"),
        {"op": "limit", "n": 4},
        {"op": "limit", "n": 11},
        {"op": "assign", "columns": {"stars": "coalesce(stars, 0) + 1"}},
        {"op": "assign", "columns": {"long": "length(text)"}},
        {"op": "select", "columns": ["id", "text", "stars"]},
        {"op": "select", "columns": ["id", "stars", "text"], "rename": {"id": "text", "text": "id"}},
        {"op": "sort", "by": [{"column": "stars"}, {"column": "id"}]},
    ]
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(_MODEL_STEPS, _FRAME_STEPS), min_size=2, max_size=7))
def test_any_chain_gives_the_same_rows_and_never_pays_for_more(steps: list[dict[str, Any]]) -> None:
    from tests_optimize_interpreter import Interpreter

    before = plan(*steps)
    if problems_of(before, CATALOG)[0]:
        return
    interpreter = Interpreter()
    expected = interpreter.run(before, {"t": TABLE})
    paid = dict(interpreter.asked)
    after = optimize(before, CATALOG)
    assert interpreter.run(after.plan, {"t": TABLE}).equals(expected)
    assert set(interpreter.asked) == set(paid)
    assert all(interpreter.asked[step] <= paid[step] for step in paid)
    assert bool(after.notes) == (after.plan != before)
    assert optimize(after.plan, CATALOG).notes == ()


@pytest.mark.parametrize(
    ("condition", "sure"),
    [
        ("stars > 3", True),
        ("text = '::cast' OR stars IS NULL", True),
        ("TRY_CAST(text AS INTEGER) > 3", True),
        ("length(text) < 10 AND text NOT LIKE 'a%'", True),
        ("TRUE", True),
        ("text::INTEGER > 3", False),
        ("text > 3", False),
        ("stars * stars > 3", False),
        ("strptime(text, '%Y') IS NULL", False),
    ],
)
def test_a_condition_moves_only_if_no_row_can_make_it_fail(condition: str, sure: bool) -> None:
    assert never_fails(condition, TABLE.schema) is sure
