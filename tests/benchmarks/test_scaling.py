"""The simulation of the coordinator, in small: it is repeatable, and says what docs/scaling.md says of it."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.scaling import __main__ as command  # noqa: E402
from benchmarks.scaling import calibrate, virtual  # noqa: E402
from benchmarks.scaling.cluster import Cluster, Figures, Scale  # noqa: E402
from benchmarks.scaling.scenarios import limited, open_ended  # noqa: E402
from benchmarks.scaling.scheduler import Cost  # noqa: E402

SMALL = Scale(workers=10, in_flight=6, p50_s=2.0, p99_s=4.0, start_s=0.5)


@pytest.fixture(scope="module")
def found() -> dict[str, Figures]:
    return {each.scenario: each for each in virtual.run(open_ended(SMALL, [5.0, 30.0]))}


def without_clock(figures: Figures) -> Figures:
    """Less the one figure that is measured here and now."""
    return replace(figures, coordinator_share=0.0)


def test_the_same_seed_gives_the_same_figures(found: dict[str, Figures]) -> None:
    again = virtual.run(open_ended(SMALL, [5.0, 30.0]))
    assert [without_clock(each) for each in again] == [without_clock(each) for each in found.values()]
    other = virtual.run(open_ended(replace(SMALL, seed=1), []))
    assert without_clock(other[1]) != without_clock(found["steady"])


def test_all_slots_are_used_at_a_question_a_worker_and_second(found: dict[str, Figures]) -> None:
    steady = found["steady"]
    assert steady.used > 0.99
    assert steady.most_in_flight == 1.0
    assert 0 < steady.funds_per_s <= 1.5 * SMALL.workers / 5.0  # for five seconds of calls at a time
    assert steady.leases_per_s == pytest.approx(SMALL.workers, rel=0.05)


def test_a_pause_that_one_worker_hears_of_reaches_all_within_a_renewal(found: dict[str, Figures]) -> None:
    (fact,) = found["penalty"].facts
    assert float(fact.rpartition("100% after ")[2].removesuffix(" s")) <= 1.1


def test_a_short_stall_costs_no_call_and_a_long_one_only_until_it_ends(found: dict[str, Figures]) -> None:
    short, long = found["stall of 5 s"], found["stall of 30 s"]
    assert short.facts[0].endswith("100% of the slots in use at its end")
    assert short.timeouts == 0
    assert long.timeouts >= SMALL.workers
    assert float(long.facts[-1].removeprefix("95 % again ").removesuffix(" s after it")) <= 3.0


def test_an_announced_limit_is_used_without_refusals() -> None:
    (figures,) = virtual.run(limited(replace(SMALL, p50_s=1.0, p99_s=2.0), 600))
    assert figures.used >= 0.95
    assert figures.refused <= 0.01


def test_a_scheduler_that_serves_slower_than_is_asked_shows_as_one() -> None:
    slow = replace(SMALL, cost=Cost(rpc_s=0.2))
    (figures,) = virtual.run(limited(slow, 600))
    assert figures.scheduler_share == pytest.approx(1.0, abs=0.02)
    assert figures.longest_wait_s > 1.0


def test_a_worker_that_leaves_takes_its_share_with_it() -> None:
    async def scenario() -> tuple[dict[str, int], dict[str, int]]:
        cluster = Cluster(SMALL)
        await cluster.join(SMALL.workers)
        await cluster.until_full(60.0)
        key = cluster.workers[0].gate.key
        before = cluster.scheduler.coordinator.in_flight_share(key)
        await cluster.leave(3)
        return before, cluster.scheduler.coordinator.in_flight_share(key)

    before, after = virtual.run(scenario())
    assert (len(before), len(after)) == (10, 7)


def test_costs_are_a_line_through_what_was_measured() -> None:
    measured = calibrate.Measured(
        {10: 20.0, 300: 100.0, 1010: 320.0}, rpc_us=225.0, rpc_holders=300, fund_us={10: 45.0}
    )
    assert measured.cost.lease_s(10) == pytest.approx((125 + 20) * 1e-6)
    assert measured.cost.fund_s == pytest.approx(45e-6)
    assert measured.cost.lease_s(1010) == pytest.approx((125 + 320) * 1e-6)


@pytest.mark.slow
def test_the_real_handler_costs_something_and_hardly_more_with_more_holders() -> None:
    measured = calibrate.measure([10, 600], rpcs=200)
    assert 0 < measured.handler_us[600] < 5 * measured.handler_us[10]
    assert 0 < measured.fund_us[600] < 5 * measured.fund_us[10]
    assert measured.cost.holder_s >= 0
    assert measured.rpc_us > 0


def test_a_newcomer_below_one_request_a_second_and_worker_waits_for_one_round_of_bookings(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command.main(["--below-one", "8x60", "--in-flight", "5", "--p50", "1", "--p99", "1"]) == 0
    printed = capsys.readouterr().out
    assert "| 8 workers, 60 a minute |" in printed
    waited = float(printed.partition("first call after ")[2].partition(" s")[0])
    ahead = float(printed.partition("booked ")[2].partition(" s ahead")[0])
    assert 0 < ahead <= waited <= 10.0


def test_one_command_prints_and_keeps_the_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "--workers",
        "4",
        "--in-flight",
        "3",
        "--p50",
        "1",
        "--p99",
        "2",
        "--stalls",
        "5",
        "--rpm",
        "300",
    ]
    assert command.main([*words, "--json", str(tmp_path / "out.json")]) == 0
    kept: list[dict[str, Any]] = json.loads((tmp_path / "out.json").read_text())
    printed = capsys.readouterr().out
    assert all(f"| {each['scenario']} |" in printed for each in kept)
    assert [each["scenario"] for each in kept][-2:] == [
        "announced 300 a minute",
        "announced 300 a minute, stall of 5 s",
    ]
