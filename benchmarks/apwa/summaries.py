"""Hierarchical summaries: long documents are cut, each piece is summarised, and a tree makes one summary of all.

A summary of the scripted model says which sections it covers, so that the last one proves that every section of
the corpus came through each level, and how deep the tree was.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from apwa_dask.agents.reduce import NOTES
from apwa_dask.plans.schema import Schema
from apwa_dask.testing import ChatRequest, count_tokens
from benchmarks.apwa.jobs import WHOLE, Answers, Item, Job, Json, Told, Verdict, model_of, rows_of, table_of

__all__ = ["CHUNK_TOKENS", "PROMPT_TOKENS", "SECTION_TOKENS", "Summaries"]

SECTION_TOKENS, DOCUMENT_SECTIONS = 250, 40
CHUNK_TOKENS, OVERLAP_TOKENS = 2_000, 100
PROMPT_TOKENS = 16_000
"""The engine is told that the model takes so much: shorter prompts than it could take, as they are read better."""
SUMMARY_TOKENS = 160

_SECTION = re.compile(r"\[section (\d+)\]")
_COVERED = re.compile(r"Covers sections ([\d, -]+); level (\d+)\.")
_SENTENCE = (
    "The council heard the report on the harbour, asked for the accounts and put the matter off again. "
)

Ranges = list[tuple[int, int]]


def section(number: int) -> str:
    """About `SECTION_TOKENS` tokens that begin with their number."""
    head = f"[section {number}] "
    body = (_SENTENCE[number % 40 :] + _SENTENCE * (SECTION_TOKENS * 4 // len(_SENTENCE)))[
        : SECTION_TOKENS * 4
    ]
    return head + body[: SECTION_TOKENS * 4 - len(head) - 2] + ".\n"


def sections_of(tokens: int) -> int:
    """How many sections a corpus of so many tokens has."""
    return max(1, tokens // SECTION_TOKENS)


class Summaries:
    """A corpus of `size` tokens, in documents of 10,000."""

    name, whole, unit = "summaries", True, "tokens"
    instruction = "Summarise what you are given: what was decided, by whom, and what was left open."
    output: Mapping[str, Any] = {"summary": str}

    def write(self, folder: Path, size: int) -> None:
        count = sections_of(size)
        documents = [
            "".join(map(section, range(start, min(start + DOCUMENT_SECTIONS, count))))
            for start in range(0, count, DOCUMENT_SECTIONS)
        ]
        frame = pd.DataFrame({"document": range(len(documents)), "text": documents})
        frame.to_parquet(folder / "rows.parquet", index=False, row_group_size=64)

    def items(self, folder: Path) -> Iterator[Item]:
        """Pieces as long as the engine's, cut by length, as people do."""
        for number, text in enumerate(rows_of(folder)["text"]):
            for place, piece in enumerate(_pieces(text)):
                yield Item(f"{number}.{place}", piece)

    def keys(self, text: str) -> list[str]:
        return _SECTION.findall(text)

    def gold(self, key: str) -> Json:
        raise ValueError("a summary is of all sections, not of one")

    def answer(self, request: ChatRequest) -> Json:
        """Summary of the sections and summaries in the request; in a chat, also of what was summarised before."""
        before = [
            m["content"] for m in request.body["messages"] if m["role"] == "assistant" and m.get("content")
        ]
        read = [m["content"] for m in request.body["messages"] if m["role"] == "tool"]
        text = summary_of([request.text, *read, *before[-1:]])
        asked = (request.schema or {}).get("properties", {})
        return {NOTES.names[0]: text} if NOTES.names[0] in asked else {"summary": text}

    def asked(self, key: str) -> str:
        return self.instruction

    def schema(self, key: str) -> Json:
        return Schema.of(self.output).json_schema()

    def run(self, job: Job, where: Mapping[str, Any], store: str) -> Told:
        model = model_of(job, context_tokens=PROMPT_TOKENS)
        pieces = table_of(job).chunk("text", tokens=CHUNK_TOKENS, overlap_tokens=OVERLAP_TOKENS)
        summary = pieces.map(self.instruction, inputs="text", output=self.output, id="piece").reduce(
            "Make one summary of these summaries.", inputs="summary", output=self.output, id="whole"
        )
        result = summary.run(model=model, store=store, progress=False, **where).result()
        text = result["summary"].iloc[0]
        yield WHOLE, None if pd.isna(text) else {"summary": text}

    def judged(self, answers: Answers, size: int) -> Verdict:
        wanted, said = sections_of(size), answers.get(WHOLE)
        if said is None:
            return Verdict(wanted, 0, 0, wanted, depth=0)
        covered, level = read_summary(said["summary"])
        found = sum(last - first + 1 for first, last in covered if last < wanted)
        return Verdict(wanted, found, 0, wanted - found, depth=level)


def _pieces(text: str) -> Iterator[str]:
    size, step = 4 * CHUNK_TOKENS, 4 * (CHUNK_TOKENS - OVERLAP_TOKENS)
    for start in range(0, max(len(text) - 4 * OVERLAP_TOKENS, 1), step):
        yield text[start : start + size]


def summary_of(texts: Iterable[str]) -> str:
    """What the model writes about sections and summaries: which they are, one level up, and some prose."""
    covered: Ranges = []
    level = 0
    for text in texts:
        covered += [(int(number), int(number)) for number in _SECTION.findall(text)]
        for words, below in _COVERED.findall(text):
            covered += _ranges(words)
            level = max(level, int(below))
    words = ", ".join(f"{first}-{last}" for first, last in merged(covered))
    head = f"Covers sections {words}; level {level + 1}. "
    return head + _SENTENCE * max(1, (SUMMARY_TOKENS - count_tokens(head)) * 4 // len(_SENTENCE))


def read_summary(text: str) -> tuple[Ranges, int]:
    """Sections that a summary covers, and its level."""
    found = _COVERED.search(text)
    return (merged(_ranges(found[1])), int(found[2])) if found else ([], 0)


def _ranges(words: str) -> Ranges:
    pairs = (word.strip().partition("-") for word in words.split(",") if word.strip())
    return [(int(first), int(last)) for first, _, last in pairs]


def merged(ranges: Ranges) -> Ranges:
    """The same numbers as ranges that do not touch, in order."""
    found: Ranges = []
    for first, last in sorted(ranges):
        if found and first <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(found[-1][1], last))
        else:
            found.append((first, last))
    return found
