"""The table of what the plan language can say: every plan of it is valid, and runs over small tables."""

from __future__ import annotations

import io
import re
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

import apwa_dask as apwa
from apwa_dask.plans.plan import Plan
from apwa_dask.testing import ScriptedServer

DOCS = Path(__file__).parents[2] / "docs" / "explanation"
PAGE = DOCS / "expressibility.md"
FAMILIES = {path.stem: yaml.safe_load(path.read_text("utf-8")) for path in (DOCS / "sembench").glob("*.yaml")}
QUERIES = [(family, name) for family, queries in sorted(FAMILIES.items()) for name in queries]
ROW = re.compile(r"^\| (?P<query>Q\w+) \| (?P<what>[^|]+) \| (?P<steps>[^|]+) \|", re.M)
ALL = {"movies": 10, "ecommerce": 14, "wildlife": 10, "medical": 10, "mmqa": 11}
"""Queries of each family in the benchmark."""

PNG = b"\x89PNG\r\n\x1a\n\x00"


def wav(samples: int) -> bytes:
    held = io.BytesIO()
    with wave.open(held, "wb") as file:
        file.setparams((1, 2, 8_000, 0, "NONE", ""))
        file.writeframes(bytes(2 * samples))
    return held.getvalue()


def media(kind: str) -> list[bytes]:
    return [wav(n) if kind == "sound" else PNG + bytes([n]) for n in range(1, 4)]


PLACES: dict[str, list[Any]] = {
    "path": ["a", "b", "c"],
    "city": ["Oslo", "Rome", "Oslo"],
    "station": [1, 2, 1],
}
IDS = [1, 2, 3]
PRODUCT = {
    "id": IDS,
    "title": ["Reebok bag", "Puma shoe", "Adidas sock"],
    "description": ["a" * 3_001, "b", "c"],
}
TABLES: dict[str, dict[str, dict[str, list[Any]]]] = {
    "movies": {
        "reviews": {
            "id": ["taken_3", "ant_man_and_the_wasp_quantumania", "ant_man_and_the_wasp_quantumania"],
            "reviewId": IDS,
            "reviewText": ["Dull.", "Great.", "Fun."],
        }
    },
    "wildlife": {
        "images": {**PLACES, "media": media("image")},
        "sounds": {**PLACES, "media": media("sound")},
    },
    "medical": {
        "patients": {
            "patient_id": IDS,
            "age": [30, 40, 50],
            "gender": ["Female", "Male", "Female"],
            "smoking_history": ["Never", "Current", "Former"],
            "did_family_have_cancer": [1, 1, 0],
        },
        "symptoms": {"symptom_id": IDS, "patient_id": IDS, "symptoms": ["I itch.", "I cough.", "I ache."]},
        "xrays": {"xray_id": IDS, "patient_id": IDS, "media": media("image")},
        "moles": {"skin_image_id": IDS, "patient_id": IDS, "media": media("image")},
        "lungs": {"audio_id": IDS, "patient_id": IDS, "location": ["left"] * 3, "media": media("sound")},
    },
    "mmqa": {
        "roles": {"Title": ["The Bears", "Other"], "Role": ["Bob Whitewood", "Guest"], "Year": [1976, 1980]},
        "movies": {"title": ["The Bears", "Cobweb"], "text": ["Directed by A.", "A horror film."]},
        "races": {"ID": IDS, "Race": ["x", "y", "z"], "Track": ["Santa Anita Park", "Oaks", "Belmont"]},
        "images": {"path": ["a.png", "b.png", "c.png"], "media": media("image")},
        "airlines": {"Airlines": ["A", "B"], "Destinations": ["Frankfurt, Oslo", "Lima"]},
    },
    "ecommerce": {
        "products": {**PRODUCT, "price": [100, 900, 120], "media": media("image")},
        "images": {"image_id": IDS, "media": media("image")},
    },
}


def tables_of(family: str) -> dict[str, apwa.Table]:
    return {name: apwa.from_pandas(pd.DataFrame(columns)) for name, columns in TABLES[family].items()}


def planned(family: str, name: str) -> Any:
    entry = dict(FAMILIES[family][name])
    del entry["question"]
    known = tables_of(family)
    plan = Plan.from_yaml(yaml.safe_dump(entry, sort_keys=False))
    return apwa.load_plan(plan, {source: known[source] for source in plan.sources})


@pytest.fixture(scope="module")
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer(in_process=True) as started:
        yield started


def test_at_least_95_of_100_queries_can_be_said() -> None:
    assert {family: len(queries) for family, queries in FAMILIES.items()} == ALL
    assert sum(len(queries) for queries in FAMILIES.values()) / 55 >= 0.95


@pytest.mark.parametrize(("family", "name"), QUERIES, ids=[f"{family}-{name}" for family, name in QUERIES])
def test_the_plan_is_valid_and_runs_without_a_failed_row(
    family: str, name: str, server: ScriptedServer, store: str
) -> None:
    model = apwa.Model("m", base_url=server.base_url, api_key_env=None)
    ready = planned(family, name)
    run = ready.run(model=model, store=store, scheduler="sync", progress=False).wait()
    assert run.failures.empty, run.failures["message"].tolist()
    wanted = next(step for step in reversed(ready.plan.steps))
    if wanted.op == "select":
        named = [wanted.rename.get(column, column) for column in wanted.columns]
        assert list(run.result().columns) == named


def test_the_page_lists_each_query_with_the_steps_of_its_plan() -> None:
    text = PAGE.read_text("utf-8")
    for family, queries in FAMILIES.items():
        section = text.partition(f"({family})=")[2].partition("\n## ")[2].partition("\n## ")[0]
        shown = {row["query"]: re.findall(r"`(\w+)`", row["steps"]) for row in ROW.finditer(section)}
        assert shown == {name: [step["op"] for step in query["steps"]] for name, query in queries.items()}
