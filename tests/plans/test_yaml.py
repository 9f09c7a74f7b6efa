"""Plans as YAML: what is written reads back equal, and people can read it."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apwa_dask.plans.loading import load
from apwa_dask.plans.plan import Plan

names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,10}", fullmatch=True).filter(
    lambda n: not n.startswith("_apwa")
)
# Everything that means something to YAML, and the line breaks that it folds.
words = st.text("aZ0 .~:#-?,'\"{}[]|>&*!%@`\\\n\r\t\x85\u2028\ufeff\u00e9\U0001f600", min_size=1, max_size=20)
columns = st.lists(names, min_size=1, max_size=3, unique=True)
field = st.one_of(
    st.sampled_from(["string", "integer", "number?", "boolean", "date", "datetime?", "list[string]"]),
    st.fixed_dictionaries(
        {"type": st.just("string"), "labels": st.dictionaries(words, words, min_size=1, max_size=3)}
    ),
    st.fixed_dictionaries({"type": st.just("integer"), "minimum": st.integers(0, 3), "description": words}),
)
output = st.dictionaries(names, field, min_size=1, max_size=3)
contract = st.fixed_dictionaries(
    {"instruction": words, "inputs": columns, "output": output},
    optional={
        "unit": st.sampled_from(["row", "pack(4)", "partition"]),
        "tools": st.lists(names, max_size=2),
        "model": st.none() | names,
        "limits": st.fixed_dictionaries(
            {}, optional={"output_tokens": st.integers(1, 99), "seconds": st.floats(1, 9)}
        ),
        "examples": st.lists(
            st.fixed_dictionaries(
                {"inputs": st.dictionaries(names, words | st.none()), "output": st.dictionaries(names, words)}
            ),
            max_size=2,
        ),
    },
)
verdict = st.fixed_dictionaries({"instruction": words, "inputs": columns})
aggregation = st.fixed_dictionaries(
    {"fn": st.sampled_from(["count", "sum", "any"])}, optional={"column": names}
)
STEPS = st.one_of(
    st.fixed_dictionaries({"op": st.sampled_from(["map", "flat_map"]), "contract": contract}),
    st.fixed_dictionaries({"op": st.just("reduce"), "contract": contract, "by": st.lists(names, max_size=2)}),
    st.fixed_dictionaries({"op": st.just("filter"), "contract": verdict}),
    st.fixed_dictionaries({"op": st.just("where"), "condition": words, "reason": words}),
    st.fixed_dictionaries({"op": st.just("assign"), "columns": st.dictionaries(names, words, min_size=1)}),
    st.fixed_dictionaries(
        {
            "op": st.just("select"),
            "columns": st.lists(words, min_size=1),
            "rename": st.dictionaries(words, names),
        }
    ),
    st.fixed_dictionaries({"op": st.just("explode"), "column": words}),
    st.fixed_dictionaries(
        {"op": st.just("chunk"), "column": words}, optional={"tokens": st.integers(16, 99)}
    ),
    st.fixed_dictionaries(
        {"op": st.just("aggregate"), "aggregates": st.dictionaries(names, aggregation, min_size=1)},
        optional={"by": st.lists(words, max_size=2)},
    ),
    st.fixed_dictionaries(
        {
            "op": st.just("sort"),
            "by": st.lists(
                st.fixed_dictionaries({"column": words}, optional={"descending": st.booleans()}), min_size=1
            ),
        }
    ),
    st.fixed_dictionaries({"op": st.just("limit"), "n": st.integers(0, 99)}),
    st.fixed_dictionaries({"op": st.just("distinct")}, optional={"columns": st.lists(words, max_size=2)}),
    st.fixed_dictionaries({"op": st.just("sample"), "fraction": st.floats(0, 1)}),
    st.fixed_dictionaries(
        {
            "op": st.just("merge"),
            "right": names,
            "left_on": st.lists(words, min_size=1, max_size=1),
            "right_on": st.lists(words, min_size=1, max_size=1),
        },
        optional={"how": st.sampled_from(["inner", "outer"])},
    ),
    st.fixed_dictionaries({"op": st.just("concat"), "others": st.lists(names, min_size=1, max_size=2)}),
)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Any plan that can be written; it need not be valid for any table."""
    steps: list[dict[str, Any]] = draw(st.lists(STEPS, max_size=3))
    for step in steps:
        if draw(st.booleans()):
            step["id"] = draw(names)
    sources = draw(st.lists(names, min_size=1, max_size=2, unique=True))
    if len(sources) > 1 and steps:
        steps[0]["input"] = draw(names)
    data: dict[str, Any] = {"sources": sources, "steps": steps}
    if draw(st.booleans()):
        data |= {"query": draw(words), "output": draw(names)}
    return load(data)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(plan=plans())
def test_a_plan_reads_back_equal(plan: Plan) -> None:
    text = plan.to_yaml()
    again = Plan.from_yaml(text)
    assert again == plan
    assert again.hash == plan.hash
    assert again.to_yaml() == text
    assert not plan.diff(again)


WRITTEN = """\
query: Which products draw complaints?
sources: [reviews]
steps:
- id: low
  op: where
  condition: stars < 3
- id: severity
  op: map
  contract:
    instruction: |-
      How severe is the complaint?
      Answer with a number from 1 (mild) to 5 (dangerous).
    inputs: [text]
    output:
      severity: integer
      product: string?
- id: real
  op: filter
  contract:
    instruction: Is it a genuine complaint?
    inputs: [text]
"""


def test_yaml_is_short_has_blocks_and_leaves_defaults_out() -> None:
    plan = Plan.from_yaml(WRITTEN)
    assert plan.to_yaml() == WRITTEN
    assert [step.input for step in plan.steps] == ["reviews", "low", "severity"]
    assert plan.steps[2].contract.output.names == ("keep",)


def test_a_step_may_leave_out_id_and_input() -> None:
    steps = "- {op: limit, n: 3}\n- {op: limit, n: 2}\n- {op: where, condition: a, id: limit_3}\n"
    plan = load(f"sources: t\nsteps:\n{steps}")
    assert [(step.id, step.input) for step in plan.steps] == [
        ("limit_1", "t"),
        ("limit_2", "limit_1"),
        ("limit_3", "limit_2"),
    ]


def test_json_is_yaml() -> None:
    plan = Plan.from_yaml(WRITTEN)
    assert Plan.from_yaml(plan.model_dump_json()) == plan


def test_words_that_yaml_reads_as_something_else_stay_words() -> None:
    plan = load(
        {
            "sources": ["on", "no"],
            "steps": [
                {
                    "op": "map",
                    "input": "no",
                    "contract": {
                        "instruction": "2020-01-01",
                        "inputs": ["yes"],
                        "output": {"null": "string"},
                        "examples": [{"inputs": {"yes": "1e3"}, "output": {"null": "~"}}],
                    },
                }
            ],
        }
    )
    assert Plan.from_yaml(plan.to_yaml()) == plan


def test_a_diff_names_the_changed_line_of_the_yaml() -> None:
    plan = Plan.from_yaml(WRITTEN)
    changed = Plan.from_yaml(WRITTEN.replace("stars < 3", "stars < 2"))
    (change,) = plan.diff(changed)
    assert change.field == "condition"
    assert "stars < 3 -> " in str(change)
    assert "stars < 2" in str(change)
