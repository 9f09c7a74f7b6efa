"""Every kept plan, as YAML and as Python: what is read back or run again is the same plan."""

from __future__ import annotations

import ast
from typing import Any

import pytest

import apwa_dask as apwa
from apwa_dask.manager.wire import plan_data
from apwa_dask.plans.loading import load
from apwa_dask.plans.plan import Plan


def kept(drafts: Any) -> dict[str, Plan]:
    """The plans of all kept drafts; their tables are what steps read that is no step."""
    plans = {}
    for name, answer in drafts.items():
        if not answer["steps"]:
            continue
        read = [step.get(key) for step in answer["steps"] for key in ("input", "right")]
        tables = list(dict.fromkeys(table for table in read if table and not table.startswith("#")))
        plans[name] = load(plan_data(answer, f"question of {name}", tables))
    return plans


def run(source: str) -> Plan:
    """What a program assigns to ``plan``; it may import the package and nothing else."""
    imported = [
        node for node in ast.walk(ast.parse(source)) if isinstance(node, (ast.Import, ast.ImportFrom))
    ]
    assert [ast.unparse(node) for node in imported] == ["import apwa_dask as apwa"]
    names: dict[str, Any] = {}
    exec(compile(source, "plan.py", "exec"), names)
    assert isinstance(names["plan"], apwa.Plan)
    return names["plan"]


def test_every_kept_plan_is_the_same_as_python_and_as_yaml(drafts: Any) -> None:
    plans = kept(drafts)
    assert len(plans) == 42
    for name, plan in plans.items():
        again = run(plan.to_python())
        assert again == plan, name
        assert again.hash == plan.hash == Plan.from_yaml(plan.to_yaml()).hash, name


@pytest.mark.parametrize(
    "text",
    [
        "quotes \" and ' and \\ and a newline\n",
        "{braces} %s {{x}} # no comment",
        '"""); import os; os.abort(); ("""',
        "emoji \U0001f600, \u202e and \x00",
        "",
    ],
)
def test_no_word_of_a_plan_is_code(text: str) -> None:
    plan = load(
        {
            "query": text,
            "sources": ["t"],
            "steps": [
                {
                    "op": "map",
                    "reason": text,
                    "contract": {
                        "instruction": f"do {text}",
                        "inputs": [f"column {text}"],
                        "output": {"a": {"type": "string", "labels": {f"x{text}": text, "y": ""}}},
                        "examples": [
                            {"inputs": {f"column {text}": None}, "output": {"a": [True, 1.5, text]}}
                        ],
                        "unit": "pack(5)",
                        "limits": {"seconds": 2.5},
                    },
                }
            ],
            "output": "map_1",
        }
    )
    again = run(plan.to_python())
    assert again == plan
    assert again.hash == plan.hash
    names = [node.id for node in ast.walk(ast.parse(plan.to_python())) if isinstance(node, ast.Name)]
    assert set(names) == {"plan", "apwa"}


def test_a_name_that_is_no_identifier_is_refused() -> None:
    from apwa_dask.plans.to_python import to_python

    with pytest.raises(ValueError, match="no name for a variable"):
        to_python(Plan(sources=("t",)), name="x = 1; y")
