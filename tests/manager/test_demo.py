"""The demo's question over the demo's table: what a small model is still asked, and what comes of it."""

from __future__ import annotations

import asyncio
from importlib.resources import files
from typing import Any

import jsonschema

from apwa_dask.demo.__main__ import QUESTION
from apwa_dask.manager import draft_async
from apwa_dask.tables import profile_source, read_sources

LABELS = {
    "answers": [
        {"name": "topic", "labels": ["praise", "defect", "delivery", "billing"]},
        {
            "name": "product",
            "labels": ["kettle", "tent", "headphones", "desk lamp", "blender", "backpack"],
        },
    ]
}
"""What the embedded model answered."""


def test_the_demo_is_one_map_and_its_form_leaves_no_choice(kit: Any) -> None:
    folder = files("apwa_dask.demo").joinpath("data")
    (source,) = read_sources(str(folder), documents=True).values()
    catalog = {"messages": (source.manifest.schema, profile_source(source))}
    form = {"write": "labels", "keep": "all", "result": "rows", "order": "no"}
    planner = kit.Planner([form, LABELS])
    plan = asyncio.run(draft_async(QUESTION, catalog, kit.small, planner)).plan
    (asked, _) = planner.requests
    assert asked.template.schema is not None
    assert {name: node["enum"] for name, node in asked.template.schema["properties"].items()} == {
        name: [value] for name, value in form.items()
    }
    jsonschema.validate(LABELS, planner.requests[1].template.schema)
    (step,) = plan.steps
    assert step.op == "map"
    assert step.contract.inputs == ("text",)
    assert step.contract.output.names == ("topic", "product")
    assert step.contract.output.fields[0].labels == {
        "praise": "the customer is happy with the product",
        "defect": "the product is broken or does not work",
        "delivery": "a parcel is late, lost or went to the wrong place",
        "billing": "charges, refunds, prices",
    }
    assert list(step.contract.output.fields[1].labels) == LABELS["answers"][1]["labels"]
