"""What one client process is told, the two kinds of work, and what a workload must say of itself. Plain data."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

import apwa_dask as apwa
from apwa_dask.models.model import Model, Price
from apwa_dask.testing import ChatRequest

__all__ = [
    "MODEL",
    "OUTPUT_TOKENS",
    "PRICE",
    "WHOLE",
    "WINDOW_TOKENS",
    "Answers",
    "Item",
    "Job",
    "Json",
    "Told",
    "Verdict",
    "Workload",
    "judged_by_gold",
    "model_of",
    "rows_of",
    "table_of",
]

Json = dict[str, Any]
Answers = Mapping[str, Json | None]
"""The answer about each item by its key; of a workload with one answer, that of `WHOLE`."""

Told = Iterable[tuple[str, Json | None]]
"""The same, as a client comes by them."""

MODEL = "scripted"
PRICE = Price(0.15, 0.60, cached_input_usd=0.075)
WINDOW_TOKENS, OUTPUT_TOKENS = 128_000, 16_384
"""Price, window and longest answer of gpt-4o-mini as published by mid-2025."""

WHOLE = "all"


@dataclass(frozen=True, slots=True)
class Item:
    """What a client without the engine sends at a time: `text` says all that is asked about."""

    key: str
    text: str


@dataclass(frozen=True, slots=True)
class Job:
    """One job for one client.

    Parameters
    ----------
    workload : str
        Name of it.
    size : int
        In the workload's own unit.
    folder : str
        Holds ``rows.parquet``.
    base_url : str
        Of the scripted server.
    concurrency : int
        Calls in flight.
    call_limit : int
        A chat that forgets stops after so many calls: it would go on for days.
    """

    workload: str
    size: int
    folder: str
    base_url: str
    concurrency: int = 64
    call_limit: int = 1_000

    def save(self, path: Path) -> Path:
        path.write_text(json.dumps(asdict(self)))
        return path


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of the items: `wanted` is the sum of the other three but for `leaked`.

    Parameters
    ----------
    wanted : int
        Items there are.
    right, wrong : int
        Answered, as the gold says or not.
    missing : int
        Without an answer.
    leaked : int
        Answers that hold something which must not be in them.
    depth : int
        Levels of answers about answers below the last one; 1 where each item is answered for itself.
    """

    wanted: int
    right: int
    wrong: int
    missing: int
    leaked: int = 0
    depth: int = 1


class Workload(Protocol):
    """A kind of work: its data, its gold, its scripted model and its program for the engine."""

    @property
    def name(self) -> str:
        """In ``--workload``."""

    @property
    def whole(self) -> bool:
        """One answer about all items, and not one about each."""

    @property
    def unit(self) -> str:
        """What `Job.size` counts."""

    @property
    def instruction(self) -> str:
        """For a conversation about all items."""

    def write(self, folder: Path, size: int) -> None:
        """Put ``rows.parquet`` into the folder."""

    def items(self, folder: Path) -> Iterator[Item]:
        """The rows, as a client without the engine sends them."""

    def keys(self, text: str) -> list[str]:
        """Keys of the items in a text, in order."""

    def answer(self, request: ChatRequest) -> Json:
        """What the model says to a request without tools."""

    def gold(self, key: str) -> Json:
        """The answer about an item, for one agent that answers about many."""

    def asked(self, key: str) -> str:
        """What is asked about one item alone."""

    def schema(self, key: str) -> Json:
        """JSON schema of the answer about an item."""

    def run(self, job: Job, where: Mapping[str, Any], store: str) -> Told:
        """The engine's way, as a user would write it. Nothing happens before the first answer is asked for."""

    def judged(self, answers: Answers, size: int) -> Verdict:
        """Compare with the gold."""


def model_of(job: Job, **changes: Any) -> Model:
    """The model of a job, as a user of the engine describes it."""
    settings: dict[str, Any] = {
        "base_url": job.base_url,
        "price": PRICE,
        "context_tokens": WINDOW_TOKENS,
        "max_concurrency": job.concurrency,
    }
    return Model(MODEL, **{**settings, **changes})


def judged_by_gold(workload: Workload, keys: Sequence[str], answers: Answers) -> Verdict:
    """For workloads that answer about each item: every key is right, wrong or missing."""
    said = [(key, answers.get(key)) for key in keys]
    missing = sum(answer is None for _, answer in said)
    right = sum(answer == workload.gold(key) for key, answer in said if answer is not None)
    return Verdict(len(keys), right, len(keys) - right - missing, missing)


def table_of(job: Job) -> apwa.Table:
    """The rows of a job, as the engine reads them."""
    table = apwa.read(str(Path(job.folder) / "rows.parquet"))
    if not isinstance(table, apwa.Table):
        raise TypeError("one file is one table")
    return table


def rows_of(folder: Path | str, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """The rows of a job."""
    return pd.read_parquet(Path(folder) / "rows.parquet", columns=None if columns is None else list(columns))
