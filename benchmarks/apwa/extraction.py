"""Schema extraction: ten topics; for each, a schema is drawn from a few documents and then filled for all of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

import apwa_dask as apwa
from apwa_dask.execution.run import Run
from apwa_dask.plans.schema import Schema
from apwa_dask.testing import ChatRequest
from benchmarks.apwa.jobs import (
    Answers,
    Item,
    Job,
    Json,
    Told,
    Verdict,
    judged_by_gold,
    model_of,
    rows_of,
    table_of,
)

__all__ = ["TOPICS", "Extraction", "document", "facts"]

_KEY = re.compile(r"\bDocument ([a-z]+-\d+)\b")
_PROPOSAL = "Propose the fields that every document of this kind has, each with its type."
_EXTRACT = "Extract these facts of the document."
_LOOKED_AT = 8
"""Documents of a topic that the proposal is drawn from."""

TOPICS: Mapping[str, Mapping[str, Any]] = {
    "invoices": {"number": str, "total": float, "due": {"type": "date"}, "currency": ("EUR", "USD", "CHF")},
    "leases": {"tenant": str, "rent": float, "begin": {"type": "date"}, "pets": bool},
    "recipes": {"dish": str, "minutes": int, "servings": int, "course": ("starter", "main", "dessert")},
    "accidents": {"place": str, "injured": int, "on": {"type": "date"}, "weather": ("dry", "rain", "snow")},
    "vacancies": {"title": str, "salary": float, "hours": int, "remote": bool},
    "trials": {"drug": str, "patients": int, "phase": ("one", "two", "three"), "blinded": bool},
    "flights": {"flight": str, "seats": int, "departure": {"type": "date"}, "delayed": bool},
    "grants": {"holder": str, "amount": float, "years": int, "field": ("biology", "physics", "history")},
    "repairs": {"machine": str, "part": str, "cost": float, "warranty": bool},
    "wells": {
        "site": str,
        "depth": float,
        "drilled": {"type": "date"},
        "water": ("fresh", "brackish", "salt"),
    },
}
_NAMES = ("Alder", "Birch", "Cedar", "Hazel", "Larch", "Maple", "Rowan", "Willow")
_FILLER = (
    "The parties have read what is written here and agree with it. ",
    "Copies were sent by post, and the answers are kept with the file. ",
    "What was said on the telephone is not part of this document. ",
    "An earlier version of it is void. ",
    "Questions go to the office, which is open in the mornings. ",
)
_FILLER_SENTENCES = 18


def _spec(topic: str) -> dict[str, Any]:
    """The topic's fields, as a user of the engine writes them."""
    return {
        name: {"labels": list(kind)} if isinstance(kind, tuple) else kind
        for name, kind in TOPICS[topic].items()
    }


def facts(key: str) -> Json:
    """What document ``topic-number`` says."""
    topic, _, number = key.partition("-")
    return {
        name: _fact(kind, int(number) * 37 + place)
        for place, (name, kind) in enumerate(TOPICS[topic].items())
    }


def _fact(kind: Any, number: int) -> Any:
    mixed = number * 2_654_435_761 % 2**32
    if isinstance(kind, tuple):
        return kind[mixed % len(kind)]
    if isinstance(kind, Mapping):
        return f"20{mixed % 25:02d}-{mixed // 25 % 12 + 1:02d}-{mixed // 300 % 28 + 1:02d}"
    if kind is bool:
        return mixed % 2 == 1
    if kind is int:
        return mixed % 500 + 1
    return mixed % 100_000 / 100 + 1 if kind is float else f"{_NAMES[mixed % len(_NAMES)]} {number}"


def document(key: str) -> str:
    """About 300 tokens: the facts among sentences that say nothing."""
    number = int(key.partition("-")[2])
    said = [f"The {name} of it is stated as {json.dumps(value)}. " for name, value in facts(key).items()]
    padding = [_FILLER[(number + n) % len(_FILLER)] for n in range(_FILLER_SENTENCES)]
    step = len(padding) // len(said)
    parts = [part for n, fact in enumerate(said) for part in (*padding[n * step : (n + 1) * step], fact)]
    return f"Document {key}. " + "".join(parts)


