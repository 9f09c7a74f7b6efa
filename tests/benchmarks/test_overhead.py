"""The benchmark itself: it counts what it says, and a row that is wrong, missing or unanswered is seen."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from apwa_dask.testing.log import Call  # noqa: E402
from benchmarks import overhead  # noqa: E402
from benchmarks.cases import CASES, expected  # noqa: E402
from benchmarks.contestants import CLIENTS, FLOOR, named, pythons  # noqa: E402
from benchmarks.measuring import Measurement, Rows, busy_share, growth, judged  # noqa: E402
from benchmarks.summary import Bar, bars, summarise, table  # noqa: E402


def measured(client: str, case: str = "A", rows: int = 2000, **changes: Any) -> Measurement:
    figures: dict[str, Any] = {"wall_s": 6.4, "cpu_s": 0.5, "process_cpu_s": 1.5, "calls": rows}
    return Measurement(case, client, rows, rows, Rows(rows, 0, 0, 0), **{**figures, **changes})


def bars_of(*found: Measurement) -> list[Bar]:
    return bars(summarise(found, CASES.values()))


def test_steady_cpu_is_the_slope_between_two_sizes() -> None:
    found = [
        measured(FLOOR, cpu_s=0.5),
        measured(FLOOR, rows=6000, cpu_s=1.3),
        measured("engine", wall_s=8.0, cpu_s=0.9),
        measured("engine", rows=6000, cpu_s=1.9),
    ]
    floor, engine = summarise(found, [CASES["A"]])

    assert floor.steady_cpu_ms_per_row == pytest.approx(0.2)
    assert engine.steady_cpu_ms_per_row == pytest.approx(0.25)
    assert engine.cpu_ratio == pytest.approx(1.8)
    assert engine.efficiency == pytest.approx(6.25 / 8)


def test_the_worst_round_tells_what_became_of_the_rows() -> None:
    bad = measured("engine")
    bad = replace(bad, rows=Rows(1990, 1, 4, 5), calls=2100)
    (engine,) = summarise([measured("engine"), bad], [CASES["A"]])
    assert (engine.right, engine.wrong, engine.failed, engine.lost, engine.calls) == (1990, 1, 4, 5, 2100)
    assert math.isnan(engine.efficiency), "no speed without the answers"


def test_a_bar_of_speed_is_met_at_its_edge_and_missed_beyond_it() -> None:
    def found(wall_s: float, cpu_s: float) -> list[bool]:
        peer = measured("semlib", wall_s=31.25)
        engine = measured("engine", wall_s=wall_s, cpu_s=cpu_s)
        return [bar.met for bar in bars_of(measured(FLOOR, wall_s=6.25), engine, peer)]

    assert found(6.4, 0.64) == [True, True, True]
    assert found(6.5, 0.66) == [False, True, False]
    assert found(11.0, 0.5) == [False, False, True]


def test_a_row_lost_wrong_or_failed_without_a_class_misses_case_d() -> None:
    floor = measured(FLOOR, "D", 600)

    def met(rows: Rows, classes: dict[str, int], calls: int = 642) -> list[bool]:
        engine = replace(measured("engine", "D", 600), rows=rows, classes=classes, calls=calls)
        return [bar.met for bar in bars_of(floor, engine)]

    assert met(Rows(598, 0, 2, 0), {"ok": 598, "transient": 2}) == [True, True]
    assert met(Rows(598, 0, 2, 0), {"ok": 598}) == [False, True]
    assert met(Rows(599, 1, 0, 0), {}) == [False, True]
    assert met(Rows(599, 0, 0, 1), {}) == [False, True]
    assert met(Rows(600, 0, 0, 0), {}, calls=691) == [True, False]


def test_an_engine_in_trouble_meets_no_bar() -> None:
    dead = Measurement("E", "engine", 600, 300, Rows(0, 0, 0, 600), calls=300, trouble="died: KeyError")
    (bar,) = bars_of(measured(FLOOR, "E", 600), dead)
    assert not bar.met
    assert bar.found == "died: KeyError"


def test_each_case_has_a_bar_for_the_engine() -> None:
    found = [measured(client, case) for case in CASES for client in (FLOOR, "engine")]
    assert {bar.case for bar in bars_of(*found)} == set(CASES)


def test_what_a_client_did_not_measure_is_a_dash() -> None:
    dead = Measurement("A", "fenic", 600, 600, Rows(0, 0, 0, 600), trouble="not installed: fenic")
    text = table(summarise([measured(FLOOR), dead], [CASES["A"]]), CASES["A"])
    assert "nan" not in text
    assert "- fenic: not installed: fenic" in text


def test_rows_are_right_wrong_failed_or_lost(tmp_path: Path) -> None:
    topic, severity = expected(0)
    answers = [(0, topic, severity), (2, topic, severity), (1, None, None)]
    pd.DataFrame(answers, columns=["id", "topic", "severity"]).to_parquet(tmp_path / "result.parquet")
    assert judged(tmp_path / "result.parquet", [0, 1, 7, 3]) == Rows(right=1, wrong=1, failed=1, lost=1)


@pytest.mark.parametrize("ids", [[0, 0], [0, 9]], ids=["twice", "never asked for"])
def test_a_result_with_rows_too_many_is_none(tmp_path: Path, ids: list[int]) -> None:
    pd.DataFrame({"id": ids, "topic": "login", "severity": 3}).to_parquet(tmp_path / "result.parquet")
    with pytest.raises(ValueError, match="rows twice"):
        judged(tmp_path / "result.parquet", [0, 1])


def test_every_slot_in_use_until_the_last_row_starts_is_one() -> None:
    full = [Call(n, t_start=n // 2, path="", t_end=n // 2 + 1) for n in range(8)]
    assert busy_share(full, 2) == pytest.approx(1.0)
    late = [Call(n, t_start=1.5 * (n // 2), path="", t_end=1.5 * (n // 2) + 1) for n in range(8)]
    assert busy_share(late, 2) == pytest.approx(2 / 3)
    assert math.isnan(busy_share(full, 3)), "never full"


def test_memory_that_grows_in_the_second_half_is_growth() -> None:
    samples = [(k / 10, 100.0) for k in range(200)]
    assert growth(samples, 20.0) == pytest.approx(0.0)
    assert growth([(at, 100 + at) for at, _ in samples], 20.0) > 0.06
    assert math.isnan(growth(samples, 1.0)), "too short to say"


def test_a_library_that_is_absent_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert overhead.main(["--rows", "A=5", "--rounds", "1", "--clients", "fenic"]) == 0
    assert "- fenic: not installed: fenic==0.13.0" in capsys.readouterr().out


def test_an_environment_that_is_not_known_is_refused_with_the_known_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("APWA_BENCH_PYTHONS", f"semlib={sys.executable}")
    assert pythons([]) == {"semlib": sys.executable}
    with pytest.raises(ValueError, match="known: docetl"):
        pythons(["semlip=/bin/sh"])
    with pytest.raises(ValueError, match="no client is called 'x'; known: raw aiohttp"):
        named(["x"], peers=False)


def test_peers_are_at_least_four_and_run_only_where_asked() -> None:
    peers = {name for name, client in CLIENTS.items() if client.peer}
    assert len(peers) >= 4
    assert not peers & {client.name for client in named([], peers=False)}
    assert peers < {client.name for client in named([], peers=True)}


def test_quick_clients_send_the_same_prompts_once_for_each_distinct_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json"
    words = ["--rows", "A=40", "E=40", "--rounds", "1", "--clients", "raw aiohttp,engine", "--json", str(out)]
    assert overhead.main(["--cases", "A,E", *words]) == 0

    document: dict[str, Any] = json.loads(out.read_text())
    calls = {(m["case"], m["client"]): m["calls"] for m in document["measurements"]}
    assert calls == {("A", FLOOR): 40, ("A", "engine"): 40, ("E", FLOOR): 40, ("E", "engine"): 20}
    assert {m["rows"]["right"] for m in document["measurements"]} == {40}
    assert len({m["prompt_tokens"] for m in document["measurements"] if m["case"] == "A"}) == 1
    printed = capsys.readouterr().out
    assert "| E | engine | requests = distinct inputs | 20 requests, 20 distinct inputs | met |" in printed

    assert overhead.main(["--cases", "A,E", "--report", str(out)]) == 0
    assert "| engine | 40 |" in capsys.readouterr().out
