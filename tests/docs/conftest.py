"""The world that the pages take for granted: a folder of reviews, an endpoint, a key, a store of one's own."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import dask.config
import pandas as pd
import pytest

from apwa_dask.testing import Rule, Script, ScriptedServer

# `blocks.py` of this folder, which is no package: test modules are imported one by one
_SPEC = importlib.util.spec_from_file_location("tests_docs_blocks", Path(__file__).with_name("blocks.py"))
assert _SPEC is not None
assert _SPEC.loader is not None
sys.modules[_SPEC.name] = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(sys.modules[_SPEC.name])

REVIEWS = [
    "The battery of this phone died after two days and nobody helps.",
    "A wonderful lamp, warm light, easy to set up.",
    "My phone gets hot, the battery lasts an hour at most.",
    "The kettle leaks at the bottom since the first week.",
    "Best tent we ever had, dry in three days of rain.",
    "Headphones: left side is silent, the battery is fine.",
    "Too early to tell, but the lamp looks good so far.",
    "I want my money back for the kettle, it smells of plastic.",
] * 3

FIELD = {"description": "", "nullable": False, "labels": None, "fields": None}
DRAFT = {
    "refusal": None,
    "steps": [
        {
            "reason": "the question asks for complaints about the battery",
            "op": "filter",
            "input": "reviews",
            "instruction": "The review complains about the battery.",
            "inputs": ["text"],
            "unit": "row",
        },
        {
            "reason": "and for the product",
            "op": "map",
            "input": "#1",
            "instruction": "Name the product.",
            "inputs": ["text"],
            "output": [{"name": "product", "type": "string", **FIELD}],
            "unit": "row",
        },
    ],
}
"""What the scripted planner drafts for the question of README and pages."""

PRICES = {"gpt-4o-mini": [0.15, 0.6], "gpt-4o": [2.5, 10.0]}
"""Of names that the table has for their vendor's own address only."""


@pytest.fixture(scope="package")
def endpoint() -> Iterator[ScriptedServer]:
    """One server for all pages: plans for their question, else answers made to fit the schema."""
    with ScriptedServer(
        Script(rules=(Rule(match="battery complaints|about the battery", answer=DRAFT),))
    ) as server:
        yield server


@pytest.fixture
def folder(tmp_path: Path, endpoint: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with ``reviews/`` and ``reviews.csv``, and the environment of a user with an endpoint."""
    frame = pd.DataFrame({"text": [f"{text} ({number})" for number, text in enumerate(REVIEWS)]})
    (tmp_path / "reviews").mkdir()
    frame.iloc[:12].to_parquet(tmp_path / "reviews" / "2026-01.parquet")
    frame.iloc[12:].to_parquet(tmp_path / "reviews" / "2026-02.parquet")
    frame.to_csv(tmp_path / "reviews.csv", index=False)
    monkeypatch.chdir(tmp_path)
    settings = {
        "OPENAI_BASE_URL": endpoint.base_url,
        "OPENAI_API_KEY": "any-key-will-do",
        "OPENAI_MODEL": "gpt-4o-mini",
        "APWA_STORE": str(tmp_path / "store"),
        "HOME": str(tmp_path),
        "DASK_APWA__PRICES": repr(PRICES),
        "DASK_APWA__PROGRESS": "silent",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with dask.config.set({"apwa.prices": PRICES, "apwa.progress": "silent"}):
        yield tmp_path
