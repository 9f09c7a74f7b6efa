"""A broken plan is refused before anything is read, with step, field and candidates in the message."""

from __future__ import annotations

import copy
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apwa_dask.errors import PlanError
from apwa_dask.plans.infer import infer
from apwa_dask.plans.loading import load
from apwa_dask.plans.plan import Plan
from apwa_dask.plans.validate import validate

CATALOG = {
    "reviews": pa.schema(
        [
            ("_apwa_row", pa.string()),
            ("text", pa.string()),
            ("stars", pa.int64()),
            ("tags", pa.list_(pa.string())),
            ("price", pa.decimal128(8, 2)),
            ("ok", pa.bool_()),
            ("pause", pa.month_day_nano_interval()),
        ]
    ),
    "products": pa.schema([("id", pa.int64()), ("text", pa.string())]),
}
ASK: dict[str, Any] = {"instruction": "How severe?", "inputs": ["text"], "output": {"severity": "integer"}}


def plan(*steps: dict[str, Any], sources: tuple[str, ...] = ("reviews",), **more: Any) -> Plan:
    return load({"sources": list(sources), "steps": list(steps), **more})


def problems(*steps: dict[str, Any], sources: tuple[str, ...] = ("reviews",), **more: Any) -> str:
    with pytest.raises(PlanError) as caught:
        validate(plan(*steps, sources=sources, **more), CATALOG, tools={"search"}, models={"big"})
    return str(caught.value)


def ask(op: str = "map", **changes: Any) -> dict[str, Any]:
    outer = {key: changes.pop(key) for key in ("by", "id", "input") if key in changes}
    return {"op": op, **outer, "contract": {**ASK, **changes}}


