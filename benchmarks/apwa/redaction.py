"""Redaction: records with planted personal data; not one of them may be in the answers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

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

__all__ = ["Record", "Redaction", "record"]

_KEY = re.compile(r"\bRecord (\d+):")
_FIRST = (
    "Amina",
    "Bruno",
    "Chidi",
    "Dagny",
    "Emre",
    "Farida",
    "Goran",
    "Hana",
    "Ivo",
    "Jelena",
    "Kofi",
    "Lucía",
)
_LAST = (
    "Abara",
    "Brandt",
    "Castro",
    "Dvořák",
    "Eriksen",
    "Fofana",
    "Grimaldi",
    "Haddad",
    "Ito",
    "Jansen",
    "Kaur",
)
_STREETS = ("Linden Road", "Mill Lane", "Harbour Street", "Rue des Lilas", "Kastanienallee", "Station Avenue")
_LETTERS = (
    "Good morning, {NAME} here. The parcel that you sent to {STREET} has not come. Please write to {EMAIL} or call "
    "{PHONE}; nobody has answered my letters for a week and the page does not let me in to see why.",
    "Our tenant {NAME}, {STREET}, pays from the account {IBAN}. The rent of last month was taken twice, so please "
    "send one of them back and tell the bank. The file is otherwise complete and can be closed.",
    "I was charged on the card {CARD} though I cancelled in time. My name is {NAME}, the address on the invoice is "
    "{EMAIL}. Kindly look at the date of the letter before you write to me again.",
    "Patient {NAME}, born on {BIRTH}, insurance number {ID}, came with a light fever and was sent home. Her sister "
    "can be reached at {PHONE}. The next visit is in two weeks, earlier if the fever returns.",
    "Login of {USER} from {IP} was refused three times. The account belongs to {NAME} ({EMAIL}), who asks that the "
    "lock be lifted today, since the report is due and the numbers are in that account only.",
)  # fmt: skip
_SLOT = re.compile(r"\{([A-Z]+)\}")


@dataclass(frozen=True, slots=True)
class Record:
    """One record: its text, the right answer, and what must not be in any answer."""

    text: str
    redacted: str
    secrets: tuple[str, ...]


def record(number: int) -> Record:
    """Record `number`: always the same, about 60 tokens with two to four pieces of personal data."""
    letter = _LETTERS[number % len(_LETTERS)]
    found: list[str] = []

    def filled(slot: re.Match[str]) -> str:
        found.append(_personal(slot[1], number))
        return found[-1]

    text = _SLOT.sub(filled, letter)
    redacted = _SLOT.sub(r"[\1]", letter)
    return Record(f"Record {number}: {text}", f"Record {number}: {redacted}", tuple(found))


def _personal(kind: str, number: int) -> str:
    mixed = number * 2_654_435_761 % 2**32  # Knuth's multiplicative hash: neighbours do not look alike
    first, last = _FIRST[mixed % len(_FIRST)], _LAST[mixed // 16 % len(_LAST)]
    match kind:
        case "NAME":
            return f"{first} {last}"
        case "STREET":
            return f"{mixed % 190 + 1} {_STREETS[mixed // 7 % len(_STREETS)]}"
        case "EMAIL":
            return f"{first.lower()}.{number}@mail{mixed % 90}.example"
        case "PHONE":
            return f"+49 30 {number:07d}"
        case "IBAN":
            return (
                f"DE{mixed % 90 + 10} 3704 {number // 10_000:04d} {number % 10_000:04d} {mixed % 10_000:04d}"
            )
        case "CARD":
            return (
                f"4{mixed % 1000:03d} {number // 10_000:04d} {number % 10_000:04d} {mixed // 3 % 10_000:04d}"
            )
        case "BIRTH":
            return f"{1930 + mixed % 80}-{mixed % 12 + 1:02d}-{mixed % 28 + 1:02d}"
        case "ID":
            return f"{chr(65 + mixed % 26)}{number:09d}"
        case "USER":
            return f"{last.lower()}_{number}"
        case "IP":
            return f"10.{number // 65_536 % 256}.{number // 256 % 256}.{number % 256}"
        case _:
            raise ValueError(f"no personal data is called {kind!r}")


class Redaction:
    """`size` records; each is one call."""

    name, whole, unit = "redaction", False, "records"
    instruction = (
        "Replace each piece of personal data in the record by its kind in brackets: [NAME], [STREET], [EMAIL], "
        "[PHONE], [IBAN], [CARD], [BIRTH], [ID], [USER], [IP]. Change nothing else."
    )

    def write(self, folder: Path, size: int) -> None:
        texts = [record(number).text for number in range(size)]
        pd.DataFrame({"number": range(size), "text": texts}).to_parquet(folder / "rows.parquet", index=False)

    def items(self, folder: Path) -> Iterator[Item]:
        rows = rows_of(folder)
        for number, text in zip(rows["number"], rows["text"], strict=True):
            yield Item(str(number), text)

    def keys(self, text: str) -> list[str]:
        return _KEY.findall(text)

    def gold(self, key: str) -> Json:
        return {"redacted": record(int(key)).redacted}

    def answer(self, request: ChatRequest) -> Json:
        return self.gold(self.keys(request.text)[-1])

    def asked(self, key: str) -> str:
        return self.instruction

    def schema(self, key: str) -> Json:
        return Schema.of({"redacted": str}).json_schema()

    def run(self, job: Job, where: Mapping[str, Any], store: str) -> Told:
        table = table_of(job)
        redacted = table.map(self.instruction, inputs="text", output={"redacted": str}, id="redact")
        run = redacted.run(model=model_of(job), store=store, progress=False, **where).wait()
        for part in run.frame.partitions:  # the result as it lies in its parts: never all of it in memory
            done = part.compute()
            for number, text in zip(done["number"], done["redacted"], strict=True):
                yield str(number), None if pd.isna(text) else {"redacted": text}

    def judged(self, answers: Answers, size: int) -> Verdict:
        verdict = judged_by_gold(self, [str(number) for number in range(size)], answers)
        leaked = sum(
            any(secret in str(answer) for secret in record(int(key)).secrets)
            for key, answer in answers.items()
            if answer is not None
        )
        return replace(verdict, leaked=leaked)
