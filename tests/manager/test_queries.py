"""The shared planner queries, over the real tables, with the answers that a good strong model gives."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import jsonschema
import pyarrow as pa
import pytest

from apwa_dask.errors import RefusalError
from apwa_dask.manager import draft_async
from apwa_dask.models.types import Request
from apwa_dask.plans.validate import validate
from apwa_dask.tables import profile_frame, profile_source, read_sources

DATA = Path(os.environ.get("APWA_SHARED_DATA") or Path(__file__).parents[3] / "shared" / "data")
QUERIES_FILE = DATA / "planner" / "queries.jsonl"
QUERIES: list[dict[str, Any]] = (
    [json.loads(line) for line in QUERIES_FILE.read_text(encoding="utf-8").splitlines()]
    if QUERIES_FILE.exists()
    else []
)
pytestmark = pytest.mark.skipif(not QUERIES, reason=f"the shared data are not at {DATA}")

REFUSED = {"trap-no-column", "trap-empty"}
_HIDDEN_POSITIONS = {"sms_spam/SMSSpamCollection.tsv.gz": {"label": "column_1"}}
"""Gold columns of files without a header."""


def catalog_of(query: dict[str, Any]) -> dict[str, tuple[pa.Schema, Any]]:
    """The query's tables without their gold columns; names of one table of several files from the folder."""
    tables: dict[str, tuple[pa.Schema, Any]] = {}
    for path in query["inputs"]:
        if path == "messy/csv/frictionless_empty.csv":  # no bytes: reading refuses it before any planner
            empty = pa.table({"text": pa.array([], pa.string())})
            tables["complaints"] = (empty.schema, profile_frame(empty, name="complaints"))
            continue
        if not path.startswith(("filings", "invoices")) or not path.endswith(".txt"):
            for name, source in _read(path, query["hide"]):
                tables[name] = source
    return tables


def _read(path: str, hide: list[str]) -> list[tuple[str, tuple[pa.Schema, Any]]]:
    # PDFs and the invoice texts beside them are one table of documents.
    documents = path.endswith(".pdf")
    paths = [str(DATA / path)]
    sources = read_sources(paths, documents=documents)
    hidden = {_HIDDEN_POSITIONS.get(path, {}).get(name, name) for name in hide}
    kept = [
        name for source in sources.values() for name in source.manifest.schema.names if name not in hidden
    ]
    if hidden:
        sources = read_sources(paths, documents=documents, columns=kept)
    return [(name, (source.manifest.schema, profile_source(source))) for name, source in sources.items()]


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query["id"])
def test_each_query_is_planned_in_one_call_or_refused(query: dict[str, Any], kit: Any, drafts: Any) -> None:
    tables = catalog_of(query)
    planner = kit.Planner([drafts[query["id"]]])
    draft = draft_async(query["query"], tables, kit.strong, planner)
    if query["id"] in REFUSED:
        with pytest.raises(RefusalError):
            asyncio.run(draft)
        assert len(planner.requests) == (query["id"] != "trap-empty")
        return
    plan = asyncio.run(draft).plan
    validate(plan, {alias: schema for alias, (schema, _) in tables.items()})
    assert len(planner.requests) == 1
    assert query["needs_llm"] or not plan.llm_steps
    _accepts(planner.requests[0], drafts[query["id"]])


def _accepts(request: Request, answer: Any) -> None:
    """The narrowed schema lets the answer be written: the drafts are what strict decoding can give."""
    assert request.template.schema is not None
    jsonschema.validate(answer, request.template.schema)


def test_every_query_has_its_draft(drafts: Any) -> None:
    assert {query["id"] for query in QUERIES} == set(drafts)
