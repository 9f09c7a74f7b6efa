"""The benchmark itself: it counts what it says, and refuses clients that lose rows."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks import overhead  # noqa: E402
from benchmarks.workload import Workload  # noqa: E402


def measured(client: str, rows: int, wall_s: float, cpu_s: float) -> overhead.Measurement:
    return overhead.Measurement(client, rows, wall_s, cpu_s, 0.0, 0, cpu_s + 1, rows, 64, 100)


def test_steady_cpu_is_the_slope_between_two_sizes_and_the_rest_is_fixed() -> None:
    found = [
        measured("raw aiohttp", 2000, 6.4, 0.5),
        measured("raw aiohttp", 6000, 19.2, 1.3),
        measured("engine", 2000, 8.0, 0.9),
        measured("engine", 6000, 20.0, 1.9),
    ]
    floor, engine = overhead.summarise(found, 2000, 0.2, 64)

    assert floor.steady_cpu_ms_per_call == pytest.approx(0.2)
    assert floor.fixed_cpu_s == pytest.approx(0.1)
    assert engine.steady_cpu_ms_per_call == pytest.approx(0.25)
    assert engine.fixed_cpu_s == pytest.approx(0.4)
    assert engine.cpu_ratio == pytest.approx(1.8)
    assert engine.steady_cpu_ratio == pytest.approx(1.25)
    assert engine.efficiency == pytest.approx(6.25 / 8)
    assert engine.points_behind_floor == pytest.approx(100 * (6.25 / 6.4 - 6.25 / 8))


@pytest.mark.parametrize(
    "result",
    [
        pd.DataFrame({"id": [0, 1], "topic": ["a", "b"], "severity": [1, 2]}),
        pd.DataFrame({"id": [0, 2, 1], "topic": ["a", "b", "c"], "severity": [1, 2, 3]}),
        pd.DataFrame({"id": [0, 1, 2], "topic": ["a", None, "c"], "severity": [1, 2, 3]}),
    ],
    ids=["too few", "out of order", "without an answer"],
)
def test_a_client_that_loses_rows_is_no_result(tmp_path: Path, result: pd.DataFrame) -> None:
    pd.DataFrame({"id": range(3), "prompt": "p"}).to_parquet(tmp_path / "prompts.parquet")
    result.to_parquet(tmp_path / "result.parquet")
    job = Workload(str(tmp_path), "http://127.0.0.1:9/v1", 8, "", "", {})
    with pytest.raises(RuntimeError, match="lost rows"):
        overhead.check("engine", job, tmp_path)


def test_all_clients_send_the_same_prompts_once_for_each_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json"
    words = ["--rows", "40", "--latency", "0", "--rounds", "1", "--no-steady", "--json", str(out)]
    assert overhead.main(words) == 0

    document: dict[str, Any] = json.loads(out.read_text())
    assert [m["client"] for m in document["measurements"]] == list(overhead.CLIENTS)
    assert {m["calls"] for m in document["measurements"]} == {40}
    assert len({m["prompt_tokens"] for m in document["measurements"]}) == 1
    assert "| engine |" in capsys.readouterr().out
