"""What every client of a benchmark is given: the same rows, the same body bytes, the same server."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

import apwa_dask as apwa
from apwa_dask.agents.agent import Agent
from apwa_dask.models.model import Model

MODEL = "scripted"
INSTRUCTION = "Classify the ticket by its topic, and rate its severity from 1 to 5."
LABELS = ("billing", "delivery", "login", "other")
OUTPUT: dict[str, Any] = {"topic": {"labels": list(LABELS)}, "severity": int}
TICKET = (
    "the parcel has not come and nobody answers my letters, so I ask you to look where it is; "
    "my card was charged twice for it and the page does not let me in to see why"
)


@dataclass(frozen=True)
class Workload:
    """One job for one client process, as a JSON file tells it.

    Parameters
    ----------
    folder : str
        Holds ``rows.parquet`` (id, text) and ``prompts.parquet`` (id, prompt: the user message that the
        engine makes of the text).
    base_url : str
        Of the scripted server.
    concurrency : int
        Calls in flight.
    prefix, suffix : str
        The body around the user message, as the engine sends it.
    body : dict
        The same body as an object, without the user message.
    instruction : str
        What is asked, for clients that write their own prompt.
    """

    folder: str
    base_url: str
    concurrency: int
    prefix: str
    suffix: str
    body: dict[str, Any]
    instruction: str = INSTRUCTION

    def save(self, path: Path) -> Path:
        path.write_text(json.dumps(asdict(self)))
        return path


def prepare(
    folder: Path, base_url: str, rows: int, concurrency: int, distinct: int | None = None
) -> Workload:
    """Write the rows and prompts of a job into `folder`; row k has the text of ticket ``k % distinct``."""
    folder.mkdir(parents=True, exist_ok=True)
    tickets = [k % (distinct or rows) for k in range(rows)]
    frame = pd.DataFrame({"id": range(rows), "text": [_text(ticket) for ticket in tickets]})
    frame.to_parquet(folder / "rows.parquet", index=False)
    table = apwa.from_pandas(frame.head(1)).map(INSTRUCTION, inputs="text", output=OUTPUT, id="label")
    model = Model(MODEL, base_url=base_url).pinned()
    agent = Agent(
        table.plan().plan.llm_steps[0], model, pa.schema([("id", pa.int64()), ("text", pa.string())])
    )
    prompts = [_user_message(agent, text) for text in frame["text"]]
    pd.DataFrame({"id": frame["id"], "prompt": prompts}).to_parquet(folder / "prompts.parquet", index=False)
    prefix, suffix = agent.template.prefix.decode(), agent.template.suffix.decode()
    body = json.loads(prefix.removesuffix(",") + suffix)
    return Workload(str(folder), base_url, concurrency, prefix, suffix, body)


def _text(row: int) -> str:
    """About 60 tokens, different in each row."""
    start = row * 7 % len(TICKET)
    return f"Ticket {row}: {TICKET[start:]} {TICKET[:start]}"[:240]


def _user_message(agent: Agent, text: str) -> str:
    request = agent.begin({"text": text}).request
    if request is None or len(request.tail) != 1 or not isinstance(request.tail[0].content, str):
        raise ValueError("the engine no longer sends one text message for each row: adapt the benchmark")
    return request.tail[0].content
