"""The planner queries with their tables, and an endpoint whose every answer about a row is the gold one.

What a plan gives over such an endpoint is right if and only if the plan is: the models make no mistake.
"""

from __future__ import annotations

import base64
import csv
import gzip
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
from dateutil.parser import parse

import apwa_dask as apwa
from apwa_dask.testing import ChatRequest

__all__ = ["DATA", "QUERIES", "Json", "age_groups", "gold_answers", "tables_of"]

DATA = Path(os.environ.get("APWA_SHARED_DATA") or Path(__file__).parents[2] / "shared" / "data")

Json = dict[str, Any]
Facts = Mapping[str, Any]
Tell = Callable[[ChatRequest], Facts | None]
"""What is true of the row (or rows) that a request is about."""


def _queries() -> list[Json]:
    file = DATA / "planner" / "queries.jsonl"
    return (
        [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []
    )


QUERIES = _queries()
_HIDDEN_POSITIONS = {"sms_spam/SMSSpamCollection.tsv.gz": {"label": "column_1"}}
"""Gold columns of files without a header."""


def tables_of(query: Json) -> dict[str, apwa.Table]:
    """The query's tables by name, without their gold columns."""
    tables: dict[str, apwa.Table] = {}
    for path in query["inputs"]:
        if path == "messy/csv/frictionless_empty.csv":  # no bytes: reading refuses it before any planner
            tables["complaints"] = apwa.from_pandas(pd.DataFrame({"text": pd.Series([], dtype="str")}))
            continue
        if path.startswith(("filings", "invoices")) and path.endswith(".txt"):
            path, documents = f"{Path(path).parent}/*.pdf", True
        elif path.startswith("invoices"):
            continue  # read with the texts beside them, below
        else:
            documents = path.endswith(".pdf")
        for name, table in _read(path, documents, query["hide"]).items():
            tables[name] = table
    return tables


def _read(path: str, documents: bool, hide: list[str]) -> dict[str, apwa.Table]:
    urls = (
        [str(DATA / path)]
        if not path.startswith("invoices")
        else [str(DATA / "invoices" / f) for f in ("*.pdf", "*.txt")]
    )
    found = apwa.read(urls, documents=documents)
    known = {next(iter(found._sources)): found} if isinstance(found, apwa.Table) else dict(found)
    hidden = {_HIDDEN_POSITIONS.get(path, {}).get(name, name) for name in hide}
    return {
        name: table.drop(*gone) if (gone := [c for c in table.columns if c in hidden]) else table
        for name, table in known.items()
    }


# --- the answers


def gold_answers(query: Json, *, strict: bool = True) -> Callable[[ChatRequest], str]:
    """What the endpoint says of each row of this query's tables.

    Parameters
    ----------
    strict : bool
        A request about no row of the gold is an error; else it gets an empty answer of the right shape.
    """
    tell = _TELL[query["id"].split("-")[0]](query)

    def respond(request: ChatRequest) -> str:
        facts = tell(request) if strict else _told(tell, request)
        assert facts is not None, f"no row of the gold is this one: {request.text[:200]!r}"
        assert request.schema is not None
        return json.dumps(_filled(request.schema, facts))

    return respond


def _told(tell: Tell, request: ChatRequest) -> Facts:
    try:
        return tell(request) or {}
    except (AssertionError, StopIteration, ValueError, KeyError):
        return {}  # the plan reads other columns than the gold is about


def _filled(schema: Json, facts: Facts) -> Json:
    return {name: _value(name, node, facts) for name, node in schema["properties"].items()}


def _value(name: str, node: Json, facts: Facts) -> Any:
    kinds = node["type"] if isinstance(node.get("type"), list) else [node.get("type")]
    if "enum" in node:
        said = {str(value).lower() for value in facts.values()}
        return next((label for label in node["enum"] if str(label).lower() in said), node["enum"][0])
    if "boolean" in kinds:
        return bool(facts.get(name, facts.get("keep")))
    if name == "rows":  # of a flat_map: one row for each of a list of facts
        (field,) = node["items"]["properties"]
        return [{field: one} for one in facts.get(f"{field}s", facts.get(field, []))]
    value = facts.get(name, _likely(name, facts))
    if value is None and "null" in kinds:
        return None
    if "number" in kinds or "integer" in kinds:
        return _number(value)
    return value if "array" in kinds or "object" in kinds else _text(value, node.get("format", ""))


def _likely(name: str, facts: Facts) -> Any:
    """The fact whose name is part of the field's, or the one text that stands for all others."""
    return next((facts[known] for known in facts if known in name or name in known), facts.get("any"))


def _text(value: Any, form: str) -> str:
    if form == "date" and value and not re.fullmatch(r"\d{4}-\d\d-\d\d", str(value)):
        spaced = re.sub(r"^(\d\d)(0\d|1[0-2])(\d{4})$", r"\1/\2/\3", str(value))
        return parse(spaced, dayfirst=True, fuzzy=True).date().isoformat()
    return "" if value is None else str(value)


def _number(value: Any) -> float:
    found = re.search(r"-?\d[\d,]*\.?\d*", str(value))
    return float(found[0].replace(",", "")) if found else 0.0


def _flat(text: Any) -> str:
    return " ".join(str(text).split())


def _values(request: ChatRequest) -> Iterator[str]:
    """The message, and each value in it: ``name: value`` lines or blocks."""
    yield _row(request)
    yield from re.split(r"(?:\A|\n+)[A-Za-z_]\w*:(?: |\n)", _row(request))


def _row(request: ChatRequest) -> str:
    """The first thing that the user says: a re-ask says something else after it."""
    said = next(message["content"] for message in request.body["messages"] if message["role"] == "user")
    return said if isinstance(said, str) else " ".join(part.get("text", "") for part in said)


def _by_text(index: Mapping[str, Facts]) -> Tell:
    flat = {_flat(text): facts for text, facts in index.items()}
    return lambda request: next((flat[key] for v in _values(request) if (key := _flat(v)) in flat), None)


def _lines(path: str) -> list[Json]:
    file = DATA / path
    raw = file.read_bytes()
    text = gzip.decompress(raw) if file.suffix == ".gz" else raw
    return [json.loads(line) for line in text.splitlines()]


# --- by folder


@cache
def _messages() -> Mapping[str, Facts]:
    with gzip.open(DATA / "sms_spam/SMSSpamCollection.tsv.gz", "rt", encoding="utf-8", newline="\n") as file:
        pairs = [line.rstrip("\r\n").split("\t", 1) for line in file]
    return {text: {"keep": label == "spam", "label": label} for label, text in pairs}


def _sms(query: Json) -> Tell:
    return _by_text(_messages())


def _bank(query: Json) -> Tell:
    rows = pd.read_parquet(DATA / "banking77/data.parquet")
    known = _by_text(
        {
            row.text: {"category": row.category, "keep": row.category == "lost_or_stolen_card"}
            for row in rows.itertuples()
        }
    )
    return lambda request: known(request) or {"any": "the labels"}


def _receipts(query: Json) -> Tell:
    rows = _lines("receipts/data.jsonl.gz")
    return _by_text({row["text"]: {**row["gold"], "issuer": row["gold"].get("company")} for row in rows})


def _peps(query: Json) -> Tell:
    numbers = {str(number) for number in query["answer"]} if query["answer_type"] == "coverage" else set()

    def tell(request: ChatRequest) -> Facts:
        found = [n for n in dict.fromkeys(re.findall(r"\d+", _row(request))) if n in numbers]
        return {**_header(_row(request)), "gist": "a change", "any": ", ".join(found)}

    return tell


def _header(text: str) -> Facts:
    """What a proposal says of itself in its first lines."""
    head = re.sub(r"\n[ \t]+", " ", text.partition("\n\n")[0])
    facts: Json = {
        name.lower(): value.strip() for name, value in re.findall(r"^(\w+):[ ]*(.*)$", head, re.MULTILINE)
    }
    names = [" ".join(re.sub(r"<[^>]*>", " ", one).split()) for one in facts.get("author", "").split(",")]
    return {**facts, "authors": [name for name in names if name]}


def _speeches(query: Json) -> Tell:
    return lambda request: {"any": "union"}


def _bib(query: Json) -> Tell:
    small = "small_" if query["id"].endswith("small") else ""
    folder = DATA / "match_bibliography"
    sides = []
    for side in ("left", "right"):
        with (folder / f"{small}{side}.csv").open(encoding="utf-8", newline="") as file:
            sides.append({_record(row): row["id"] for row in csv.DictReader(file)})
    with (folder / f"{small}gold_pairs.csv").open(encoding="utf-8", newline="") as file:
        gold = {(row["left_id"], row["right_id"]) for row in csv.DictReader(file)}

    def tell(request: ChatRequest) -> Facts:
        cells = dict(re.findall(r"^(\w+): ?(.*)$", _row(request), flags=re.MULTILINE))
        left = sides[0].get(_record(cells))
        right = sides[1].get(
            _record({k.removesuffix("_right"): v for k, v in cells.items() if k.endswith("_right")})
        )
        assert left is not None, _row(request)
        assert right is not None, _row(request)
        return {"keep": (left, right) in gold, "match": (left, right) in gold}

    return tell


def _record(row: Mapping[str, Any]) -> str:
    return _flat(" | ".join(str(row.get(name) or "") for name in ("title", "authors", "venue", "year")))


def _spans(row: Json) -> str:
    text, shift = row["text"], 0
    for span in sorted(row["spans"], key=lambda span: span["start"]):
        start, end = span["start"] + shift, span["end"] + shift
        text = f"{text[:start]}[{span['label']}]{text[end:]}"
        shift += len(span["label"]) + 2 - (span["end"] - span["start"])
    return text


def _pii(query: Json) -> Tell:
    if query["id"] == "pii-table":
        return _cells
    rows = _lines(query["inputs"][0])
    return _by_text(
        {
            row["text"]: {
                "keep": any(span["label"] == "CREDIT_CARD" for span in row["spans"]),
                "redacted": row.get("redacted") if isinstance(row.get("redacted"), str) else _spans(row),
                "any": _spans(row),
            }
            for row in rows
        }
    )


def _cells(request: ChatRequest) -> Facts:
    text = _row(request)
    for cell in _lines("pii_table/gold_cells.jsonl"):
        for value in cell["values"]:
            text = text.replace(value, "[PII]")
    return {"redacted": text}


def _images(query: Json) -> Tell:
    captions: Json = next(q["answer"] for q in QUERIES if q["id"] == "images-caption")
    persons = next(q["answer"] for q in QUERIES if q["id"] == "images-person")
    files = {(DATA / "images" / name).read_bytes(): name for name in captions}

    def tell(request: ChatRequest) -> Facts:
        parts = [
            part
            for message in request.body["messages"]
            for part in message["content"]
            if isinstance(part, dict)
        ]
        (url,) = (part["image_url"]["url"] for part in parts if part.get("type") == "image_url")
        name = files[base64.b64decode(url.partition(",")[2])]
        return {"keep": name in persons, "caption": captions[name]}

    return tell


def _products(query: Json) -> Tell:
    index = {}
    for row in _lines("products/data.jsonl.gz"):
        pairs = [
            {"name": name, "value": value} for name, all_of in row["attributes"].items() for value in all_of
        ]
        index[row["title"]] = {"attributes": pairs, "brand": (row["attributes"].get("Brand") or [None])[0]}
    return _by_text(index)


_SHADES = {
    "blue": ("blue", "midnight blue", "baby blue"),
    "black": ("black", "jet black", "ebony black"),
}


def _cars(query: Json) -> Tell:
    shades = _SHADES.get(query["id"].removeprefix("cars-"), ())
    return lambda request: {"keep": _row(request).lower() in shades}


def _filings(query: Json) -> Tell:
    gold = _lines("filings/gold.jsonl")

    def tell(request: ChatRequest) -> Facts:
        text = _flat(_row(request)).lower()
        return max((_filing(line["gold"]) for line in gold), key=lambda facts: _named(facts, text))

    return tell


def _filing(gold: Json) -> Json:
    return {"age_groups": [_age_group(group) for group in age_groups(gold)]}


def _named(facts: Json, text: str) -> float:
    """Share of a filing's athletes who stand in a text."""
    athletes = [
        _flat(result["athlete"]).lower() for group in facts["age_groups"] for result in group["results"]
    ]
    return sum(athlete in text for athlete in athletes) / len(athletes)


def age_groups(gold: Json) -> list[Json]:
    """Of one event, or of all events of a filing."""
    return [group for event in gold.get("events", [gold]) for group in event["age_groups"]]


def _age_group(group: Json) -> Json:
    results = [
        {
            "rank": str(result["rank"]),
            "athlete": result["athlete_details"]["athlete"],
            "team": result["athlete_details"]["team"],
            "time": result["time"],
        }
        for result in group["results"]
    ]
    return {"age_group": group["age_group"], "results": results}


def _invoices(query: Json) -> Tell:
    gold = {line["file"]: line["gold"] for line in _lines("invoices/gold.jsonl")}
    marks = {
        "AzureInterior": "Azure Interior",
        "Orlen": "ORLEN",
        "QualityHosting": "QualityHosting",
        "saeco": "Saeco",
    }

    def tell(request: ChatRequest) -> Facts:
        return next(gold[file] for file, mark in marks.items() if mark.lower() in _row(request).lower())

    return tell


def _meetings(query: Json) -> Tell:
    rows = pd.read_parquet(DATA / "meetings/meetings.parquet", columns=["id", "transcript", "summary"])

    def tell(request: ChatRequest) -> Facts:
        for row in rows.itertuples():
            if f"MEETING {row.id}." in _row(request) or _flat(row.transcript) in _flat(_row(request)):
                return {"any": row.summary}
        piece = _flat(_row(request))[:400]
        (name,) = (row.id for row in rows.itertuples() if piece in _flat(row.transcript))
        return {"any": f"MEETING {name}."}

    return tell


def _trap(query: Json) -> Tell:
    if query["id"] != "trap-injection":
        return lambda request: None
    return _by_text({row["text"]: {"keep": row["id"] in (1, 4)} for row in _lines("planner/injected.jsonl")})


_TELL: dict[str, Callable[[Json], Tell]] = {
    "sms": _sms,
    "bank": _bank,
    "receipts": _receipts,
    "peps": _peps,
    "speeches": _speeches,
    "bib": _bib,
    "factbook": lambda query: lambda request: None,
    "pii": _pii,
    "images": _images,
    "products": _products,
    "cars": _cars,
    "filings": _filings,
    "invoices": _invoices,
    "meetings": _meetings,
    "trap": _trap,
}
"""By the first word of a query's id."""