class Extraction:
    """Ten topics of `size` documents. The engine draws each schema itself; the others are told it."""

    name, whole, unit = "schema", False, "documents a topic"

    @property
    def instruction(self) -> str:
        kinds = "\n".join(f"{topic}: {json.dumps(Schema.of(_spec(topic)).json_schema())}" for topic in TOPICS)
        return f"Extract the facts of each document into the JSON object of its topic:\n{kinds}"

    def write(self, folder: Path, size: int) -> None:
        keys = [f"{topic}-{number}" for topic in TOPICS for number in range(size)]
        frame = pd.DataFrame({"key": keys, "topic": [key.partition("-")[0] for key in keys]})
        frame["text"] = [document(key) for key in keys]
        frame.to_parquet(folder / "rows.parquet", index=False)

    def items(self, folder: Path) -> Iterator[Item]:
        rows = rows_of(folder)
        for key, text in zip(rows["key"], rows["text"], strict=True):
            yield Item(key, text)

    def keys(self, text: str) -> list[str]:
        return _KEY.findall(text)

    def gold(self, key: str) -> Json:
        return facts(key)

    def answer(self, request: ChatRequest) -> Json:
        key = self.keys(request.text)[-1]
        if _PROPOSAL in request.prompt:
            return {"fields": json.dumps(_as_proposed(key.partition("-")[0]))}
        return self.gold(key)

    def asked(self, key: str) -> str:
        return _EXTRACT

    def schema(self, key: str) -> Json:
        return Schema.of(_spec(key.partition("-")[0])).json_schema()

    def run(self, job: Job, where: Mapping[str, Any], store: str) -> Told:
        model = model_of(job)
        documents = table_of(job)
        of_topic = {topic: documents.where(f"topic = '{topic}'") for topic in TOPICS}

        def started(table: apwa.Table) -> Run:
            return table.run(model=model, store=store, progress=False, **where)

        # All topics at once: they share the model's limit of calls in flight.
        proposals = {
            topic: started(
                table.limit(_LOOKED_AT).reduce(_PROPOSAL, inputs="text", output={"fields": str}, id="propose")
            )
            for topic, table in of_topic.items()
        }
        schemas = {topic: json.loads(run.result()["fields"].iloc[0]) for topic, run in proposals.items()}
        runs = {
            topic: started(table.map(_EXTRACT, inputs="text", output=schemas[topic], id="extract"))
            for topic, table in of_topic.items()
        }
        for topic, run in runs.items():
            for part in run.frame.partitions:
                yield from _as_json(part.compute(), topic)

    def judged(self, answers: Answers, size: int) -> Verdict:
        return judged_by_gold(
            self, [f"{topic}-{number}" for topic in TOPICS for number in range(size)], answers
        )


def _as_proposed(topic: str) -> dict[str, Any]:
    """The topic's fields in words that travel as JSON."""
    words = {str: "string", int: "integer", float: "number", bool: "boolean"}
    return {name: of if isinstance(of, dict) else {"type": words[of]} for name, of in _spec(topic).items()}


def _as_json(done: pd.DataFrame, topic: str) -> Told:
    """Typed columns back to what the gold is written in."""
    names = list(TOPICS[topic])
    dates = {name for name, kind in TOPICS[topic].items() if isinstance(kind, Mapping)}
    for row in done[["key", *names]].to_dict("records"):
        answer = {name: _plain(row[name], name in dates) for name in names}
        yield row["key"], None if all(value is None for value in answer.values()) else answer


def _plain(value: Any, is_date: bool) -> Any:
    if pd.isna(value):
        return None
    if is_date:
        return pd.Timestamp(value).date().isoformat()
    return value.item() if hasattr(value, "item") else value
