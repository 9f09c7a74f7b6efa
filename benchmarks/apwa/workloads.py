"""The three workloads by name, and their sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.apwa.extraction import Extraction
from benchmarks.apwa.jobs import Workload
from benchmarks.apwa.redaction import Redaction
from benchmarks.apwa.summaries import Summaries

__all__ = ["SCALES", "WORKLOADS", "Sizes"]


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of each workload: one run for each number, in the workload's unit."""

    small: tuple[int, ...]
    full: tuple[int, ...]


WORKLOADS: Mapping[str, Workload] = {each.name: each for each in (Redaction(), Extraction(), Summaries())}

SCALES: Mapping[str, Sizes] = {
    "redaction": Sizes((3_000,), (300_000,)),
    "schema": Sizes((50,), (1_000,)),
    "summaries": Sizes((20_000, 166_000), (166_000, 942_000, 10_500_000)),
}
