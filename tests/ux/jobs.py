"""Five jobs as people have them, and an endpoint that counts tokens in its own way."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

import apwa_dask as apwa
from apwa_dask.testing import ChatRequest

__all__ = ["JOBS", "Job", "pieces"]

PRICE = apwa.Price(0.5, 2.0)

_WORDS = (  # noqa: SIM905
    "the battery lasts all day but screen cracked after week shipping was late support helpful refund "
    "received camera quality excellent price high speaker quiet charging slow update fixed bluetooth "
    "connection design lovely weight heavy recommended returned replacement warranty accessories included"
).split()
_PIECE = re.compile(r"[A-Za-z]{1,6}|\d{1,3}|[^\w\s]{1,3}|\w")


def pieces(text: str) -> int:
    """Tokens as a byte-pair vocabulary cuts them, roughly: parts of words, runs of digits and of punctuation."""
    return len(_PIECE.findall(text))


def prose(seed: str, low: int, high: int) -> str:
    """Between `low` and `high` words, always the same for a seed."""
    draw = random.Random(seed)
    return " ".join(draw.choices(_WORDS, k=draw.randint(low, high)))


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


@dataclass(frozen=True)
class Job:
    """A table with its steps, and what the model answers.

    Parameters
    ----------
    table : callable
        Makes the table; given a folder for files.
    answer : callable
    preview_rows : int
    """

    table: Callable[[Path], apwa.Table]
    answer: Callable[[ChatRequest], Any]
    preview_rows: int
    context_tokens: int | None = None
    counts_schema: bool = False

    def model(self, base_url: str) -> apwa.Model:
        return apwa.Model("test-model", base_url=base_url, price=PRICE, context_tokens=self.context_tokens)


# -- 1: twelve receipts in a CSV file, one label each


def _receipts(folder: Path) -> apwa.Table:
    path = folder / "receipts.csv"
    frame = pd.DataFrame({"id": range(12), "item": [prose(f"item {k}", 2, 6) for k in range(12)]})
    frame.to_csv(path, index=False)
    labels = {"food": "groceries", "travel": "trains and flights", "office": "paper, pens", "other": ""}
    return apwa.read(str(path)).map(
        "Classify the receipt.", inputs=["item"], output={"kind": {"labels": labels}}
    )


def _label(asked: ChatRequest) -> Any:
    return {"kind": ("food", "travel", "office", "other")[_hash(asked.text) % 4]}


# -- 2: several fields out of longer texts


def _notices(folder: Path) -> apwa.Table:
    frame = pd.DataFrame({"notice": [prose(f"notice {k}", 40, 400) for k in range(150)]})
    path = folder / "notices.parquet"
    frame.to_parquet(path)
    fields = {
        "vendor": str, "total": float, "issued": {"type": "date"}, "is_paid": bool,
        "products": {"type": "list", "items": {"type": "string"}}, "summary": str,
    }  # fmt: skip
    return apwa.read(str(path)).map("Take the facts out of the notice.", inputs=["notice"], output=fields)


def _facts(asked: ChatRequest) -> Any:
    n = _hash(asked.text)
    return {
        "vendor": prose(asked.text, 1, 3),
        "total": round(n % 100_000 / 100, 2),
        "issued": "2025-03-14",
        "is_paid": n % 2 == 0,
        "products": [prose(f"{n} {k}", 1, 3) for k in range(n % 6)],
        "summary": prose(f"{n}", 8, 40),
    }


# -- 3: every complaint of a review is a row, some are kept, those get a label


def _complaints(folder: Path) -> apwa.Table:
    frame = pd.DataFrame({"id": range(300), "text": [prose(f"review {k}", 5, 120) for k in range(300)]})
    return (
        apwa.from_pandas(frame, npartitions=2)
        .flat_map("List each complaint.", inputs=["text"], output={"complaint": str}, max_rows=8)
        .filter("Is it about hardware?", inputs=["complaint"])
        .map("How bad is it?", inputs=["complaint"], output={"severity": int, "reason": str})
    )


def _complaint(asked: ChatRequest) -> Any:
    n = _hash(asked.text)
    names = set((asked.schema or {}).get("properties", {}))
    if names == {"rows"}:
        return {"rows": [{"complaint": prose(f"{n} {k}", 4, 15)} for k in range(n % 5)]}
    if names == {"keep"}:
        return {"keep": n % 5 < 3}
    return {"severity": n % 5 + 1, "reason": prose(f"{n}", 5, 20)}


# -- 4: a tree of summaries


def _diary(folder: Path) -> apwa.Table:
    frame = pd.DataFrame({"day": range(400), "entry": [prose(f"day {k}", 30, 120) for k in range(400)]})
    return apwa.from_pandas(frame).reduce("Summarise the diary.", inputs=["entry"], output={"summary": str})


def _summary(asked: ChatRequest) -> Any:
    names = list((asked.schema or {}).get("properties", {}))
    return {name: prose(asked.text[-200:], 60, 160) for name in names}


# -- 5: an agent that looks a price up, once or twice


def _orders(folder: Path) -> apwa.Table:
    frame = pd.DataFrame({"order": [f"order {k}: {prose(f'order {k}', 6, 30)}" for k in range(80)]})
    return apwa.from_pandas(frame).map(
        "What does the order cost? Look prices up.",
        inputs=["order"],
        output={"total": float, "why": str},
        tools=["price_in_catalogue"],
    )


def _lookup(asked: ChatRequest) -> Any:
    n = _hash(asked.text)
    if asked.turn < 1 + n % 2:
        call = {"name": "price_in_catalogue", "arguments": {"product": prose(f"{n}", 1, 2)}}
        return {"tool_calls": [call]}
    return json.loads(json.dumps({"total": n % 1000 / 10, "why": prose(f"{n} why", 6, 25)}))


JOBS = {
    "classification": Job(_receipts, _label, preview_rows=6),
    "extraction": Job(_notices, _facts, preview_rows=20, counts_schema=True),
    "complaints": Job(_complaints, _complaint, preview_rows=60),
    "summaries": Job(_diary, _summary, preview_rows=80, context_tokens=8_000),
    "orders": Job(_orders, _lookup, preview_rows=20, counts_schema=True),
}
