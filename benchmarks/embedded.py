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
    judged: Callable[[Row, Row], tuple[int, int]]
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
    after = str(answer["redacted"] or gold["text"])
    texts = [span["text"] for span in gold["spans"]]
    return sum(after.count(text) < gold["text"].count(text) for text in texts), len(texts)


TASKS: dict[str, Task] = {
    "spam": Task(
        _messages,
        lambda table: table.map("Is the text message spam?", inputs="text", output={"spam": bool}),
        lambda answer, gold: (int(bool(answer["spam"]) == gold["gold"]), 1),
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
        ),
        _spans,
        "spans gone",
        20,
    ),
}


def quality(name: str, rows: int | None = None) -> Quality:
    """One task with the embedded model, on its first `rows` rows; a row that failed has nothing right."""
    task = TASKS[name]
    sample = [row for _, row in zip(range(rows or task.sample), task.rows(), strict=False)]
    table = apwa.from_pandas(pd.DataFrame({"text": [row["text"] for row in sample]}))
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as store:
        run = task.step(table).run(model="local", store=store, progress=False).wait()
        answers = run.result(status=True).to_dict("records")
    wall_s = time.monotonic() - began
    ok = [answer["_apwa_status"] == "ok" for answer in answers]
    parts = [task.judged(answer, gold) for answer, gold in zip(answers, sample, strict=True)]
    right = sum(part[0] for part, fine in zip(parts, ok, strict=True) if fine)
    of = sum(part[1] for part in parts)
    return Quality(name, len(sample), len(ok) - sum(ok), right, of, task.what, wall_s)


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
