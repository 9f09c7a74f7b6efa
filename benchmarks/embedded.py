"""How good the embedded model's answers are: small samples of public sets with gold, a plan written by hand for each.

python benchmarks/embedded.py                      # about ten minutes on two quiet cores
python benchmarks/embedded.py --tasks spam --rows 12
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import pandas as pd  # noqa: E402

import apwa_dask as apwa  # noqa: E402
from benchmarks.planner_gold import DATA  # noqa: E402

Row = Mapping[str, Any]

KEPT_AT_LEAST = 0.9
"""Share of the words outside of the spans that a redacted text still has."""
SHOWN = (
    ("Hi, I am Ana Silva, call me on 555-0199.", "Hi, I am [NAME], call me on [PHONE]."),
    ("When does the shop open?", "When does the shop open?"),
    ("Ship it to 12 Hill Road, Leeds.", "Ship it to [ADDRESS]."),
)
"""Worked answers, as the planner gives them: without any, this model answers ``<text>`` and nothing else."""


@dataclass(frozen=True, slots=True)
class Quality:
    """One task on one sample; `right` of `of` answers, in words of `what`."""

    task: str
    rows: int
    failed: int
    right: int
    of: int
    what: str
    wall_s: float


@dataclass(frozen=True, slots=True)
class Task:
    """A sample's texts and gold, the step that answers, and how an answer is judged: parts right, parts."""

    rows: Callable[[], Iterator[Row]]
    step: Callable[[apwa.Table], apwa.Table]
    judged: Callable[[Any, Row], tuple[int, int]]
    what: str
    sample: int


def _lines(path: str) -> Iterator[Row]:
    with gzip.open(DATA / path, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


def _messages() -> Iterator[Row]:
    with gzip.open(
        DATA / "sms_spam" / "SMSSpamCollection.tsv.gz", "rt", encoding="utf-8", newline="\n"
    ) as file:
        for line in file:
            label, text = line.rstrip("\r\n").split("\t", 1)
            yield {"text": text, "gold": label == "spam"}


def _plain(text: Any) -> str:
    return re.sub(r"[\W_]", "", str(text)).lower()


def _receipt(answer: Row, gold: Row) -> tuple[int, int]:
    fields = ("company", "date", "address", "total")
    return sum(_plain(answer[name]) == _plain(gold["gold"][name]) for name in fields), len(fields)


def _spans(answer: Row, gold: Row) -> tuple[int, int]:
    """Spans that are gone out of a text that is otherwise there: an answer that drops the text redacts nothing."""
    after, rest = str(answer["redacted"] or gold["text"]), gold["text"]
    texts = [span["text"] for span in gold["spans"]]
    for text in texts:
        rest = rest.replace(text, " ")
    words = Counter(re.findall(r"\w+", rest))
    kept = (words & Counter(re.findall(r"\w+", after))).total() / max(words.total(), 1)
    if kept < KEPT_AT_LEAST:
        return 0, len(texts)
    return sum(after.count(text) < gold["text"].count(text) for text in texts), len(texts)


TASKS: dict[str, Task] = {
    "spam": Task(
        _messages,
        lambda table: table.filter(
            "Decide whether the input meets this condition: the text message is spam", inputs="text"
        ),
        lambda answer, gold: (int((answer is not None) == gold["gold"]), 1),
        "messages judged as the gold has it",
        40,
    ),
    "receipts": Task(
        lambda: _lines("receipts/data.jsonl.gz"),
        lambda table: table.map(
            "Find company, date, address and total of the receipt, as they are written there.",
            inputs="text",
            output=dict.fromkeys(("company", "date", "address", "total"), "string?"),
        ),
        _receipt,
        "fields right (letters and digits compared)",
        10,
    ),
    "redaction": Task(
        lambda: _lines("pii_sentences/data.jsonl.gz"),
        lambda table: table.map(
            "Replace every piece of personal information in the text by its type in square brackets.",
            inputs="text",
            output={"redacted": str},
            examples=[({"text": text}, {"redacted": redacted}) for text, redacted in SHOWN],
        ),
        _spans,
        "spans gone with the rest of the text in place",
        20,
    ),
}


def quality(name: str, rows: int | None = None) -> Quality:
    """One task with the embedded model, on its first `rows` rows; a row that failed has nothing right."""
    task = TASKS[name]
    sample = [row for _, row in zip(range(rows or task.sample), task.rows(), strict=False)]
    texts = [row["text"] for row in sample]
    table = apwa.from_pandas(pd.DataFrame({"row": range(len(texts)), "text": texts}))
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as store:
        run = task.step(table).run(model="local", store=store, progress=False).wait()
        answered = {row["row"]: row for row in run.result().to_dict("records")}
        failed = {int(name.rpartition(":")[2]) for name in run.failures["row_id"]}
    wall_s = time.monotonic() - began
    parts = [task.judged(answered.get(number), gold) for number, gold in enumerate(sample)]
    right = sum(part[0] for number, part in enumerate(parts) if number not in failed)
    return Quality(name, len(sample), len(failed), right, sum(part[1] for part in parts), task.what, wall_s)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one line a task; 2 where the data are not there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", default=",".join(TASKS), help=f"of {', '.join(TASKS)}")
    parser.add_argument("--rows", type=int, help="of each sample, instead of its own number")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    given = parser.parse_args(arguments)
    names = given.tasks.split(",")
    if not DATA.is_dir() or set(names) - set(TASKS):
        sys.stderr.write(f"no such tasks, or no data at {DATA}\n")
        return 2
    found = []
    for name in names:
        one = quality(name, given.rows)
        found.append(one)
        sys.stdout.write(
            f"{one.task:10} {one.right} of {one.of} {one.what}; "
            f"{one.rows} rows, {one.failed} failed, {one.wall_s:.0f} s\n"
        )
        sys.stdout.flush()
    if given.json:
        given.json.write_text(json.dumps([asdict(one) for one in found], indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