BROKEN: dict[str, tuple[list[dict[str, Any]], str]] = {
    "unknown input column": ([ask(inputs=["txt"])], "map_1.inputs: no column 'txt'; did you mean 'text'"),
    "unknown column in where": ([{"op": "where", "condition": "star > 1"}], "did you mean 'stars'"),
    "where not boolean": (
        [{"op": "where", "condition": "stars"}],
        "where_1.condition: it is int64, not boolean",
    ),
    "type clash in where": (
        [{"op": "where", "condition": "stars + text > 1"}],
        "where_1.condition: the types in stars + text do not fit; columns: stars (int64), text (string); "
        "in place of text: price (decimal128(8, 2)); or write stars + TRY_CAST(text AS DOUBLE)",
    ),
    "type clash in assign": (
        [{"op": "assign", "columns": {"size": "length(stars)"}}],
        "assign_1.columns.size: the types in length(stars) do not fit; columns: stars (int64); "
        "in place of stars: text (string)",
    ),
    "reserved column": ([{"op": "where", "condition": "_apwa_row = '1'"}], "no column '_apwa_row'"),
    "select unknown": ([{"op": "select", "columns": ["starz"]}], "did you mean 'stars'"),
    "select twice": ([{"op": "select", "columns": ["text", "text"]}], "two columns would be called 'text'"),
    "rename unselected": (
        [{"op": "select", "columns": ["text"], "rename": {"stars": "s"}}],
        "select_1.rename: 'stars' is not selected",
    ),
    "rename to reserved": (
        [{"op": "select", "columns": ["text"], "rename": {"text": "_apwa_x"}}],
        "reserved",
    ),
    "assign reserved": ([{"op": "assign", "columns": {"_apwa_row": "1"}}], "reserved"),
    "two writers": (
        [ask(), ask()],
        "map_2.output: column 'severity' exists already (step 'map_1' writes it)",
    ),
    "a map over a source column": ([ask(output={"stars": "integer"})], "the table has it"),
    "assign over an answer": (
        [ask(), {"op": "assign", "columns": {"severity": "1"}}],
        "step 'map_1' writes 'severity' already",
    ),
    "assign twice": (
        [{"op": "assign", "columns": {"a": "1"}}, {"op": "assign", "columns": {"a": "2"}}],
        "step 'assign_1' writes 'a' already",
    ),
    "sum of text": (
        [{"op": "aggregate", "aggregates": {"s": {"fn": "sum", "column": "text"}}}],
        "aggregate_1.aggregates.s: sum has no meaning for 'text', which is string; "
        "sum takes stars (int64), price (decimal128(8, 2)), ok (bool)",
    ),
    "mean without a column": (
        [{"op": "aggregate", "aggregates": {"m": {"fn": "mean"}}}],
        "mean needs a column",
    ),
    "group by a list": (
        [{"op": "aggregate", "by": ["tags"], "aggregates": {"n": {"fn": "count"}}}],
        "cannot be grouped, joined or sorted; text (string), stars (int64), price (decimal128(8, 2)), ok (bool) can",
    ),
    "aggregate over a key": (
        [{"op": "aggregate", "by": ["stars"], "aggregates": {"stars": {"fn": "count"}}}],
        "group key already",
    ),
    "sort by a list": ([{"op": "sort", "by": [{"column": "tags"}]}], "sort_1.by: 'tags' is list"),
    "distinct over a list": ([{"op": "distinct"}], "'tags' is list"),
    "explode a text": ([{"op": "explode", "column": "text"}], "no list; lists: tags (list<item: string>)"),
    "chunk a number": (
        [{"op": "chunk", "column": "stars"}],
        "'stars' is int64, no text; texts: text (string)",
    ),
    "chunk with a large overlap": (
        [{"op": "chunk", "column": "text", "tokens": 20, "overlap_tokens": 20}],
        "smaller than the chunk",
    ),
    "sample of nothing": ([{"op": "sample"}], "give n or fraction"),
    "sample of both": ([{"op": "sample", "n": 1, "fraction": 0.5}], "not both"),
    "input that does not exist": ([{"op": "limit", "n": 1, "input": "review"}], "did you mean 'reviews'"),
    "a cycle": (
        [
            {"id": "a", "op": "limit", "n": 1, "input": "b"},
            {"id": "b", "op": "limit", "n": 1, "input": "a"},
        ],
        "a.input: 'b' comes later",
    ),
    "reads itself": ([{"id": "a", "op": "limit", "n": 1, "input": "a"}], "cannot read itself"),
    "the same id twice": (
        [{"id": "a", "op": "limit", "n": 1}, {"id": "a", "op": "limit", "n": 2}],
        "another step has this id",
    ),
    "an id like a source": ([{"id": "reviews", "op": "limit", "n": 1}], "a source has this name"),
    "a reserved id": ([{"id": "_apwa_x", "op": "limit", "n": 1}], "reserved"),
    "unknown tool": ([ask(tools=["serch"])], "map_1.tools: no tool 'serch'; did you mean 'search'"),
    "URL as a tool": ([ask(tools=["http://evil/x"])], "is no tool name"),
    "path as a tool": ([ask(tools=["../secret"])], "is no tool name"),
    "template as a tool": ([ask(tools=["{{ x }}"])], "is no tool name"),
    "unknown model": ([ask(model="bigg")], "no model 'bigg'; did you mean 'big'"),
    "URL as a model": ([ask(model="http://evil/v1")], "is no model alias"),
    "chained path as a model": ([ask(model="simplecache::file")], "is no model alias"),
    "tools with packs": (
        [ask(tools=["search"], unit="pack(4)")],
        "tools never work where rows share a prompt",
    ),
    "group outside reduce": ([ask(unit="group")], "group belongs to reduce"),
    "partition in flat_map": ([ask("flat_map", unit="partition")], "partition belongs to map and reduce"),
    "group without keys": ([ask("reduce", unit="group")], "needs the columns to group by"),
    "reduce by an unknown column": ([ask("reduce", by=["produkt"])], "no column 'produkt'"),
    "an input no prompt can show": ([ask(inputs=["pause"])], "which a prompt cannot show"),
    "an example with other inputs": (
        [ask(examples=[{"inputs": {"stars": 1}, "output": {"severity": 1}}])],
        "examples[0].inputs",
    ),
    "merge keys of two types": (
        [{"op": "merge", "right": "products", "left_on": ["text"], "right_on": ["id"], "input": "reviews"}],
        "'text' is string on the left and 'id' is int64 on the right; put an assign step before, such as id_text: "
        'CAST("id" AS VARCHAR)',
    ),
    "merge keys of two lengths": (
        [
            {
                "op": "merge",
                "right": "products",
                "left_on": ["text", "stars"],
                "right_on": ["id"],
                "input": "reviews",
            }
        ],
        "2 left keys and 1 right keys",
    ),
    "concat of two types": (
        [
            {"id": "a", "op": "assign", "columns": {"text": "stars"}, "input": "reviews"},
            {"op": "concat", "others": ["products"], "input": "a"},
        ],
        "concat_1.others: 'text' is int64 above and string in 'products'",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_plan_says_where_and_what_instead(kind: str) -> None:
    steps, words = BROKEN[kind]
    two = any("products" in (step.get("right"), *step.get("others", ())) for step in steps)
    assert words in problems(*steps, sources=("reviews", "products") if two else ("reviews",))


def test_one_error_lists_every_problem() -> None:
    text = problems(
        ask(inputs=["txt"], unit="group"), {"op": "sort", "by": [{"column": "x"}], "input": "reviews"}
    )
    assert "3 problems" in text
    assert "map_1.inputs" in text
    assert "map_1.unit" in text
    assert "sort_1.by" in text


def test_steps_after_a_broken_one_are_not_blamed_for_it() -> None:
    text = problems(ask(inputs=["txt"]), {"op": "where", "condition": "severity > 3"})
    assert "1 problem:" in text


def test_an_unknown_table_or_output_names_the_known_ones() -> None:
    assert "did you mean 'reviews'" in problems({"op": "limit", "n": 1}, sources=("revews",))
    assert "output: no step or source 'limit_2'; did you mean 'limit_1'" in problems(
        {"op": "limit", "n": 1}, output="limit_2"
    )


def test_a_sound_plan_passes_and_unused_things_are_warned_about() -> None:
    good = plan(
        {"op": "limit", "n": 5, "input": "reviews"},
        {"id": "m", "input": "limit_1", **ask(unit="pack(3)")},
        {"op": "where", "condition": "stars > 2", "input": "m"},
        sources=("reviews", "products"),
    )
    words = " | ".join(map(str, validate(good, CATALOG)))
    assert "'products' is never read" in words
    assert "share a prompt" in words
    assert "put it first" in words


def test_assign_may_replace_a_column_of_the_source_once() -> None:
    assert validate(plan({"op": "assign", "columns": {"text": "lower(text)"}}), CATALOG) == ()


# --- inference


def test_schemas_follow_the_steps() -> None:
    steps = [
        {"op": "assign", "columns": {"half": "stars / 2", "text": "upper(text)"}},
        ask(output={"severity": "integer", "labels": "list[string]"}),
        {"op": "explode", "column": "labels"},
        {"op": "chunk", "column": "text"},
        {
            "op": "select",
            "columns": ["labels", "half", "severity", "ok", "price"],
            "rename": {"labels": "label"},
        },
        {
            "op": "aggregate",
            "by": ["label"],
            "aggregates": {
                "n": {"fn": "count"},
                "total": {"fn": "sum", "column": "severity"},
                "money": {"fn": "sum", "column": "price"},
                "share": {"fn": "mean", "column": "ok"},
                "most": {"fn": "max", "column": "price"},
                "any": {"fn": "any", "column": "ok"},
            },
        },
    ]
    built = plan(*steps)
    validate(built, CATALOG)
    found = infer(built, CATALOG)
    assert found["reviews"].names == ["text", "stars", "tags", "price", "ok", "pause"]
    assert found["explode_1"].field("labels").type == pa.string()
    assert found["chunk_1"].names[-1] == "text_chunk"
    assert found["aggregate_1"] == pa.schema(
        [
            ("label", pa.string()),
            ("n", pa.int64()),
            ("total", pa.int64()),
            ("money", pa.float64()),
            ("share", pa.float64()),
            ("most", pa.decimal128(8, 2)),
            ("any", pa.bool_()),
        ]
    )


def test_reduce_gives_its_keys_and_its_answer() -> None:
    found = infer(plan(ask("reduce", by=["stars"])), CATALOG)
    assert found["reduce_1"] == pa.schema([("stars", pa.int64()), ("severity", pa.int64())])


def test_a_merge_renames_what_clashes_and_keeps_one_shared_key() -> None:
    step = {"op": "merge", "right": "products", "left_on": ["stars"], "right_on": ["id"], "input": "reviews"}
    assert infer(plan(step, sources=("reviews", "products")), CATALOG)["merge_1"].names[-2:] == [
        "id",
        "text_right",
    ]
    shared = {
        "op": "merge",
        "right": "products",
        "left_on": ["text"],
        "right_on": ["text"],
        "input": "reviews",
    }
    assert infer(plan(shared, sources=("reviews", "products")), CATALOG)["merge_1"].names[-1] == "id"


# --- plans from outside


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sources: [http://x/y]\nsteps: []", "never URLs"),
        ("sources: ['s3://b/k']", "never URLs"),
        ("sources: ['../x']", "never URLs"),
        ("sources: ['{{x}}']", "never URLs"),
        ("sources: []", "at least 1"),
        ("sources: [t]\nsteps: [{op: wher, condition: x}]", "did you mean 'where'"),
        ("sources: [t]\nsteps: [{condition: x}]", "it needs op"),
        ("sources: [t]\nsteps: [{op: where, conditon: x}]", "did you mean 'condition'"),
        (
            "sources: [t]\nsteps: [{op: where, condition: x, python: 'import os'}]",
            "there is no 'python' here",
        ),
        ("sources: [t]\nstep: []", "did you mean 'steps'"),
        ("sources: [t]\nsteps: [{op: aggregate, aggregates: {a: {fn: avg}}}]", "'avg' is not one of 'count'"),
        ("sources: [t]\nsteps: [{op: limit, n: -1}]", "steps[0] (limit_1).n"),
        ("sources: [t]\nsteps: [{op: limit, n: 1, input: 'file:///x'}]", "never URLs"),
        (
            "sources: [t]\nsteps: [{op: map, contract: {instruction: i, inputs: [a], output: {x: strng}}}]",
            "'string'",
        ),
        (
            "sources: t\n"
            "steps: [{op: map, contract: {instruction: i, inputs: [a], output: {x: date}, unit: x}}]",
            "not one of row, pack(n)",
        ),
        (
            "sources: [t]\nsteps: [{op: filter, contract: {instruction: i, inputs: [a], output: {x: date}}}]",
            "exactly {keep: boolean}",
        ),
        ("- a\n- b", "a plan is a mapping"),
        ("a: [", "cannot be read"),
        ("a: &x [1]\nb: *x", "references"),
        ("a: !!python/object/apply:os.system ['id']", "cannot be read"),
        ("sources: [t]\nsources: [u]", "given twice"),
        ("x" * 1_100_000, "at most 1,000,000"),
        ("[" * 5000, "cannot be read"),
    ],
)
def test_what_is_no_plan_is_refused_with_a_way_out(text: str, words: str) -> None:
    with pytest.raises(PlanError) as caught:
        load(text)
    assert words in str(caught.value)
    assert caught.value.__cause__ is None


GOOD: dict[str, Any] = {
    "version": 1,
    "query": "",
    "sources": ["reviews"],
    "steps": [
        {"id": "w", "op": "where", "input": "reviews", "condition": "stars > 1"},
        {"id": "m", "op": "map", "input": "w", "contract": {**ASK, "tools": ["search"]}},
        {"id": "s", "op": "select", "input": "m", "columns": ["severity"], "rename": {}},
        {"id": "a", "op": "aggregate", "input": "m", "by": ["stars"], "aggregates": {"n": {"fn": "count"}}},
    ],
}
POISON = [
    "__import__('os')",
    "@x",
    "a::b",
    "../x",
    "http://h/",
    "{{ x }}",
    "${x}",
    "file:///x",
    "no_such_name",
    7,
    None,
]
FREE_TEXT = {"instruction", "query", "reason", "description", "version"}


@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_a_plan_with_one_poisoned_name_is_always_refused(data: st.DataObject) -> None:
    """Every name in a plan, one at a time, becomes a URL, a path, code or a template."""
    spots: list[tuple[list[Any], Any]] = []

    def walk(node: Any, path: list[Any]) -> None:
        items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        for key, value in items:
            if isinstance(value, (dict, list)):
                walk(value, [*path, key])
            elif key not in FREE_TEXT:
                spots.append((path, key))

    walk(GOOD, [])
    path, key = data.draw(st.sampled_from(spots))
    bad = copy.deepcopy(GOOD)
    node: Any = bad
    for part in path:
        node = node[part]
    poison = data.draw(st.sampled_from(POISON))
    if key == "id" and poison == "no_such_name":
        return  # a new id on a step that others read by its old name is caught; on the last it is lawful
    node[key] = poison
    with pytest.raises(PlanError):
        validate(load(bad), CATALOG, tools={"search"})
