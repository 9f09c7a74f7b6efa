"""The benchmark of a resume in its small form: it counts calls and rows, and says what it measured."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks import resume  # noqa: E402


@pytest.mark.slow
def test_a_small_journal_is_resumed_without_a_call_and_its_bytes_are_few(tmp_path: Path) -> None:
    target = tmp_path / "figures.json"
    resume.main(["--rows", "3000", "--live-rows", "64", "--json", str(target)])

    figures = json.loads(target.read_text())
    assert figures["rows"] == 3000
    assert 40 < figures["journal_bytes_per_row"] < 200, "the key alone takes 32 bytes"
    assert figures["index_bytes_per_row"] == 16
    assert figures["journal_cpu_us_per_answer"] > 0
    assert figures["engine_cpu_us_per_call"] > 0


def test_answers_alternate_between_partitions_as_those_of_a_run_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resume, "PARTITION_ROWS", 4)
    monkeypatch.setattr(resume, "INTERLEAVED", 2)
    monkeypatch.setattr(resume, "BATCH", 3)

    batches = list(resume._as_answered(10))

    assert batches == [[0, 4, 1], [5, 2, 6], [3, 7], [8, 9]]
