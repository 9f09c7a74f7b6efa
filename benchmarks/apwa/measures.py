"""One client process against one scripted model: what it did, what it took, how it ended."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.apwa.jobs import PRICE, Answers, Job, Verdict, Workload
from benchmarks.apwa.scripted import ModelServer
from benchmarks.measuring import trouble_of, watched

__all__ = ["Measured", "answers_in", "keep", "kept", "measure"]

_SCRIPT = Path(__file__).with_name("client.py")


@dataclass(frozen=True)
class Measured:
    """One process.

    Parameters
    ----------
    workload, size, client
        What was done.
    verdict : Verdict
        What became of the items.
    calls, refused : int
        Requests, and those of them that were answered with a status that is not 200.
    longest_prompt_tokens, prompt_tokens, completion_tokens : int
        As the server counted, of the calls that it billed.
    cached_tokens : int
        Prompt tokens that repeat the beginning of the prompt before, as the client counted.
    cost_usd : float
        At `PRICE`; repeated beginnings at its lower rate.
    peak_mib : float
        Resident memory of the process and all below it, sampled each 0.1 s.
    wall_s, cpu_s : float
        From after the imports to the last file written; CPU of the process and all below it.
    items_sent : int
        Items that were sent, in a prompt that was refused too; all of them for the engine.
    ending : str
        Empty if it finished.
    """

    workload: str
    size: int
    client: str
    verdict: Verdict
    calls: int
    refused: int
    longest_prompt_tokens: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    cost_usd: float
    peak_mib: float
    wall_s: float
    cpu_s: float
    items_sent: int
    ending: str


def measure(
    workload: Workload, job: Job, client: str, server: ModelServer, folder: Path, timeout_s: float
) -> Measured:
    """Run one client on one job. A client that fails is a result too."""
    server.reset()
    place = Path(tempfile.mkdtemp(dir=folder))
    out = place / "out"
    words = [sys.executable, str(_SCRIPT), str(job.save(place / "job.json")), str(out), client]
    status, said, complaints, sizes = watched(words, place, timeout_s)
    ending = trouble_of(status, complaints, timeout_s)
    figures: dict[str, Any] = {} if ending else json.loads(said.splitlines()[-1])
    stats = server.stats()
    cached = int(figures.get("cached_tokens", 0))
    verdict = workload.judged(answers_in(out), job.size)
    return Measured(
        workload=workload.name,
        size=job.size,
        client=client,
        verdict=verdict,
        calls=stats.calls,
        refused=stats.calls - stats.by_status.get("200", 0),
        longest_prompt_tokens=stats.longest_prompt_tokens,
        prompt_tokens=stats.billed_prompt_tokens,
        cached_tokens=cached,
        completion_tokens=stats.billed_completion_tokens,
        cost_usd=PRICE.cost_usd(stats.billed_prompt_tokens, stats.billed_completion_tokens, cached),
        peak_mib=max((size for _, size in sizes), default=float("nan")),
        wall_s=figures.get("wall_s", float("nan")),
        cpu_s=figures.get("cpu_s", float("nan")),
        items_sent=int(figures.get("items_sent", verdict.wanted)),
        ending=ending or figures.get("ending", ""),
    )


def answers_in(folder: Path) -> Answers:
    """The answers that a client wrote; none where it wrote none.

    Raises
    ------
    ValueError
        An item has two answers.
    """
    file = folder / "result.parquet"
    if not file.exists():
        return {}
    try:
        found = pd.read_parquet(file)
    except OSError:  # it was killed while it wrote
        return {}
    if found["key"].duplicated().any():
        raise ValueError(f"{file} has two answers for one item")
    return {
        key: None if pd.isna(answer) else json.loads(answer)
        for key, answer in zip(found["key"], found["answer"], strict=True)
    }


def keep(path: Path, found: Sequence[Measured]) -> None:
    """Write measurements to a file."""
    path.write_text(json.dumps([asdict(each) for each in found], indent=1))


def kept(path: Path) -> list[Measured]:
    """The measurements that `keep` wrote."""
    return [
        Measured(**{**made, "verdict": Verdict(**made["verdict"])}) for made in json.loads(path.read_text())
    ]
