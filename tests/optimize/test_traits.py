"""What a step declares of itself is true of what it does; a step that declares nothing is feared."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import dask
import dask.dataframe as dd
import pandas as pd
import pyarrow as pa
import pytest
from pydantic import BaseModel

from apwa_dask.execution.frame_steps import apply_barrier, apply_local
from apwa_dask.optimize import optimize
from apwa_dask.optimize.traits import Traits, traits_of
from apwa_dask.plans.infer import output_schema
from apwa_dask.plans.loading import OPERATIONS, load
from apwa_dask.tables.dtypes import empty_frame, to_arrow, to_pandas

SCHEMA = pa.schema(
    [
        ("k", pa.string()),
        ("n", pa.int64()),
        ("x", pa.float64()),
        ("text", pa.string()),
        ("tags", pa.list_(pa.string())),
    ]
)
OTHER = pa.schema([("k", pa.string()), ("n", pa.int64()), ("note", pa.string())])
BOOKKEEPING = [("_apwa_row", pa.string()), ("_apwa_status", pa.string()), ("_apwa_error", pa.string())]

FRAME_STEPS: dict[str, dict[str, Any]] = {
    "where": {"op": "where", "condition": "n > 1"},
    "assign": {"op": "assign", "columns": {"n": "n + 1", "twice": "x * 2"}},
    "select": {"op": "select", "columns": ["x", "n", "k"], "rename": {"n": "k", "k": "n"}},
    "explode": {"op": "explode", "column": "tags"},
    "chunk": {"op": "chunk", "column": "text", "tokens": 16, "overlap_tokens": 2},
    "aggregate": {"op": "aggregate", "by": ["k"], "aggregates": {"n": {"fn": "sum", "column": "n"}}},
    "sort": {"op": "sort", "by": [{"column": "n", "descending": True}]},
    "limit": {"op": "limit", "n": 5},
    "sample": {"op": "sample", "n": 5},
    "distinct": {"op": "distinct", "columns": ["k"]},
    "merge": {"op": "merge", "right": "o", "left_on": ["k"], "right_on": ["k"]},
    "merge left": {"op": "merge", "right": "o", "left_on": ["k"], "right_on": ["k"], "how": "left"},
    "merge outer": {"op": "merge", "right": "o", "left_on": ["k"], "right_on": ["k"], "how": "outer"},
    "concat": {"op": "concat", "others": ["o"]},
}
ASK = {"instruction": "?", "inputs": ["text"], "output": {"a": "integer"}}
PAIR = {"instruction": "?", "inputs": ["text", "note"]}
MODEL_STEPS: dict[str, dict[str, Any]] = {
    "map": {"op": "map", "contract": ASK},
    "filter": {"op": "filter", "contract": {"instruction": "?", "inputs": ["text"]}},
    "flat_map": {"op": "flat_map", "contract": ASK},
    "reduce": {"op": "reduce", "by": ["k"], "contract": ASK},
    "join": {"op": "join", "right": "o", "left_on": ["k"], "right_on": ["k"], "contract": PAIR},
    "rank": {"op": "rank", "k": 2, "contract": {"instruction": "?", "inputs": ["text"]}},
    "resolve": {"op": "resolve", "on": ["k"], "contract": {"instruction": "?", "inputs": ["text"]}},
    "join outer": {"op": "join", "right": "o", "how": "outer", "condition": "n < n_right", "contract": PAIR},
    "join anti": {"op": "join", "right": "o", "how": "anti", "contract": PAIR},
}


def step_of(fields: dict[str, Any]) -> Any:
    return load({"sources": ["t", "o"], "steps": [{"id": "s", "input": "t", **fields}]}).steps[0]


def traits(step: Any) -> Traits:
    return traits_of(step, [SCHEMA, OTHER][: len(step.inputs_from)])


def table(seed: int, schema: pa.Schema, count: int = 12) -> pa.Table:
    rng = random.Random(seed)
    made = {
        "k": lambda: rng.choice("ab"),
        "n": lambda: rng.randrange(4),
        "x": lambda: rng.random(),
        "text": lambda: f"some words {rng.randrange(9)}. " * rng.randrange(20),
        "tags": lambda: ["p", "q"][: rng.randrange(3)],
        "note": lambda: f"note {rng.randrange(9)}",
    }
    columns = [pa.array([made[field.name]() for _ in range(count)], field.type) for field in schema]
    hidden = [
        pa.array([f"0:{i}" for i in range(count)]),
        pa.nulls(count, "string"),
        pa.nulls(count, "string"),
    ]
    return pa.Table.from_arrays([*hidden, *columns], schema=pa.schema([*BOOKKEEPING, *schema]))


def _cut(k: int, source: pa.Table) -> pd.DataFrame:
    return to_pandas(source.slice(k * 7, 7))


def run(step: Any, *tables: pa.Table) -> pa.Table:
    schemas = [pa.schema(list(each.schema)[3:]) for each in tables]
    if step.row_local:
        return apply_local(step, tables[0])
    schema = pa.schema([*BOOKKEEPING, *output_schema(step, schemas)])
    with dask.config.set({"dataframe.convert-string": False}):
        frames = [dd.from_map(_cut, range(2), source=each, meta=empty_frame(each.schema)) for each in tables]
    return to_arrow(apply_barrier(step, frames[0], frames[1:], schema).compute(scheduler="sync"), schema)


def tables_for(step: Any, seed: int) -> list[pa.Table]:
    return [table(seed, SCHEMA), table(seed + 100, OTHER)][: len(step.inputs_from)]


def parents(found: pa.Table) -> list[str]:
    """Row of the first input that each row comes from."""
    return [row.partition("~")[0].partition(".")[0] for row in found.column("_apwa_row").to_pylist()]


def replaced(source: pa.Table, names: Sequence[str], seed: int) -> pa.Table:
    """The table with other values in these columns."""
    fresh = table(seed, pa.schema([f for f in source.schema if f.name not in dict(BOOKKEEPING)]))
    for name in names:
        source = source.set_column(source.column_names.index(name), source.field(name), fresh.column(name))
    return source


def test_every_step_of_the_language_declares_its_traits() -> None:
    declared = {step_of(fields).op for fields in (*FRAME_STEPS.values(), *MODEL_STEPS.values())}
    assert declared == set(OPERATIONS)
    for fields in (*FRAME_STEPS.values(), *MODEL_STEPS.values()):
        assert traits(step_of(fields)).reads is not None


def test_an_unknown_step_is_taken_to_do_anything() -> None:
    class Strange(BaseModel):
        id: str = "s"

    assert traits_of(Strange(), [SCHEMA]) == Traits(
        reads=None,
        writes=None,
        removes=None,
        row_local=False,
        order_preserving=False,
        keeps_each_row=False,
        calls_model=True,
    )


@pytest.mark.parametrize("name", [*FRAME_STEPS, *MODEL_STEPS])
def test_columns_are_those_of_the_input_less_the_removed_and_with_the_written(name: str) -> None:
    step = step_of({**FRAME_STEPS, **MODEL_STEPS}[name])
    declared = traits(step)
    found = output_schema(step, [SCHEMA, OTHER][: len(step.inputs_from)])
    assert declared.removes is not None
    assert declared.writes is not None
    assert set(found.names) == (set(SCHEMA.names) - declared.removes) | declared.writes
    assert declared.calls_model == step.calls_model


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", FRAME_STEPS)
def test_a_column_that_is_not_written_has_its_parents_values(name: str, seed: int) -> None:
    step = step_of(FRAME_STEPS[name])
    inputs = tables_for(step, seed)
    found, declared = run(step, *inputs), traits(step)
    rows = {row["_apwa_row"]: row for row in inputs[0].to_pylist()}
    assert declared.writes is not None
    for column in set(found.column_names) - declared.writes - {f for f, _ in BOOKKEEPING}:
        assert found.column(column).to_pylist() == [rows[parent][column] for parent in parents(found)]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", FRAME_STEPS)
def test_columns_that_are_not_read_decide_nothing(name: str, seed: int) -> None:
    step = step_of(FRAME_STEPS[name])
    declared, inputs = traits(step), tables_for(step, seed)
    assert declared.reads is not None
    assert declared.writes is not None
    others = [
        replaced(each, [c for c in each.column_names[3:] if c not in declared.reads], seed + 50)
        for each in inputs
    ]
    before, after = run(step, *inputs), run(step, *others)
    fixed = ["_apwa_row", *(c for c in before.column_names if c in declared.writes & declared.reads)]
    assert before.select(fixed).equals(after.select(fixed))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", FRAME_STEPS)
def test_order_rows_and_neighbours_are_as_declared(name: str, seed: int) -> None:
    step = step_of(FRAME_STEPS[name])
    declared, inputs = traits(step), tables_for(step, seed)
    found = run(step, *inputs)
    if declared.order_preserving:
        places = [int(parent.split(":")[1]) for parent in parents(found)]
        assert places == sorted(places)
    if declared.keeps_each_row:
        assert sorted(found.column("_apwa_row").to_pylist()) == sorted(
            inputs[0].column("_apwa_row").to_pylist()
        )
    if declared.row_local:
        kept = [f"0:{i}" for i in range(0, 12, 2)]
        fewer = run(step, inputs[0].filter(pa.array([i % 2 == 0 for i in range(12)])))
        mine = found.filter(pa.array([parent in kept for parent in parents(found)], pa.bool_()))
        assert fewer.to_pylist() == mine.to_pylist()


@pytest.mark.parametrize("unit", ["pack(4)", "partition"])
def test_an_agent_that_sees_several_rows_is_not_trusted_with_one(unit: str) -> None:
    several = traits(step_of({"op": "map", "contract": {**ASK, "unit": unit}}))
    assert not several.row_local
    assert not several.keeps_each_row


def test_a_where_passes_steps_that_make_several_rows_of_one() -> None:
    ask = {"op": "map", "contract": ASK}
    chunk = {"op": "chunk", "column": "text"}
    plan = load({"sources": ["t"], "steps": [ask, chunk, {"op": "where", "condition": "n > 1"}]})
    assert [step.op for step in optimize(plan, {"t": SCHEMA}).plan.steps] == ["where", "map", "chunk"]
    reads_it = load({"sources": ["t"], "steps": [ask, chunk, {"op": "where", "condition": "text_chunk = 0"}]})
    assert optimize(reads_it, {"t": SCHEMA}).plan == reads_it
